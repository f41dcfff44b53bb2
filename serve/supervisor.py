"""`python -m serve run`: the first process of a container. It starts TorchServe, and the gateway when all is ready.

TorchServe ends every connection when it is told to stop, with the requests in flight. So it is the gateway that listens
to the world and drains, and TorchServe is ended when nothing is left to answer.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pynvml

from inference.store import manifest
from inference.tools import limits
from serve import gateway
from serve.access import Tokens
from serve.exporter import exporting
from serve.gateway import EXPORTER_PORT
from serve.health import wait
from serve.host import HOST, Process
from serve.record import NotServing, Server
from serve.versions import Chosen, choose, remember_defaults

TORCHSERVE_PORT = 9080


@dataclass(frozen=True)
class Service:
    """What a container serves, and where."""

    run_directory: Path  # which lives as long as the container
    state: Path  # which keeps tokens and promoted versions for the next one
    store: Path
    names: list[str]
    device: str  # "cpu" or "cuda": what the archives are for
    port: int
    metrics_host: str

    def run(self) -> NoReturn:
        """Serves until SIGTERM, then drains and ends with 0. Raises ValueError when it can't start, or can't go on."""
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        self._check_folders()
        chosen = choose(manifest.Manifest.read(self.store), self.names, self.state)
        self._check_device(chosen)
        metrics_address = self._metrics_address()
        manifest.check(self.store, {one.file: one for archives in chosen.values() for one in archives})
        tokens = Tokens.keep(self.state)
        server = HOST.new(self.run_directory, self.store, self.state, TORCHSERVE_PORT, chosen)
        server.remember()
        try:
            process = self._started(server, chosen)
            with exporting(server, EXPORTER_PORT):
                remember_defaults(self.state, chosen)
                self._serve(server, metrics_address, process, chosen, tokens)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            HOST.stop(server, at_once=True)

    def _started(self, server: Server, chosen: Chosen) -> Process:
        """The host, when all its models are ready; its words are passed on. Raises NotServing."""
        process, kills = HOST.start(server, chosen, subprocess.PIPE), limits.out_of_memory_kills()
        last: deque[str] = deque(maxlen=200)

        def pass_on() -> None:
            assert process.stdout
            for line in process.stdout:
                last.append(line.decode(errors="replace"))
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

        def killed() -> bool:
            return limits.out_of_memory_kills() > kills

        threading.Thread(target=pass_on, daemon=True).start()
        try:
            wait(server, process, lambda: killed() or HOST.load_failed("".join(last)))
        except NotServing as error:
            if killed():
                raise NotServing(
                    f"The workers need more memory than the {(limits.memory() or 0) >> 20} MiB that this container may "
                    "use. Raise its limit (ENTERING_MEMORY=16g docker compose up ...), or serve fewer models."
                ) from None
            raise NotServing(f"{error} What it said is above.") from None
        return process

    def _serve(self, server: Server, metrics_address: str, host: Process, chosen: Chosen, tokens: Tokens) -> NoReturn:
        """Lets requests in until one of the processes has ended by itself, or this one is told to stop."""
        running = HOST.connect(server)
        assert running
        with running.session:
            proxy = gateway.start(server, running.token, tokens, self.port, metrics_address)
        try:
            for name, archives in chosen.items():
                print(f"{name} {archives[0].version} is ready on {self.device} at port {self.port}.", flush=True)
            while True:
                for name, process in (("TorchServe", host), ("The gateway", proxy)):
                    if process.poll() is not None:  # with code 1 the container is started anew
                        raise SystemExit(f"error: {name} has ended by itself (code {process.returncode}).")
                time.sleep(0.2)
        except Stopped:
            gateway.drain(server, proxy)
            raise
        finally:
            gateway.end(server, proxy)

    def _check_folders(self) -> None:
        who = f"user {os.getuid()}, which this service runs as"
        for path in (self.store, *self.store.glob("*.json"), *self.store.glob("*.mar")):
            if path.exists() and not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
                raise ValueError(f"{path} can't be read by {who}. Let it: chmod -R a+rX on the folder of the host.")
        for path in (self.state, self.run_directory):
            if not os.access(path, os.W_OK | os.X_OK):
                raise ValueError(f"{path} can't be written by {who}. Give it to that user: chown {os.getuid()} on it.")

    def _check_device(self, chosen: Chosen) -> None:
        for name, archive in ((name, archive) for name, archives in chosen.items() for archive in archives):
            if archive.device != self.device:
                raise ValueError(
                    f"{name} {archive.version} was exported for {archive.device}, and this service runs on "
                    f"{self.device}. Export it for that: python -m export {archive.model} --device {self.device}. If "
                    f"it was promoted, let the newest be served: python -m serve forget {name}"
                )
        if self.device == "cpu":
            return
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            if pynvml.nvmlDeviceGetCount():
                return
        raise ValueError("No NVIDIA GPU is visible here. Start the service with one, or serve on the CPU: serve-cpu.")

    def _metrics_address(self) -> str:
        """The address of `metrics_host` that is this machine's own. Raises NotServing where none is."""
        with suppress(OSError):
            for address in socket.gethostbyname_ex(self.metrics_host)[2]:
                with suppress(OSError), socket.socket() as probe:
                    probe.bind((address, 0))
                    return address
        where = f"{self.metrics_host} is no address of this container"
        raise NotServing(f"{where}, so metrics can't be served there. Set another.")


class Stopped(SystemExit):
    """The service was told to stop."""


def _stop(_: int, __: FrameType | None) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped(0)

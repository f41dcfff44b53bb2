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

from inference.store.manifest import Manifest
from inference.tools import limits
from serve import exporter, server
from serve.access import Tokens
from serve.gateway import EXPORTER_PORT, Gateway
from serve.torchserve.record import NotServing, Server, read_keys
from serve.versions import choose, remember_defaults

TORCHSERVE_PORT = 9080


class Journal:
    """Passes on what TorchServe says, line by line, and keeps the last of it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=200)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.append(line.decode(errors="replace"))
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def words(self) -> str:
        return "".join(self._lines)


@dataclass(frozen=True)
class Service:
    """What a container serves, and where: archives of `store` for `device` ("cpu" or "cuda"), at `port`.

    `run_directory` lives as long as the container; `state` keeps tokens and promoted versions for the next one.
    """

    run_directory: Path
    state: Path
    store: Path
    names: list[str]
    device: str
    port: int
    metrics_host: str

    def run(self) -> NoReturn:
        """Serves until SIGTERM, then drains and ends with 0. Raises ValueError when it can't start, or can't go on."""
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        self._check()
        chosen = choose(Manifest.read(self.store), self.names, self.state)
        _check_device(chosen, self.device)
        address = _address(self.metrics_host)
        server.check(self.store, chosen)
        tokens = Tokens.keep(self.state)
        torchserve = server.new(self.store, self.state, TORCHSERVE_PORT, chosen)
        torchserve.remember(self.run_directory)
        try:
            self._serve(torchserve, chosen, tokens, address)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            server.clean(torchserve, self.run_directory)

    def _serve(self, torchserve: Server, chosen: server.Chosen, tokens: Tokens, address: str) -> NoReturn:
        process = server.launch(torchserve, self.run_directory, chosen, subprocess.PIPE)
        journal, kills = Journal(process), limits.out_of_memory_kills()

        def killed() -> bool:
            return limits.out_of_memory_kills() > kills

        try:
            server.wait(
                torchserve, process, self.run_directory, lambda: killed() or server.load_failed(journal.words())
            )
        except NotServing as error:
            if killed():
                raise _too_little_memory() from None
            raise NotServing(f"{error} What it said is above.") from None
        with exporter.start(self.run_directory, torchserve, EXPORTER_PORT):
            remember_defaults(self.state, chosen)
            self._open(Gateway(self.run_directory, self.port, address, torchserve.ports), process, chosen, tokens)

    def _open(
        self, gateway: Gateway, torchserve: "subprocess.Popen[bytes]", chosen: server.Chosen, tokens: Tokens
    ) -> NoReturn:
        keys = read_keys(self.run_directory)
        assert keys
        door = gateway.start(chosen, tokens, keys["inference"]["key"])
        try:
            for name, archives in chosen.items():
                print(f"{name} {archives[0].version} is ready on {self.device} at port {self.port}.", flush=True)
            _watch({"TorchServe": torchserve, "The gateway": door})
        except Stopped:
            gateway.drain(door)
            raise
        finally:
            gateway.end(door)

    def _check(self) -> None:
        """Raises ValueError where this process can't work with its folders."""
        who = f"user {os.getuid()}, which this service runs as"
        readable = [self.store, *self.store.glob("*.json"), *self.store.glob("*.mar")]
        for path in readable:
            if path.exists() and not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
                raise ValueError(f"{path} can't be read by {who}. Let it: chmod -R a+rX on the folder of the host.")
        for path in (self.state, self.run_directory):
            if not os.access(path, os.W_OK | os.X_OK):
                raise ValueError(f"{path} can't be written by {who}. Give it to that user: chown {os.getuid()} on it.")


def _check_device(chosen: server.Chosen, device: str) -> None:
    """Raises ValueError for an archive of another device, and where the device isn't there."""
    for name, archives in chosen.items():
        for archive in archives:
            if archive.device != device:
                raise ValueError(
                    f"{name} {archive.version} was exported for {archive.device}, and this service runs on {device}. "
                    f"Export it for that: python -m export {archive.model} --device {device}. If it was promoted, let "
                    f"the newest be served: python -m serve forget {name}"
                )
    if device == "cuda" and not _has_gpu():
        raise ValueError("No NVIDIA GPU is visible here. Start the service with one, or serve on the CPU: serve-cpu.")


def _has_gpu() -> bool:
    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False


def _too_little_memory() -> NotServing:
    """For a start during which the kernel has ended a process of this container."""
    limit = (limits.memory() or 0) >> 20
    return NotServing(
        f"The workers need more memory than the {limit} MiB that this container may use. Raise its limit "
        "(ENTERING_MEMORY=16g docker compose up ...), or serve fewer models."
    )


def _address(host: str) -> str:
    """The address of `host` that is this machine's own. Raises NotServing where none is."""
    with suppress(OSError):
        for address in socket.gethostbyname_ex(host)[2]:
            with suppress(OSError), socket.socket() as probe:
                probe.bind((address, 0))
                return address
    raise NotServing(f"{host} is no address of this container, so metrics can't be served there. Set another.")


def _watch(processes: dict[str, "subprocess.Popen[bytes]"]) -> NoReturn:
    """Until one of them has ended, which ends this process with code 1, so that the container is started anew."""
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                raise SystemExit(f"error: {name} has ended by itself (code {process.returncode}).")
        time.sleep(0.2)


class Stopped(SystemExit):
    """The service was told to stop."""


def _stop(_: int, __: FrameType | None) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped(0)

"""A local TorchServe: start it, wait until it answers right, stop it."""

import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from export import manifest
from export.archive import environment
from serve.health import check_health
from serve.record import NAME, NotServing, Server, find, recall
from serve.torchserve import MAIN_CLASS, Ports, command, configuration, threads_per_worker

STARTUP_SECONDS = 180
STOP_SECONDS = 15
LOAD_FAILED = re.compile(r"Backend worker process died|Load model failed|Failed to load model|Address already in use")


def start(run_directory: Path, store: Path, names: list[str], port: int) -> Server:
    """Starts a server and returns once every model is ready. Else raises ValueError, and nothing is left running.

    A server that runs already is taken when it is the one that was asked for, and ready.
    """
    running = find(run_directory)
    archives = manifest.Manifest.read(store).choose(names)
    scratch = Path(tempfile.gettempdir(), f"torchserve-{secrets.token_hex(8)}")  # short: a worker's socket lies in it
    models = {name: archive.sha256 for name, archive in archives.items()}
    server = Server(port=port, scratch=str(scratch), store=str(store.resolve()), models=models)
    if running:
        _check_same(running, server, run_directory)
        return running
    manifest.check(store, archives)
    check_ports(Ports(port))
    if stale := recall(run_directory):
        stop(stale, run_directory)
    try:
        _launch(server, run_directory, archives)
        _wait(server, run_directory)
    except BaseException:
        stop(server, run_directory)
        raise
    return server


def _check_same(running: Server, asked: Server, run_directory: Path) -> None:
    """Raises NotServing unless the running server is what was asked for, serves what the store holds, and is ready."""
    there = f"A server is running already, on port {running.port}"
    remedy = "Stop it first: python -m serve down"
    if (running.port, running.store, running.models.keys()) != (asked.port, asked.store, asked.models.keys()):
        raise NotServing(f"{there}, with {', '.join(running.models)} of {running.store}. {remedy}")
    for name, digest in asked.models.items():
        if running.models[name] != digest:
            raise NotServing(f"{there}, and {name} was exported again since it was started. {remedy}")
    for health in check_health(running, run_directory):
        if not health.ready:
            raise NotServing(f"{there}, and {health.name} is not ready: {health.reason}. {remedy}")


def _launch(server: Server, run_directory: Path, archives: dict[str, manifest.Archive]) -> None:
    """The server is remembered before it is started, so that it can be stopped whatever happens."""
    server.remember(run_directory)
    Path(server.scratch).mkdir(mode=0o700)
    config = run_directory / "config.properties"
    config.write_text(configuration(server.ports, Path(server.store), archives))
    with (run_directory / "server.log").open("wb") as log:
        subprocess.Popen(
            command(config.resolve(), Path(server.scratch)),
            cwd=run_directory,
            env=environment(threads_per_worker(len(archives))),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def check_ports(ports: Ports) -> None:
    """Raises ValueError naming the first port that something listens on."""
    for port in ports.all():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise NotServing(
                    f"Port {port} can't be used ({error.strerror}). "
                    "Free it, or choose others: ENTERING_PORT=9000 make serve"
                ) from None


def _wait(server: Server, run_directory: Path) -> None:
    """Returns when all models are ready. Raises NotServing with the log's tail when that can't come any more."""
    deadline = time.monotonic() + STARTUP_SECONDS
    log = run_directory / "server.log"
    while not all(health.ready for health in check_health(server, run_directory)):
        text = log.read_text(errors="replace")
        if not server.processes() or LOAD_FAILED.search(text):
            time.sleep(0.5)  # for the last lines of the log
            raise NotServing(f"The server could not start. Its last words:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise NotServing(f"The server was not ready within {STARTUP_SECONDS} s. Its last words:\n{tail(log)}")
        time.sleep(0.2)


def tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def stop(server: Server, run_directory: Path) -> None:
    """Lets requests in flight end, then leaves no process, token or unpacked archive behind."""
    processes = server.processes()
    for process in processes:
        if MAIN_CLASS in process.info["cmdline"]:
            _signal(process, signal.SIGTERM)
    psutil.wait_procs(processes, timeout=STOP_SECONDS)
    _kill_all(server)
    shutil.rmtree(server.scratch, ignore_errors=True)
    for name in (NAME, "key_file.json"):
        (run_directory / name).unlink(missing_ok=True)


def _kill_all(server: Server) -> None:
    """Until twice in a row none is left: Java may have started a worker anew just before. Raises NotServing."""
    deadline, looks = time.monotonic() + STOP_SECONDS, 0
    while looks < 2:
        processes = server.processes()
        looks = 0 if processes else looks + 1
        if processes and time.monotonic() > deadline:
            raise NotServing(f"Process {processes[0].pid} of the server does not end, not even by SIGKILL.")
        for process in processes:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(processes, timeout=1)
        time.sleep(0.1)


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):  # it may have ended by itself
        process.send_signal(number)


def follow(log: Path) -> Iterator[str]:
    """The log's lines, and then each new one as it is written."""
    with log.open(errors="replace") as file:
        while True:
            line = file.readline()
            if line:
                yield line
            else:
                time.sleep(0.2)

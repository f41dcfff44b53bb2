"""A local TorchServe: start it, wait until it answers right, stop it."""

import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil
import requests

from inference.store import manifest
from inference.store.archive import environment
from inference.tools import limits
from inference.tools.limits import threads_per_worker
from serve.health import check_health
from serve.room import check_room
from serve.torchserve.launch import MAIN_CLASS, Ports, command, configuration
from serve.torchserve.management import Management
from serve.torchserve.record import KEYS, NAME, NotServing, Server, find, recall
from serve.versions import choose

# By the name of the model: the archives of its versions, the default first.
Chosen = dict[str, list[manifest.Archive]]

STARTUP_SECONDS = 180
STOP_SECONDS = 15
LOAD_FAILED = re.compile(r"Backend worker process died|Load model failed|Failed to load model|Address already in use")


def start(run_directory: Path, store: Path, names: list[str], port: int, workers: int = 1) -> Server:
    """Starts a server and returns once every model is ready. Else raises ValueError, and nothing is left running.

    A server that runs already is taken when it is the one that was asked for, and ready.
    """
    running = find(run_directory)
    chosen = choose(manifest.Manifest.read(store), names, run_directory)
    _check_cores(len(chosen), workers)
    server = new(store, run_directory, port, chosen, workers)
    if running:
        _check_same(running, server, run_directory)
        return running
    check(store, chosen)
    check_ports(Ports(port))
    if stale := recall(run_directory):
        stop(stale, run_directory)
    log = run_directory / "server.log"
    try:
        server.remember(run_directory)
        with log.open("wb") as output:
            process = launch(server, run_directory, chosen, output)
        with _last_words(log):
            _wait_local(server, process, run_directory, log)
            if workers > 1:
                _give_workers(server, run_directory)
                _wait_local(server, process, run_directory, log)
    except BaseException:
        stop(server, run_directory)
        raise
    return server


def new(store: Path, state: Path, port: int, chosen: Chosen, workers: int = 1) -> Server:
    """A server to be launched. Its scratch folder's name is short, since a worker's socket lies in it."""
    return Server(
        port=port,
        scratch=str(Path(tempfile.gettempdir(), f"torchserve-{secrets.token_hex(8)}")),
        store=str(store.resolve()),
        state=str(state.resolve()),
        models={name: {one.version: one.sha256 for one in archives} for name, archives in chosen.items()},
        workers=workers,
    )


def check(store: Path, chosen: Chosen) -> None:
    """Raises ValueError naming the first archive that is not, to the byte, the one that was exported."""
    for archives in chosen.values():
        manifest.check(store, {archive.file: archive for archive in archives})


def _check_same(running: Server, asked: Server, run_directory: Path) -> None:
    """Raises NotServing unless the running server is what was asked for, serves what the store holds, and is ready."""
    there = f"A server is running already, on port {running.port}"
    remedy = "Stop it first: python -m serve down"
    if (running.port, running.store, running.models.keys()) != (asked.port, asked.store, asked.models.keys()):
        raise NotServing(f"{there}, with {', '.join(running.models)} of {running.store}. {remedy}")
    if running.workers != asked.workers:
        raise NotServing(f"{there}, started with --workers {running.workers}. {remedy}")
    for name, digest in asked.models.items():
        if running.models[name] != digest:
            raise NotServing(f"{there}, and {name} was exported again since it was started. {remedy}")
    for health in check_health(running, run_directory):
        if not health.ready:
            raise NotServing(f"{there}, and {health.name} is not ready: {health.reason}. {remedy}")


def launch(server: Server, run_directory: Path, chosen: Chosen, output: IO[bytes] | int) -> "subprocess.Popen[bytes]":
    """Starts TorchServe, which was remembered before, to be stopped in any case."""
    scratch = Path(server.scratch)
    metrics = scratch / "metrics"
    metrics.mkdir(mode=0o700, parents=True)
    config = run_directory / "config.properties"
    config.write_text(configuration(server.ports, Path(server.store), chosen))
    return subprocess.Popen(
        command(config.resolve(), scratch),
        cwd=run_directory,
        env={**environment(threads_per_worker(server.workers * len(chosen))), "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _check_cores(models: int, workers: int) -> None:
    """Raises ValueError where several workers of each model are asked for, and they are more than there are cores."""
    total, most = models * workers, limits.cores()
    if workers > 1 and total > most:
        raise ValueError(
            f"--workers {workers} makes {total} workers in all, and the server may use {most} cores. "
            "Ask for fewer, or serve fewer models."
        )


def _give_workers(server: Server, run_directory: Path) -> None:
    """Each model's default version gets as many as the server was started for. Raises NotServing."""
    for name in server.models:
        try:
            management = Management.of(server, run_directory, STARTUP_SECONDS)
            assert management
            with management.session:
                default = management.describe(name)
                check_room(server, default, server.workers - len(default.workers))
                management.scale(name, default.version, server.workers)
        except (NotServing, requests.RequestException) as error:
            raise NotServing(f"The server could not start {server.workers} workers of {name} ({error}).") from None


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


def _wait_local(server: Server, process: "subprocess.Popen[bytes]", run_directory: Path, log: Path) -> None:
    wait(server, process, run_directory, lambda: load_failed(log.read_text(errors="replace")))


@contextmanager
def _last_words(log: Path) -> Iterator[None]:
    """NotServing is raised with the log's last lines."""
    try:
        yield
    except NotServing as error:
        raise NotServing(f"{error} Its last words:\n{tail(log)}") from None


def wait(server: Server, process: "subprocess.Popen[bytes]", run_directory: Path, failed: Callable[[], bool]) -> None:
    """Returns when all models are ready. Raises NotServing when Java has ended, or `failed` says that it can't come.

    Java is asked by its process: one that has just begun has no command line yet, and is not found by it.
    """
    deadline = time.monotonic() + STARTUP_SECONDS
    while not all(health.ready for health in check_health(server, run_directory)):
        if process.poll() is not None or failed():
            time.sleep(0.5)  # for the last lines of the log
            raise NotServing("The server could not start.")
        if time.monotonic() > deadline:
            raise NotServing(f"The server was not ready within {STARTUP_SECONDS} s.")
        time.sleep(0.2)


def load_failed(words: str) -> bool:
    """Whether TorchServe has said, in all its words so far, that something will never be ready."""
    return bool(LOAD_FAILED.search(words))


def tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def stop(server: Server, run_directory: Path) -> None:
    """Leaves no process, token or unpacked archive behind. TorchServe cuts off the requests in flight."""
    processes = server.processes()
    for process in processes:
        if MAIN_CLASS in process.info["cmdline"]:
            _signal(process, signal.SIGTERM)
    psutil.wait_procs(processes, timeout=STOP_SECONDS)
    clean(server, run_directory)


def clean(server: Server, run_directory: Path) -> None:
    """Ends what is left of the server at once, and removes what it left behind."""
    _kill_all(server)
    shutil.rmtree(server.scratch, ignore_errors=True)
    for name in (NAME, KEYS):
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

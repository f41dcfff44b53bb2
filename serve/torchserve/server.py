"""TorchServe as a host: its process is started, asked, and leaves nothing behind."""

import json
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
import requests
from requests.adapters import HTTPAdapter

from inference.store.archive import environment
from inference.tools.limits import threads_per_worker
from inference.tools.torchserve import KEY_FILE
from serve.record import NAME, NotServing, Server
from serve.torchserve.launch import MAIN_CLASS, Ports, command, configuration
from serve.torchserve.management import LOG, Management
from serve.versions import Chosen

STOP_SECONDS = 15
LOAD_FAILED = re.compile(r"Backend worker process died|Load model failed|Failed to load model|Address already in use")


def new(run_directory: Path, store: Path, state: Path, port: int, chosen: Chosen, workers: int = 1) -> Server:
    """Its scratch folder's name is short, since a worker's socket lies in it."""
    return Server(
        run_directory=run_directory,
        port=port,
        scratch=str(Path(tempfile.gettempdir(), f"torchserve-{secrets.token_hex(8)}")),
        store=str(store.resolve()),
        state=str(state.resolve()),
        models={name: {one.version: one.sha256 for one in archives} for name, archives in chosen.items()},
        workers=workers,
    )


def check_ports(port: int) -> None:
    for each in Ports(port).all:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", each))
            except OSError as error:
                remedy = "Free it, or choose others: ENTERING_PORT=9000 make serve"
                raise NotServing(f"Port {each} can't be used ({error.strerror}). {remedy}") from None


def metrics_port(port: int) -> int:
    return Ports(port).metrics


def log(run_directory: Path) -> Path:
    return run_directory / LOG


def start(server: Server, chosen: Chosen, output: IO[bytes] | int) -> "subprocess.Popen[bytes]":
    metrics = Path(server.scratch, "metrics")
    metrics.mkdir(mode=0o700, parents=True)
    config = server.run_directory / "config.properties"
    config.write_text(configuration(Ports(server.port), Path(server.store), chosen))
    return subprocess.Popen(
        command(config.resolve(), Path(server.scratch)),
        cwd=server.run_directory,
        env={**environment(threads_per_worker(server.workers * len(chosen))), "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def load_failed(words: str) -> bool:
    return bool(LOAD_FAILED.search(words))


def connect(server: Server, seconds: float | None = None) -> Management | None:
    """None until TorchServe has written its tokens, which it does not do at one stroke."""
    try:
        keys = json.loads((server.run_directory / KEY_FILE).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", HTTPAdapter(pool_maxsize=32))
    return Management(server, keys, session, None if seconds is None else time.monotonic() + seconds)


def stop(server: Server, *, at_once: bool = False) -> None:
    """Until twice in a row no process is left: Java may have started a worker anew just before. Raises NotServing."""
    processes = [] if at_once else server.processes()
    for process in processes:
        if MAIN_CLASS in process.info["cmdline"]:
            with suppress(psutil.NoSuchProcess):  # it may have ended by itself
                process.terminate()
    psutil.wait_procs(processes, timeout=STOP_SECONDS)
    deadline, looks = time.monotonic() + STOP_SECONDS, 0
    while looks < 2:
        processes = server.processes()
        looks = 0 if processes else looks + 1
        if processes and time.monotonic() > deadline:
            raise NotServing(f"Process {processes[0].pid} of the server does not end, not even by SIGKILL.")
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=1)
        time.sleep(0.1)
    shutil.rmtree(server.scratch, ignore_errors=True)
    for name in (NAME, KEY_FILE):
        (server.run_directory / name).unlink(missing_ok=True)

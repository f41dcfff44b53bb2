"""A local TorchServe: start it, wait until it answers right, ask how it is, stop it."""

import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests

from export import manifest, parity
from export.archive import environment, read_goldens
from serve.protocol import NPY
from serve.torchserve import MAIN_CLASS, Ports, command, configuration, threads_per_worker
from training.files import publish

STARTUP_SECONDS = 180
STOP_SECONDS = 15
LOAD_FAILED = re.compile(r"Backend worker process died|Load model failed|Failed to load model|Address already in use")


class NotServing(ValueError):
    """No server runs here, or it could not be started; the message holds its own last words."""


@dataclass(frozen=True)
class Server:
    """A running server, as remembered in `.serve/server.json`. `scratch` is where it unpacks archives."""

    port: int
    scratch: str
    store: str
    models: list[str]

    @property
    def ports(self) -> Ports:
        return Ports(self.port)

    @property
    def archives(self) -> dict[str, manifest.Archive]:
        return manifest.Manifest.read(Path(self.store)).choose(self.models)

    def processes(self) -> list[psutil.Process]:
        """Java and its workers: whatever was started with this server's scratch folder in its command."""
        found = psutil.process_iter(["cmdline"])
        return [process for process in found if self.scratch in " ".join(process.info["cmdline"] or [])]


@dataclass(frozen=True)
class Health:
    """How one model is. `ready`: every worker is READY and a golden was answered right."""

    name: str
    version: str
    workers: list[dict[str, Any]]
    ready: bool
    reason: str = ""


def start(run_directory: Path, store: Path, names: list[str], port: int) -> Server:
    """Starts a server and returns once every model is ready. Else raises ValueError, and nothing is left running."""
    if running := find(run_directory):
        raise NotServing(f"A server is running already, on port {running.port}. Stop it first: python -m serve down")
    archives = manifest.Manifest.read(store).choose(names)
    manifest.check(store, archives)
    check_ports(Ports(port))
    if stale := recall(run_directory):
        stop(stale, run_directory)
    scratch = tempfile.mkdtemp(prefix="torchserve-")  # short: a worker's socket lies in it
    server = Server(port, scratch, str(store.resolve()), list(archives))
    try:
        _launch(server, run_directory, archives)
        _wait(server, run_directory)
    except BaseException:
        stop(server, run_directory)
        raise
    return server


def _launch(server: Server, run_directory: Path, archives: dict[str, manifest.Archive]) -> None:
    """The server is remembered before it is started, so that it can be stopped whatever happens."""
    with publish(run_directory / "server.json") as draft:
        draft.write_text(json.dumps(asdict(server), indent=2))
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
                    f"Port {port} can't be used ({error.strerror}). Free it, or choose others with --port."
                ) from None


def recall(run_directory: Path) -> Server | None:
    """The server that was started with this run directory and not stopped; it may have died since."""
    path = run_directory / "server.json"
    return Server(**json.loads(path.read_bytes())) if path.exists() else None


def find(run_directory: Path) -> Server | None:
    """The server that was started with this run directory, if any of its processes is alive."""
    server = recall(run_directory)
    return server if server and server.processes() else None


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


def check_health(server: Server, run_directory: Path) -> list[Health]:
    """Asks TorchServe about each model's workers and, when all are READY, for the answer to a golden."""
    keys = _keys(run_directory)
    if keys is None:
        return [Health(name, "", [], False, "the server is starting") for name in server.models]
    with requests.Session() as session:
        return [_health(server, name, keys, session) for name in server.models]


def _keys(run_directory: Path) -> dict[str, Any] | None:
    """The tokens of this start; None until TorchServe has written them, which it does not do at one stroke."""
    try:
        keys: dict[str, Any] = json.loads((run_directory / "key_file.json").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return keys


def _health(server: Server, name: str, keys: dict[str, Any], session: requests.Session) -> Health:
    url = f"http://127.0.0.1:{server.ports.management}/models/{name}"
    try:
        response = session.get(url, headers=_bearer(keys["management"]["key"]), timeout=5)
        if response.status_code != 200:
            return Health(name, "", [], False, response.text.strip())
        model = response.json()[0]
        waiting = [worker for worker in model["workers"] if worker["status"] != "READY"]
        if waiting or not model["workers"]:
            return Health(name, model["modelVersion"], model["workers"], False, "a worker is not READY")
        reason = _answers_golden(server, name, keys["inference"]["key"], session)
    except requests.RequestException as error:
        return Health(name, "", [], False, f"no answer ({type(error).__name__})")
    return Health(name, model["modelVersion"], model["workers"], not reason, reason)


def _answers_golden(server: Server, name: str, key: str, session: requests.Session) -> str:
    """What is wrong with the answer to the first golden, "" when nothing is."""
    archive = server.archives[name]
    golden = read_goldens(Path(server.store) / archive.file)[:1]
    url = f"http://127.0.0.1:{server.ports.inference}/predictions/{name}"
    response = session.post(url, data=golden.requests[0], headers={**_bearer(key), "Accept": NPY}, timeout=30)
    if response.status_code != 200:
        return f"a golden was answered {response.status_code}: {response.text.strip()}"
    limit = parity.tolerance(archive.runtime, "float32", archive.device)
    return parity.compare(np.load(BytesIO(response.content)), golden, limit).sentence


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def stop(server: Server, run_directory: Path) -> None:
    """Lets requests in flight end, then leaves no process, token or unpacked archive behind."""
    processes = server.processes()
    for process in processes:
        if MAIN_CLASS in process.info["cmdline"]:
            _signal(process, signal.SIGTERM)
    psutil.wait_procs(processes, timeout=STOP_SECONDS)
    for process in server.processes():
        _signal(process, signal.SIGKILL)
    shutil.rmtree(server.scratch, ignore_errors=True)
    for name in ("server.json", "key_file.json"):
        (run_directory / name).unlink(missing_ok=True)


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

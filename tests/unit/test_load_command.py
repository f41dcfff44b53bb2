"""`python -m client load` against a scripted server, which answers for an archive of a store that a test has made."""

import json
import threading
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client import Client
from client.load import campaign
from client.verify.asker import Asker
from inference.protocol import ATTESTED, NPY
from inference.store.manifest import Archive, File, Manifest, describe
from tests.unit.archives import ARCHIVE
from tests.unit.scripted_server import BAD_TOKEN, Call, Reply, failure, npy, scripted
from tests.unit.test_client_checks import CONTRACT
from tests.unit.test_client_commands import Shell
from tests.unit.test_client_retries import free_port
from tests.unit.test_parity import goldens

GOLDENS = replace(goldens(), contract=CONTRACT)


@dataclass
class Service:
    """Answers a golden right, as the archive of the store, and anything else with nothing. `url` is where."""

    archive: Archive
    url: str = ""
    off_by: float = 0.0
    status: int = 200

    def __call__(self, call: Call) -> Reply:
        if self.status != 200:
            return failure(self.status)
        if call.headers.get("Accept") != NPY:
            return Reply(body=b"{}")
        row = GOLDENS.requests.index(call.body)
        reply = npy(np.array(GOLDENS.outputs[[row]]) + np.float32(self.off_by))
        return Reply(reply.status, reply.body, {**reply.headers, **self._attested()})

    def _attested(self) -> dict[str, str]:
        with Client(self.url, token="SECRET") as client:
            expected = Asker(client, "digits-onnx", self.archive, GOLDENS).expected
        return {ATTESTED[name]: value for name, value in (expected | {"batch_size": "1"}).items()}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENTERING_TOKEN", "SECRET")
    return Shell(monkeypatch, capsys)


@pytest.fixture
def archive(shell: Shell) -> Archive:  # noqa: ARG001
    """The only one of the store in this folder."""
    store = Path("model_store")
    store.mkdir()
    GOLDENS.write(Path("goldens.npz"))
    path = store / ARCHIVE.file
    with zipfile.ZipFile(path, "w") as file:
        file.write("goldens.npz")
        file.writestr("contract.json", CONTRACT.to_json())
    files = {ARCHIVE.artifact: File(sha256="f" * 64, bytes=1)}
    made = ARCHIVE.model_copy(update={**describe(path).model_dump(), "files": files})
    Manifest(archives={"digits-onnx": made}).write(store)
    return made


LIMITS = ("--duration", "0.5", "--slo-p99", "9000")  # of time, so that no slow machine fails a test


def measured(shell: Shell, service: Service, *options: str) -> tuple[int, dict[str, Any]]:
    with scripted(service) as server:
        service.url = server.url
        code = shell.run("load", "digits-onnx", "--url", server.url, *options)
    return code, json.loads(Path("artifacts/digits/load.json").read_bytes())


def test_a_run_is_measured_and_its_sampled_answers_are_right(shell: Shell, archive: Archive) -> None:
    options = ("--rate", "100", "--check-every", "5", "--arrival", "constant", *LIMITS)
    code, report = measured(shell, Service(archive), *options)
    assert (code, report["ok"], report["problem"]) == (0, True, None), shell.err
    assert (report["mode"], report["arrival"], report["answered"], report["offered_per_s"]) == (
        "open",
        "constant",
        50,
        100,
    )
    assert (report["checked"], report["wrong"], report["errors"], report["files"]) == (10, [], {}, 0)
    latency = report["latency_s"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"] < 9
    assert sum(row["answered"] for row in report["by_second"]) == 50
    assert "10 of 10" in shell.out
    with Image.open("artifacts/digits/load.png") as picture:
        assert picture.width > 1_000


def test_a_closed_loop_sends_the_files_of_a_folder(shell: Shell, archive: Archive) -> None:
    Path("images").mkdir()
    for name in ("a.png", "b.JPG"):
        Path("images", name).write_bytes(name.encode())
    bodies = set()

    class Noting(Service):
        def __call__(self, call: Call) -> Reply:
            bodies.add(call.body)
            return super().__call__(call)

    options = ("--data", "images", "--concurrency", "3", "--output", "here/found.json", *LIMITS)
    with scripted(service := Noting(archive)) as server:
        service.url = server.url
        assert shell.run("load", "digits-onnx", "--url", server.url, *options) == 0, shell.err
    report = json.loads(Path("here/found.json").read_bytes())
    assert Path("here/found.png").exists()
    assert (report["mode"], report["concurrency"], report["offered_per_s"], report["files"]) == ("closed", 3, None, 2)
    assert report["connections"] == 3
    assert bodies == {b"a.png", b"b.JPG", *GOLDENS.requests}


def test_wrong_answers_fail_the_run(shell: Shell, archive: Archive) -> None:
    code, report = measured(shell, Service(archive, off_by=0.01), "--rate", "50", "--check-every", "5", *LIMITS)
    assert (code, report["ok"], report["checked"], len(report["wrong"])) == (1, False, 5, 5)
    assert shell.err.startswith("digits-onnx: 5 of 5 sampled answers are wrong: a: 1 of 1 differ")


def test_errors_fail_the_run(shell: Shell, archive: Archive) -> None:
    class Failing(Service):
        def __call__(self, call: Call) -> Reply:
            return super().__call__(call) if call.headers.get("Accept") == NPY else failure(503)

    code, report = measured(shell, Failing(archive), "--rate", "40", "--check-every", "4", *LIMITS)
    assert (code, report["errors"], report["answered"]) == (1, {"HTTP 503": 15}, 5)
    assert shell.err == "digits-onnx: 15 of 20 requests failed: 15 × HTTP 503.\n"


def test_an_objective_that_is_missed_is_exit_code_1(shell: Shell, archive: Archive) -> None:
    class Slow(Service):
        def __call__(self, call: Call) -> Reply:
            time.sleep(0.1)
            return super().__call__(call)

    code, report = measured(shell, Slow(archive), "--rate", "20", "--duration", "0.5", "--slo-p99", "50")
    assert code == (2 if report["rejection"] else 1)
    assert report["problem"] == report["rejection"] or report["problem"].endswith(" ms, over 50 ms.")


CAPACITY = 200


class Counter(Service):
    """Answers one request after the other, `CAPACITY` a second and no more: it follows the clock, not its own speed."""

    def __call__(self, call: Call) -> Reply:
        reply = super().__call__(call)
        with LOCK:
            LAST[0] = max(time.monotonic(), LAST[0]) + 1 / CAPACITY
            ready = LAST[0]
        time.sleep(max(0.0, ready - time.monotonic()))
        return reply


LOCK, LAST = threading.Lock(), [0.0]


def test_the_highest_rate_is_found_and_held_again(
    shell: Shell, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "RESOLUTION", 1.2)
    options = ("--find-max", "--slo-p99", "45", "--duration", "0.9", "--arrival", "constant", "--check-every", "100")
    code, report = measured(shell, Counter(archive), *options)
    assert (code, report["ok"]) == (0, True), shell.out + shell.err
    assert report["latency_s"]["p99"] <= 0.045
    assert 10 < report["offered_per_s"] <= 1.07 * CAPACITY  # a queue that grows by more would show in 0.9 s
    assert report["seconds"] == 1.8
    *trials, confirmed = report["trials"]
    assert confirmed["outcome"] == "holds"
    missed = [trial["rate"] for trial in trials if trial["outcome"] != "holds"]
    held = [trial["rate"] for trial in trials if trial["outcome"] == "holds"]
    assert confirmed["rate"] <= max(held) <= 1.07 * CAPACITY
    assert missed
    assert f"The highest rate that holds the objective: {report['offered_per_s']:,.1f} a second." in shell.out


def test_an_objective_that_nothing_holds_is_exit_code_1(
    shell: Shell, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "LOWEST", 0.3)

    class Slow(Service):
        def __call__(self, call: Call) -> Reply:
            time.sleep(0.02)
            return super().__call__(call)

    options = ("--find-max", "--slo-p99", "5", "--duration", "0.2", "--check-every", "1000")
    code, report = measured(shell, Slow(archive), *options)
    assert (report["ok"], report["problem"]) == (False, "No rate holds the objective.")
    assert code == (2 if "The generator itself was late." in shell.err else 1)  # as it is on a machine that is busy
    assert {trial["outcome"] == "holds" for trial in report["trials"]} == {False}


def test_errors_end_the_search(shell: Shell, archive: Archive) -> None:
    class Failing(Service):
        def __call__(self, call: Call) -> Reply:
            return super().__call__(call) if call.headers.get("Accept") == NPY else failure(503)

    code, report = measured(shell, Failing(archive), "--find-max", "--slo-p99", "50", "--duration", "1")
    assert (code, report["problem"]) == (1, f"No rate holds the objective. {report['trials'][0]['outcome']}")
    assert "HTTP 503" in report["trials"][0]["outcome"]


# What cannot be measured.


def refused(shell: Shell, service: Service, *arguments: str) -> str:
    with scripted(service) as server:
        service.url = server.url
        assert shell.run("load", *arguments, "--url", server.url) == 2
    assert shell.out == ""
    return shell.err.removeprefix("error: ")


def test_what_is_asked_for_wrongly_is_exit_code_2(shell: Shell, archive: Archive) -> None:
    Path("empty").mkdir()
    Path("secret.png").symlink_to("nowhere.png")
    for arguments, sentence in {
        ("digits-onnx",): "Give one of --rate, --concurrency and --find-max.\n",
        ("digits-onnx", "--find-max"): "--find-max needs an objective: --slo-p99 MS\n",
        ("digits-onyx", "--rate", "9"): "There is no model 'digits-onyx' in the store. It has: digits-onnx.\n",
        ("digits-onnx", "--rate", "9", "--data", "no"): "no: there is no such file or folder.\n",
        ("digits-onnx", "--rate", "9", "--data", "empty"): "empty: the folder holds no image (.png, .jpg, .jpeg, "
        ".webp).\n",
        ("digits-onnx", "--rate", "9", "--store", "away"): "away/manifest.json is missing. Export first: python -m "
        "export digits\n",
    }.items():
        assert refused(shell, Service(archive), *arguments) == sentence


def test_a_server_that_is_down_or_refuses_is_exit_code_2(shell: Shell, archive: Archive) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert shell.run("load", "digits-onnx", "--rate", "9", "--url", nowhere) == 2
    assert f"Nothing answers at {nowhere}. Is the server running there?" in shell.err
    assert shell.run("load", "digits-onnx", "--rate", "9", "--url", "https://127.0.0.1:1") == 2
    assert "load speaks plain HTTP" in shell.err
    with scripted([BAD_TOKEN]) as server:
        assert shell.run("load", "digits-onnx", "--rate", "9", "--url", server.url) == 2
    assert "Token Authorization failed. Set ENTERING_TOKEN" in shell.err
    other = archive.model_copy(update={"version": "2.0"})
    sentence = refused(shell, Service(other), "digits-onnx", "--rate", "9")
    assert sentence.startswith("digits-onnx cannot be put under load. The answer attests version '2.0'")


@pytest.mark.parametrize(
    ("module", "package"), [("hdrh", "hdrhistogram"), ("httptools", "httptools"), ("matplotlib", "matplotlib")]
)
def test_a_package_that_is_missing_is_named(
    shell: Shell,
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    package: str,
) -> None:
    monkeypatch.setattr("client.options.find_spec", lambda name: None if name == module else name)
    sentence = refused(shell, Service(archive), "digits-onnx", "--rate", "9")
    assert sentence == f"load needs {package}. Install it, or make setup where this project lies.\n"

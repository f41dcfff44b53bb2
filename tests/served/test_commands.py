"""The commands of the client against the real server: what they print, write and exit with."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from client.__main__ import main
from client.compare import command as compare
from client.errors import TimedOut
from inference.goldens import Goldens
from inference.store.manifest import Archive, Manifest
from models.digits import SAMPLE_NAMES, data
from tests.contracts import decode, labels_of
from tests.served.asking import RUNTIMES, Eager, Raw
from tests.unit.test_inputs import encoded
from tests.workspace import ROOT, Workspace, free_port

MANY = 2_000
FORMS = (("png", "L"), ("jpeg", "L"), ("webp", "RGB"), ("png", "P"), ("jpeg", "CMYK"))


def start(served: Workspace, *arguments: str, errors: Path) -> subprocess.Popen[str]:
    """`python -m client` in the server's folder, each line as soon as it is printed, stderr to a file."""
    with errors.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "client", *arguments],
            cwd=served.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Held-out scans in several forms and sizes, in the order in which their folder is answered."""
    folder, held_out = tmp_path_factory.mktemp("scans"), data("bundled", Path()).held_out.inputs
    for number in range(MANY):
        kind, mode = FORMS[number % len(FORMS)]
        scan, side = held_out[number % len(held_out), ..., 0], 20 + number % 61
        picture = Image.fromarray(scan).resize((side, side)).convert(mode)
        (folder / f"{number}.{kind}").write_bytes(encoded(picture, kind))
    return sorted(folder.iterdir(), key=lambda path: int(path.stem))


@pytest.fixture(scope="module")
def labels(scans: list[Path], eager: Eager) -> list[str]:
    """Eager's, in this process."""
    pixels = np.concatenate([decode(path.read_bytes(), eager.contract.input) for path in scans])
    return [labels_of(eager.contract)[index] for index in eager.run(pixels).argmax(axis=1)]


def test_a_folder_is_answered_whole_and_in_order_though_a_worker_is_killed(
    raw: Raw, served: Workspace, scans: list[Path], labels: list[str], tmp_path: Path
) -> None:
    worker, table = raw.worker(), tmp_path / "table.csv"
    command = ["predict", str(scans[0].parent), "--json", "--csv", str(table), "--url", served.url]
    answers: list[dict[str, Any]] = []
    with start(served, *command, errors=tmp_path / "errors") as process:
        assert process.stdout
        for line in process.stdout:
            answers.append(json.loads(line))
            if len(answers) == MANY // 4:
                os.kill(worker.pid, signal.SIGKILL)
    assert (process.returncode, (tmp_path / "errors").read_text()) == (0, "")
    assert [answer["input"] for answer in answers] == [str(path) for path in scans]
    assert [answer["label"] for answer in answers] == labels
    with table.open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == labels
    assert raw.worker().pid != worker.pid


def test_ctrl_c_ends_a_folder_with_130_and_leaves_no_table(
    served: Workspace, scans: list[Path], tmp_path: Path
) -> None:
    table = tmp_path / "out" / "table.csv"
    command = ["predict", str(scans[0].parent), "--csv", str(table), "--url", served.url]
    with start(served, *command, errors=tmp_path / "errors") as process:
        assert process.stdout
        assert process.stdout.readline().startswith(f"{scans[0]}: ")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.readlines()
    assert (process.returncode, (tmp_path / "errors").read_text()) == (130, "")
    assert len(rest) < MANY - 1
    assert list(table.parent.iterdir()) == []


def test_two_bad_files_are_reported_and_the_rest_is_answered(served: Workspace, seven: bytes, tmp_path: Path) -> None:
    bodies = {"1.png": seven, "2.png": b"seven", "3.png": seven, "4.png": seven[:100], "5.png": seven}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    table = tmp_path / "table.csv"
    done = served.run("client", "predict", str(tmp_path), "--csv", str(table), "--url", served.url, check=False)
    assert done.returncode == 1
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == [
        f"{tmp_path}/{n}.png: 7" for n in (1, 3, 5)
    ]
    assert done.stderr.splitlines() == [
        f"{tmp_path}/2.png: The body is not a PNG, JPEG or WebP image. Send the file's bytes as they are.",
        f"{tmp_path}/4.png: The image is damaged or incomplete (image file is truncated). Send the whole file.",
        "2 of 5 failed.",
    ]
    with table.open(newline="") as file:
        assert [(row["label"], bool(row["error"])) for row in csv.DictReader(file)] == [
            ("7", False),
            ("", True),
            ("7", False),
            ("", True),
            ("7", False),
        ]


def test_standard_input_is_answered(served: Workspace, seven: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "client", "predict", "-", "--json", "--top-k", "2", "--url", served.url],
        cwd=served.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=seven,
        capture_output=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert (answer["input"], answer["label"], len(answer["top"]), answer["served"]["runtime"]) == ("-", "7", 2, "onnx")


def test_a_batch_in_one_npy_file_is_a_line_for_each_image(served: Workspace, eager: Eager, tmp_path: Path) -> None:
    pixels = data("bundled", Path()).held_out.inputs[:5]
    np.save(tmp_path / "five.npy", pixels)
    done = served.run("client", "predict", str(tmp_path / "five.npy"), "--json", "--url", served.url)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["input"] for answer in answers] == [f"{tmp_path}/five.npy[{index}]" for index in range(5)]
    assert [answer["label"] for answer in answers] == [
        labels_of(eager.contract)[index] for index in eager.run(pixels).argmax(axis=1)
    ]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_model_can_be_chosen(served: Workspace, runtime: str) -> None:
    options = ("--model", f"digits-{runtime}", "--json", "--url", served.url)
    done = served.run("client", "predict", str(served.artifacts / "samples"), *options)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    found = {Path(answer["input"]).stem: answer["label"] for answer in answers}
    assert found == {name: str(digit) for digit, name in enumerate(SAMPLE_NAMES)}
    assert {answer["served"]["runtime"] for answer in answers} == {runtime}


@pytest.mark.parametrize("model", ["digits-onyx", "digits-onnx/9.9"])
def test_an_unknown_model_is_exit_code_2_and_the_servers_sentence(served: Workspace, model: str) -> None:
    sample = str(served.artifacts / "samples" / "seven.png")
    done = served.run("client", "predict", sample, "--model", model, "--url", served.url, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {model}: Model ")
    assert done.stderr.endswith("(HTTP 404)\n")


@pytest.mark.parametrize("command", ["predict", "models", "verify", "compare", "load"])
def test_a_server_that_is_down_is_exit_code_2_and_a_sentence(served: Workspace, command: str) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    arguments = {
        "predict": ["artifacts/digits/samples", "--url", nowhere],
        "models": ["--management-url", nowhere],
        "load": ["digits-onnx", "--rate", "9", "--url", nowhere],
    }.get(command, ["--url", nowhere, "--management-url", nowhere])
    done = served.run("client", command, *arguments, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"Nothing answers at {nowhere}. Is the server running there?\n")


def test_a_client_without_its_token_is_told_what_to_set(served: Workspace, seven: bytes, tmp_path: Path) -> None:
    (tmp_path / "seven.png").write_bytes(seven)
    done = Workspace(tmp_path, served.port).run("client", "predict", "seven.png", "--url", served.url, check=False)
    assert done.returncode == 2
    assert "Token Authorization failed" in done.stderr
    assert "Set ENTERING_TOKEN, or let ENTERING_KEY_FILE name the server's key_file.json." in done.stderr


def test_an_answer_that_takes_too_long_is_an_error_of_its_own(raw: Raw) -> None:
    with raw.client(timeout=(3.0, 0.05)) as client, pytest.raises(TimedOut, match=r"did not answer within 0\.05 s\."):
        client.logits(np.zeros((8_000, 28, 28, 1), np.uint8), "digits-onnx")


def test_models_lists_what_is_served_with_what_runs_it(raw: Raw, served: Workspace) -> None:
    done = served.run("client", "models", "--management-url", served.management_url)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if "digits-" in line}
    assert rows.keys() == {f"digits-{runtime}" for runtime in RUNTIMES}
    with raw.client() as client:
        weights = client.describe("digits-onnx").attestation["weights"]
    assert rows["digits-onnx"][1:] == [
        "1.0",
        "onnx",
        "CPUExecutionProvider",
        "cpu",
        "float32",
        "1",
        "of",
        "1",
        weights[:12],
    ]


ENVIRONMENT = {"cpu", "cores", "system", "python", "torch", "onnxruntime-gpu", "torchserve", "commit"}
MEASURED = {
    "export_s",
    "artifact_bytes",
    "load_s",
    "cold_first_answer_s",
    "inprocess_p50_s",
    "inprocess_p99_s",
    "inprocess_images_per_s",
    "served_1_p50_s",
    "served_1_p99_s",
    "served_1_per_s",
    "served_16_p50_s",
    "served_16_p99_s",
    "served_16_per_s",
    "served_images_per_s_of_arrays",
    "worker_memory_bytes",
}
DIGESTS = {"artifact_sha256", "weights_sha256"}


def test_compare_measures_a_model_and_writes_its_figures_and_a_picture(served: Workspace) -> None:
    done = served.run("client", "compare", "digits-onnx", *served.urls)
    report = json.loads((served.artifacts / "compare.json").read_bytes())
    (row,) = report["rows"]
    assert report["environment"].keys() >= ENVIRONMENT
    assert report["rounds"] == compare.ROUNDS
    for name in MEASURED:
        assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"], name
    assert row["served_1_p99_s"]["median"] >= row["served_1_p50_s"]["median"]
    assert row["overhead_p50_s"]["low"] > 0
    assert row.keys() >= DIGESTS
    assert (row["model"], row["runtime"], row["provider"]) == ("digits-onnx", "onnx", "CPUExecutionProvider")
    assert (row["ok"], row["flips"]) == (True, 0)
    assert 0 <= row["max_abs"] < 1e-4
    assert row["error_ratio"] > 0
    with Image.open(served.artifacts / "compare.png") as picture:
        assert picture.width > 1_000
    assert "digits-onnx" in done.stdout


class Comparer:
    """Runs compare in this process and the server's folder, with few requests, on goldens and archives of its own."""

    def __init__(self, served: Workspace, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.served, self.capsys, self.artifacts, self.store = served, capsys, folder / "artifacts", folder / "store"
        (self.artifacts / "digits").mkdir(parents=True)
        for name in ("goldens.npz", "contract.json"):
            shutil.copy(served.artifacts / name, self.artifacts / "digits")
        shutil.copytree(served.store, self.store)

    def change_goldens(self, change: Callable[[Goldens], Goldens]) -> None:
        path = self.artifacts / "digits" / "goldens.npz"
        change(Goldens.read(path)).write(path)

    def change_manifest(self, change: Callable[[Archive], Archive]) -> None:
        archives = Manifest.read(self.store).archives
        Manifest(archives={**archives, "digits-onnx": change(archives["digits-onnx"])}).write(self.store)

    def run(self, code: int, *options: str, rounds: int = 1) -> tuple[str, str]:
        places = ("--artifacts", str(self.artifacts), "--store", str(self.store))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.served.folder)
            patch.setattr(sys, "argv", ["client", "compare", "digits-onnx", *places, *self.served.urls, *options])
            patch.setattr(compare, "ROUNDS", rounds)
            patch.setattr(compare, "REQUESTS", 10)
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = self.capsys.readouterr()
        assert ended.value.code == code, out + err
        return out, err

    @property
    def row(self) -> dict[str, Any]:
        (row,) = json.loads((self.artifacts / "digits" / "compare.json").read_bytes())["rows"]
        return dict(row)


@pytest.fixture
def comparer(served: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Comparer:
    return Comparer(served, tmp_path, capsys)


def test_compare_shows_a_difference_from_eager_and_exits_with_1(comparer: Comparer) -> None:
    comparer.change_goldens(lambda goldens: replace(goldens, outputs=goldens.outputs + np.float32(1e-3)))
    out, _ = comparer.run(code=1)
    assert "different 78 of 78 differ" in " ".join(out.split())
    assert comparer.row["ok"] is False
    assert comparer.row["sentence"].startswith("78 of 78 differ")


def test_compare_of_slow_models_begins_no_round_that_would_last_too_long(
    comparer: Comparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "TOTAL_SECONDS", 0)
    comparer.run(0, rounds=3)
    assert json.loads((comparer.artifacts / "digits" / "compare.json").read_bytes())["rounds"] == 1


def test_compare_refuses_a_server_of_another_artifact(comparer: Comparer) -> None:
    def other(archive: Archive) -> Archive:
        artifact = archive.files[archive.artifact].model_copy(update={"sha256": "0" * 64})
        return archive.model_copy(update={"files": {**archive.files, archive.artifact: artifact}})

    comparer.change_manifest(other)
    _, err = comparer.run(code=2)
    assert err.startswith("error: digits-onnx cannot be compared. The answer attests artifact '")
    assert not (comparer.artifacts / "digits" / "compare.json").exists()


def test_compare_refuses_goldens_of_other_weights(comparer: Comparer) -> None:
    comparer.change_goldens(lambda goldens: replace(goldens, weights="0" * 64))
    assert "digits-onnx-1.0.mar has other weights than the goldens. Export again" in comparer.run(code=2)[1]


def test_compare_goes_on_without_the_memory_of_a_worker_that_has_gone(
    comparer: Comparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(process: psutil.Process) -> None:
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", gone)
    comparer.run(code=0)
    assert comparer.row["worker_memory_bytes"] is None


def test_compare_goes_on_without_the_memory_of_workers_that_nobody_can_ask_for(comparer: Comparer) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    _, err = comparer.run(0, "--management-url", nowhere)
    assert comparer.row["worker_memory_bytes"] is None
    assert err.startswith(f"Nothing answers at {nowhere}, to say which models are served")


def test_compare_leaves_out_the_memory_of_a_server_elsewhere(
    comparer: Comparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of the same number on this machine would be another's."""
    monkeypatch.setattr(compare, "is_local", lambda _: False)
    out, _ = comparer.run(code=0)
    assert comparer.row["worker_memory_bytes"] is None
    assert "–" in out
    with Image.open(comparer.artifacts / "digits" / "compare.png") as picture:
        assert picture.width > 1_000

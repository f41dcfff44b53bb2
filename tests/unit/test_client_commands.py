"""`python -m client predict` and `models`: what they print, write and exit with."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from client.__main__ import main
from inference.protocol import NPY
from tests.unit.scripted_server import BAD_TOKEN, Call, Reply, Script, Server, answer, failure, one, scripted
from tests.unit.test_client_answers import described
from tests.unit.test_client_retries import free_port
from tests.workspace import ROOT


class Shell:
    """Runs a command in this process, in an empty folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *arguments: str, stdin: bytes = b"") -> int:
        self._monkeypatch.setattr(sys, "argv", ["client", *arguments])
        self._monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
        with pytest.raises(SystemExit) as caught:
            main()
        self.out, self.err = self._capsys.readouterr()
        return int(caught.value.code or 0)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    addresses = ("ENTERING_URL", "ENTERING_MANAGEMENT_URL", "ENTERING_PORT")
    for name in ("ENTERING_MANAGEMENT_TOKEN", "ENTERING_KEY_FILE", *addresses):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENTERING_TOKEN", "SECRET")
    return Shell(monkeypatch, capsys)


def echo(call: Call) -> Reply:
    """Labels an image with its own bytes; knows a bad one."""
    return failure(400, "BadInput", "Not an image.") if call.body == b"bad" else answer(one(call.body.decode()))


@pytest.fixture
def server() -> Iterator[Server]:
    with scripted(echo) as running:
        yield running


def folder(**images: bytes) -> None:
    for name, body in images.items():
        file = Path("images") / name.replace("__", "/")
        file = file.with_name(f"{file.name}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)


def test_a_file_is_labelled_in_one_line(shell: Shell, server: Server) -> None:
    Path("seven.png").write_bytes(b"7")
    assert shell.run("predict", "seven.png", "--url", server.url) == 0
    assert (shell.out, shell.err) == ("seven.png: 7 (0.750), then 1 (0.125)\n", "")
    assert server.calls[0].path == "/predictions/digits-onnx"


def test_standard_input_is_labelled(shell: Shell, server: Server) -> None:
    assert shell.run("predict", "-", "--model", "other/2.0", "--top-k", "1", "--url", server.url, stdin=b"4") == 0
    assert shell.out.startswith("-: 4 (0.750)")
    assert (server.calls[0].path, server.calls[0].headers["X-Top-K"]) == ("/predictions/other/2.0", "1")


def test_a_folder_is_labelled_in_natural_order_with_its_sub_folders(shell: Shell, server: Server) -> None:
    folder(n10=b"10", n9=b"9", sub__n1=b"1")
    Path("images/notes.txt").write_text("not an image")
    Path("images/N2.JPEG").write_bytes(b"2")
    assert shell.run("predict", "images", "--url", server.url) == 0
    assert [line.partition(":")[0] for line in shell.out.splitlines()] == [
        "images/N2.JPEG",
        "images/n9.png",
        "images/n10.png",
        "images/sub/n1.png",
    ]
    assert shell.err == "1 file that is no PNG, JPEG or WebP was skipped.\n"


def test_files_that_are_skipped_are_counted(shell: Shell, server: Server) -> None:
    folder(a=b"1", b=b"2")
    for name in ("c.gif", "d.npy", "e.bmp"):
        Path("images", name).write_bytes(b"3")
    assert shell.run("predict", "images", "--json", "--url", server.url) == 0
    assert len(shell.out.splitlines()) == 2
    assert shell.err == "3 files that are no PNG, JPEG or WebP were skipped.\n"


@pytest.mark.parametrize("source", ["three.npy", "-"])
def test_a_batch_in_one_npy_file_is_a_line_for_each_image(shell: Shell, source: str) -> None:
    np.save("three.npy", np.zeros((3, 28, 28, 1), np.uint8))
    body = Path("three.npy").read_bytes()
    with scripted([answer({"predictions": [one("4"), one("0"), one("9")]})] * 2) as server:
        assert shell.run("predict", source, "--csv", "table.csv", "--url", server.url, stdin=body) == 0
    assert [line.partition(" (")[0] for line in shell.out.splitlines()] == [
        f"{source}[0]: 4",
        f"{source}[1]: 0",
        f"{source}[2]: 9",
    ]
    with Path("table.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["4", "0", "9"]
    assert [(call.body, call.headers["Content-Type"]) for call in server.calls] == [(body, NPY)]


def test_a_batch_of_one_is_named_as_its_file(shell: Shell) -> None:
    np.save("one.npy", np.zeros((1, 28, 28, 1), np.uint8))
    with scripted([answer({"predictions": [one("4")]})]) as server:
        assert shell.run("predict", "one.npy", "--url", server.url) == 0
    assert shell.out.startswith("one.npy: 4 (")


def test_a_server_that_never_answers_is_a_sentence_that_names_the_seconds(shell: Shell) -> None:
    Path("seven.png").write_bytes(b"7")
    given_up = threading.Event()

    def silent(_: Call) -> Reply:
        given_up.wait(30)
        return answer(one())

    with scripted(silent) as server:
        asked = shell.run("predict", "seven.png", "--timeout", "0.2", "--url", server.url)
        said = shell.err
        listed = shell.run("models", "--timeout", "0.3", "--management-url", server.url)
        given_up.set()
    assert (asked, said) == (1, f"seven.png: {server.url} did not answer within 0.2 s.\n1 of 1 failed.\n")
    assert (listed, shell.err) == (2, f"error: {server.url} did not answer within 0.3 s.\n")


def test_the_port_is_the_one_that_serve_up_takes(shell: Shell, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(server.url.rpartition(":")[2])
    monkeypatch.setenv("ENTERING_PORT", str(port))
    assert shell.run("predict", "-", stdin=b"4") == 0
    monkeypatch.setenv("ENTERING_PORT", str(port - 1))
    assert shell.run("models") == 2
    assert len(server.calls) == 2
    monkeypatch.setenv("ENTERING_PORT", "eighty")
    assert shell.run("predict", "-", stdin=b"4") == 2
    assert shell.err.startswith("error: ENTERING_PORT is 'eighty'. Set it to the port")


def test_a_table_that_cannot_be_written_is_exit_code_2_before_anything_is_asked(shell: Shell, server: Server) -> None:
    assert shell.run("predict", "-", "--csv", "/sys/no/table.csv", "--url", server.url, stdin=b"4") == 2
    assert shell.out == ""
    assert re.fullmatch(r"error: /sys/no: .+\.\n", shell.err)
    assert server.calls == []


def test_a_table_that_finds_the_disk_full_is_exit_code_2_and_leaves_no_file(server: Server, tmp_path: Path) -> None:
    command = ["predict", "-", "--csv", "table.csv", "--url", server.url]
    done = subprocess.run(
        [sys.executable, "-m", "client", *command],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, input=b"4", capture_output=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, b"error: File too large.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_file_is_reported_and_the_rest_goes_on(shell: Shell, server: Server) -> None:
    folder(a=b"1", b=b"bad", c=b"3")
    assert shell.run("predict", "images", "--url", server.url) == 1
    assert [line[:15] for line in shell.out.splitlines()] == ["images/a.png: 1", "images/c.png: 3"]
    assert shell.err == "images/b.png: Not an image.\n1 of 3 failed.\n"


def test_json_is_one_object_per_line(shell: Shell, server: Server) -> None:
    folder(a=b"1", b=b"bad")
    assert shell.run("predict", "images", "--json", "--url", server.url) == 1
    good, bad = map(json.loads, shell.out.splitlines())
    assert (good["input"], good["label"], good["score"], len(good["top"])) == ("images/a.png", "1", 0.75, 2)
    assert good["served"]["runtime"] == "some runtime"
    assert bad == {"input": "images/b.png", "error": "Not an image.", "status": 400}


def test_csv_has_a_row_for_each_input(shell: Shell, server: Server) -> None:
    folder(a=b"1", b=b"bad")
    assert shell.run("predict", "images", "--csv", "out/table.csv", "--url", server.url) == 1
    with Path("out/table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"input": "images/a.png", "label": "1", "score": "0.75", "error": ""},
        {"input": "images/b.png", "label": "", "score": "", "error": "Not an image."},
    ]


@pytest.mark.parametrize("reply", [failure(404), BAD_TOKEN])
def test_what_would_meet_every_input_ends_the_run_and_leaves_no_file(shell: Shell, reply: Reply) -> None:
    folder(a=b"1", b=b"2")
    script: Script = lambda call: echo(call) if call.body == b"1" else reply  # noqa: E731
    with scripted(script) as server:
        assert shell.run("predict", "images", "--csv", "out/table.csv", "--url", server.url) == 2
    assert shell.err.startswith("error: digits-onnx: ")
    assert "SECRET" not in shell.err + shell.out
    assert list(Path("out").iterdir()) == []


def test_a_server_that_is_down_is_exit_code_2(shell: Shell) -> None:
    Path("seven.png").write_bytes(b"7")
    url = f"http://127.0.0.1:{free_port()}"
    assert shell.run("predict", "seven.png", "--url", url) == 2
    assert shell.err == f"error: digits-onnx: Nothing answers at {url}. Is the server running there?\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.png"], "nowhere.png: there is no such file or folder."),
        (["."], "the folder holds no image"),
        (["-", "--url", "nowhere"], "is not the address of a server"),
        (["-", "--top-k", "0"], "top-k"),
        (["-", "--concurrency", "0"], "concurrency"),
        (["-", "--timeout", "0"], "timeout"),
        (["-", "--unknown"], "unknown"),
        ([], "Missing argument"),
    ],
)
def test_a_mistake_on_the_command_line_is_exit_code_2(shell: Shell, arguments: list[str], sentence: str) -> None:
    assert shell.run("predict", *arguments) == 2
    assert sentence in shell.err


def test_curl_prints_a_command_for_each_file_and_sends_nothing(shell: Shell, server: Server) -> None:
    folder(a=b"1", b=b"2")
    assert shell.run("predict", "images", "--curl", "--url", server.url) == 0
    assert [line.split("@")[-1] for line in shell.out.splitlines()] == ["images/a.png", "images/b.png"]
    assert "$ENTERING_TOKEN" in shell.out
    assert "SECRET" not in shell.out
    assert server.calls == []


def test_models_are_a_table(shell: Shell) -> None:
    attested = {"runtime": "onnx", "provider": "CPUExecutionProvider", "device": "cpu", "precision": "float32"}
    own = json.dumps({"attestation": {**attested, "weights": "0123456789abcdef" * 4}})

    def management(call: Call) -> Reply:
        if call.path.startswith("/models?"):
            return answer({"models": [{"modelName": "digits-onnx"}]})
        return described(2, 2, customizedMetadata=own if "customized" in call.path else "")

    with scripted(management) as server:
        assert shell.run("models", "--management-url", server.url) == 0
    assert shell.out.splitlines()[3].split() == [
        "digits-onnx",
        "1.0",
        *attested.values(),
        "2",
        "of",
        "2",
        "0123456789ab",
    ]


def test_a_model_without_workers_is_listed_without_asking_it(shell: Shell) -> None:
    with scripted([answer({"models": [{"modelName": "digits-onnx"}]}), described(0, 1)]) as server:
        assert shell.run("models", "--management-url", server.url) == 0
    assert shell.out.splitlines()[3].split() == ["digits-onnx", "1.0", "–", "–", "–", "–", "0", "of", "1", "–"]


def test_ctrl_c_ends_the_run_and_leaves_no_file(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(100):
        (images / f"{number}.png").write_bytes(b"7")
    reached = threading.Event()

    def slow(call: Call) -> Reply:
        reached.set()
        time.sleep(0.2)
        return echo(call)

    with scripted(slow) as server:
        command = ["predict", str(images), "--csv", str(tmp_path / "table.csv"), "--url", server.url]
        process = subprocess.Popen([sys.executable, "-m", "client", *command], stderr=subprocess.PIPE, text=True)
        assert reached.wait(30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["images"]


def test_the_client_imports_nothing_that_it_installs_without() -> None:
    others = {"torch", "torchvision", "onnxruntime", "ts", "hdrh", "httptools", "matplotlib", "psutil"}
    code = f"import client.__main__, sys; print(sorted({others} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

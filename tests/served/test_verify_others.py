"""`verify` and the goldens, against a server that isn't TorchServe; and what it writes for CI systems."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import requests

from inference.store.archive import environment, unpacked
from tests.served.verifying import BATCHED, FEW, LOAD, Verifier
from tests.workspace import ROOT, Workspace, free_port

STARTING_SECONDS = 60


@pytest.fixture(scope="module")
def other_server(served: Workspace) -> Iterator[str]:
    """The ONNX archive behind FastAPI, which sees nothing of this repository but the app."""
    port = free_port()
    with unpacked(served.store / "digits-onnx-1.0.mar") as folder:
        apart = environment(1)
        apart["PYTHONPATH"] = os.pathsep.join([str(folder), apart["PYTHONPATH"]])
        command = ["uvicorn", "--app-dir", str(Path(__file__).parent), "--port", str(port), "fastapi_app:app"]
        server = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=apart)
        try:
            _wait(f"http://127.0.0.1:{port}/docs", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(STARTING_SECONDS)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            requests.get(url, timeout=5).raise_for_status()
            return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError("the server did not come up")


def test_the_docs_show_this_very_server() -> None:
    code = Path(__file__).with_name("fastapi_app.py").read_text()
    assert f"```python\n{code}```" in (ROOT / "docs" / "verify.md").read_text()
    assert len(code.splitlines()) <= 40


def test_a_server_that_is_not_ours_is_verified_by_the_same_hops(other_server: str, verifier: Verifier) -> None:
    options = ("digits-onnx", "--http", "--unbatched")
    found = verifier.run(*options, url=other_server, code=0, requests=(BATCHED, LOAD))
    assert found.report
    assert [hop["hop"] for hop in found.report["models"][0]["hops"]] == ["http", "http_batched", "http_load"]


def test_one_that_serves_another_model_is_found_at_http(other_server: str, verifier: Verifier) -> None:
    found = verifier.run("digits-eager", "--http", "--unbatched", url=other_server, requests=FEW)
    assert found.first_failing_hop == "http"
    assert found.report
    sentence = found.report["models"][0]["hops"][0]["sentence"]
    assert "attests model 'digits-onnx' instead of 'digits-eager'" in sentence


def test_one_that_takes_one_request_at_a_time_is_told_of_the_option(other_server: str, verifier: Verifier) -> None:
    found = verifier.run("digits-onnx", "--http", url=other_server, code=2)
    assert found.err == (
        "error: digits-onnx: no two of 100 concurrent requests shared a batch. "
        "Where the server takes one at a time, say so: --unbatched\n"
    )


def test_junit_has_a_suite_for_each_model_and_a_case_for_each_hop(verifier: Verifier, tmp_path: Path) -> None:
    path = tmp_path / "verify.xml"
    verifier.run("digits-onnx", "digits-eager", "--http", "--junit", str(path), code=0, requests=FEW)
    suites = {suite.get("name"): suite for suite in ElementTree.parse(path).getroot()}
    assert set(suites) == {"digits-onnx", "digits-eager"}
    for suite in suites.values():
        assert [case.get("name") for case in suite] == ["http", "http_batched", "http_load"]
        assert (suite.get("tests"), suite.get("failures")) == ("3", "0")


def test_junit_has_a_failure_with_its_sentence_and_what_to_look_at(verifier: Verifier, tmp_path: Path) -> None:
    path = tmp_path / "verify.xml"
    verifier.accept("digits-onnx", provider="CUDAExecutionProvider", device="cuda")
    verifier.run("digits-onnx", "--http", "--junit", str(path), requests=FEW)
    (suite,) = ElementTree.parse(path).getroot()
    assert suite.get("failures") == "3"
    first, second, _ = (case.find("failure") for case in suite)
    assert first is not None
    assert second is not None
    assert "attests provider 'CPUExecutionProvider'" in first.get("message", "")
    assert "Look at python -m serve status" in (first.text or "")
    assert second.text == "An earlier hop differs: http."


def test_no_earlier_junit_outlives_a_verify_that_could_not_check(verifier: Verifier, tmp_path: Path) -> None:
    path = tmp_path / "verify.xml"
    path.write_text("<testsuites/>")
    verifier.run("digits-onyx", "--http", "--junit", str(path), code=2)
    assert not path.exists()

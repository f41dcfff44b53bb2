"""The load command against the real server."""

import json

import pytest

from tests.workspace import Workspace

# An objective that holds makes the result independent of how busy the machine is.
OPTIONS = ("--duration", "1.5", "--slo-p99", "5000", "--check-every", "10")


@pytest.mark.parametrize("mode", [("--rate", "40"), ("--concurrency", "4")])
def test_a_served_model_answers_right_under_load(served: Workspace, mode: tuple[str, str]) -> None:
    done = served.run(
        "client", "load", "digits-onnx", "--data", "artifacts/digits/samples", *mode, *OPTIONS, *url(served)
    )
    report = json.loads((served.artifacts / "load.json").read_bytes())
    assert (report["ok"], report["errors"], report["wrong"]) == (True, {}, [])
    assert report["checked"] >= 6 or mode[0] == "--concurrency"
    assert report["answered"] == 60 or mode[0] == "--concurrency"
    assert 0 < report["latency_s"]["p50"] <= report["latency_s"]["p99"] <= 5
    assert report["files"] > 0
    assert (served.artifacts / "load.png").stat().st_size > 10_000
    assert f"{report['checked']} of {report['checked']}" in done.stdout


def test_a_client_without_the_token_measures_nothing(served: Workspace) -> None:
    done = served.run(
        "client", "load", "digits-onnx", "--rate", "9", *url(served), check=False, environment={"ENTERING_TOKEN": "no"}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Token Authorization failed" in done.stderr


def url(served: Workspace) -> tuple[str, str]:
    return ("--url", served.url)

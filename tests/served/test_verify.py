"""The verifier against a real server: green when nothing is wrong, and the guilty hop's name when something is."""

import json

from tests.workspace import Workspace

HOPS = ["decode", "eager", "runtime", "handler", "http", "http_batched", "http_load"]


def test_all_hops_of_all_runtimes_are_the_same_as_eager(served: Workspace) -> None:
    served.run("client", "verify", *served.urls)
    report = json.loads((served.artifacts / "verify.json").read_bytes())
    assert report["ok"]
    assert {model["runtime"] for model in report["models"]} == {"eager", "torchscript", "onnx", "aoti"}
    for model in report["models"]:
        assert [hop["hop"] for hop in model["hops"]] == HOPS
        assert all(hop["ok"] and hop["compared"] >= 64 for hop in model["hops"])

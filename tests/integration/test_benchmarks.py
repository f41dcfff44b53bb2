"""The benchmarks run on what was exported."""

import json

from tests.workspace import Workspace


def test_devices_measures_every_runtime_that_was_exported(exported: Workspace) -> None:
    lines = exported.run("benchmarks.devices", "digits", "cpu").stdout.splitlines()
    measured = [line for line in lines if not line.endswith("was not exported")]
    assert [line.split()[0] for line in measured] == ["eager", "aoti", "onnx", "torchscript"]
    assert all("on cpu, float32, TF32 off: 390 answers" in line for line in measured)
    assert all("held-out inputs" in line and line.count(" 0 flips") == 2 for line in measured)


def test_cpu_measures_torchserve_beside_the_archive_in_process(exported: Workspace) -> None:
    """The peers need a network to be installed; the way they are measured is the same."""
    short = ("--peers", "none", "--rounds", "1", "--seconds", "0.5", "--warm-up", "0.2")
    exported.run(
        "benchmarks.servers", "--archive", "digits-onnx", *short, "--name", "smoke", "--results", "benchmarked"
    )
    found = json.loads((exported.folder / "benchmarked" / "smoke.json").read_bytes())
    assert [row["name"] for row in found["rows"]] == ["inprocess", "torchserve"]
    for row in found["rows"]:
        assert row["verdict"]["ok"], row["verdict"]["sentence"]
        assert row["errors"] == {}
        assert row["images_per_s"]["median"] > 0
        assert row["memory_bytes"]["median"] > 1 << 20
        assert row["cpu_s"]["median"] > 0
    assert {"java", "python"} <= found["rows"][1]["programs"].keys()


def test_cpu_refuses_a_contender_that_it_does_not_know(exported: Workspace) -> None:
    done = exported.run("benchmarks.servers", "--archive", "digits-onnx", "--peers", "flask", check=False)
    assert done.returncode == 2
    assert "There is no contender 'flask'. Choose among: torchserve," in done.stderr


def test_breakdown_times_every_step(exported: Workspace) -> None:
    short = ("--rounds", "2", "--seconds", "0.1")
    exported.run("benchmarks.breakdown", "digits-onnx", *short, "--results", "benchmarked")
    [row] = json.loads((exported.folder / "benchmarked" / "breakdown.json").read_bytes())["rows"]
    assert set(row["seconds"]) == {"JPEG decode", "resize and crop", "network", "top-5 as JSON", "whole"}
    assert len(row["rounds"]) == 2
    assert all(seconds > 0 for seconds in row["seconds"].values())

"""The benchmarks run on what was exported."""

from tests.workspace import Workspace


def test_devices_measures_every_runtime(exported: Workspace) -> None:
    lines = exported.run("benchmarks.devices", "cpu").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["eager", "aoti", "onnx", "torchscript"]
    assert all("390 answers" in line and "0 flips" in line for line in lines)

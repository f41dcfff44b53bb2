"""Another kind of input and of output goes all the way, and nothing but their own two files has to know them."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest

from tests.workspace import ROOT, Workspace, free_port

PACKAGES = ("inference", "models", "training", "export", "serve", "client")
ADDED = {
    "vector.py": "inference/inputs/vector.py",
    "quantities.py": "inference/outputs/quantities.py",
    "plant.py": "models/plant.py",
}

# What training would leave.
PUBLISH = """
import json
from pathlib import Path
from inference import weights
from inference.tools.files import sha256
from models import plant

folder = Path("artifacts/plant")
path = folder / "weights.safetensors"
weights.write(path, plant.network(plant.CONTRACT), plant.CONTRACT)
(folder / "contract.json").write_text(plant.CONTRACT.to_json())
data = plant.data("elsewhere", Path())
metrics = {"weights_sha256": sha256(path), "data": {"source": data.source, "fingerprint": data.fingerprint}}
(folder / "metrics.json").write_text(json.dumps(metrics))
"""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The plant's model, exported and served by a copy of this project to which three files were added."""
    root, folder = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("plant")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for double, place in ADDED.items():
        assert not (root / place).exists()
        shutil.copyfile(ROOT / "tests" / "doubles" / double, root / place)
    workspace = Workspace(folder, free_port(), root)
    run([sys.executable, "-c", PUBLISH], cwd=folder, env={**workspace.environment}, check=True)
    workspace.run("export", "plant", "--runtime", "eager", "--runtime", "torchscript", "--runtime", "onnx")
    try:
        workspace.run("serve", "up", "plant", "--port", str(workspace.port))
        yield workspace
    finally:
        workspace.run("serve", "down")


def test_every_hop_of_another_kind_is_the_same_as_eager(plant: Workspace) -> None:
    plant.run("client", "verify", *plant.urls)
    report = json.loads((plant.folder / "artifacts" / "plant" / "verify.json").read_bytes())
    assert report["ok"]
    assert [model["model"] for model in report["models"]] == ["plant-eager", "plant-onnx", "plant-torchscript"]
    for model in report["models"]:
        assert [hop["hop"] for hop in model["hops"]] == [
            *("decode", "eager", "runtime", "handler"),
            *("http", "http_batched", "http_load"),
        ]


def test_another_kind_is_asked_by_the_client_and_refused_in_its_own_words(plant: Workspace) -> None:
    good, bad = plant.folder / "good.json", plant.folder / "bad.json"
    good.write_text("[1, 2.5, -3, 0]")
    bad.write_text("[1, 2]")
    ask = ("client", "predict", "--model", "plant-onnx", "--url", plant.url)
    assert "good.json: yield " in plant.run(*ask, str(good)).stdout
    refused = plant.run(*ask, str(bad), check=False)
    assert refused.returncode == 1
    sentence = "The body holds 2 numbers. Send 4 numbers: pressure, temperature, flow, level."
    assert sentence in refused.stderr


def test_a_fault_in_another_kind_is_named_at_its_hop(plant: Workspace, tmp_path: Path) -> None:
    """Goldens that this network did not answer: `verify` says so at eager, in the kind's own words."""
    program = (
        "import dataclasses, sys\n"
        "from pathlib import Path\n"
        "from inference.goldens import Goldens\n"
        "path = Path('artifacts/plant/goldens.npz')\n"
        "goldens = Goldens.read(path)\n"
        "dataclasses.replace(goldens, outputs=goldens.outputs + 1).write(path)\n"
    )
    other = Workspace(tmp_path, plant.port, plant.root)
    for name in ("artifacts", "model_store", ".serve"):
        shutil.copytree(plant.folder / name, tmp_path / name)
    run([sys.executable, "-c", program], cwd=tmp_path, env={**other.environment}, check=True)
    found = other.run("client", "verify", "plant-onnx", *other.urls, check=False)
    assert found.returncode == 1
    (model,) = json.loads((tmp_path / "artifacts" / "plant" / "verify.json").read_bytes())["models"]
    assert model["first_failing_hop"] == "eager"
    assert "quantity 0" in next(hop["sentence"] for hop in model["hops"] if hop["hop"] == "eager")

"""Bisect: a fault that was put into an artifact is named by its layer, and a healthy artifact has none."""

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.__main__ import further
from export.diagnose.bisect import WALKS
from export.diagnose.layers import Layers, compare_layers
from export.diagnose.walks import walk_network
from export.pipeline import it_runs, make_goldens
from export.trained import Trained
from inference import parity, weights
from inference.base import OutOfMemory
from inference.goldens import Goldens
from inference.runtime import CONTRACT, WEIGHTS, runtime_module
from inference.runtimes.torchscript import deprecated
from inference.tools.files import sha256
from models import make_network
from tests.integration.exporting import Done, ended, trained_in
from tests.workspace import Workspace

CAPTURED = ("onnx", "torchscript")

per_captured = pytest.mark.parametrize("runtime", CAPTURED)


Bisect = Callable[..., Done]


@pytest.fixture
def bisect(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bisect:
    """`python -m export bisect digits --runtime …` in `workspace`, in this process, where torch is loaded already."""
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv("COLUMNS", "120")

    def command(runtime: str, *arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["export", "bisect", "digits", "--runtime", runtime, *arguments])
        return ended(further, capsys)

    return command


def artifact_of(workspace: Workspace, runtime: str) -> Path:
    return workspace.artifacts / runtime_module(runtime).ARTIFACT


def export_faulty(workspace: Workspace, runtime: str, spoil: Callable[[nn.Module], object]) -> None:
    """In place of the artifact, one of a network that was spoiled, which says that it is of the right weights."""
    trained = trained_in(workspace)
    network = copy.deepcopy(trained.network)
    with torch.no_grad():
        spoil(network)
    runtime_module(runtime).export(replace(trained, network=network), artifact_of(workspace, runtime), "cpu")


def first_of(done: Done) -> str:
    """The layer and the operation that are named."""
    assert done.code == 1, done.out + done.error
    [line] = [line for line in done.out.splitlines() if line.startswith("The first layer that differs is ")]
    return line.removeprefix("The first layer that differs is ").partition(", [")[0] + ")"


@pytest.mark.parametrize("runtime", ["eager", *CAPTURED])
def test_no_layer_of_a_healthy_artifact_differs(bisect: Bisect, runtime: str) -> None:
    done = bisect(runtime)
    assert done.code == 0, done.out
    assert "No layer differs, and the logits are eager's within the limit.\n" in done.out
    assert "differs " not in done.out.replace("No layer differs", "")
    steps = 14 if runtime == "eager" else 13  # dropout is in no graph that was captured for answers
    assert f"{steps} of 14 steps compared" in done.out


def test_it_is_a_command_of_export(exported: Workspace) -> None:
    done = exported.run("export", "bisect", "digits", "--runtime", "onnx")
    assert "model.onnx on cpu beside eager: 13 of 14 steps compared" in done.stdout


@per_captured
@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_changed_constant_is_named(bisect: Bisect, workspace: Workspace, runtime: str, name: str) -> None:
    export_faulty(workspace, runtime, lambda network: network.get_buffer(name).add_(1e-5))
    assert first_of(bisect(runtime)) == {"mean": "mean (sub)", "std": "std (div)"}[name]


@per_captured
def test_swapped_constants_are_named(bisect: Bisect, workspace: Workspace, runtime: str) -> None:
    def swap(network: nn.Module) -> None:
        mean, std = network.get_buffer("mean"), network.get_buffer("std")
        network.register_buffer("mean", std, persistent=False)
        network.register_buffer("std", mean, persistent=False)

    export_faulty(workspace, runtime, swap)
    done = bisect(runtime)
    assert first_of(done) == "mean (sub)"
    assert "The first layer that differs is mean (sub, [78, 1, 28, 28]): " in done.out


def test_the_file_on_disk_is_looked_at(bisect: Bisect, workspace: Workspace) -> None:
    model = onnx.load(artifact_of(workspace, "onnx"))
    [bias] = [tensor for tensor in model.graph.initializer if tensor.name == "hidden.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[::-1].copy(), bias.name))
    onnx.save(model, artifact_of(workspace, "onnx"))
    assert first_of(bisect("onnx")) == "hidden (linear)"
    assert bisect("torchscript").code == 0


@per_captured
def test_dropout_that_is_still_active_is_named(
    bisect: Bisect, workspace: Workspace, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tracer notices it, unless its check is switched off."""
    monkeypatch.setattr(torch.jit, "trace", partial(torch.jit.trace, check_trace=False))
    export_faulty(workspace, runtime, lambda network: network.get_submodule("dropout").train())
    assert first_of(bisect(runtime)) == "dropout (dropout)"


@pytest.mark.parametrize("runtime", ["eager", *CAPTURED])
def test_a_layer_with_another_epochs_weights_is_named(
    bisect: Bisect, workspace: Workspace, runtime: str, two_epochs: Workspace
) -> None:
    other = trained_in(two_epochs).network

    def go_back(network: nn.Module) -> None:
        network.get_parameter("conv2.weight").copy_(other.get_parameter("conv2.weight"))

    if runtime == "eager":  # its artifact is weights
        network, contract = weights.read(artifact_of(workspace, "eager"), make_network)
        with torch.no_grad():
            go_back(network)
        weights.write(artifact_of(workspace, "eager"), network, contract)
    else:
        export_faulty(workspace, runtime, go_back)
    done = bisect(runtime)
    assert first_of(done) == "conv2 (convolution)"
    assert ("says that it was made from other weights" in done.out) == (runtime == "eager")


class Half(nn.Module):
    """A layer in float16."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer).half()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.half()).float()
        return found


def enlarge(workspace: Workspace) -> None:
    """The second convolution's results become 4,096 times as large, and the next layer undoes it, to the bit."""
    path = workspace.artifacts / "weights.safetensors"
    network, contract = weights.read(path, make_network)
    with torch.no_grad():
        for name, factor in (("conv2.weight", 4096), ("conv2.bias", 4096), ("hidden.weight", 1 / 4096)):
            network.get_parameter(name).mul_(factor)
    weights.write(path, network, contract)
    metrics = workspace.artifacts / "metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_bytes()), "weights_sha256": sha256(path)}))


@per_captured
def test_a_layer_that_overflows_in_float16_is_named(bisect: Bisect, workspace: Workspace, runtime: str) -> None:
    enlarge(workspace)
    make_goldens(trained_in(workspace)).write(workspace.artifacts / "goldens.npz")
    export_faulty(workspace, runtime, lambda network: network)
    assert bisect(runtime).code == 0
    export_faulty(
        workspace, runtime, lambda network: network.register_module("conv2", Half(network.get_submodule("conv2")))
    )
    done = bisect(runtime)
    assert first_of(done) == "conv2 (convolution)"
    assert ": inf instead of " in done.out or ": -inf instead of " in done.out


class Normalised(nn.Module):
    """uint8 [B, 28, 28, 1] → logits [B, 10], by way of two batch norms, the first of which exporters fold away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, kernel_size=5, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.late = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 6 * 6, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).to(self.head.weight.dtype) / 255  # [B, 1, 28, 28]
        x = self.late(self.norm(self.conv(x)).relu())  # [B, 4, 6, 6]
        logits: Tensor = self.head(x.flatten(1))
        return logits


def layers_of(normalised: Trained, captured: nn.Module, runtime: str, path: Path) -> Layers:
    """Those of a network as it is and as it was captured."""
    goldens = make_goldens(normalised)
    runtime_module(runtime).export(replace(normalised, network=captured), path, "cpu")
    oracle = walk_network(copy.deepcopy(normalised.network).double())
    row = parity.tolerance("digits", runtime, "float32", "cpu")
    return compare_layers(walk_network(normalised.network), oracle, WALKS[runtime](path, "cpu", 1), goldens, row)


@pytest.fixture
def normalised(exported: Workspace) -> Trained:
    torch.manual_seed(0)
    return replace(trained_in(exported), network=Normalised().eval())


@per_captured
def test_a_batch_norm_that_was_folded_is_compared_and_the_convolution_before_it_is_not(
    normalised: Trained, tmp_path: Path, runtime: str
) -> None:
    found = layers_of(normalised, normalised.network, runtime, tmp_path / "artifact")
    assert found.first is None
    assert [layer.name for layer in found.layers] == ["Normalised", "norm", "Normalised", "late", "Normalised", "head"]
    assert found.skipped == ((), ("conv (convolution)",), (), (), (), ())


@pytest.mark.parametrize("name", ["norm", "late"])
def test_a_batch_norm_in_training_mode_is_named(
    normalised: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The strict tracer stumbles over a check, without which nothing would stop it. ONNX's exporter mends the mode."""
    monkeypatch.setattr(torch.nn.functional, "_verify_batch_size", lambda _: None)
    captured = copy.deepcopy(normalised.network)
    captured.get_submodule(name).train()
    found = layers_of(normalised, captured, "torchscript", tmp_path / "artifact")
    assert found.first is not None
    assert found.layers[found.first].name == name


def only_large_batches(path: Path) -> None:
    """Adds 1 to the logits of a batch of more than 7."""
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "right"
    model.graph.initializer.append(numpy_helper.from_array(np.array([7], np.int64), "seven"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Shape", ["images"], ["size"], start=0, end=1),
            onnx.helper.make_node("Greater", ["size", "seven"], ["large"]),
            onnx.helper.make_node("Cast", ["large"], ["more"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Add", ["right", "more"], ["logits"]),
        ]
    )
    onnx.save(model, path)


def test_logits_that_differ_where_no_layer_does_are_a_difference(bisect: Bisect, workspace: Workspace) -> None:
    only_large_batches(artifact_of(workspace, "onnx"))
    done = bisect("onnx")
    assert done.code == 1
    assert "No layer differs, but the logits do: 78 of 78 differ" in done.out


@per_captured
def test_an_archive_is_looked_into_instead(bisect: Bisect, workspace: Workspace, runtime: str) -> None:
    export_faulty(workspace, runtime, lambda network: network.get_buffer("std").mul_(2))
    assert bisect(runtime).code == 1
    assert bisect(runtime, "--archive", f"model_store/digits-{runtime}-1.0.mar").code == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


def bake_the_batch(path: Path) -> None:
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, path)


class Branching(nn.Module):
    """Large batches take another way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(28 * 28, 10))

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1).float()  # [B, 784]
        if x.shape[0] > 7:
            x = x / 2
        return x @ self.weight


def branch(path: Path) -> None:
    metadata = {CONTRACT: b"", WEIGHTS: b""}
    with deprecated():
        torch.jit.load(path, _extra_files=metadata)  # type: ignore[no-untyped-call]
        torch.jit.save(torch.jit.script(Branching().eval()), path, _extra_files=metadata)


@pytest.mark.parametrize(
    ("runtime", "damage", "sentence"),
    [
        ("onnx", cut, "model.onnx can't be loaded and run as onnx at every batch size: "),
        ("torchscript", cut, "model.pt can't be loaded and run as torchscript at every batch size: "),
        ("onnx", bake_the_batch, "INVALID_ARGUMENT"),
        ("torchscript", branch, "The graph of model.pt branches (prim::If), so its layers can't be compared."),
    ],
)
def test_an_artifact_that_cannot_be_walked_is_no_difference(
    bisect: Bisect, workspace: Workspace, runtime: str, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(artifact_of(workspace, runtime))
    done = bisect(runtime)
    assert done.code == 2
    assert sentence in done.error
    assert len(done.error.splitlines()) == 1


def test_a_full_gpu_is_not_told_as_the_artifacts_fault() -> None:
    with pytest.raises(OutOfMemory), it_runs(Path("model.pt"), "torchscript"):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_crash_of_our_own_is_no_difference_and_no_fault_of_the_artifact(
    bisect: Bisect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> Layers:
        raise RuntimeError("our own")

    monkeypatch.setattr("export.diagnose.bisect.compare_layers", crash)
    done = bisect("onnx")
    assert done.code == 2
    assert done.error.startswith("error: It broke down at ")
    assert done.error.endswith("(RuntimeError: our own). Nothing follows from this about the model.\n")


def refusals(workspace: Workspace) -> None:
    (workspace.folder / "no.mar").write_text("no archive")
    artifact_of(workspace, "onnx").unlink()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["aoti"], "compiled code, which has no graph to walk. Bisect torchscript and onnx"),
        (["aoti"], "The logits of model.pt2 are eager's within the limit."),
        (["onnx"], "model.onnx is missing. Export it first"),
        (["onnx", "--archive", "there/is.none"], "there/is.none is missing."),
        (["onnx", "--archive", "no.mar"], "no.mar is no archive, or a damaged one."),
        (["onnx", "--archive", "model_store/digits-eager-1.0.mar"], "holds no model.onnx."),
        (["torchscript-bf16"], "model-bf16.pt is missing."),
        (["tflite"], "There is no runtime 'tflite'."),
    ],
)
def test_what_cannot_be_looked_at_is_a_sentence(
    bisect: Bisect, workspace: Workspace, arguments: list[str], sentence: str
) -> None:
    refusals(workspace)
    done = bisect(*arguments)
    assert done.code == 2
    assert done.error.startswith("error: ")
    assert sentence in done.error
    assert len(done.error.splitlines()) == 1


def test_without_goldens_or_with_those_of_other_weights_nothing_is_looked_at(
    bisect: Bisect, workspace: Workspace
) -> None:
    path = workspace.artifacts / "goldens.npz"
    replace(Goldens.read(path), weights="other").write(path)
    assert "was answered by other weights" in bisect("onnx").error
    path.unlink()
    assert "goldens.npz is missing. Export first: python -m export digits" in bisect("onnx").error
    assert not path.exists()

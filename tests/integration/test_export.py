"""Export: what it publishes answers as eager does, and what doesn't is refused with nothing published."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from export import pipeline
from export.__main__ import app
from export.pipeline import export_runtime
from export.trained import Trained
from inference import parity, weights
from inference.contract import Contract
from inference.goldens import Goldens
from inference.runtime import Loaded, Network, float32_names, runtime_module, runtime_names
from inference.runtimes import aoti, torchscript
from inference.store import manifest
from inference.store.archive import unpacked
from inference.store.manifest import Manifest
from inference.tools.files import sha256
from models import make_network
from tests.integration.exporting import Done, ended, trained_in
from tests.snapshot import snapshot
from tests.workspace import READ_ONLY, ROOT, Workspace, no_room_above

QUICK = ("eager", "torchscript", "onnx")

per_runtime = pytest.mark.parametrize("runtime", float32_names())


Export = Callable[..., Done]


@pytest.fixture
def export(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """`python -m export …` in `workspace`, in this process, where torch is loaded already."""
    monkeypatch.chdir(workspace.folder)

    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["export", *arguments])
        return ended(app, capsys)

    return command


@pytest.fixture
def refused(workspace: Workspace, export: Export) -> Callable[..., str]:
    """The sentence that an export is refused with, after which every file is as it was."""

    def command(*arguments: str) -> str:
        before = snapshot(workspace.folder)
        done = export(*arguments)
        assert done.code == 2
        assert snapshot(workspace.folder) == before
        assert done.error.startswith("error: ")
        assert len(done.error.splitlines()) == 1
        return done.error

    return command


def goldens_in(workspace: Workspace) -> Goldens:
    return Goldens.read(workspace.artifacts / "goldens.npz")


def load(workspace: Workspace, runtime: str) -> Loaded:
    return runtime_module(runtime).load(workspace.artifacts / runtime_module(runtime).ARTIFACT, "cpu", 1, make_network)


def change_one_weight(workspace: Workspace, metrics_too: bool) -> None:
    path = workspace.artifacts / "weights.safetensors"
    network, contract = weights.read(path, make_network)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1e-3
    weights.write(path, network, contract)
    if metrics_too:
        metrics = workspace.artifacts / "metrics.json"
        metrics.write_text(json.dumps({**json.loads(metrics.read_bytes()), "weights_sha256": sha256(path)}))


@per_runtime
def test_contract_and_weights_digest_are_read_back_from_the_artifact(exported: Workspace, runtime: str) -> None:
    loaded = load(exported, runtime)
    assert loaded.contract == Contract.read(exported.artifacts / "contract.json")
    assert loaded.weights == sha256(exported.artifacts / "weights.safetensors")
    assert (loaded.device, loaded.precision, loaded.tf32) == ("cpu", "float32", False)


@per_runtime
def test_an_artifact_takes_uint8_and_answers_as_eager_at_every_batch_size(exported: Workspace, runtime: str) -> None:
    loaded, goldens = load(exported, runtime), goldens_in(exported)
    assert goldens.pixels.dtype == np.uint8
    for size in (1, 2, 3, 7, 32, 5):  # 5 is one that export does not try
        found = parity.compare(
            parity.run_goldens(loaded, goldens, size), goldens, parity.tolerance("digits", runtime, "float32", "cpu")
        )
        assert found.ok, f"batch {size}: {found.sentence}"
        assert found.flips == ()


@per_runtime
def test_an_artifact_is_as_near_to_float64_as_the_committed_tolerance(exported: Workspace, runtime: str) -> None:
    goldens = goldens_in(exported)
    answered = parity.run_goldens(load(exported, runtime), goldens, 32)
    limit = parity.tolerance("digits", runtime, "float32", "cpu")
    distance = np.abs(answered - goldens.oracle)
    assert (distance <= limit.atol + limit.rtol * np.abs(goldens.oracle)).all()


def test_the_goldens_oracle_is_the_same_network_in_float64(exported: Workspace) -> None:
    trained, goldens = trained_in(exported), goldens_in(exported)
    with torch.inference_mode():
        again = trained.network.double()(torch.from_numpy(goldens.pixels)).numpy()
    assert goldens.oracle.dtype == again.dtype == np.float64
    assert np.abs(again - goldens.oracle).max() < 1e-12  # float64 added up in another order: 700 terms of 1e-16 · 10
    assert np.abs(goldens.logits - goldens.oracle).max() > 0  # so float32 did not pass for it


def test_the_goldens_name_the_weights_and_the_contract_that_answered(exported: Workspace) -> None:
    trained, goldens = trained_in(exported), goldens_in(exported)
    assert (goldens.weights, goldens.contract) == (trained.digest, trained.contract.digest)
    assert len(goldens) >= 64


def test_the_onnx_graph_is_valid_whole_and_takes_uint8_of_any_batch(exported: Workspace) -> None:
    model = onnx.load(exported.artifacts / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    assert not list(exported.artifacts.glob("*.data"))
    [images], [logits] = model.graph.input, model.graph.output
    kind, dimensions = images.type.tensor_type.elem_type, images.type.tensor_type.shape.dim
    assert kind == onnx.TensorProto.UINT8
    assert [dimension.dim_value for dimension in dimensions] == [0, 28, 28, 1]
    assert dimensions[0].dim_param
    assert logits.type.tensor_type.shape.dim[0].dim_param == dimensions[0].dim_param
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_an_artifact_alone_in_a_folder_is_complete(exported: Workspace, tmp_path: Path) -> None:
    goldens = goldens_in(exported)
    for runtime in QUICK:
        module = runtime_module(runtime)
        shutil.copy(exported.artifacts / module.ARTIFACT, tmp_path / module.ARTIFACT)
        loaded = module.load(tmp_path / module.ARTIFACT, "cpu", 1, make_network)
        answered = parity.run_goldens(loaded, goldens, 32)
        assert parity.compare(answered, goldens, parity.tolerance("digits", runtime, "float32", "cpu")).ok


def test_the_eager_artifact_is_the_weights_file_to_the_byte(exported: Workspace) -> None:
    assert sha256(exported.artifacts / "model.safetensors") == sha256(exported.artifacts / "weights.safetensors")
    with safe_open(exported.artifacts / "model.safetensors", framework="np") as file:
        assert {"conv1.weight", "head.bias"} <= set(file.offset_keys())


def test_onnx_runtime_reports_nothing_to_its_maker(exported: Workspace, tmp_path: Path) -> None:
    """With telemetry on, it keeps a session file in the folder for temporary files."""
    program = (
        "from pathlib import Path; from inference.runtimes import onnx; onnx.load(Path('model.onnx'), 'cpu', 1, None)"
    )
    here = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=exported.artifacts,
        env={**here, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


def test_one_runtime_is_exported_and_the_others_are_left_alone(workspace: Workspace, export: Export) -> None:
    before = snapshot(workspace.folder)
    done = export("digits", "--runtime", "eager", "--version", "2.0")
    assert done.code == 0, done.error
    after = snapshot(workspace.folder)
    changed = {path.relative_to(workspace.folder).as_posix() for path in after if after[path] != before.get(path)}
    assert changed == {"model_store/digits-eager-2.0.mar", "model_store/manifest.json"}
    assert after.keys() - before.keys() == {workspace.store / "digits-eager-2.0.mar"}
    archives = Manifest.read(workspace.store).archives
    assert {name: entry.version for name, entry in archives.items()} == {
        f"digits-{runtime}": "2.0" if runtime == "eager" else "1.0" for runtime in float32_names()
    }
    manifest.check(workspace.store, archives)
    assert [entry.version for entry in Manifest.read(workspace.store).versions("digits-eager")] == ["2.0", "1.0"]


def test_the_same_version_again_takes_the_place_of_its_file_and_entry(workspace: Workspace, export: Export) -> None:
    (before,) = Manifest.read(workspace.store).versions("digits-eager")
    names = {path.name for path in workspace.store.iterdir()}
    assert export("digits", "--runtime", "eager").code == 0
    (after,) = Manifest.read(workspace.store).versions("digits-eager")
    assert (after.file, after.version) == (before.file, before.version)
    assert after.sha256 != before.sha256  # the archiver writes the time into it
    manifest.check(workspace.store, {"digits-eager": after})
    assert {path.name for path in workspace.store.iterdir()} == names


def test_what_was_compared_is_said(workspace: Workspace, export: Export) -> None:
    done = export("digits", "--runtime", "eager")
    assert "390 answers compared with eager, largest difference" in done.out
    assert len(goldens_in(workspace)) * 5 == 390


def test_missing_weights_are_refused_with_the_command_that_makes_them(
    workspace: Workspace, refused: Callable[..., str]
) -> None:
    (workspace.artifacts / "weights.safetensors").unlink()
    assert "is missing. Train first: python -m training digits" in refused("digits")


def test_weights_that_the_metrics_are_not_about_are_refused(workspace: Workspace, refused: Callable[..., str]) -> None:
    change_one_weight(workspace, metrics_too=False)
    assert "weights.safetensors is not the file whose accuracy" in refused("digits")


def test_one_changed_weight_is_not_exported_without_new_goldens(
    workspace: Workspace, refused: Callable[..., str]
) -> None:
    change_one_weight(workspace, metrics_too=True)
    sentence = refused("digits")
    assert "goldens.npz was answered by other weights than weights.safetensors" in sentence
    assert "python -m export digits --new-goldens" in sentence


def test_a_model_that_was_meant_to_change_is_exported_with_new_goldens(workspace: Workspace, export: Export) -> None:
    old = goldens_in(workspace)
    change_one_weight(workspace, metrics_too=True)
    assert export("digits", "--runtime", "eager", "--new-goldens").code == 0
    new = goldens_in(workspace)
    assert new.weights == sha256(workspace.artifacts / "weights.safetensors") != old.weights
    assert new.requests == old.requests
    assert not np.array_equal(new.logits, old.logits)
    known = Manifest.read(workspace.store)
    assert list(known.archives) == ["digits-eager"]
    assert set(known.earlier) == {f"digits-{runtime}" for runtime in float32_names() if runtime != "eager"}


@pytest.mark.parametrize("version", ["", "v1", "1.", "1..0", " 1", "1/0", "١"])
def test_a_version_that_is_no_number_is_refused(refused: Callable[..., str], version: str) -> None:
    sentence = refused("digits", "--version", version)
    assert sentence == f"error: Version {version!r} is none. Give numbers with dots between them, such as 1.0 or 2.\n"


@pytest.mark.parametrize("text", ["{}", "", "accuracy", "[]", '{"weights_sha256": 1, "data": {"source": "bundled"}}'])
def test_damaged_metrics_are_refused_with_the_command_that_makes_them(
    workspace: Workspace, refused: Callable[..., str], text: str
) -> None:
    (workspace.artifacts / "metrics.json").write_text(text)
    assert "artifacts/digits/metrics.json is damaged. Train again: python -m training digits" in refused("digits")


def test_damaged_goldens_are_refused_with_the_option_that_makes_them_anew(
    workspace: Workspace, refused: Callable[..., str], export: Export
) -> None:
    (workspace.artifacts / "goldens.npz").write_text("goldens")
    sentence = refused("digits", "--runtime", "eager")
    assert sentence == "error: artifacts/digits/goldens.npz is damaged. Export with --new-goldens to make it anew.\n"
    assert export("digits", "--runtime", "eager", "--new-goldens").code == 0


@per_runtime
def test_the_manifest_says_what_the_artifact_was_verified_with(exported: Workspace, runtime: str) -> None:
    entry, loaded = Manifest.read(exported.store).archives[f"digits-{runtime}"], load(exported, runtime)
    found = (entry.device, entry.provider, entry.precision, entry.tf32)
    assert found == (loaded.device, loaded.provider, loaded.precision, loaded.tf32)


def test_an_edited_contract_is_refused(workspace: Workspace, refused: Callable[..., str]) -> None:
    path = workspace.artifacts / "contract.json"
    path.write_text(Contract.read(path).model_copy(update={"mean": (0.1307,)}).to_json())
    assert "carries another contract than the contract.json beside it" in refused("digits")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("cats",), "error: There is no model 'cats'. Choose one of: digits, photos."),
        (("../digits",), "error: There is no model '../digits'. Choose one of: digits, photos."),
        (
            ("digits", "--runtime", "caffe"),
            f"error: There is no runtime 'caffe'. Choose one of: {', '.join(runtime_names())}.",
        ),
    ],
)
def test_an_unknown_model_or_runtime_is_refused_with_the_known_ones(
    refused: Callable[..., str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert refused(*arguments).strip() == sentence


@pytest.mark.parametrize("name", ["onnx_int8", "onnx-int8"])
def test_a_precision_that_was_not_measured_on_the_model_is_refused(refused: Callable[..., str], name: str) -> None:
    assert refused("digits", "--runtime", name) == (
        "error: Can't export for onnx_int8: tolerances.toml has no row for onnx_int8 on cpu that is about digits, "
        "so that it can't be verified. Measure one and add it.\n"
    )


def test_an_unknown_option_is_refused(workspace: Workspace, export: Export) -> None:
    before = snapshot(workspace.folder)
    done = export("digits", "--quantize")
    assert done.code == 2
    assert "No such option: --quantize" in done.error
    assert snapshot(workspace.folder) == before


class Branching(nn.Module):
    """Decides by the values of its input, which a trace can't hold."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(28 * 28, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1).float()
        logits: Tensor = self.head(x if x.mean() > 100 else -x)
        return logits


def test_what_a_trace_would_bake_in_is_an_error_and_no_artifact(exported: Workspace, tmp_path: Path) -> None:
    branching = replace(trained_in(exported), network=Branching().eval())
    with pytest.raises(ValueError, match=r"can't be traced as it is\. Converting a tensor to a Python boolean"):
        torchscript.export(branching, tmp_path / "model.pt", "cpu")
    assert list(tmp_path.iterdir()) == []


def exporting_with(runtime: str, monkeypatch: pytest.MonkeyPatch, change: Callable[[Trained], Trained]) -> None:
    """Makes a runtime export something else than it was given."""
    module = runtime_module(runtime)
    real = module.export
    monkeypatch.setattr(module, "export", lambda trained, path, device: real(change(trained), path, device))


@pytest.mark.parametrize("runtime", ["torchscript", "onnx"])
def test_an_artifact_that_answers_otherwise_is_refused_with_what_differs(
    workspace: Workspace, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    def perturbed(trained: Trained) -> Trained:
        network = trained_in(workspace).network
        with torch.no_grad():
            network.get_parameter("head.bias")[3] += 0.01
        return replace(trained, network=network)

    exporting_with(runtime, monkeypatch, perturbed)
    sentence = refused("digits", "--runtime", runtime)
    assert f"The {runtime} artifact does not answer as eager does, so it was not published. 78 of 78 differ" in sentence
    assert ", logit 3: " in sentence


def test_an_artifact_that_carries_another_contract_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def relabelled(trained: Trained) -> Trained:
        return replace(trained, contract=trained.contract.model_copy(update={"labels": tuple("abcdefghij")}))

    exporting_with("torchscript", monkeypatch, relabelled)
    sentence = refused("digits", "--runtime", "torchscript")
    assert "The torchscript artifact doesn't carry the contract and weights that it was made from." in sentence


def test_an_eager_artifact_of_other_weights_is_refused(
    workspace: Workspace, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = workspace.folder / "other.safetensors"
    trained = trained_in(workspace)
    with torch.no_grad():
        next(trained.network.parameters()).view(-1)[0] += 1e-7  # too little to be seen in an answer
    weights.write(other, trained.network, trained.contract)
    exporting_with("eager", monkeypatch, lambda trained: replace(trained, path=other))
    assert "doesn't carry the contract and weights" in refused("digits", "--runtime", "eager")


# On a GPU, as far as it can be told without one.


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_an_export_for_a_gpu_that_is_not_there_is_refused_before_anything_is_written(
    workspace: Workspace, refused: Callable[..., str]
) -> None:
    (workspace.artifacts / "goldens.npz").unlink()
    sentence = "Device cuda was asked for, and torch finds no CUDA device. Ask for cpu, or mend the driver."
    assert refused("digits", "--device", "cuda") == f"error: {sentence}\n"


@pytest.mark.parametrize(
    ("decoder", "sentence"),
    [
        ("nvjpeg", "The decoder nvjpeg needs an NVIDIA GPU. Export for --device cuda, or with --decoder cpu."),
        ("gpu", "There is no decoder 'gpu'. Choose one of: cpu, nvjpeg, nvjpeg-or-cpu."),
    ],
)
def test_a_decoder_that_does_not_suit_is_refused_before_anything_is_written(
    refused: Callable[..., str], decoder: str, sentence: str
) -> None:
    assert refused("digits", "--decoder", decoder) == f"error: {sentence}\n"


def test_a_device_that_is_none_is_refused(workspace: Workspace, export: Export) -> None:
    before = snapshot(workspace.folder)
    done = export("digits", "--device", "cuda:0")
    assert done.code == 2
    assert "'cuda:0' is not one of 'cpu', 'cuda'" in " ".join(done.error.replace("│", " ").split())
    assert snapshot(workspace.folder) == before


def test_an_export_is_loaded_packed_and_described_for_the_device_that_was_asked_for(
    workspace: Workspace, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that passes for a GPU: what computes is real, and only its name is not."""
    module, asked = runtime_module("eager"), []
    real = module.load

    def load_anywhere(path: Path, device: str, threads: int, network: Network) -> Loaded:
        asked.append(device)
        return replace(real(path, "cpu", threads, network), device=f"{device}:1")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "load", load_anywhere)
    monkeypatch.setattr(pipeline, "inprocess_hops", lambda *_: [])
    before = goldens_in(workspace)
    done = export("digits", "--runtime", "eager", "--device", "cuda", "--version", "2.0", "--new-goldens")
    assert done.code == 0, done.error
    assert asked == ["cuda"]
    entry = Manifest.read(workspace.store).archives["digits-eager"]
    assert entry.device == "cuda"
    with unpacked(workspace.store / entry.file) as directory:
        assert "deviceType: gpu\n" in (directory / "model-config.yaml").read_text()
    assert np.array_equal(goldens_in(workspace).logits, before.logits)  # eager's on the CPU, as ever


def test_machine_code_is_compiled_for_the_device_and_the_network_stays_where_it_is(
    exported: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`meta` passes for a GPU: torch keeps it as strictly apart from the CPU, and needs none."""
    compiled: list[torch.export.ExportedProgram] = []
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda program, **_: compiled.append(program))
    trained = trained_in(exported)
    aoti.export(trained, tmp_path / "model.pt2", "meta")
    (program,) = compiled
    assert {value.device.type for value in program.state_dict.values()} == {"meta"}
    values = [node.meta.get("val") for node in program.graph.nodes]
    assert {value.device.type for value in values if isinstance(value, Tensor)} == {"meta"}
    assert {value.device.type for value in trained.network.state_dict().values()} == {"cpu"}


def device_constants(graph: Any) -> list[str]:
    nodes = [node for node in graph.findAllNodes("prim::Constant") if str(node.output().type()) == "Device"]
    return [node.s("value") for node in nodes]


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_a_trace_on_the_cpu_bakes_no_device_in(exported: Workspace, tmp_path: Path) -> None:
    class Baked(nn.Module):
        """Makes a tensor of its own, on the device where it is traced."""

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10].float() + torch.zeros(images.shape[0], 10)

    trained = trained_in(exported)
    for network, found in ((trained.network, []), (Baked().eval(), ["cpu"])):
        torchscript.export(replace(trained, network=network), tmp_path / "model.pt", "cuda")
        graph = torch.jit.load(tmp_path / "model.pt")  # type: ignore[no-untyped-call]
        assert device_constants(graph.inlined_graph) == found


def test_machine_code_for_a_gpu_needs_a_cuda_toolkit_and_for_a_cpu_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert "there is no CUDA toolkit here. Set CUDA_HOME to one." in str(aoti.missing("cuda"))
    assert aoti.missing("cpu") is None
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/usr/local/cuda")
    assert aoti.missing("cuda") is None


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_compiler")
def test_asking_for_aoti_without_a_compiler_is_refused_with_what_to_install(refused: Callable[..., str]) -> None:
    sentence = refused("digits", "--runtime", "aoti")
    assert "error: Can't export for aoti: AOTInductor compiles C++, and there is no g++ here." in sentence
    assert "apt-get install g++" in sentence


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_others_are_exported_and_what_is_left_out_is_said(
    workspace: Workspace, export: Export
) -> None:
    done = export("digits", "--version", "2.0")
    assert done.code == 0, done.error
    assert "Left out: aoti. AOTInductor compiles C++, and there is no g++ here." in done.out
    versions = {entry.runtime: entry.version for entry in Manifest.read(workspace.store).archives.values()}
    assert versions == {"eager": "2.0", "onnx": "2.0", "torchscript": "2.0", "aoti": "1.0"}
    assert "older weights" not in done.out


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_an_aoti_of_older_weights_is_kept_as_an_earlier_one(
    workspace: Workspace, export: Export
) -> None:
    change_one_weight(workspace, metrics_too=True)
    done = export("digits", "--new-goldens")
    assert done.code == 0, done.error
    said = [line for line in done.out.splitlines() if "older weights" in line]
    assert said == ["digits-aoti 1.0 is of older weights; it is kept for rollback."]
    archives = Manifest.read(workspace.store).archives
    assert set(archives) == {f"digits-{runtime}" for runtime in QUICK}
    assert {entry.weights for entry in archives.values()} == {trained_in(workspace).digest}
    manifest.check(workspace.store, {"digits-aoti": Manifest.read(workspace.store).find("digits-aoti", "1.0")})


def test_a_compiler_that_is_not_there_is_refused_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setenv("CXX", "clang++-99")
    sentence = refused("digits", "--runtime", "aoti")
    assert "there is no clang++-99 here. Set CXX to a C++ compiler that is there, or unset it for g++." in sentence


@pytest.mark.parametrize("runtime", QUICK)
def test_no_room_for_the_artifact_is_a_sentence_and_no_half_file(refused: Callable[..., str], runtime: str) -> None:
    with no_room_above(100_000):
        assert "File too large" in refused("digits", "--runtime", runtime)


def test_no_room_for_the_archive_is_a_sentence_and_no_half_file(refused: Callable[..., str]) -> None:
    with no_room_above(400_000):  # the artifact has 344 KB, the archive 575 KB
        assert "File too large" in refused("digits", "--runtime", "eager")


def test_no_room_for_the_goldens_is_a_sentence_and_no_half_file(
    workspace: Workspace, refused: Callable[..., str]
) -> None:
    (workspace.artifacts / "goldens.npz").unlink()
    with no_room_above(50_000):
        assert "File too large" in refused("digits", "--runtime", "eager")


def test_a_store_that_cannot_be_made_is_a_sentence_with_its_name(
    workspace: Workspace, refused: Callable[..., str]
) -> None:
    (workspace.folder / "taken").write_text("a file")
    assert "taken: File exists." in refused("digits", "--runtime", "eager", "--store", "taken")


def test_a_read_only_store_is_a_sentence_with_its_name(refused: Callable[..., str]) -> None:
    sentence = refused("digits", "--runtime", "eager", "--store", str(READ_ONLY))
    assert re.fullmatch(rf"error: {READ_ONLY}: (Operation not permitted|Permission denied)\.\n", sentence)


class PowerCut(BaseException):
    """What ends a process in place of a power cut."""


def test_an_archive_that_was_cut_off_from_its_manifest_is_not_served_and_the_next_export_mends_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between the two renames, when a power cut leaves a new archive and an old manifest."""
    trained, goldens = trained_in(workspace), goldens_in(workspace)
    served = Manifest.read(workspace.store).archives

    def cut(*_: object) -> None:
        raise PowerCut

    monkeypatch.setattr(manifest, "add", cut)
    with pytest.raises(PowerCut):
        export_runtime(trained, goldens, "eager", "2.0", workspace.store)
    manifest.check(workspace.store, served)  # what another version lies beside is served on
    with pytest.raises(PowerCut):
        export_runtime(trained, goldens, "eager", "1.0", workspace.store)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"digits-eager-1\.0\.mar is not the file that was exported and verified"):
        manifest.check(workspace.store, served)
    export_runtime(trained, goldens, "eager", "1.0", workspace.store)
    manifest.check(workspace.store, Manifest.read(workspace.store).archives)


class Interruptible:
    """`python -m export digits --runtime onnx` in a process group of its own, with its own place for scratch files."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.temporary = workspace.folder / "tmp"

    def start(self, until: str) -> subprocess.Popen[str]:
        """Returns when something matches the pattern `until`, or the export has ended."""
        for folder in (self.workspace.store, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
        self.temporary.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "export", "digits", "--runtime", "onnx"],
            cwd=self.workspace.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while not any(self.workspace.folder.glob(until)):
            if process.poll() is not None:
                assert until == PROGRESS[-1], f"it ended before there was any {until}"
                break
            time.sleep(0.005)
        return process

    def is_done(self, process: subprocess.Popen[str]) -> bool:
        return process.returncode == 0 and list(Manifest.read(self.workspace.store).archives) == ["digits-onnx"]

    def drafts(self) -> list[Path]:
        paths = snapshot(self.workspace.artifacts, self.workspace.store)
        return [path for path in paths if path.name.startswith(".") and path.name != manifest.LOCK]

    def assert_whole(self) -> None:
        """Every archive is one that the manifest describes, or a whole one that it doesn't name."""
        store = self.workspace.store
        known = Manifest.read(store).archives if (store / manifest.NAME).exists() else {}
        manifest.check(store, known)
        for path in store.glob("[!.]*.mar"):
            with zipfile.ZipFile(path) as file:
                assert file.testzip() is None
                assert "goldens.npz" in file.namelist()


def members(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture
def interruptible(trained: Workspace, exported: Workspace, tmp_path: Path) -> Interruptible:
    workspace = trained.copy_to(tmp_path / "interrupted")
    shutil.copy(exported.artifacts / "goldens.npz", workspace.artifacts)
    return Interruptible(workspace)


# What an export to ONNX brings forth, in order: nothing yet, the artifact's draft, what is packed, the archive that is
# run, and the archive's draft.
PROGRESS = (
    "model_store",
    "artifacts/digits/.model.*.onnx",
    "tmp/*/stage",
    "tmp/*/inference/selfcheck.py",
    "model_store/.*.mar",
)


def test_a_killed_export_leaves_whole_archives_or_none_and_the_next_one_works(interruptible: Interruptible) -> None:
    for progress in PROGRESS[1::2]:
        process = interruptible.start(until=progress)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        interruptible.assert_whole()
    interruptible.workspace.run("export", "digits", "--runtime", "onnx")
    interruptible.assert_whole()
    assert list(Manifest.read(interruptible.workspace.store).archives) == ["digits-onnx"]


def test_ctrl_c_ends_an_export_with_130_and_leaves_no_draft_and_no_process(interruptible: Interruptible) -> None:
    """At the last moment it may be too late: the export is whole then."""
    for progress in PROGRESS[::2]:
        process = interruptible.start(until=progress)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 130 or interruptible.is_done(process), f"at {progress}: {error}"
        assert "Traceback" not in error
        assert members(process.pid) == []
        assert interruptible.drafts() == []
        left = [path.name for path in interruptible.temporary.iterdir()]
        assert not [name for name in left if not name.startswith("torchinductor_")]  # a cache of torch's, which stays
        interruptible.assert_whole()

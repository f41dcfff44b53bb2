"""Export of photographs: cropped inputs, and precisions that are reduced for speed at a price that is measured."""

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.pipeline import Exported, answer, compare_accuracy, export_runtime, goldens_of
from export.trained import Trained
from inference import parity
from inference.goldens import Goldens
from inference.inputs.image import Pixels
from inference.outputs import Outputs
from inference.runtime import Loaded, runtime_module
from inference.runtimes import torchscript_bf16
from inference.store.archive import unpacked
from inference.store.manifest import Manifest
from inference.torch_graph import Bfloat16
from models import make_network
from tests.integration.exporting import printed
from tests.small_photos import CONTRACT, small_photos
from tests.snapshot import snapshot


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    with small_photos(tmp_path_factory.mktemp("artifacts") / "photos") as made:
        yield made


@pytest.fixture(scope="module")
def goldens(trained: Trained) -> Goldens:
    return goldens_of(trained, renew=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def int8(trained: Trained, goldens: Goldens, store: Path) -> Exported:
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        return export_runtime(trained, goldens, "onnx_int8", "1.0", store)


def loosen(patch: pytest.MonkeyPatch) -> None:
    """An untrained network's decisions are close, and bytes change some of them."""
    rows = tomllib.loads(parity.TABLE.read_text())["tolerance"]
    loose = [row | ({"accuracy_drop": 0.5} if "accuracy_drop" in row else {}) for row in rows]
    patch.setattr(tomllib, "loads", lambda _: {"tolerance": loose})


def test_goldens_of_photographs_hold_the_crops_and_the_oracle(goldens: Goldens) -> None:
    assert goldens.inputs.shape == (len(goldens), 224, 224, 3)
    assert goldens.oracle.dtype == np.float64
    assert 0 < np.abs(goldens.outputs - goldens.oracle).max() < 1e-4


def test_data_that_have_changed_since_the_training_are_refused(trained: Trained) -> None:
    metrics = {**trained.metrics, "data": {"source": "synthetic", "fingerprint": "0" * 64}}
    with pytest.raises(ValueError, match=r"synthetic are not those that the model was trained with\. Restore them"):
        _ = replace(trained, metrics=metrics).data


def test_int8_is_served_under_a_name_of_its_own_and_its_price_is_written_down(int8: Exported, store: Path) -> None:
    entry = Manifest.read(store).archives["photos-onnx-int8"]
    assert entry == int8.entry
    assert (entry.runtime, entry.precision, entry.artifact) == ("onnx_int8", "int8", "model-int8.onnx")
    assert entry.eager_accuracy == 1
    assert entry.accuracy is not None
    assert 0.5 <= entry.accuracy <= 1


def test_on_a_cpu_a_worker_takes_one_photograph_at_a_time(int8: Exported, store: Path) -> None:
    with unpacked(store / int8.entry.file) as directory:
        assert "\nbatchSize: 1\n" in (directory / "model-config.yaml").read_text()


def test_int8_is_calibrated_on_at_least_a_hundred_images_that_no_accuracy_is_measured_on(trained: Trained) -> None:
    images = trained.calibration
    assert len(images) >= 100
    assert {image.tobytes() for image in images} <= {image.tobytes() for image in trained.data.validation.inputs}


def test_int8_computes_over_bytes(trained: Trained, int8: Exported) -> None:
    assert int8.verdict.max_abs
    assert int8.verdict.max_abs > 1e-3
    sizes = {name: trained.path.with_name(name).stat().st_size for name in ("model-int8.onnx", "weights.safetensors")}
    assert sizes["model-int8.onnx"] < 0.6 * sizes["weights.safetensors"]


def test_what_loses_more_than_is_allowed_is_not_published(
    trained: Trained, goldens: Goldens, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within tolerance of eager on the goldens, and wrong on the held-out images: decided always for one label."""
    module = runtime_module("onnx_int8")
    monkeypatch.setattr(module, "export", lambda _, path, __: path.write_bytes(b"graph"))
    monkeypatch.setattr(module, "load", lambda *_: constant(trained))
    monkeypatch.setattr("export.pipeline.compare_artifact", lambda *_: (constant(trained), None))
    folders = (trained.path.parent, store)
    before = snapshot(*folders)
    with pytest.raises(ValueError, match=r"decides .*% of 40 held-out inputs right and eager 100\.00%.* not published"):
        export_runtime(trained, goldens, "onnx_int8", "2.0", store)
    assert snapshot(*folders) == before


def constant(trained: Trained) -> Loaded:
    """Answers the rarest of eager's labels, whatever it is asked."""
    rarest = np.bincount(trained.data.held_out.targets, minlength=3).argmin()

    def run(batch: Pixels) -> Outputs:
        return np.tile(np.eye(3, dtype=np.float32)[rarest], (len(batch), 1))

    return Loaded(run, CONTRACT, trained.digest, "a test", "cpu", precision="int8")


def test_the_accuracy_of_eagers_own_precision_is_not_asked_for(trained: Trained) -> None:
    float32 = replace(constant(trained), precision="float32")
    assert compare_accuracy(float32, trained, "onnx") == (None, None)


def test_as_many_right_as_eager_is_allowed(trained: Trained) -> None:
    same = replace(constant(trained), run=lambda batch: answer(trained.network, batch))
    assert compare_accuracy(same, trained, "onnx_int8") == (1, 1)


def test_a_fall_of_just_what_is_allowed_is_allowed(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 - 0.95 is a little more than 0.05 in binary."""
    limit = replace(parity.tolerance("photos", "onnx_int8", "int8", "cpu"), accuracy_drop=0.05)
    monkeypatch.setattr(parity, "tolerance", lambda *_: limit)
    first = iter([True])

    def run(batch: Pixels) -> Outputs:
        logits = answer(trained.network, batch)
        if next(first, False):
            logits[:2] = -logits[:2]  # two of the 40 become wrong
        return logits

    assert compare_accuracy(replace(constant(trained), run=run), trained, "onnx_int8") == (0.95, 1)


class Scaled(nn.Module):
    """Pixels that are scaled, then summed by a product with ones."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 255
        self.seen.append(x.dtype)
        products = x.flatten(1) @ torch.ones(x[0].numel(), 3)
        self.seen.append(products.dtype)
        return products


def test_bfloat16_is_for_products_and_scaling_and_logits_stay_float32() -> None:
    reduced = Bfloat16(Scaled(), "cpu")
    logits = reduced(torch.full((2, 4, 4, 3), 200, dtype=torch.uint8))
    assert reduced.network.seen == [torch.float32, torch.bfloat16]
    assert logits.dtype == torch.float32


def test_torchscript_in_bfloat16_answers_as_eager_within_its_own_tolerance(
    trained: Trained, goldens: Goldens, tmp_path: Path
) -> None:
    few = goldens[:4]
    torchscript_bf16.export(trained, tmp_path / "model-bf16.pt", "cpu")
    loaded = torchscript_bf16.load(tmp_path / "model-bf16.pt", "cpu", 1, make_network)
    assert (loaded.precision, loaded.weights, loaded.contract) == ("bfloat16", trained.digest, CONTRACT)
    limit = parity.tolerance("photos", "torchscript_bf16", loaded.precision, loaded.device)
    found = parity.compare(loaded(few.inputs), few, limit)
    assert found.ok, found.sentence
    assert found.max_abs
    assert found.max_abs > 1e-4


def test_an_archive_of_photographs_runs_with_no_repository_in_sight(int8: Exported, store: Path) -> None:
    program = "import sys, handler, inference.runtimes.onnx_int8; print(*sys.modules, sep=',')"
    with unpacked(store / int8.entry.file) as directory:
        modules = printed(program, directory).split(",")
    assert not {"onnx", "torchvision", "sklearn"} & set(modules)


def test_nvjpegs_operator_is_found_without_importing_torchvision(int8: Exported, store: Path) -> None:
    program = (
        "import sys\n"
        "from inference.inputs.image import nvjpeg\n"
        "print(nvjpeg._operator().default._schema, *sys.modules, sep='\\n')"
    )
    with unpacked(store / int8.entry.file) as directory:
        schema, *modules = printed(program, directory).splitlines()
    assert schema.startswith("image::decode_jpegs_cuda(Tensor[] encoded_images, int mode, Device device) -> Tensor[]")
    assert not {"torchvision", "torch._dynamo"} & set(modules)

"""The zoo, and digits: its network and its data."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets import MNIST

from inference.contract import Contract
from inference.inputs.image import ImageInput
from models import Data, Model, Recipe, Split, digits, model_module, zoo
from tests.contracts import labels_of

NOWHERE = Path("no folder")
BUNDLED = "64b4dec87914819dd8088567dcb5c4f83c15785fc92924efd890826f7ad5dd24"


@pytest.fixture(scope="module")
def data() -> Data:
    return digits.data("bundled", NOWHERE)


@pytest.fixture(scope="module")
def contract(data: Data) -> Contract:
    return digits.contract(data.train)


@pytest.fixture(scope="module")
def spec(contract: Contract) -> ImageInput:
    assert isinstance(contract.input, ImageInput)
    return contract.input


@pytest.fixture
def network(contract: Contract) -> torch.nn.Module:
    torch.manual_seed(0)
    return digits.network(contract).eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_every_file_beside_the_package_is_a_model() -> None:
    folder = Path(digits.__file__).parent
    assert zoo() == sorted(path.stem for path in folder.glob("*.py") if path.name != "__init__.py")
    model: Model = digits  # type checkers hold the file to what a model offers
    assert model_module("digits") is model


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no model 'cats'\. Choose one of: .*digits"):
        model_module("cats")


@pytest.mark.parametrize("name", ["", "__init__", "../loop", "digits.py"])
def test_a_model_name_reaches_no_other_file(name: str) -> None:
    with pytest.raises(ValueError, match="There is no model"):
        model_module(name)


def test_an_unknown_data_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no data source 'svhn' for digits\. Choose one of: bundled, mnist\."):
        digits.data("svhn", NOWHERE)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_a_recipe_that_trains_nothing_is_refused(options: dict[str, float]) -> None:
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(ValueError, match=f"--{name}"):
        Recipe(**{"epochs": 1, "batch_size": 1, "learning_rate": 0.1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0])
def test_a_learning_rate_is_a_number_above_0(rate: float) -> None:
    with pytest.raises(ValueError, match="--learning-rate must be a number above 0"):
        Recipe(epochs=1, batch_size=1, learning_rate=rate)


def test_the_network_takes_raw_pixels_and_normalises_them_itself(network: torch.nn.Module, spec: ImageInput) -> None:
    raw = images(3)
    net = network.get_submodule
    scaled = (raw[..., 0].float() / 255 - spec.mean[0]) / spec.std[0]
    x = F.max_pool2d(net("conv1")(scaled[:, None]).relu(), 2)
    x = F.max_pool2d(net("conv2")(x).relu(), 2)
    expected = net("head")(net("hidden")(x.flatten(1)).relu())
    torch.testing.assert_close(network(raw), expected, atol=1e-5, rtol=0)  # float32 rounding; logits are about 0.1


def test_mean_and_std_come_from_the_contract_and_not_from_the_weights(contract: Contract, spec: ImageInput) -> None:
    torch.manual_seed(0)
    network = digits.network(contract)
    assert not {"mean", "std"} & set(network.state_dict())
    moved = spec.model_copy(update={"mean": (0.9,)})
    other = digits.network(contract.model_copy(update={"inputs": (moved,)})).eval()
    other.load_state_dict(network.state_dict())
    assert not torch.allclose(network.eval()(images(2)), other(images(2)))


def test_a_float64_oracle_is_the_same_network_more_exactly(network: torch.nn.Module) -> None:
    raw = images(5)
    single = network(raw)
    double = network.double()(raw)
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    # float32 rounding over some 1,000 terms a logit: 1e-5 leaves a decade of room, and is no float32 result by chance
    assert 0 < (single.double() - double).abs().max() < 1e-5


def test_the_network_is_traced_without_a_warning_for_any_batch(network: torch.nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", category=FutureWarning)  # tracing as a whole
        warnings.filterwarnings("ignore", message=".*deprecated", category=DeprecationWarning)
        traced = torch.jit.trace(network, images(2))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(images(7)), network(images(7)), atol=1e-6, rtol=0)


def test_the_network_is_exported_with_a_dynamic_batch(network: torch.nn.Module) -> None:
    program = torch.export.export(network, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch", max=32)},))
    torch.testing.assert_close(program.module()(images(7)), network(images(7)), atol=1e-6, rtol=0)


def test_augmentation_varies_pixels_and_keeps_their_form(data: Data) -> None:
    batch = torch.from_numpy(data.train.inputs[:64])
    torch.manual_seed(1)
    first, second = digits.augment(batch), digits.augment(batch)
    torch.manual_seed(1)
    assert torch.equal(digits.augment(batch), first)
    assert not torch.equal(first, second)
    assert (first.shape, first.dtype) == (batch.shape, torch.uint8)
    # the scan still is what it was: moved, not turned to noise
    same = torch.corrcoef(torch.stack([first.flatten().float(), batch.flatten().float()]))[0, 1]
    assert 0.5 < same < 0.999


def test_the_bundled_data_is_always_the_same(data: Data) -> None:
    assert data.fingerprint == digits.data("bundled", NOWHERE).fingerprint == BUNDLED


def test_the_fingerprint_sees_a_single_pixel_and_a_single_label(data: Data) -> None:
    pixels, labels = data.held_out.inputs.copy(), data.held_out.targets.copy()
    pixels[-1, -1, -1, 0] ^= 1
    labels[0] ^= 1
    for split in (Split(pixels, data.held_out.targets), Split(data.held_out.inputs, labels)):
        assert Data("bundled", data.train, data.validation, split).fingerprint != data.fingerprint


def test_a_fifth_is_held_out_and_every_split_has_each_digit_in_proportion(data: Data) -> None:
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 1257, "validation": 180, "held_out": 360}
    whole = sum(np.bincount(split.targets, minlength=10) for split in data.splits.values()) / 1797
    for split in data.splits.values():
        assert np.abs(np.bincount(split.targets, minlength=10) - whole * len(split)).max() <= 1


def test_no_scan_is_in_two_splits(data: Data) -> None:
    from sklearn.datasets import load_digits

    scans = load_digits().images  # 1,797 different ones, so each is known by its pixels
    assert len(np.unique(scans, axis=0)) == 1797
    drawn = np.concatenate([split.inputs for split in data.splits.values()])
    assert len(np.unique(drawn, axis=0)) == 1797


def test_images_are_uint8_from_black_to_white(data: Data) -> None:
    for split in data.splits.values():
        assert split.inputs.shape == (len(split), 28, 28, 1)
        assert [str(array.dtype) for array in (split.inputs, split.targets)] == ["uint8", "int64"]
        assert (split.inputs.min(), split.inputs.max()) == (0, 255)


def test_the_contract_holds_mean_and_std_of_the_training_split(
    data: Data, contract: Contract, spec: ImageInput
) -> None:
    pixels = data.train.inputs / 255
    assert spec.mean[0] == pytest.approx(pixels.mean(), abs=5e-5)  # four decimals
    assert spec.std[0] == pytest.approx(pixels.std(), abs=5e-5)
    assert labels_of(contract) == tuple("0123456789")


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """The format of MNIST's files: magic number with type 8 and rank, big-endian sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder with an MNIST of 480 and 20 images."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 480), ("t10k", 20)):
        pixels = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"MNIST/raw/{name}-images-idx3-ubyte", pixels)
        write_idx(tmp_path / f"MNIST/raw/{name}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return tmp_path


def test_mnist_is_read_from_its_idx_files(mnist: Path) -> None:
    data = digits.data("mnist", mnist)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 440, "validation": 40, "held_out": 20}
    test_pixels = (mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    assert data.held_out.inputs.tobytes() == test_pixels
    assert data.held_out.targets.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 2
    assert np.bincount(data.validation.targets).tolist() == [4] * 10
    assert data.fingerprint == digits.data("mnist", mnist).fingerprint


def test_mnist_without_a_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    with pytest.raises(
        ValueError, match=r"could not be downloaded\. .* connect to the internet, or .* --data bundled\."
    ):
        digits.data("mnist", tmp_path)


@pytest.mark.parametrize("left", [0, 3, 100])
def test_damaged_idx_files_are_refused(mnist: Path, left: int) -> None:
    path = mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"raw is missing or damaged, .*\. Delete that folder"):
        digits.data("mnist", mnist)

"""The network of photographs and its augmentation."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as reference

from inference import weights
from inference.contract import Contract
from inference.inputs.image import ImageInput
from models import Model, Split, make_network, photos
from training.loop import last_layer


def images(count: int, height: int = 256, width: int = 256) -> Tensor:
    """Noise of which neighbours are alike, so that scaling it leaves something."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, height // 8, width // 8, generator=random) * 255
    fine = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return fine.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def contract(arch: str = "resnet18") -> Contract:
    return photos.contract(Split(images(2).numpy(), np.zeros(2, np.int64), ("cat", "cow", "dog")), arch)


def spec_of(made: Contract) -> ImageInput:
    assert isinstance(made.input, ImageInput)
    return made.input


def test_photos_offers_what_a_model_does() -> None:
    model: Model = photos  # type checkers hold the file to it
    assert next(iter(model.RECIPES)) == "synthetic"


def test_mean_and_std_are_those_of_the_training_pixels_or_imagenets() -> None:
    split = Split(images(3).numpy(), np.zeros(3, np.int64), ("cat", "dog"))
    made = spec_of(photos.contract(split, "resnet18"))
    assert made.mean == pytest.approx(split.inputs.mean(axis=(0, 1, 2)) / 255, abs=5e-5)  # rounded to 4 digits
    assert made.std == pytest.approx(split.inputs.std(axis=(0, 1, 2)) / 255, abs=5e-5)
    tuned = spec_of(photos.contract(split, "resnet18", pretrained=True))
    assert tuned.mean == tuple(torchvision.models.ResNet18_Weights.DEFAULT.transforms().mean)
    assert tuned.std == tuple(torchvision.models.ResNet18_Weights.DEFAULT.transforms().std)


def test_the_network_takes_raw_pixels_and_normalises_them_itself() -> None:
    torch.manual_seed(0)
    made = contract()
    network, spec = photos.network(made).eval(), spec_of(made)
    raw = images(2, 224, 224)
    plain = reference.normalize(reference.to_dtype(raw.permute(0, 3, 1, 2), scale=True), [*spec.mean], [*spec.std])
    expected = network.get_submodule("backbone")(plain)
    torch.testing.assert_close(network(raw), expected, atol=1e-4, rtol=0)  # float32 rounding of 18 layers
    assert expected.shape == (2, 3)


@pytest.mark.parametrize("arch", ["googlenet", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_any_classifier_of_torchvision_is_a_network_with_a_last_layer_for_the_labels(arch: str) -> None:
    network = photos.network(contract(arch))
    assert network.train()(images(2, 224, 224)).shape == (2, 3)
    last = last_layer(network)
    assert 3 in (getattr(last, "out_features", None), getattr(last, "out_channels", None))


def test_an_unknown_arch_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no arch 'resnet19'\. Choose one of: alexnet, .*resnet18"):
        photos.network(contract("resnet19"))


def test_weights_are_read_back_into_the_arch_that_they_were_trained_for(tmp_path: Path) -> None:
    made = contract("shufflenet_v2_x0_5")
    network = photos.network(made).eval()
    weights.write(tmp_path / "weights.safetensors", network, made)
    back, found = weights.read(tmp_path / "weights.safetensors", make_network)
    assert found == made
    assert torch.equal(back(images(2, 224, 224)), network(images(2, 224, 224)))


def test_pretrained_weights_are_those_of_torchvision_in_all_but_the_last_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a file in the place and under the name of the published one, as its checksum in the name demands."""
    torch.manual_seed(1)
    published = torchvision.models.shufflenet_v2_x0_5(num_classes=1000)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = Path(torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url).name
    (tmp_path / "checkpoints").mkdir()
    torch.save(published.state_dict(), tmp_path / "checkpoints" / name)
    made = photos.pretrained(contract("shufflenet_v2_x0_5")).get_submodule("backbone").state_dict()
    same = {key for key, tensor in published.state_dict().items() if torch.equal(tensor, made[key])}
    assert published.state_dict().keys() - same == {"fc.weight", "fc.bias"}
    assert made["fc.weight"].shape == (3, 1024)


@pytest.mark.parametrize("arch", ["shufflenet_v2_x0_5", "googlenet"])
def test_pretrained_weights_that_leave_a_layer_random_or_expect_other_inputs_are_refused(arch: str) -> None:
    whole = photos.network(contract("shufflenet_v2_x0_5")).state_dict()
    given = {name: tensor for name, tensor in whole.items() if not name.startswith("backbone.fc.")}
    photos.check_filled("shufflenet_v2_x0_5", whole, given)
    if arch == "shufflenet_v2_x0_5":
        del given["backbone.conv1.0.weight"]
    with pytest.raises(ValueError, match=rf"pretrained weights of {arch} do not fit the network\. Train without"):
        photos.check_filled(arch, whole, given)


def test_pretrained_weights_out_of_reach_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"weights of resnet18 could not be downloaded .* train without --pretrained"):
        photos.pretrained(contract())


@pytest.mark.parametrize(("start", "share", "side"), [(0.0, 1.0, 112), (0.25, 0.5, 128), (0.125, 0.25, 96)])
def test_a_part_is_scaled_as_torchvision_does_with_antialiasing(start: float, share: float, side: int) -> None:
    batch = images(2)
    planes = batch.permute(0, 3, 1, 2).float()
    first, length = round(start * 256), round(share * 256)
    part = planes[:, :, first : first + length, first : first + length]
    expected = nn.functional.interpolate(part, (side, side), mode="bilinear", antialias=True)
    matrix = photos.resampling(256, side, torch.tensor([start] * 2), torch.tensor([share] * 2))[:, None]
    found = matrix @ planes @ matrix.mT
    inner = slice(1, side - 1)  # at its edge a part is blended with the pixels that lie beside it in the whole
    torch.testing.assert_close(found[..., inner, inner], expected[..., inner, inner], atol=0.02, rtol=0)


def test_augmentation_is_drawn_from_the_global_generator_and_gives_uint8() -> None:
    batch = images(6)
    torch.manual_seed(1)
    first, second = photos.augment(batch), photos.augment(batch)
    torch.manual_seed(1)
    assert torch.equal(photos.augment(batch), first)
    assert not torch.equal(first, second)
    assert (first.shape, first.dtype) == ((6, 224, 224, 3), torch.uint8)
    assert photos.augment(batch, 96).shape == (6, 96, 96, 3)


def test_half_of_the_augmented_images_are_mirrored() -> None:
    ramp = torch.arange(256).to(torch.uint8).view(1, 1, 256, 1).expand(200, 256, 256, 3)
    torch.manual_seed(0)
    found = photos.augment(ramp, 16).float()
    rising = (found[:, 0, -1, 0] > found[:, 0, 0, 0]).sum().item()
    assert 75 <= rising <= 125  # 200 coins: 3.5 standard deviations


def test_a_small_crop_shows_a_part_in_the_scale_of_the_whole() -> None:
    ramp = torch.arange(256).to(torch.uint8).view(1, 1, 256, 1).expand(200, 256, 256, 3)
    torch.manual_seed(0)
    found = photos.augment(ramp, 64).float()
    step = ((found[:, 0, 54, 0] - found[:, 0, 10, 0]) / 44).abs()  # pixels of the picture for one of the crop
    assert 0.8 < step.mean() < 1.25

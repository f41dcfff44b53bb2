"""Handwritten digits: a network after LeNet's scheme, its data, its contract and its recipes."""

import math
from http.client import HTTPException
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from inference.contract import Contract
from inference.inputs.image import ImageInput
from inference.inputs.image.decode import from_image
from inference.outputs.classes import ClassesOutput
from models import Data, Recipe, Split

INPUT = ImageInput(height=28, width=28, channels=1)
LABELS = tuple("0123456789")
SAMPLE_NAMES: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPTIONS: tuple[str, ...] = ()
SERVED_BATCH = {"cpu": 32, "cuda": 32}

RECIPES = {
    "bundled": Recipe(epochs=20, batch_size=64, learning_rate=0.01, threads=1),
    "mnist": Recipe(epochs=30, batch_size=128, learning_rate=0.005),
}


class Digits(nn.Module):
    """uint8 images [B, 28, 28, 1] → logits [B, 10]. Mean and std are the contract's, and no part of the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        spec = cast(ImageInput, contract.input)
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1), persistent=False)  # [1, 1, 1]
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(spec.channels, 20, kernel_size=5)
        self.conv2 = nn.Conv2d(20, 40, kernel_size=5)
        self.hidden = nn.Linear(40 * 4 * 4, 100)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(100, contract.output.shape[0])

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype)  # [B, 1, 28, 28]
        x = (x / 255 - self.mean) / self.std
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # [B, 20, 12, 12]
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # [B, 40, 4, 4]
        x = F.relu(self.hidden(x.flatten(1)))  # [B, 100]
        logits: Tensor = self.head(self.dropout(x))  # [B, 10]
        return logits


def network(contract: Contract) -> nn.Module:
    return Digits(contract)


def contract(train: Split) -> Contract:
    mean, std = train.inputs.mean() / 255, train.inputs.std() / 255
    spec = ImageInput(**{**INPUT.model_dump(), "mean": (round(mean, 4),), "std": (round(std, 4),)})
    return Contract(model="digits", inputs=(spec,), outputs=(ClassesOutput(labels=LABELS),))


def augment(images: Tensor) -> Tensor:
    """Each image of uint8 [B, 28, 28, 1] turned by up to 12°, scaled by up to 12 % and moved by up to 2 pixels."""
    angle, scale, right, down = torch.rand(4, len(images), device=images.device) * 2 - 1  # [B] each, -1 to 1
    angle, scale, right, down = angle * math.radians(12), 1 + scale * 0.12, right * 2 / 14, down * 2 / 14
    cos, sin = angle.cos() * scale, angle.sin() * scale
    affine = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(-1, 2, 3)
    planes = images.permute(0, 3, 1, 2).float()  # [B, 1, 28, 28]
    grid = F.affine_grid(affine, list(planes.shape), align_corners=False)
    moved = F.grid_sample(planes, grid, align_corners=False)
    return moved.round().to(torch.uint8).permute(0, 2, 3, 1)


def data(source: str, directory: Path) -> Data:
    """`bundled`: the 1,797 scans that come with scikit-learn. `mnist`: MNIST under `directory`. Raises ValueError."""
    if source not in RECIPES:
        raise ValueError(f"There is no data source {source!r} for digits. Choose one of: {', '.join(RECIPES)}.")
    if source == "bundled":
        from sklearn.datasets import load_digits  # not at the top: a serving machine has no scikit-learn

        scans, labels = load_digits(return_X_y=True)  # [1797, 64], 0 to 16
        pixels = (scans.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
        rest, held_out = _stratified(_split(pixels, labels), 1 / 5)
    else:
        from torchvision.datasets import MNIST  # nor torchvision

        try:  # the IDX files are downloaded when they are missing, and MNIST's own test set is held out
            halves = [MNIST(directory, train=train, download=True) for train in (True, False)]
        except (AssertionError, RuntimeError, ValueError, HTTPException):
            raise ValueError(
                f"MNIST in {directory / 'MNIST' / 'raw'} is missing or damaged, and could not be downloaded. Delete "
                "that folder and connect to the internet, or put the four IDX files there, or train with --data "
                "bundled."
            ) from None
        rest, held_out = (_split(half.data.numpy(), half.targets.numpy()) for half in halves)
    train, validation = _stratified(rest, 1 / 8 if source == "bundled" else 1 / 12)
    return Data(source, train, validation, held_out)


def _split(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
    """Grey pixels [N, height, width] through the one input function that serving uses too."""
    images = np.stack([from_image(Image.fromarray(grey), INPUT) for grey in pixels])  # [N, 28, 28, 1]
    return Split(images, labels.astype(np.int64))


def _stratified(split: Split, share: float) -> tuple[Split, Split]:
    """The split without `share` of it, and that share. Labels keep their proportions; the choice is always the same."""
    from sklearn.model_selection import train_test_split

    rest, taken = train_test_split(np.arange(len(split)), test_size=share, stratify=split.targets, random_state=0)
    return Split(split.inputs[rest], split.targets[rest]), Split(split.inputs[taken], split.targets[taken])

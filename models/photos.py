"""Photographs: any classifier of torchvision's, trained on crops, answers the centre of a whole picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from inference.contract import Contract
from inference.inputs.image import ImageInput
from inference.outputs.classes import ClassesOutput
from models import Data, Recipe, Split

INPUT = ImageInput(height=224, width=224, channels=3, fit="crop", short_side=256)
CANVAS = ImageInput(height=256, width=256, channels=3, fit="crop", short_side=256)  # what crops are cut from
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that torchvision's weights were trained with
SCALED_OTHERWISE = ("googlenet", "inception_v3")  # their published weights expect inputs from -1 to 1
AREA, ASPECT = (0.4, 1.2), (3 / 4, 4 / 3)  # of a random crop: its share of the picture, its width over its height

SAMPLE_NAMES: tuple[str, ...] = ()  # those of the labels
OPTIONS: tuple[str, ...] = ("arch", "pretrained", "skip_bad")
SERVED_BATCH = {"cpu": 1, "cuda": 32}  # on a CPU the network gains nothing from company: docs/benchmarks.md

FOLDER = Recipe(
    epochs=60, batch_size=64, learning_rate=0.001, weight_decay=0.05, label_smoothing=0.1, schedule="cosine",
    ema=0.99, channels_last=True, arch="resnet50",
)  # fmt: skip

# Synthetic pictures are trained on small crops in their own scale, which two cores can do in a minute or two: the
# classes differ in texture, of which a part shows as much as the whole, so the network answers larger pictures alike.
RECIPES = {
    "synthetic": replace(FOLDER, epochs=12, batch_size=16, learning_rate=0.002, ema=0.97, crop=80, arch="resnet18"),
    "stanford-dogs": replace(FOLDER, epochs=90, batch_size=128, ema=0.999),
    "folder": FOLDER,
}
FINE_TUNING: dict[str, Any] = {"epochs": 12, "learning_rate": 0.0002, "frozen_epochs": 2, "pretrained": True}


class Photos(nn.Module):
    """uint8 images [B, 224, 224, 3] → logits [B, labels]. Mean and std are the contract's, no part of the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, contract: Contract, backbone: nn.Module) -> None:
        super().__init__()
        spec = cast(ImageInput, contract.input)
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1), persistent=False)  # [3, 1, 1]
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1), persistent=False)
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype).contiguous()  # [B, 3, 224, 224]
        x = (x / 255 - self.mean) / self.std
        logits: Tensor = self.backbone(x)  # [B, C]
        return logits


def network(contract: Contract) -> nn.Module:
    """Raises ValueError for an `arch` that torchvision has no classifier of."""
    from torchvision import models  # not at the top: it takes a second, and a runtime other than eager needs none

    if contract.arch not in (known := models.list_models(module=models)):
        raise ValueError(f"There is no arch {contract.arch!r}. Choose one of: {', '.join(known)}.")
    options = {"init_weights": False} if contract.arch in ("googlenet", "inception_v3") else {}  # they warn without
    backbone = models.get_model(contract.arch, weights=None, num_classes=contract.output.shape[0], **options)
    if getattr(backbone, "aux_logits", False):  # further logits that are there in training only
        backbone.aux_logits = False
        for name in {"aux1", "aux2", "AuxLogits"} & {name for name, _ in backbone.named_children()}:
            setattr(backbone, name, None)
    return Photos(contract, backbone)


def pretrained(contract: Contract) -> nn.Module:
    """With torchvision's weights for ImageNet in all layers but the last. Raises ValueError where none fit."""
    from torchvision import models

    made = network(contract)
    assert contract.arch
    try:
        found = models.get_model_weights(contract.arch).DEFAULT.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise ValueError(
            f"The pretrained weights of {contract.arch} could not be downloaded ({error}). Connect to the internet, "
            f"put the file into {torch.hub.get_dir()}/checkpoints, or train without --pretrained."
        ) from None
    own = made.state_dict()
    fitting = {f"backbone.{name}": tensor for name, tensor in found.items()}
    own.update({name: tensor for name, tensor in fitting.items() if name in own and own[name].shape == tensor.shape})
    made.load_state_dict(own)
    check_filled(contract.arch, own, fitting)
    return made


def check_filled(arch: str, own: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Raises ValueError when weights outside the last layer were not given, or expect inputs scaled otherwise."""
    last = [*own][-1].rpartition(".")[0]
    left = [
        name
        for name, tensor in own.items()
        if name.rpartition(".")[0] != last and not name.endswith("num_batches_tracked")
        if name not in given or given[name].shape != tensor.shape
    ]
    if left or arch in SCALED_OTHERWISE:
        raise ValueError(
            f"The pretrained weights of {arch} do not fit the network. Train without --pretrained, or another --arch."
        )


def contract(train: Split, arch: str = "resnet50", pretrained: bool = False) -> Contract:
    """Mean and std are those of the training split, or with pretrained weights ImageNet's."""
    mean, std = IMAGENET
    if not pretrained:
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = torch.zeros(3, 256, dtype=torch.float64)
        for image in torch.from_numpy(train.inputs):
            counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in image.unbind(2)])
        shares = counts / counts.sum(dim=1, keepdim=True)
        means = shares @ values
        stds = (shares @ values**2 - means**2).sqrt()
        mean, std = (tuple(round(one, 4) for one in channels.tolist()) for channels in (means, stds))
    spec = ImageInput(**{**INPUT.model_dump(), "mean": mean, "std": std})
    return Contract(model="photos", arch=arch, inputs=(spec,), outputs=(ClassesOutput(labels=train.names),))


def augment(images: Tensor, side: int = 224) -> Tensor:
    """A random part of each image of uint8 [B, h, w, 3], scaled to [side, side], antialiased, half of them mirrored.

    As torchvision's RandomResizedCrop and RandomHorizontalFlip, by two small matrix products for the whole batch.
    """
    draws = torch.rand(5, len(images))
    (least, most), log_aspect = AREA, torch.tensor(ASPECT).log()
    # a crop of `side` pixels or fewer is no larger than the picture: the scale is kept on the average
    area = (least + (most - least) * draws[0]) * (side / 224) ** 2
    aspect = (log_aspect[0] + (log_aspect[1] - log_aspect[0]) * draws[1]).exp().sqrt()
    high, wide = (area.sqrt() / aspect).clamp(max=1), (area.sqrt() * aspect).clamp(max=1)  # [B], shares of the sides
    rows = resampling(images.shape[1], side, (1 - high) * draws[2], high)
    columns = resampling(images.shape[2], side, (1 - wide) * draws[3], wide)
    columns = torch.where((draws[4] < 0.5)[:, None, None], columns.flip(1), columns)
    planes = images.permute(0, 3, 1, 2).float()  # [B, 3, h, w]
    scaled = rows.to(images.device)[:, None] @ planes @ columns.to(images.device)[:, None].mT  # [B, 3, side, side]
    return scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def resampling(size: int, side: int, start: Tensor, share: Tensor) -> Tensor:
    """Bilinear, antialiased weights [B, side, size]: `share` [B] of `size` pixels, from the share `start` [B] on."""
    scale = (share * size / side)[:, None]  # [B, 1], pixels of the source for one of the target
    centre = start[:, None] * size + (torch.arange(side) + 0.5) * scale  # [B, side]
    distance = (torch.arange(size) + 0.5 - centre[..., None]).abs() / scale.clamp(min=1)[..., None]
    weights = (1 - distance).clamp(min=0)
    return weights / weights.sum(dim=2, keepdim=True)


def data(source: str, directory: Path) -> Data:
    """`synthetic`, `stanford-dogs` or a folder of photos, decoded once, into `directory`. Raises ValueError."""
    from models.data import dogs, photo_files, synthetic  # not at the top: archives carry none of them

    if source == "synthetic":
        labels, splits = photo_files.folder_splits(synthetic.write(directory / "photos" / "synthetic"))
    elif source == "stanford-dogs":
        labels, splits = dogs.splits(directory / "stanford-dogs")
    elif Path(source).is_dir():
        source = str(Path(source).resolve())
        labels, splits = photo_files.folder_splits(Path(source))
    else:
        raise ValueError(
            f"There is no data source {source!r} for photos. Choose one of: synthetic, stanford-dogs, or a folder that "
            "holds a folder of photos for each label."
        )
    specs = {"train": CANVAS, "validation": INPUT, "held_out": INPUT}
    return photo_files.decoded(source, labels, splits, specs, directory / "photos" / "decoded")

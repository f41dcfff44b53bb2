"""The contract: everything about a model that is not its weights, as one frozen value.

Training writes it once, as `contract.json`, and every artifact carries it. This module imports no torch, so that the
client and the server can read contracts too.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inference.base import Frozen

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class ImageInput(Frozen):
    """How the bytes of an image become the array that the graph takes: uint8 [height, width, channels], 0 to 255.

    The image is turned upright, laid over black where it is transparent, and converted to grey (1 channel) or RGB (3).
    `fit` "pad": it is scaled to fit with its aspect ratio kept, and padded with black. `fit` "crop": it is scaled until
    its short side has `short_side` pixels, and the centre is cut out. An image with a side under `min_side` pixels, or
    with more than `max_pixels` in all, is refused before its pixels are decoded.
    """

    kind: Literal["image"] = "image"
    height: Positive
    width: Positive
    channels: Literal[1, 3]
    fit: Literal["pad", "crop"] = "pad"
    short_side: Positive | None = None
    min_side: Positive = 8
    max_pixels: Positive = 25_000_000

    @model_validator(mode="after")
    def _croppable(self) -> Self:
        if (self.fit == "crop") != (self.short_side is not None):
            raise ValueError("short_side belongs to the fit crop, and to no other")
        if self.short_side is not None and self.short_side < max(self.height, self.width):
            raise ValueError("short_side must be at least height and width")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)


class Contract(Frozen):
    """What a model takes and gives.

    The graph takes uint8 [B, *input.shape], computes `(x / 255 - mean) / std` per channel by itself, and gives float32
    logits [B, len(labels)]. `max_batch` is the largest B that an artifact is compared at, and the largest that is run.
    `arch` names the network where a model can have several.
    """

    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    arch: str | None = None
    input: ImageInput
    mean: tuple[Fraction, ...]
    std: tuple[PositiveFraction, ...]
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    max_batch: Positive = 32

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.mean) == len(self.std) == self.input.channels:
            raise ValueError(f"mean and std need one value for each of the {self.input.channels} channels")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the contract's JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Without the fields that are None, which TorchServe's own JSON leaves out too."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Contract":
        return cls.model_validate_json(text)

    @classmethod
    def read(cls, path: Path) -> "Contract":
        return cls.from_json(path.read_bytes())

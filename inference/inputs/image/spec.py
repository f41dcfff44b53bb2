"""What the contract says of an image."""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from inference.inputs import Input

Pixels = NDArray[np.uint8]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class ImageSpec(Input):
    """How the bytes of an image become the rows that the graph takes: uint8 [height, width, channels], 0 to 255.

    The image is turned upright, laid over black where it is transparent, and converted to grey (1 channel) or RGB (3).
    `fit` "pad": it is scaled to fit with its aspect ratio kept, and padded with black. `fit` "crop": it is scaled until
    its short side has `short_side` pixels, and the centre is cut out. An image with a side under `min_side` pixels, or
    with more than `max_pixels` in all, is refused before its pixels are decoded. The graph itself
    computes `(x / 255 - mean) / std` for each channel, where they are given.
    """

    name: str = "images"
    kind: Literal["image"] = "image"
    height: Positive
    width: Positive
    channels: Literal[1, 3]
    mean: tuple[Fraction, ...] = ()
    std: tuple[PositiveFraction, ...] = ()
    fit: Literal["pad", "crop"] = "pad"
    short_side: Positive | None = None
    min_side: Positive = 8
    max_pixels: Positive = 25_000_000

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.mean) == len(self.std) or len(self.mean) not in (0, self.channels):
            raise ValueError(f"mean and std need one value for each of the {self.channels} channels")
        if (self.fit == "crop") != (self.short_side is not None):
            raise ValueError("short_side belongs to the fit crop, and to no other")
        if self.short_side is not None and self.short_side < max(self.height, self.width):
            raise ValueError("short_side must be at least height and width")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)

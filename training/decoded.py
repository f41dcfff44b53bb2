"""What becomes of a request's body: pixels, or a sentence that says what is wrong with it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]


class BadInput(ValueError):
    """The request is at fault; the message says what to send instead."""


class OutOfMemory(RuntimeError):
    """The device had too little memory left for a batch; the next one may find more."""


@dataclass(frozen=True)
class Decoded:
    """uint8 [N, height, width, channels], on the device that decoded it, and what did: `cpu` or `nvjpeg`."""

    pixels: "Pixels | torch.Tensor"
    decoder: str = "cpu"

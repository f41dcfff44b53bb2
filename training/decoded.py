"""What becomes of a request's body: pixels, or a sentence that says what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def out_of_memory() -> Iterator[None]:
    """torch's error becomes OutOfMemory."""
    import torch  # not at the top: the CPU may need none

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(str(error)) from None


@dataclass(frozen=True)
class Decoded:
    """uint8 [N, height, width, channels], on the device that decoded it, and what did: `cpu` or `nvjpeg`."""

    pixels: "Pixels | torch.Tensor"
    decoder: str = "cpu"

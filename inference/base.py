"""What all of it rests on: frozen values, and what is wrong with a request or with the device that answers it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]


class Frozen(BaseModel):
    """A value that never changes and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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

"""What all of it rests on: frozen values, and what is wrong with a request or with the device that answers it."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict


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

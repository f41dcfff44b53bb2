"""What all of it rests on: frozen values, kinds, and what is wrong with a request or with the device that answers."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

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


@cache
def kinds(side: str) -> dict[str, Any]:
    """All kinds of `input` or `output`, by name: each module of its package is one, and its class is `KIND`."""
    package = importlib.import_module(f"inference.{side}s")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return {name: importlib.import_module(f"{package.__name__}.{name}").KIND for name in names}


def of_kind(side: str, value: Any) -> Any:
    """Plain values → the input or output of their kind. Raises ValueError for a kind that there isn't."""
    if not isinstance(value, Mapping):
        return value
    name, known = value.get("kind"), kinds(side)
    if name not in known:
        raise ValueError(f"There is no kind of {side} {name!r}. Choose one of: {', '.join(known)}.")
    return known[name].model_validate(value)

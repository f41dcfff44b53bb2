"""Input kinds, a module each: how the bytes of a request become rows of the array that a graph takes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from inference.base import BadInput, Frozen, kinds
from inference.tools.npy import NPY, decode_npy, encode_npy

Rows = NDArray[Any]  # [N, *shape] of an input's dtype
Batch = Any  # `Rows`, or a tensor on the GPU that decoded them
Body = tuple[bytes, str]  # and its content type

CPU = "cpu"  # the decoder that every kind has


@dataclass(frozen=True)
class Decoded:
    """Rows [N, *shape] on the device that decoded them, and what did."""

    rows: Batch
    decoder: str = CPU


Decoder = Callable[[Sequence[Body]], list[Decoded | BadInput | None]]  # of many at once; None: left to the CPU


class Input(Frozen, ABC):
    """One named input of a contract. Its kind, a class of a module beside this one, adds fields and says how."""

    name: str
    kind: str

    elements: ClassVar[str] = "values"  # what a row is made of, for sentences
    decoders: ClassVar[tuple[str, ...]] = (CPU,)

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Of the graph's array."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one row."""

    @abstractmethod
    def decode(self, body: bytes, content_type: str = "") -> Rows:
        """The body of a request → [N, *shape]. Raises BadInput."""

    @abstractmethod
    def requests(self, rows: Rows) -> Iterator[tuple[str, bytes]]:
        """Rows → goldens' names and bodies, in the forms that clients send. Raises ValueError for too few rows."""

    @abstractmethod
    def probes(self, rows: Sequence[Rows], rng: np.random.Generator, count: int) -> dict[str, Rows]:
        """By a name for its kind, `count` rows each to calibrate with: of `rows`, and such as no model has seen."""

    @abstractmethod
    def example(self, count: int) -> Rows:
        """Rows to trace with, the same ones at every call."""

    def unsuited(self, decoder: str, device: str) -> str | None:  # noqa: ARG002
        """Why such inputs can't be decoded so on a device, and what to do; None when they can."""
        if decoder in self.decoders:
            return None
        return f"There is no decoder {decoder!r}. Choose one of: {', '.join(self.decoders)}."

    def decoder(self, name: str, device: str) -> Decoder | None:
        """None for the CPU's, which is `decode`. Raises ValueError where such inputs can't be decoded so."""
        if reason := self.unsuited(name, device):
            raise ValueError(reason)
        return None

    @abstractmethod
    def allowed_steps(self, requests: Sequence[bytes], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """How far each request's elements may be from the CPU's, by the row of `tolerances.toml` for its decoder."""

    @classmethod
    def take(cls, source: Any) -> tuple[Body, int] | None:  # noqa: ARG003
        """What a caller holds, such as a picture → a request and its number of inputs, or None. Raises BadInput."""
        return None

    def encode(self, rows: Rows) -> Body:
        """Rows as one request."""
        return encode_npy(rows), NPY

    def decode_rows(self, body: bytes) -> Rows:
        """An npy file → [N, *shape]. Raises BadInput."""
        return decode_npy(body, self.dtype, self.shape)


def take(source: Any) -> tuple[Body, int] | None:
    """As the first kind that takes it; None where none does. Raises BadInput."""
    return next((taken for kind in kinds("input").values() if (taken := kind.take(source)) is not None), None)

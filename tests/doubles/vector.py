"""A kind of input: numbers, as JSON or with commas between them, become rows of float32."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inference.base import BadInput
from inference.inputs import Input
from inference.tools.npy import is_npy


class VectorInput(Input):
    name: str = "measurements"
    kind: Literal["vector"] = "vector"
    columns: tuple[str, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int]:
        return (len(self.columns),)

    def decode(self, body: bytes, content_type: str = "") -> NDArray[Any]:
        if is_npy(content_type):
            return self.decode_rows(body)
        wanted = f"Send {len(self.columns)} numbers: {', '.join(self.columns)}"
        try:
            text = body.decode().strip()
            numbers = json.loads(text if text.startswith("[") else f"[{text}]")
            row = np.array(numbers, np.float32)
        except (ValueError, TypeError):
            raise BadInput(f"The body is neither JSON nor numbers with commas between them. {wanted}.") from None
        if row.shape != self.shape or not np.isfinite(row).all():
            raise BadInput(f"The body holds {row.size} numbers. {wanted}.")
        return row[None]

    def requests(self, rows: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
        for index, row in enumerate(rows):
            numbers = [float(value) for value in row]
            yield f"json {index}", json.dumps(numbers).encode()
            yield f"commas {index}", ", ".join(map(repr, numbers)).encode()

    def probes(self, rows: Sequence[NDArray[Any]], rng: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        known = np.concatenate(rows)
        shape = (count, *self.shape)
        return {"measured": known[rng.integers(0, len(known), count)], "noise": rng.normal(size=shape).astype("f4")}

    def example(self, count: int) -> NDArray[Any]:
        return np.random.default_rng(0).normal(size=(count, *self.shape)).astype(np.float32)

    def allowed_steps(self, requests: Sequence[bytes], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        return [0.0 for _ in zip(requests, rows, strict=True)]


KIND = VectorInput

"""Goldens: raw requests, with what the eager model answers to them. Needs no torch to read."""

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from inference.contract import Contract
from inference.inputs import Rows
from inference.outputs import Outputs

# What numpy and zipfile raise for a file that is not, or not any more, an `.npz` of these arrays.
DAMAGED = (ValueError, LookupError, EOFError, TypeError, RuntimeError, OSError, BadZipFile, zlib.error, struct.error)


@dataclass(frozen=True)
class Goldens:
    """N requests and their right answers, by the network of `contract`; `weights` is the SHA-256 of its weights."""

    weights: str
    contract: Contract
    names: tuple[str, ...]
    requests: tuple[bytes, ...]
    inputs: Rows  # [N, *input.shape]
    outputs: Outputs  # [N, *output.shape], eager in float32
    oracle: NDArray[np.float64]  # [N, *output.shape], the same network and weights in float64

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice | list[int]) -> "Goldens":
        """Some of them, in that order."""
        chosen = list(range(len(self))[rows] if isinstance(rows, slice) else rows)
        names, requests = tuple(self.names[row] for row in chosen), tuple(self.requests[row] for row in chosen)
        inputs, outputs, oracle = self.inputs[chosen], self.outputs[chosen], self.oracle[chosen]
        return Goldens(self.weights, self.contract, names, requests, inputs, outputs, oracle)

    def write(self, path: Path) -> None:
        """One `.npz`; the requests lie end to end in one array."""
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                weights=np.array(self.weights),
                contract=np.array(self.contract.to_json()),
                names=np.array(self.names),
                requests=np.frombuffer(b"".join(self.requests), np.uint8),
                ends=np.cumsum([len(request) for request in self.requests]),
                inputs=self.inputs,
                outputs=self.outputs,
                oracle=self.oracle,
            )

    @classmethod
    def read(cls, source: Path | IO[bytes]) -> "Goldens":
        """Raises ValueError when the file is not one that `write` made, or was damaged since."""
        if isinstance(source, Path):
            with source.open("rb") as file:
                return cls.read(file)
        try:
            with np.load(source, allow_pickle=False) as stored:
                requests, ends = stored["requests"].tobytes(), [0, *stored["ends"].tolist()]
                return cls(
                    str(stored["weights"]),
                    Contract.model_validate_json(str(stored["contract"])),
                    tuple(stored["names"].tolist()),
                    tuple(requests[a:b] for a, b in pairwise(ends)),
                    *(stored[name] for name in ("inputs", "outputs", "oracle")),
                )
        except DAMAGED:
            raise ValueError(f"{source.name} is damaged. Export with --new-goldens to make it anew.") from None

"""What a caller holds → the bytes of one request. The server decodes and resizes; nothing is lost on the way to it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference import inputs
from inference.base import BadInput
from inference.contract import Contract
from inference.protocol import BODY_LIMIT, NPY
from inference.tools.npy import HEADER_BYTES, MAGIC

ANY_BYTES = "application/octet-stream"
ENOUGH_ROWS = 32


@dataclass(frozen=True)
class Payload:
    """`count` is the number of inputs that the body holds; None where only the server will know."""

    body: bytes
    content_type: str
    count: int | None

    @property
    def is_batch(self) -> bool:
        return self.content_type == NPY


Source = bytes | str | Path | Image.Image | NDArray[np.uint8] | Payload


def payload(source: Source) -> Payload:
    """Bytes and files travel as they are; a str or Path names a file. What else there is, the input kinds encode.

    Raises BadInput, and OSError for a file that cannot be read.
    """
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            source = file.read(BODY_LIMIT + 1)  # enough to see that it is too much
    if isinstance(source, Payload):
        found = source
    elif isinstance(source, bytes):
        found = Payload(source, NPY, None) if source.startswith(MAGIC) else Payload(source, ANY_BYTES, 1)
    elif (taken := inputs.take(source)) is not None:
        found = Payload(*taken[0], taken[1])
    else:
        raise BadInput(f"A {type(source).__name__} cannot be sent. Send bytes, a path, a PIL image or a NumPy array.")
    if len(found.body) > BODY_LIMIT:
        raise BadInput(f"The server takes at most {BODY_LIMIT:,} bytes a request, and this is more. Send less at once.")
    return found


def rows_payload(contract: Contract, rows: NDArray[Any]) -> Payload:
    """Rows [N, *input.shape] in one request."""
    return payload(Payload(*contract.input.encode(rows), len(rows)))


def rows_per_request(contract: Contract) -> int:
    """How many rows fit into one request, of those that one batch takes; `ENOUGH_ROWS` at most."""
    row = math.prod(contract.input.shape) * contract.input.dtype.itemsize
    return max(1, min(ENOUGH_ROWS, contract.max_batch, (BODY_LIMIT - HEADER_BYTES) // row))

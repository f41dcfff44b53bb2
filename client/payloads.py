"""What a caller holds → the bytes of one request. The server decodes and resizes; nothing is lost on the way to it."""

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as Exif

from inference.base import BadInput
from inference.contract import Contract
from inference.protocol import BODY_LIMIT, NPY

Input = bytes | str | Path | Image.Image | NDArray[np.uint8]

ANY_BYTES = "application/octet-stream"
NPY_HEADER = 128  # bytes
ENOUGH_IMAGES = 32


@dataclass(frozen=True)
class Payload:
    """`count` is the number of inputs that the body holds; None where only the server will know."""

    body: bytes
    content_type: str
    count: int | None

    @property
    def is_batch(self) -> bool:
        return self.content_type == NPY


def payload(source: Input) -> Payload:
    """Bytes and files travel as they are, a PIL image as PNG, an array as npy.

    A str or Path names a file. An array is uint8 [H, W, C] or [N, H, W, C]. Raises BadInput, and OSError for a file
    that cannot be read.
    """
    if isinstance(source, Image.Image):
        return _limited(_png(source), ANY_BYTES, 1)
    if isinstance(source, np.ndarray):
        batch = _batch(source)
        return _limited(_npy(batch), NPY, len(batch))
    body = source if isinstance(source, bytes) else _read(source)
    return _limited(body, NPY, None) if body.startswith(b"\x93NUMPY") else _limited(body, ANY_BYTES, 1)


def images_per_request(contract: Contract) -> int:
    """How many arrays fit into one request, of those that one batch takes; `ENOUGH_IMAGES` at most."""
    images = (BODY_LIMIT - NPY_HEADER) // math.prod(contract.input.shape)
    return max(1, min(ENOUGH_IMAGES, contract.max_batch, images))


def _limited(body: bytes, content_type: str, count: int | None) -> Payload:
    if len(body) > BODY_LIMIT:
        raise BadInput(f"The server takes at most {BODY_LIMIT:,} bytes a request, and this is more. Send less at once.")
    return Payload(body, content_type, count)


def _read(path: Any) -> bytes:
    """A file's bytes, but no more of them than it takes to see that they are too many."""
    if not isinstance(path, str | Path):
        raise BadInput(f"A {type(path).__name__} cannot be sent. Send bytes, a path, a PIL image or a NumPy array.")
    with Path(path).open("rb") as file:
        return file.read(BODY_LIMIT + 1)


def _png(image: Image.Image) -> bytes:
    """PNG of the same mode and pixels. EXIF's orientation goes along, so that the server turns what it would turn."""
    exif = Image.Exif()
    if orientation := image.getexif().get(Exif.Orientation):
        exif[Exif.Orientation] = orientation
    stream = BytesIO()
    try:
        image.save(stream, "PNG", exif=exif)
    except OSError as error:
        raise BadInput(f"The image cannot be sent as PNG ({error}). Send its file, or convert it to RGB.") from None
    return stream.getvalue()


def _batch(array: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C]."""
    wanted = "Send uint8 of shape [H, W, C] or [N, H, W, C]"
    if array.dtype != np.uint8:
        raise BadInput(f"The array has dtype {array.dtype}. {wanted}.")
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise BadInput(f"The array has shape {list(array.shape)}. {wanted}, no side of length 0.")
    return array if array.ndim == 4 else array[None]


def _npy(batch: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(batch), version=(1, 0), allow_pickle=False)
    return stream.getvalue()

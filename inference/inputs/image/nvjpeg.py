"""The input function for many JPEGs at once on an NVIDIA GPU: nvJPEG decodes, two matrix products scale and crop.

Scaling gives the bits of `decode.fit`. Decoding does not: nvJPEG interpolates colour in another way than libjpeg-turbo,
by some steps of 255. So it is a choice of its own, attested with each answer, with rows in `inference/tolerances.toml`.
"""

import re
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path

import torch
from PIL.ImageFile import ImageFile
from torch import Tensor

from inference.base import BadInput, OutOfMemory
from inference.inputs import Decoded
from inference.inputs.image import decode
from inference.inputs.image.decode import ImageSpec
from inference.inputs.image.fit_cuda import fit

END = b"\xff\xd9"
STATUS = re.compile(r": (\d+)$")  # nvJPEG's own, at the end of what torchvision says
ABOUT_THE_JPEG = {2, 3, 4, 6, 8, 9, 10}  # damaged, of an unknown kind, or not understood in one of several ways
NO_MEMORY = 5
RARE_KIND = "Unknown chroma subsampling"  # torchvision's own words, without a number

RGB = 3  # torchvision's ImageReadMode

TOGETHER = 64_000_000  # pixels that are scaled at once, which takes up to 30 bytes for each


def decode_jpegs(bodies: Sequence[bytes], spec: ImageSpec, device: str) -> list[Decoded | BadInput | None]:
    """For each uint8 [1, height, width, 3] on `device`, or what `_examine` says instead. Raises OutOfMemory."""
    examined = [_examine(body, spec) for body in bodies]
    jpegs = {index: one for index, one in enumerate(examined) if isinstance(one, _Jpeg)}
    found: list[Decoded | BadInput | None] = [None if isinstance(one, _Jpeg) else one for one in examined]
    upright: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    try:
        for (index, jpeg), image in zip(jpegs.items(), _nvjpeg([*jpegs.values()], device), strict=True):
            if isinstance(image, BadInput):
                found[index] = image
                continue
            axes, swapped = decode.UPRIGHT.get(jpeg.orientation, ((), False))
            turned = image.flip([axis + 1 for axis in axes]) if axes else image  # [3, h, w]
            turned = turned.mT if swapped else turned
            upright.setdefault(turned.shape, []).append((index, turned))
        for (_, height, width), images in upright.items():
            most = max(1, TOGETHER // (height * width))
            for part in (images[start : start + most] for start in range(0, len(images), most)):
                for (index, _), pixels in zip(part, fit([image for _, image in part], spec), strict=True):
                    found[index] = Decoded(pixels[None], "nvjpeg")
    except torch.OutOfMemoryError as error:
        torch.cuda.synchronize(device)  # what was begun writes no more to memory that is free again
        raise OutOfMemory(str(error)) from None
    return found


@dataclass(frozen=True)
class _Jpeg:
    """One for nvJPEG, with what its header says."""

    body: bytes
    height: int
    width: int
    orientation: int


def _examine(body: bytes, spec: ImageSpec) -> _Jpeg | BadInput | None:
    """What is wrong with an image; None for other formats and colours than nvJPEG's, and for two sizes."""
    try:
        with decode.explained(body, spec):
            image = decode.open_image(body, spec)
            if not _suits(image):
                return None
            decode.check_scans(image, body)  # nvJPEG may go on where libjpeg stops
            decode.crop_of(image.height, image.width, spec)
            at = 2  # then where the first picture's pixels begin: behind the segments, which may hold a smaller picture
            while body[at : at + 2] != decode.START_OF_SCAN:
                marker, length = struct.unpack_from(">xBH", body, at)
                at += 1 if marker == 0xFF else 2 + length  # a filling byte
            if body.rfind(END, at) < 0:
                raise decode.bad_jpeg("its end is missing")
            return _Jpeg(body, image.height, image.width, decode.orientation(image))
    except BadInput as error:
        return error


def _suits(image: ImageFile) -> bool:
    """Whether its colours are grey or YCbCr beyond doubt by libjpeg's marks, and its size stands there once."""
    if not decode.is_jpeg(image) or image.mode not in ("L", "RGB") or len(image.layer) != image.layers:  # type: ignore[attr-defined]
        return False
    transform = image.info.get("adobe_transform")
    marked = "jfif" in image.info or transform == 1 or [layer[0] for layer in image.layer] == [1, 2, 3]  # type: ignore[attr-defined]
    return image.mode == "L" or (marked and transform in (1, None))


def _nvjpeg(jpegs: Sequence[_Jpeg], device: str) -> list[Tensor | BadInput]:
    """Each uint8 [3, h, w]. It fails for all: halves are tried until it is known for which. Raises OutOfMemory."""
    if not jpegs:
        return []
    try:
        images = _decode([jpeg.body for jpeg in jpegs], device)
        return [  # it reads the header by itself, and the size was checked in what Pillow read
            image if image.shape[1:] == (jpeg.height, jpeg.width) else decode.bad_jpeg("its header tells of two sizes")
            for image, jpeg in zip(images, jpegs, strict=True)
        ]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if device != "cpu":
            torch.cuda.synchronize(device)  # raises where the device itself has failed
        reason = str(error).splitlines()[0]
        status = int(found[1]) if (found := STATUS.search(reason)) else None
        if status == NO_MEMORY or "out of memory" in str(error):
            raise OutOfMemory(reason) from None
        if status not in ABOUT_THE_JPEG and RARE_KIND not in reason:
            raise  # no picture is to blame
        if len(jpegs) == 1:
            return [decode.bad_jpeg(f"nvJPEG says {reason}")]
    half = len(jpegs) // 2
    return _nvjpeg(jpegs[:half], device) + _nvjpeg(jpegs[half:], device)


def _decode(bodies: Sequence[bytes], device: str) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)  # nobody writes
        encoded = [torch.frombuffer(body, dtype=torch.uint8) for body in bodies]
    return _operator()(encoded, RGB, torch.device(device))


@lru_cache(1)
def _operator() -> Callable[..., list[Tensor]]:
    """What `torchvision.io.decode_jpeg` calls. Importing torchvision takes a worker's start another second or three."""
    [library] = Path(distribution("torchvision").locate_file("torchvision")).glob("image*.so")  # type: ignore[arg-type]
    torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    operator: Callable[..., list[Tensor]] = torch.ops.image.decode_jpegs_cuda
    return operator

"""Requests to make goldens of: the same pictures in the many forms in which clients send them."""

from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
from PIL import Image

from training.inputs import Pixels

# Width and height: smaller than the input, as large, larger, and of other shapes.
SIZES = ((8, 8), (28, 28), (20, 31), (64, 48), (57, 160), (300, 200))


def make_requests(images: Pixels) -> Iterator[tuple[str, bytes]]:
    """Held-out images uint8 [N, H, W, C] → a name and the bytes of a file, for each form at each size."""
    pictures = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]
    forms = [(form, size) for size in SIZES for form in FORMS]
    if len(pictures) < len(forms):
        raise ValueError(f"Goldens need {len(forms)} held-out images, and there are {len(pictures)}.")
    for picture, (form, (width, height)) in zip(pictures, forms, strict=False):
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        yield f"{form} {width}x{height}", FORMS[form](resized)


def _png(picture: Image.Image) -> bytes:
    return _file(picture, "PNG")


def _jpeg(picture: Image.Image, **options: object) -> bytes:
    return _file(picture, "JPEG", quality=90, **options)


def _file(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _faded(picture: Image.Image, mode: str) -> Image.Image:
    """The picture with its dark parts transparent."""
    faded = picture.convert(mode)
    faded.putalpha(picture.convert("L").point(lambda value: min(255, 2 * value)))
    return faded


def _deep(picture: Image.Image) -> Image.Image:
    """16 bits, grey."""
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)


def _turned(picture: Image.Image, orientation: int) -> bytes:
    """A JPEG whose EXIF says how to turn it, as phones write them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _jpeg(picture, exif=exif)


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "png grey": lambda picture: _png(picture.convert("L")),
    "png rgb": lambda picture: _png(picture.convert("RGB")),
    "png rgba": lambda picture: _png(_faded(picture, "RGB")),
    "png grey alpha": lambda picture: _png(_faded(picture, "L")),
    "png palette": lambda picture: _png(picture.convert("P")),
    "png 1 bit": lambda picture: _png(picture.convert("1")),
    "png 16 bit": lambda picture: _png(_deep(picture)),
    "jpeg grey": lambda picture: _jpeg(picture.convert("L")),
    "jpeg rgb": lambda picture: _jpeg(picture.convert("RGB"), subsampling=2),
    "jpeg cmyk": lambda picture: _jpeg(picture.convert("CMYK")),
    "jpeg exif 3": lambda picture: _turned(picture.convert("RGB"), 3),
    "jpeg exif 6": lambda picture: _turned(picture.convert("L"), 6),
    "webp": lambda picture: _file(picture.convert("RGB"), "WEBP", lossless=True),
}

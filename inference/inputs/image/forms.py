"""Requests to make goldens of: the same pictures in the many forms in which clients send them."""

from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image

from inference.inputs.image.decode import ImageSpec, Pixels

Size = tuple[int, int]  # width and height

# Smaller than the input, as large, larger, and of other shapes.
SIZES: tuple[Size, ...] = ((8, 8), (28, 28), (20, 31), (64, 48), (57, 160), (300, 200))


def requests(images: Pixels, spec: ImageSpec) -> Iterator[tuple[str, bytes]]:
    """Held-out images uint8 [N, H, W, C] → a name and the bytes of a file, one of another image each.

    Padded inputs come in each form at each size; cropped ones are photographs, which are large and come in fewer.
    """
    wanted = [(form, size) for size in SIZES for form in FORMS]
    if spec.fit == "crop":
        wanted = [(form, size) for form in PHOTO_FORMS for size in PHOTO_SIZES.get(form, OTHER_PHOTO_SIZES)]
    if len(images) < len(wanted):
        raise ValueError(f"Goldens need {len(wanted)} held-out images, and there are {len(images)}.")
    for image, (form, (width, height)) in zip(images, wanted, strict=False):
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        yield f"{form} {width}x{height}", PHOTO_FORMS[form](resized)


def _file(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


_png = partial(_file, kind="PNG")
_jpeg = partial(_file, kind="JPEG", quality=90)


def _rgb(picture: Image.Image) -> Image.Image:
    """In colour, a grey picture too: no mean of its channels is its luminance."""
    if picture.mode == "RGB":
        return picture
    return Image.merge("RGB", [picture.point(lambda value, share=share: value * share // 8) for share in (8, 7, 4)])


def _faded(picture: Image.Image, mode: str) -> Image.Image:
    """The picture with its dark parts transparent."""
    faded = _rgb(picture).convert(mode)
    faded.putalpha(picture.convert("L").point(lambda value: min(255, 2 * value)))
    return faded


def _deep(picture: Image.Image) -> Image.Image:
    """16 bits, grey; the lower eight by themselves would be the negative."""
    grey = np.asarray(picture.convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 256 + (255 - grey))


def _turned(picture: Image.Image, orientation: int) -> bytes:
    """A JPEG whose EXIF says how to turn it, as phones write them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _jpeg(picture, exif=exif)


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "png grey": lambda picture: _png(picture.convert("L")),
    "png rgb": lambda picture: _png(_rgb(picture)),
    "png rgba": lambda picture: _png(_faded(picture, "RGB")),
    "png grey alpha": lambda picture: _png(_faded(picture, "L")),
    "png palette": lambda picture: _png(_rgb(picture).convert("P")),
    "png 1 bit": lambda picture: _png(picture.convert("1")),
    "png 16 bit": lambda picture: _png(_deep(picture)),
    "jpeg grey": lambda picture: _jpeg(picture.convert("L")),
    "jpeg rgb": lambda picture: _jpeg(_rgb(picture), subsampling=2),
    "jpeg cmyk": lambda picture: _jpeg(_rgb(picture).convert("CMYK")),
    "jpeg exif 3": lambda picture: _turned(_rgb(picture), 3),
    "jpeg exif 6": lambda picture: _turned(picture.convert("L"), 6),
    "webp": lambda picture: _file(_rgb(picture), "WEBP", lossless=True),
}

PHOTO_FORMS = FORMS | {"jpeg progressive": lambda picture: _jpeg(_rgb(picture), progressive=True)}

# Lossless files of photographs are large, so they come in small sizes, and cameras' files in cameras' shapes.
PHOTO_SIZES: dict[str, tuple[Size, ...]] = {
    "jpeg grey": ((500, 375), (224, 224)),
    "jpeg rgb": ((500, 375), (375, 500), (1280, 960), (64, 48), (1000, 80)),
    "jpeg cmyk": ((300, 200),),
    "jpeg exif 3": ((375, 500),),
    "jpeg exif 6": ((500, 375), (640, 120)),
    "jpeg progressive": ((500, 375), (375, 500)),
}
OTHER_PHOTO_SIZES: tuple[Size, ...] = ((300, 200), (64, 48))

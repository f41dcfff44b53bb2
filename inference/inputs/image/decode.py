"""What the contract says of an image, and a file → its pixels, upright, and as large as the graph takes them."""

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from pydantic import Field, model_validator

from inference.base import BadInput
from inference.inputs import Input

Pixels = NDArray[np.uint8]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]

JPEG_START = b"\xff\xd8\xff"
JPEG_MODES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # as Pillow names them: what simplejpeg calls them
START_OF_SCAN = b"\xff\xda"
SCAN = re.compile(START_OF_SCAN + rb"\0[\x08\x0a\x0c\x0e]")  # with its length, which is for 1 to 4 channels
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # what Pillow raises

MOST_OBLONG = 16  # long side over short side; what a crop would keep of more is next to nothing
MOST_SCANNED = 1_000_000_000  # pixels of a JPEG times its scans, of which a progressive one has ten: about a second

# EXIF's orientation → the axes to turn around, and whether rows become columns then: what makes an image upright.
UPRIGHT: dict[int, tuple[tuple[int, ...], bool]] = {
    2: ((1,), False), 3: ((0, 1), False), 4: ((0,), False),
    5: ((), True), 6: ((0,), True), 7: ((0, 1), True), 8: ((1,), True),
}  # fmt: skip


class ImageSpec(Input):
    """How the bytes of an image become the rows that the graph takes: uint8 [height, width, channels], 0 to 255.

    The image is turned upright, laid over black where it is transparent, and converted to grey (1 channel) or RGB (3).
    `fit` "pad": it is scaled to fit with its aspect ratio kept, and padded with black. `fit` "crop": it is scaled until
    its short side has `short_side` pixels, and the centre is cut out. An image with a side under `min_side` pixels, or
    with more than `max_pixels` in all, is refused before its pixels are decoded. The graph computes
    `(x / 255 - mean) / std` for each channel, where they are given.
    """

    name: str = "images"
    kind: Literal["image"] = "image"
    height: Positive
    width: Positive
    channels: Literal[1, 3]
    mean: tuple[Fraction, ...] = ()
    std: tuple[PositiveFraction, ...] = ()
    fit: Literal["pad", "crop"] = "pad"
    short_side: Positive | None = None
    min_side: Positive = 8
    max_pixels: Positive = 25_000_000

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.mean) == len(self.std) or len(self.mean) not in (0, self.channels):
            raise ValueError(f"mean and std need one value for each of the {self.channels} channels")
        if (self.fit == "crop") != (self.short_side is not None):
            raise ValueError("short_side belongs to the fit crop, and to no other")
        if self.short_side is not None and self.short_side < max(self.height, self.width):
            raise ValueError("short_side must be at least height and width")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)


def read_image(body: bytes, spec: ImageSpec) -> Pixels:
    """An image → uint8 [h, w, spec.channels], upright. Raises BadInput."""
    with explained(body, spec):
        image = open_image(body, spec)
        pixels: Image.Image | Pixels = image
        if is_jpeg(image):
            if not _has_one_scan(image, body):
                check_scans(image, body)
            pixels = _decode_jpeg(image, body)
        else:
            image.load()
            if image.mode == "P" and image.palette is None:
                raise ValueError("it has no palette")
        axes, swapped = UPRIGHT.get(orientation(image), ((), False))
        turned = np.flip(_with_channels(pixels, spec.channels), axes)
        return turned.swapaxes(0, 1) if swapped else turned


@contextmanager
def explained(body: bytes, spec: ImageSpec) -> Iterator[None]:
    """What Pillow raises for an image becomes BadInput. It also warns, of the damaged EXIF that it leaves out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadInput:
        raise
    except Image.DecompressionBombError:
        raise BadInput(f"The image is too large. Send one of at most {spec.max_pixels:,} pixels.") from None
    except UnidentifiedImageError:
        if body.startswith(JPEG_START):
            raise bad_jpeg("its header can't be read") from None
        raise BadInput("The body is not a PNG, JPEG or WebP image. Send the file's bytes as they are.") from None
    except DAMAGED as error:
        raise BadInput(f"The image is damaged or incomplete ({error}). Send the whole file.") from None


def open_image(body: bytes, spec: ImageSpec) -> ImageFile:
    """Its header is read and its size checked; no pixel is decoded."""
    image = Image.open(BytesIO(body), formats=("PNG", "JPEG", "WEBP"))
    width, height = image.size
    size = f"The image is {width:,} × {height:,} pixels"
    if min(width, height) < spec.min_side:
        raise BadInput(f"{size}. Send one of at least {spec.min_side} × {spec.min_side}.")
    if width * height > spec.max_pixels:
        raise BadInput(f"{size}. Send one of at most {spec.max_pixels:,} pixels.")
    if getattr(image, "n_frames", 1) > 1 and not is_jpeg(image):  # it may carry a depth or gain map
        raise BadInput("The image is animated. Send one frame.")
    return image


def is_jpeg(image: ImageFile) -> bool:
    return image.format in ("JPEG", "MPO")  # MPO: a JPEG with further ones behind it


def _decode_jpeg(image: ImageFile, body: bytes) -> Image.Image | Pixels:
    """The same bits as Pillow, faster: both are libjpeg-turbo, and this one needs no copy.

    Where data is missing, both fill in grey. Pillow keeps that to itself when a marker follows; this one raises.
    """
    import simplejpeg  # not at the top: a client decodes nothing

    try:
        pixels: Pixels = simplejpeg.decode_jpeg(body, JPEG_MODES[image.mode])
    except ValueError as error:
        raise bad_jpeg(error) from None
    return Image.fromarray(255 - pixels, "CMYK") if image.mode == "CMYK" else pixels  # which is stored inverted


def check_scans(image: ImageFile, body: bytes) -> None:
    """Even an empty scan goes over the whole picture: a megabyte of them could be minutes of work. Raises BadInput."""
    most = MOST_SCANNED // (image.width * image.height)
    data = np.frombuffer(body, np.uint8)
    if np.count_nonzero((data[:-1] == START_OF_SCAN[0]) & (data[1:] == START_OF_SCAN[1])) <= most:
        return  # there are no more than these, and to count them takes less time
    scans = len(SCAN.findall(body))
    if scans > most:
        raise BadInput(f"The JPEG has {scans:,} scans. Save it anew, with ten at most.")


def _has_one_scan(image: ImageFile, body: bytes) -> bool:
    """Whether libjpeg takes no scan but the first, whose header Pillow has read, with all channels at full depth."""
    assert image.fp
    end = image.fp.tell()
    start, channels = body.rfind(START_OF_SCAN, 0, end), image.layers  # type: ignore[attr-defined]
    header = START_OF_SCAN + bytes([0, 6 + 2 * channels, channels])
    ends_here = start + len(START_OF_SCAN) + 6 + 2 * channels == end
    return "progressive" not in image.info and ends_here and body.startswith(header, start)


def bad_jpeg(why: object) -> BadInput:
    return BadInput(
        f"The image is damaged, incomplete or a JPEG of a rare kind ({why}). Send the whole file, or save it anew."
    )


def from_image(image: Image.Image, spec: ImageSpec) -> Pixels:
    """An upright image of any mode and size → uint8 [height, width, channels]. Raises BadInput as `fit` does."""
    return fit(_with_channels(image, spec.channels), spec)


def orientation(image: ImageFile) -> int:
    """EXIF's, one of `UPRIGHT`; 1, which is upright already, where it is none or can't be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED:
        return 1
    return int(found) if found in UPRIGHT else 1


def _with_channels(image: Image.Image | Pixels, channels: int) -> Pixels:
    """An image of any mode, or uint8 [h, w, 1 or 3] → uint8 [h, w, channels]."""
    if isinstance(image, np.ndarray):
        if image.shape[-1] == channels:
            return image
        image = Image.fromarray(image.squeeze(-1) if channels == 3 else image)
    plain = _opaque(image).convert("L" if channels == 1 else "RGB")
    return np.asarray(plain, dtype=np.uint8).reshape(*plain.size[::-1], channels)


def fit(pixels: Pixels, spec: ImageSpec) -> Pixels:
    """uint8 [h, w, channels] → uint8 [height, width, channels]. Raises BadInput for an image that is too narrow."""
    height, width = pixels.shape[:2]
    if spec.fit == "crop":  # the same bits as torchvision's `Resize(short_side, antialias=True)` and `CenterCrop`
        import torch  # not at the top: a client decodes nothing

        size, (top, left) = crop_of(height, width, spec)
        planes = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]  # [1, C, h, w]
        resized = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)[0]
        centre = resized[:, top : top + spec.height, left : left + spec.width].permute(1, 2, 0)
        return centre.contiguous().numpy()
    if min(height, width) * min(spec.width / width, spec.height / height) <= 0.5:
        raise _too_narrow(height, width)
    image = Image.fromarray(pixels.squeeze(-1) if spec.channels == 1 else pixels)
    fitted = ImageOps.pad(image, (spec.width, spec.height), Image.Resampling.BILINEAR, color="black")
    return np.asarray(fitted, dtype=np.uint8).reshape(spec.shape)


def crop_of(height: int, width: int, spec: ImageSpec) -> tuple[list[int], tuple[int, int]]:
    """An upright image's size once scaled, and its centre's top and left then. Raises BadInput for one too narrow."""
    assert spec.short_side
    short = min(height, width)
    if max(height, width) > MOST_OBLONG * short:
        raise _too_narrow(height, width)
    size = [spec.short_side * height // short, spec.short_side * width // short]
    return size, (round((size[0] - spec.height) / 2), round((size[1] - spec.width) / 2))


def _too_narrow(height: int, width: int) -> BadInput:
    return BadInput(f"The image is {width:,} × {height:,} pixels, which is too narrow. Crop it.")


def _opaque(image: Image.Image) -> Image.Image:
    """8 bits a channel, L or RGB, transparent parts laid over black."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion to L would clip at 255
        wide = np.asarray(image).astype(np.uint32)
        wide[wide == image.info.get("transparency", -1)] = 0
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")

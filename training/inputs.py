"""Raw bytes → the uint8 array that the graph takes. Nothing else in the project decodes an input.

The training data, the server and the verifier all come through here, so what is served is what was trained on.
"""

import re
import struct
import tokenize
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from training.contract import ImageInput

NPY = "application/x-npy"
FORMATS = ("PNG", "JPEG", "WEBP")
HEADER_LIMIT = 256  # characters; four dimensions take half of it, and the parser can't be led deep in so few
JPEG_START = b"\xff\xd8\xff"
JPEG_MODES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # as Pillow names them: what simplejpeg calls them
SCAN = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e]")  # the start of one, of 1 to 4 channels
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # what Pillow raises

MOST_OBLONG = 16  # long side over short side; what a crop would keep of more is next to nothing
MOST_SCANNED = 1_000_000_000  # pixels of a JPEG times its scans, of which a progressive one has ten: about a second

Pixels = NDArray[np.uint8]

# EXIF's orientation → what turns [height, width, …] upright.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


class BadInput(ValueError):
    """The request is at fault; the message says what to send instead."""


def decode(body: bytes, spec: ImageInput, content_type: str = "") -> Pixels:
    """The body of a request → uint8 [N, height, width, channels]: N = 1 for an image, the array's own N for npy.

    A body is read as npy when `content_type` says so, and as an image otherwise. Raises BadInput.
    """
    if not body:
        raise BadInput("The body is empty. Send the bytes of a PNG, JPEG or WebP image.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of the damaged EXIF that it leaves out
        if is_npy(content_type):
            return decode_npy(body, spec)
        return fit(read_image(body, spec), spec)[None]


def is_npy(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == NPY


def read_image(body: bytes, spec: ImageInput) -> Pixels:
    """An image → uint8 [h, w, spec.channels], upright, its size checked before its pixels are decoded.

    Raises BadInput.
    """
    try:
        image = Image.open(BytesIO(body), formats=FORMATS)
        _check_size(image, spec)
        pixels = _decode_jpeg(image, body) if _is_jpeg(image) else _load(image)
        return _turn(_with_channels(pixels, spec.channels), image)
    except BadInput:
        raise
    except Image.DecompressionBombError:
        raise BadInput(f"The image is too large. Send one of at most {spec.max_pixels:,} pixels.") from None
    except UnidentifiedImageError:
        if body.startswith(JPEG_START):
            raise _bad_jpeg("its header can't be read") from None
        raise BadInput("The body is not a PNG, JPEG or WebP image. Send the file's bytes as they are.") from None
    except DAMAGED as error:
        raise BadInput(f"The image is damaged or incomplete ({error}). Send the whole file.") from None


def _is_jpeg(image: ImageFile) -> bool:
    return image.format in ("JPEG", "MPO")  # MPO: a JPEG with further ones behind it


def _decode_jpeg(image: ImageFile, body: bytes) -> Image.Image | Pixels:
    """The same bits as Pillow, faster: both are libjpeg-turbo, and this one needs no copy.

    Where data is missing, both fill in grey. Pillow keeps that to itself when a marker follows; this one raises.
    """
    import simplejpeg  # not at the top: a client decodes nothing

    _check_scans(image, body)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(body, JPEG_MODES[image.mode])
    except ValueError as error:
        raise _bad_jpeg(error) from None
    return Image.fromarray(255 - pixels, "CMYK") if image.mode == "CMYK" else pixels  # which is stored inverted


def _check_scans(image: ImageFile, body: bytes) -> None:
    """Even an empty scan goes over the whole picture, so a megabyte of them could be minutes of work."""
    scans = len(SCAN.findall(body))
    if scans * image.width * image.height > MOST_SCANNED:
        raise BadInput(f"The JPEG has {scans:,} scans. Save it anew, with ten at most.")


def _bad_jpeg(why: object) -> BadInput:
    return BadInput(
        f"The image is damaged, incomplete or a JPEG of a rare kind ({why}). Send the whole file, or save it anew."
    )


def _load(image: ImageFile) -> Image.Image:
    image.load()
    if image.mode == "P" and image.palette is None:
        raise ValueError("it has no palette")
    return image


def _check_size(image: ImageFile, spec: ImageInput) -> None:
    width, height = image.size
    size = f"The image is {width:,} × {height:,} pixels"
    if min(width, height) < spec.min_side:
        raise BadInput(f"{size}. Send one of at least {spec.min_side} × {spec.min_side}.")
    if width * height > spec.max_pixels:
        raise BadInput(f"{size}. Send one of at most {spec.max_pixels:,} pixels.")
    if getattr(image, "n_frames", 1) > 1 and not _is_jpeg(image):  # it may carry a depth or gain map
        raise BadInput("The image is animated. Send one frame.")


def from_image(image: Image.Image, spec: ImageInput) -> Pixels:
    """An upright image of any mode and size → uint8 [height, width, channels], as `ImageInput` describes.

    Raises BadInput for an image so narrow that nothing of it would be left.
    """
    return fit(_with_channels(image, spec.channels), spec)


def _turn(pixels: Pixels, image: ImageFile) -> Pixels:
    """Turned upright as the image's EXIF says; where that can't be read, as they are."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED:
        return pixels
    return UPRIGHT[orientation](pixels) if orientation in UPRIGHT else pixels


def _with_channels(image: Image.Image | Pixels, channels: int) -> Pixels:
    """An image of any mode, or uint8 [h, w, 1 or 3] → uint8 [h, w, channels]."""
    if isinstance(image, np.ndarray):
        if image.shape[-1] == channels:
            return image
        image = Image.fromarray(image.squeeze(-1) if channels == 3 else image)
    plain = _opaque(image).convert("L" if channels == 1 else "RGB")
    return np.asarray(plain, dtype=np.uint8).reshape(*plain.size[::-1], channels)


def fit(pixels: Pixels, spec: ImageInput) -> Pixels:
    """uint8 [h, w, channels] → uint8 [height, width, channels]. Raises BadInput for an image that is too narrow."""
    return _crop(pixels, spec) if spec.fit == "crop" else _pad(pixels, spec)


def _pad(pixels: Pixels, spec: ImageInput) -> Pixels:
    height, width = pixels.shape[:2]
    if min(height, width) * min(spec.width / width, spec.height / height) <= 0.5:
        raise _too_narrow(pixels)
    image = Image.fromarray(pixels.squeeze(-1) if spec.channels == 1 else pixels)
    fitted = ImageOps.pad(image, (spec.width, spec.height), Image.Resampling.BILINEAR, color="black")
    return np.asarray(fitted, dtype=np.uint8).reshape(spec.shape)


def _crop(pixels: Pixels, spec: ImageInput) -> Pixels:
    """The same bits as torchvision's `Resize(short_side, antialias=True)` and `CenterCrop`."""
    import torch  # not at the top: a client decodes nothing

    assert spec.short_side
    height, width = pixels.shape[:2]
    if max(height, width) > MOST_OBLONG * min(height, width):
        raise _too_narrow(pixels)
    short = min(height, width)
    size = [spec.short_side * height // short, spec.short_side * width // short]
    planes = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]  # [1, C, h, w]
    resized = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)[0]
    top, left = round((size[0] - spec.height) / 2), round((size[1] - spec.width) / 2)
    centre = resized[:, top : top + spec.height, left : left + spec.width].permute(1, 2, 0)
    return centre.contiguous().numpy()


def _too_narrow(pixels: Pixels) -> BadInput:
    height, width = pixels.shape[:2]
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


def decode_npy(body: bytes, spec: ImageInput) -> Pixels:
    """An npy file → uint8 [N, height, width, channels], a view of `body`. Never unpickles. Raises BadInput."""
    wanted = f"Send uint8 of shape [N, {', '.join(map(str, spec.shape))}]"
    stream = BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise BadInput(f"The npy file has format version {version}. Save it with numpy.save, as version 1.0.")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream, HEADER_LIMIT)
    except BadInput:
        raise
    except (ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError):
        raise BadInput(f"The body is not a whole npy file. {wanted}, saved with numpy.save.") from None
    if dtype != np.uint8:
        raise BadInput(f"The npy array has dtype {dtype}. {wanted}.")
    if len(shape) != 4 or shape[1:] != spec.shape or shape[0] < 1:
        raise BadInput(f"The npy array has shape {list(shape)}. {wanted}, N at least 1.")
    pixels = np.frombuffer(body, np.uint8, offset=stream.tell())
    if pixels.size != np.prod(shape, dtype=object):
        raise BadInput(f"The npy file holds {pixels.size:,} values where its header says {list(shape)}. Send it whole.")
    return pixels.reshape(shape, order="F" if fortran_order else "C")

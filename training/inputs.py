"""Raw bytes → the uint8 array that the graph takes. Nothing else in the project decodes an input.

The training data, the server and the verifier all come through here, so what is served is what was trained on.
"""

import struct
import tokenize
import warnings
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from training.contract import ImageInput

NPY = "application/x-npy"
FORMATS = ("PNG", "JPEG", "WEBP")
HEADER_LIMIT = 256  # characters; four dimensions take half of it, and the parser can't be led deep in so few
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # what Pillow raises

# EXIF's orientation → what turns the image upright. Pillow's own exif_transpose also writes the EXIF anew, and fails
# where that is damaged.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pixels = NDArray[np.uint8]


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
        return from_image(open_image(body, spec), spec)[None]


def is_npy(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == NPY


def open_image(body: bytes, spec: ImageInput) -> Image.Image:
    """An image, upright, with its pixels decoded and its size checked before that. Raises BadInput."""
    try:
        image = Image.open(BytesIO(body), formats=FORMATS)
        _check_size(image, spec)
        image.load()
        if image.mode == "P" and image.palette is None:
            raise ValueError("it has no palette")
        return _upright(image)
    except BadInput:
        raise
    except Image.DecompressionBombError:
        raise BadInput(f"The image is too large. Send one of at most {spec.max_pixels:,} pixels.") from None
    except UnidentifiedImageError:
        raise BadInput("The body is not a PNG, JPEG or WebP image. Send the file's bytes as they are.") from None
    except DAMAGED as error:
        raise BadInput(f"The image is damaged or incomplete ({error}). Send the whole file.") from None


def _check_size(image: Image.Image, spec: ImageInput) -> None:
    width, height = image.size
    size = f"The image is {width:,} × {height:,} pixels"
    if min(width, height) < spec.min_side:
        raise BadInput(f"{size}. Send one of at least {spec.min_side} × {spec.min_side}.")
    if width * height > spec.max_pixels:
        raise BadInput(f"{size}. Send one of at most {spec.max_pixels:,} pixels.")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a JPEG that carries a depth or gain map
        raise BadInput("The image is animated. Send one frame.")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says; where that can't be read, as it is."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGED:
        return image
    return image if turn is None else image.transpose(turn)


def from_image(image: Image.Image, spec: ImageInput) -> Pixels:
    """An upright image of any mode and size → uint8 [height, width, channels], as `ImageInput` describes.

    Raises BadInput for an image so narrow that nothing of it would be left.
    """
    scale = min(spec.width / image.width, spec.height / image.height)
    if min(image.size) * scale <= 0.5:
        raise BadInput(f"The image is {image.width:,} × {image.height:,} pixels, which is too narrow. Crop it.")
    plain = _opaque(image).convert("L" if spec.channels == 1 else "RGB")
    fitted = ImageOps.pad(plain, (spec.width, spec.height), Image.Resampling.BILINEAR, color="black")
    return np.asarray(fitted, dtype=np.uint8).reshape(spec.shape)


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

"""The input function for many JPEGs at once on an NVIDIA GPU: nvJPEG decodes, two matrix products scale and crop.

Scaling gives the very bits of `inputs.fit`. Decoding does not: nvJPEG interpolates colour in another way than
libjpeg-turbo, by some steps of 255. So it is a choice of its own, attested with each answer, and has a row of its own
in `export/tolerances.toml`.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from PIL.ImageFile import ImageFile
from torch import Tensor

from training.contract import ImageInput
from training.decoded import BadInput, Decoded, OutOfMemory
from training.inputs import START_OF_SCAN, UPRIGHT, bad_jpeg, crop_of, explained, is_jpeg, open_image, orientation

END = b"\xff\xd9"
TOGETHER = 64_000_000  # pixels that are scaled at once, which takes some 20 bytes for each

KNOWN_SIZES = 128  # whose weights are kept
INT16 = 1 << 15
MOST_BITS = 22
FLOAT32_BITS = 16  # of the weights' fractions: sums of that many times 255 are whole numbers within float32's 24


def decode_jpegs(bodies: Sequence[bytes], spec: ImageInput, device: str) -> list[Decoded | BadInput | None]:
    """JPEGs → for each uint8 [1, height, width, 3] on `device`, or what is wrong with it.

    None for what is not for nvJPEG: other formats, and other colours than grey and YCbCr. Raises OutOfMemory.
    """
    try:
        examined = [_examine(body, spec) for body in bodies]
        jpegs = [index for index, turn in enumerate(examined) if isinstance(turn, int)]
        found: list[Decoded | BadInput | None] = [None if isinstance(turn, int) else turn for turn in examined]
        upright: dict[int, Tensor] = {}
        for index, image in zip(jpegs, _nvjpeg([bodies[index] for index in jpegs], device), strict=True):
            if isinstance(image, BadInput):
                found[index] = image
            else:
                upright[index] = _turn(image, examined[index])
        for index, pixels in _fit_all(upright, spec).items():
            found[index] = Decoded(pixels[None], "nvjpeg")
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(str(error)) from None
    return found


def _examine(body: bytes, spec: ImageInput) -> int | BadInput | None:
    """A JPEG's orientation; what is wrong with the image; None where it is not for nvJPEG."""
    try:
        with explained(body, spec):
            image = open_image(body, spec)
            if not _suits(image):
                return None
            crop_of(image.height, image.width, spec)
            end = body.rfind(END)
            if end < 0 or body.find(START_OF_SCAN, end) >= 0:
                raise bad_jpeg("its end is missing")
            return orientation(image)
    except BadInput as error:
        return error


def _suits(image: ImageFile) -> bool:
    """Whether its colours are grey or YCbCr beyond doubt, by the marks that libjpeg goes by."""
    if not is_jpeg(image) or image.mode not in ("L", "RGB"):
        return False
    transform = image.info.get("adobe_transform")
    marked = "jfif" in image.info or transform == 1 or [layer[0] for layer in image.layer] == [1, 2, 3]  # type: ignore[attr-defined]
    return image.mode == "L" or (marked and transform in (1, None))


def _nvjpeg(bodies: Sequence[bytes], device: str) -> list[Tensor | BadInput]:
    """Each uint8 [3, h, w]. It fails for all at once, so halves are tried until it is known for which."""
    if not bodies:
        return []
    try:
        return [*_decode(bodies, device)]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if len(bodies) == 1:
            return [bad_jpeg(f"nvJPEG says {str(error).splitlines()[0]}")]
    half = len(bodies) // 2
    return _nvjpeg(bodies[:half], device) + _nvjpeg(bodies[half:], device)


def _decode(bodies: Sequence[bytes], device: str) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg  # not at the top: it takes a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # in favour of torchcodec, which has no nvJPEG
        encoded = [torch.frombuffer(bytearray(body), dtype=torch.uint8) for body in bodies]
        images: list[Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    return images


def _turn(image: Tensor, orientation: object) -> Tensor:
    """[3, h, w], upright."""
    axes, swapped = UPRIGHT.get(orientation, ((), False))  # type: ignore[call-overload]
    turned = image.flip([axis + 1 for axis in axes]) if axes else image
    return turned.mT if swapped else turned


def _fit_all(images: dict[int, Tensor], spec: ImageInput) -> dict[int, Tensor]:
    """Those of one size together."""
    sizes: dict[torch.Size, list[int]] = {}
    for index, image in images.items():
        sizes.setdefault(image.shape, []).append(index)
    found: dict[int, Tensor] = {}
    for (_, height, width), indices in sizes.items():
        most = max(1, TOGETHER // (height * width))
        for part in (indices[start : start + most] for start in range(0, len(indices), most)):
            found |= dict(zip(part, fit(torch.stack([images[index] for index in part]), spec), strict=True))
    return found


def fit(images: Tensor, spec: ImageInput) -> Tensor:
    """uint8 [N, 3, h, w] → uint8 [N, height, width, 3], as `inputs.fit` with "crop" does it, to the bit.

    Like torch's own antialiased scaling, it goes along the rows first and rounds to bytes in between.
    """
    size, (top, left) = crop_of(images.shape[2], images.shape[3], spec)
    columns = weights(images.shape[3], size[1], left, spec.width, images.device).mT  # [w, width]
    rows = weights(images.shape[2], size[0], top, spec.height, images.device)  # [height, h]
    narrow = _rounded(images.to(columns.dtype) @ columns).flatten(0, 1)  # [N * 3, h, width]
    scaled = _rounded(rows.expand(len(narrow), -1, -1) @ narrow.to(rows.dtype))  # [N * 3, height, width]
    planes = scaled.to(torch.uint8).view(len(images), 3, spec.height, spec.width)
    return planes.permute(0, 2, 3, 1).contiguous()


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(KNOWN_SIZES)
def weights(size: int, scaled: int, start: int, length: int, device: torch.device) -> Tensor:
    """[length, size]: what each of `size` pixels in a line adds to each of `length`, from `start` on, of `scaled`.

    A triangle as wide as the scale. As in torch's antialiased scaling of bytes (`UpSampleKernel.cpp`) each weight is a
    whole number over a power of two, so large that the largest fits into 16 bits; every sum of them is exact here too.
    """
    scale = size / scaled
    support = max(scale, 1.0)
    centres = scale * (torch.arange(scaled, dtype=torch.float64) + 0.5)[:, None]  # [scaled, 1]
    pixels = torch.arange(size)[None]  # [1, size]
    first = (centres - support + 0.5).long().clamp(min=0)
    behind = (centres + support + 0.5).long().clamp(max=size)
    shares = (1 - ((pixels - centres + 0.5) * (1 / support)).abs()).clamp(min=0)
    shares = torch.where((pixels >= first) & (pixels < behind), shares, 0.0)
    shares /= shares.sum(1, keepdim=True)
    largest = shares.max().item()
    bits = next((bits for bits in range(MOST_BITS) if int(0.5 + largest * 2 ** (bits + 1)) >= INT16), MOST_BITS)
    whole = (0.5 + shares * 2.0**bits).floor() / 2.0**bits
    exact = torch.float32 if bits <= FLOAT32_BITS else torch.float64
    return whole[start : start + length].to(device, exact)

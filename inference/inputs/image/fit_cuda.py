"""`decode.fit` on an NVIDIA GPU, to the bit: two matrix products scale and crop many pictures of one size at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inference.inputs.image.decode import ImageSpec, crop_of

KEPT_SIDE, KEPT = 1024, 256  # the weights of so many lines are kept, of those that are no longer: 0.9 MB each at most
MULTIPLE = 8  # matrix products are fast with a multiple of so many columns
INT16 = 1 << 15
MOST_BITS = 22
FLOAT32_BITS = 16  # of the weights' fractions: sums of that many times 255 are whole numbers within float32's 24
COARSE = 256  # float16 holds whole numbers below this, and bytes


@dataclass(frozen=True)
class Line:
    """How a line is scaled: what each pixel adds to each wanted one is (256 · coarse + fine) / 2 ** bits."""

    pixels: slice  # that count, and up to `MULTIPLE` more
    coarse: Tensor  # float16 [wanted, pixels], as is the other
    fine: Tensor
    bits: int


def fit(images: Sequence[Tensor], spec: ImageSpec) -> Tensor:
    """Each uint8 [3, h, w] of one size → uint8 [N, height, width, 3]: rows first, then rounded, as torch scales too."""
    device, (height, width) = images[0].device, images[0].shape[1:]
    size, (top, left) = crop_of(height, width, spec)
    rows = line(height, size[0], top, spec.height, device)
    columns = line(width, size[1], left, spec.width, device)
    used = torch.stack([image[:, rows.pixels, columns.pixels] for image in images]).flatten(0, 1)
    narrow = _along(columns, used.mT)  # [N * 3, width, used rows]
    planes = _along(rows, narrow.mT).view(len(images), 3, spec.height, spec.width)
    return planes.permute(0, 2, 3, 1).contiguous()


def _along(axis: Line, pixels: Tensor) -> Tensor:
    """uint8 [B, used, m] → uint8 [B, wanted, m]. Every sum is exact, in whatever order; the cast cuts its fraction off.

    A GPU multiplies float16 several times as fast as float32, and adds up in float32. On a CPU torch can't do that, and
    float32 takes its place.
    """
    unit = 2.0**-axis.bits
    if axis.bits > FLOAT32_BITS:
        weights = COARSE * axis.coarse.double() + axis.fine.double()
        sums = torch.bmm(weights.expand(len(pixels), -1, -1), pixels.double()).mul_(unit)
    else:
        kind = torch.float16 if pixels.is_cuda else torch.float32
        wide: dict[str, Any] = {"out_dtype": torch.float32} if pixels.is_cuda else {}
        coarse, fine = (part.to(kind).expand(len(pixels), -1, -1) for part in (axis.coarse, axis.fine))
        right = pixels.to(kind)
        sums = torch.bmm(fine, right, **wide)
        sums = torch.baddbmm(sums, coarse, right, beta=unit, alpha=COARSE * unit, **wide)
    return sums.add_(0.5).to(torch.uint8)


def line(size: int, scaled: int, start: int, length: int, device: torch.device) -> Line:
    """A line of `size` pixels is scaled to `scaled`, of which `length` are wanted, from `start` on.

    A triangle as wide as the scale. As in torch's antialiased scaling of bytes (`UpSampleKernel.cpp`) each weight is a
    whole number over a power of two, so large that the largest fits into 16 bits. They are never negative and add up to
    1 within what rounding them leaves, so every sum is exact here too, and rounds to a byte.
    """
    return (_kept if size <= KEPT_SIDE else _made)(size, scaled, start, length, device)


def _made(size: int, scaled: int, start: int, length: int, device: torch.device) -> Line:
    scale = size / scaled
    support = max(scale, 1.0)
    centres = scale * (torch.arange(scaled, dtype=torch.float64) + 0.5)[:, None]  # [scaled, 1]
    first = (centres - support + 0.5).long().clamp(min=0)
    behind = (centres + support + 0.5).long().clamp(max=size)
    pixels = first + torch.arange(2 * math.ceil(support) + 1)[None]  # [scaled, taps]
    shares = (1 - ((pixels - centres + 0.5) * (1 / support)).abs()).clamp(min=0)
    shares = torch.where(pixels < behind, shares, 0.0)
    shares /= shares.sum(1, keepdim=True)
    largest = shares.max().item()
    bits = next((bits for bits in range(MOST_BITS) if int(0.5 + largest * 2 ** (bits + 1)) >= INT16), MOST_BITS)
    wanted = slice(start, start + length)
    whole = (0.5 + shares[wanted] * 2.0**bits).floor()
    weights = torch.zeros(length, size, dtype=torch.float64).scatter_add_(1, pixels[wanted].clamp(max=size - 1), whole)
    # The pixels that count, and as many more as make a multiple of `MULTIPLE`, where there are so many.
    least = int(first[start])
    most = min(size, math.ceil((int(behind[start + length - 1]) - least) / MULTIPLE) * MULTIPLE)
    least = min(least, size - most)
    used = slice(least, least + most)
    coarse, fine = (part[:, used].to(device, torch.float16) for part in (weights // COARSE, weights % COARSE))
    return Line(used, coarse, fine, bits)


_kept = lru_cache(KEPT)(_made)

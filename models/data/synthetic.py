"""Synthetic photographs: JPEG files of ten classes that are told apart by texture and shape, drawn by formulas.

Each picture is an object covered with its class's pattern before a cloudy background, lit from one side, partly
occluded, a little out of focus. The files differ as photographs do: 200 to 1,500 pixels, both orientations, some turned
by EXIF, some grey. Picture `index` of a label in a split is the same bytes at every call.
"""

import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFilter

from inference.tools.files import publish_text, sha256

Plane = NDArray[Any]  # float32
Rng = np.random.Generator

COUNTS = {"train": 60, "val": 4, "test": 20}  # pictures of each label
WORK_SIDE = 256  # pixels that the short side is drawn at, before it is scaled to its final size
SIDES = (200, 1500)
RAMP = 28  # pixels that a blind takes from its first colour to its second
GREY, TURNED = 0.08, 0.12  # shares of the pictures
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # undone by EXIF


def _cell(x: Plane) -> Plane:
    """The place within a cell of side 1, -0.5 to 0.5."""
    return np.asarray(x - np.floor(x) - 0.5)


def _bricks(u: Plane, v: Plane) -> Plane:
    row = np.floor(2 * v)
    return np.asarray(np.minimum(0.5 - abs(_cell(2 * v)), 2 * (0.5 - abs(_cell(u + row / 2)))) - 0.13)


def _plaid(u: Plane, v: Plane) -> Plane:
    """Above 0 where two bands cross, 0 in one band, and below 0 in none."""
    return np.asarray((np.sign(0.25 - abs(_cell(u))) + np.sign(0.25 - abs(_cell(v)))) / 2)


def _crosses(u: Plane, v: Plane) -> Plane:
    x, y = abs(_cell(u)), abs(_cell(v))
    return np.asarray(np.minimum(0.42 - np.maximum(x, y), 0.13 - np.minimum(x, y)))


# (u, v), measured in cells of the pattern → above 0 where the pattern has its first colour.
PATTERNS: dict[str, Callable[[Plane, Plane], Plane]] = {
    "blinds": lambda u, v: _cell(u) / RAMP,  # noqa: ARG005
    "bricks": _bricks,
    "checks": lambda u, v: 0.5 * np.sin(2 * math.pi * u) * np.sin(2 * math.pi * v),
    "crosses": _crosses,
    "dots": lambda u, v: 0.3 - np.hypot(_cell(u), _cell(v)),
    "grid": lambda u, v: 0.09 - np.minimum(abs(_cell(u)), abs(_cell(v))),
    "plaid": _plaid,
    "rings": lambda u, v: 0.08 - abs(np.hypot(_cell(u), _cell(v)) - 0.34),
    "stripes": lambda u, v: 0.25 - abs(_cell(u)),  # noqa: ARG005
    "waves": lambda u, v: 0.25 - abs(_cell(u + 0.3 * np.sin(2 * math.pi * 0.7 * v))),
}
LABELS = tuple(PATTERNS)


def write(folder: Path) -> Path:
    """Writes the whole set as `folder`/split/label/index.jpg, unless it is there; gives the folder back."""
    version = folder / "version.txt"  # of this module; written last
    if version.is_file() and version.read_text() == sha256(Path(__file__)):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    places = [(split, label, index) for split in COUNTS for label in LABELS for index in range(COUNTS[split])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda place: _write_one(folder, *place), places))
    publish_text(version, sha256(Path(__file__)))
    return folder


def _write_one(folder: Path, split: str, label: str, index: int) -> None:
    """A picture out of focus, in its final size, perhaps grey, perhaps turned by EXIF."""
    path = folder / split / label / f"{index:03d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((list(COUNTS).index(split), LABELS.index(label), index))
    image = draw(label, rng).filter(ImageFilter.BoxBlur(rng.uniform(0, 1)))
    longest = np.exp(rng.uniform(np.log(SIDES[0] * 1.5), np.log(SIDES[1])))  # as many of each order of size
    scale = longest / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    if rng.random() < GREY:
        image = image.convert("L")
    exif = Image.Exif()
    if rng.random() < TURNED:
        orientation = int(rng.choice(list(TURNS)))
        image, exif[ExifTags.Base.Orientation] = image.transpose(TURNS[orientation]), orientation
    image.save(path, quality=int(rng.integers(75, 96)), exif=exif)


def draw(label: str, rng: Rng) -> Image.Image:
    """A picture of a label, its short side `WORK_SIDE` pixels."""
    oblong = round(WORK_SIDE * rng.uniform(1, 1.5))
    height, width = (WORK_SIDE, oblong) if rng.random() < 0.5 else (oblong, WORK_SIDE)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x - width / 2) / WORK_SIDE, (y - height / 2) / WORK_SIDE  # 0 in the middle, ±0.5 at the short sides
    background = _clouds(height, width, rng)[..., None] * _colour(rng, 0.03, 0.15) + _colour(rng)
    object_ = _object(label, x, y, rng)
    inside = _blob(x, y, rng.uniform(0.5, 0.75), rng.uniform(-0.08, 0.08, 2), rng)
    picture = background + inside * (object_ - background)
    for _ in range(rng.integers(0, 3)):
        occluded = _blob(x, y, rng.uniform(0.04, 0.1), rng.uniform(-0.4, 0.4, 2), rng)
        picture += occluded * (_colour(rng) - picture)
    picture *= _light(x, y, rng)
    picture += rng.uniform(0, 0.03) * rng.standard_normal((height, width, 1), np.float32)
    return Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))


def _object(label: str, x: Plane, y: Plane, rng: Rng) -> Plane:
    """The pattern of a label in two colours, turned, scaled and bent, [height, width, 3]."""
    angle, cells, bend = rng.uniform(-0.6, 0.6), rng.uniform(7, 12), rng.uniform(0, 0.03)
    u = (x * math.cos(angle) - y * math.sin(angle) + bend * np.sin(6 * y)) * cells + rng.random()
    v = (x * math.sin(angle) + y * math.cos(angle) + bend * np.sin(6 * x)) * cells + rng.random()
    edge = WORK_SIDE / cells  # pixels of a cell: the pattern's edge is one pixel wide
    shape = (PATTERNS[label](u, v) * edge + 0.5).clip(0, 1)[..., None]
    one = _colour(rng)
    other = one + rng.choice([-1, 1]).item() * rng.uniform(0.35, 0.7) + _colour(rng, -0.15, 0.15)
    if not 0 <= other.mean() <= 1:
        other = 2 * one - other
    return np.asarray(other + shape * (one - other))


def _blob(x: Plane, y: Plane, radius: float, centre: NDArray[np.float64], rng: Rng) -> Plane:
    """1 inside of a wavy outline and 0 outside, [height, width, 1]."""
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    angle = np.arctan2(dy, dx)
    waves = sum(rng.uniform(0, 0.25 / k) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(2, 5))
    return np.asarray(((radius * (1 + waves) - np.hypot(dx, dy)) * WORK_SIDE / 2).clip(0, 1))[..., None]


def _clouds(height: int, width: int, rng: Rng) -> Plane:
    """1/f noise, as in photographs of nature, of mean 0 and standard deviation 1, [height, width]."""
    side = 64
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / frequency)
    small = Image.fromarray((noise / noise.std()).astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _light(x: Plane, y: Plane, rng: Rng) -> Plane:
    """Light from one side, darker towards the corners, [height, width, 1]."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.5)
    side = 1 + strength * (x * math.cos(angle) + y * math.sin(angle))
    return np.asarray(rng.uniform(0.75, 1.1) * side * (1 - rng.uniform(0, 0.5) * (x * x + y * y)))[..., None]


def _colour(rng: Rng, low: float = 0.1, high: float = 0.9) -> Plane:
    """One value for each channel, [3]."""
    return rng.uniform(low, high, 3).astype(np.float32)

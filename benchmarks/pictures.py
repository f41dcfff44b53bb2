"""The pictures that the benchmarks send: noise whose spectrum falls as a photograph's does, so that it compresses like
one. The same at every run; they are kept in a folder. `python -m benchmarks.pictures` makes them beforehand.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.venvs import scratch
from inference.tools.files import publish

QUALITY = 90


def pictures(folder: Path, count: int = 64, width: int = 500, height: int = 375) -> list[Path]:
    """JPEGs, made where they are missing; 500 × 375 take about 77 kB each."""
    paths = [folder / f"{width}x{height}-{index}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        if not path.exists():
            with publish(path) as draft:
                _picture(np.random.default_rng((width, height, index)), width, height).save(draft, quality=QUALITY)
    return paths


def _picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Amplitudes that fall with the 1.1th power of the frequency; three channels that have much in common."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / width) ** 1.1
    phases = rng.random((3, *amplitude.shape))
    planes = np.fft.irfft2(amplitude * np.exp(2j * np.pi * phases), s=(height, width))  # [3, H, W]
    mixed = planes * 0.35 + planes[:1]
    scaled = (mixed - mixed.min()) / (mixed.max() - mixed.min()) * 255
    return Image.fromarray(np.moveaxis(scaled, 0, -1).astype(np.uint8))


if __name__ == "__main__":
    pictures(scratch() / "pictures")

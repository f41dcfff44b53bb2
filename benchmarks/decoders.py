"""What decodes a JPEG, how fast, and how far from Pillow: `python -m benchmarks.decoders`.

The evidence for the choice in `inference/inputs/image/decode.py`. It is run in an environment that has torchcodec
beside what this project installs.
"""

import json
import subprocess
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from benchmarks.pictures import pictures
from benchmarks.venvs import python, scratch
from inference.inputs.image import Pixels
from inference.tools.commands import run
from inference.tools.files import publish
from inference.tools.versions import environment, versions

SIZES = {"500 × 375": (500, 375, 16), "1280 × 960": (1280, 960, 6), "3000 × 2250": (3000, 2250, 2)}
PACKAGES = ("pillow", "simplejpeg", "torchvision", "torchcodec")
SHORT_SIDE = 256
RESULTS = Path(__file__).with_name("results")

Decoder = Callable[[bytes], Pixels]


def decoders() -> dict[str, Decoder]:
    """Each makes uint8 [H, W, 3] of a JPEG's bytes."""
    return {
        "Pillow": pillow,
        "Pillow, draft (scaled while it decodes)": draft,
        "simplejpeg": simplejpeg,
        "simplejpeg, fastdct and fastupsample": simplejpeg_fast,
        "torchvision": torchvision,
        "torchcodec": torchcodec,
    }


def pillow(body: bytes) -> Pixels:
    return np.asarray(Image.open(BytesIO(body)).convert("RGB"))


def draft(body: bytes) -> Pixels:
    """libjpeg's own scaling by 1/2, 1/4 or 1/8, as long as the short side stays at least 256."""
    image = Image.open(BytesIO(body))
    image.draft("RGB", (SHORT_SIDE, SHORT_SIDE))
    return np.asarray(image.convert("RGB"))


def simplejpeg(body: bytes) -> Pixels:
    from simplejpeg import decode_jpeg

    pixels: Pixels = decode_jpeg(body)
    return pixels


def simplejpeg_fast(body: bytes) -> Pixels:
    from simplejpeg import decode_jpeg

    pixels: Pixels = decode_jpeg(body, fastdct=True, fastupsample=True)
    return pixels


def torchvision(body: bytes) -> Pixels:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated upstream: the reason why it isn't used
        pixels: Pixels = decode_jpeg(_tensor(torch, body), mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return pixels


def torchcodec(body: bytes) -> Pixels:
    import torch
    from torchcodec.decoders import decode_image  # type: ignore[import-not-found]  # in an environment of its own

    pixels: Pixels = decode_image(_tensor(torch, body)).permute(1, 2, 0).numpy()
    return pixels


def _tensor(torch: Any, body: bytes) -> Any:
    return torch.from_numpy(np.frombuffer(bytearray(body), np.uint8))


def milliseconds(decode: Decoder, bodies: list[bytes], seconds: float) -> float:
    """The median over as many pictures as come in that time, each at least once."""
    taken, end, turn = [], time.perf_counter() + seconds, 0
    while turn < len(bodies) or time.perf_counter() < end:
        start = time.perf_counter()
        decode(bodies[turn % len(bodies)])
        taken.append(time.perf_counter() - start)
        turn += 1
    return float(np.median(taken)) * 1e3


def difference(decode: Decoder, body: bytes) -> str:
    """The largest one of a pixel's value, of 255; or that the pixels are not as many."""
    ours, reference = decode(body).astype(np.int16), pillow(body).astype(np.int16)
    if ours.shape != reference.shape:
        return f"{ours.shape[1]} × {ours.shape[0]} pixels"
    return str(int(np.abs(ours - reference).max()))


def measure(seconds: float) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    shots = {
        size: [path.read_bytes() for path in pictures(scratch() / "pictures", count, width, height)]
        for size, (width, height, count) in SIZES.items()
    }
    rows = []
    for name, decode in decoders().items():
        ms = {size: milliseconds(decode, bodies, seconds) for size, bodies in shots.items()}
        differences = {size: difference(decode, bodies[0]) for size, bodies in shots.items()}
        rows.append({"decoder": name, "ms": ms, "differences": differences})
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "date": when,
        "environment": environment(),
        "versions": versions(PACKAGES),
        "sizes": list(SIZES),
        "rows": rows,
    }


def main(
    seconds: Annotated[float, typer.Option(min=0, help="For each decoder and size.")] = 1.0,
    results: Annotated[Path, typer.Option(help="Where to write.")] = RESULTS,
    here: Annotated[bool, typer.Option("--here", hidden=True)] = False,
) -> None:
    """Measure the JPEG decoders."""
    if here:
        print(json.dumps(measure(seconds), indent=1))
        return
    command = [str(python("decoders")), "-m", "benchmarks.decoders", "--here", "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    with publish(results / "decoders.json") as draft_path:
        draft_path.write_text(done.stdout)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    run(app)

"""How far each runtime on another device is from eager on the CPU: `python -m benchmarks.devices digits cuda:0`.

Prints what the rows of `inference/tolerances.toml` are made of.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from export.pipeline import answer
from export.trained import load_trained
from inference import parity
from inference.goldens import Goldens
from inference.inputs import CPU, Decoded
from inference.inputs.image import NVJPEG_OR_CPU, Pixels
from inference.outputs import Outputs
from inference.predictor import decode_all
from inference.runtime import Loaded, as_array, load_artifact, runtime_module, runtime_names
from inference.tools.commands import run
from models import make_network

UNLIMITED = parity.Tolerance(float("inf"), 0, 0, "only measured")
BATCH = 32


def runtimes(folder: Path, device: str) -> Iterator[tuple[str, Loaded]]:
    """Every artifact in `folder`, loaded on the device; why another isn't there is printed."""
    for name in runtime_names():
        module = runtime_module(name)
        if not (folder / module.ARTIFACT).exists():
            print(f"{name:16} {module.ARTIFACT} was not exported")
            continue
        try:
            yield name, load_artifact(name, folder / module.ARTIFACT, device, 1, make_network)
        except ValueError as error:
            print(f"{name:16} {error}")


def measure(name: str, loaded: Loaded, goldens: Goldens, pixels: Pixels, expected: Outputs) -> None:
    """The goldens at every batch size, and the held-out inputs, to which eager on the CPU answers `expected`."""
    sizes = parity.batch_sizes(loaded.contract.max_batch)
    compared = [parity.compare(parity.run_goldens(loaded, goldens, size), goldens, UNLIMITED) for size in sizes]
    worst, tf32 = parity.worst_of(compared), "on" if loaded.tf32 else "off"
    answered = _answers(loaded, pixels)
    flips = int((expected.argmax(axis=1) != answered.argmax(axis=1)).sum())
    print(
        f"{name:16} {loaded.provider} on {loaded.device}, {loaded.precision}, TF32 {tf32}: {worst.compared} answers, "
        f"largest difference {worst.max_abs:.2g}, error ratio {worst.error_ratio:.2g}, {len(worst.flips)} flips; "
        f"{len(pixels)} held-out inputs, {np.abs(expected - answered).max():.2g}, {flips} flips"
    )


def decoding(loaded: Loaded, files: Sequence[Path], device: str) -> None:
    """The same pictures decoded by the CPU and by nvJPEG, and answered by the same runtime."""
    bodies = [(path.read_bytes(), "") for path in files]
    spec = loaded.contract.input
    on_cpu, on_gpu = (partial(decode_all, spec, spec.decoder(name, device)) for name in (CPU, NVJPEG_OR_CPU))
    by_cpu, by_gpu, counts = [], [], {"cpu": 0, "nvjpeg": 0}
    for rows in parity.batches(BATCH, len(bodies)):
        for one, other in zip(on_cpu(bodies[rows]), on_gpu(bodies[rows]), strict=True):
            if isinstance(one, Decoded) and isinstance(other, Decoded):
                by_cpu.append(as_array(one.rows))
                by_gpu.append(as_array(other.rows))
                counts[other.decoder] += 1
    by_turbo, by_nvjpeg = np.concatenate(by_cpu), np.concatenate(by_gpu)
    steps = np.abs(by_turbo.astype(np.int16) - by_nvjpeg)
    expected, answered = _answers(loaded, by_turbo), _answers(loaded, by_nvjpeg)
    second, first = np.sort(expected, axis=1)[:, -2:].T
    flipped = np.flatnonzero(expected.argmax(axis=1) != answered.argmax(axis=1))
    margins = [round(float(margin), 4) for margin in (first - second)[flipped]]
    print(
        f"nvJPEG beside the CPU: {counts['nvjpeg']} of {len(files)} pictures by nvJPEG; pixels {steps.max()} steps "
        f"apart at most, {steps.mean():.3f} on the average; logits {np.abs(expected - answered).max():.3g} apart at "
        f"most, {len(flipped)} decided otherwise, whose margins were {margins}"
    )


def _answers(loaded: Loaded, pixels: Pixels) -> Outputs:
    return np.concatenate([loaded(pixels[rows]) for rows in parity.batches(BATCH, len(pixels))])


def main(
    model: Annotated[str, typer.Argument(help="A model that was trained and exported.")],
    device: Annotated[str, typer.Argument(help="Such as cpu or cuda:0.")],
    files: Annotated[list[Path] | None, typer.Argument(help="JPEGs for nvJPEG to decode.")] = None,
) -> None:
    """Compare every exported runtime on DEVICE with eager on the CPU, and nvJPEG with the CPU's decoder."""
    trained = load_trained(model, Path("artifacts"))
    folder, pixels = trained.path.parent, trained.data.held_out.inputs
    goldens, expected = Goldens.read(folder / "goldens.npz"), answer(trained.network, pixels)
    for name, loaded in runtimes(folder, device):
        measure(name, loaded, goldens, pixels, expected)
        if name == "eager" and files:
            decoding(loaded, files, device)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    run(app)

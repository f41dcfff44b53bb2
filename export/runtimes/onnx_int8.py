"""ONNX in int8: the graph's convolutions and matrix products over bytes, their ranges found on a few held-in images."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.runtime import Loaded
from export.runtimes import onnx
from training.decoded import Pixels

if TYPE_CHECKING:
    from export.trained import Trained

ARTIFACT = "model-int8.onnx"
PRECISION = "int8"
CALIBRATION = 128  # images that the ranges are taken from
BATCH = 8

missing = onnx.missing


def export(trained: "Trained", path: Path, device: str) -> None:
    """Activations become uint8 and weights int8, each output channel with its own scale.

    That is what a CPU's byte instructions (VNNI) take; with signed activations ONNX Runtime is 2.4 times slower. Where
    a CPU has no such instructions, sums of 16 bits overflow: the worker's goldens find that out.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch:
        float32, folded = Path(scratch, "float32.onnx"), Path(scratch, "folded.onnx")
        onnx.export(trained, float32, device)
        quant_pre_process(float32, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            path,
            _Calibration(calibration_images(trained)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    _describe(path, trained.metadata)


def load(path: Path, device: str, threads: int) -> Loaded:
    return replace(onnx.load(path, device, threads), precision=PRECISION)


def calibration_images(trained: "Trained") -> Pixels:
    """uint8 [CALIBRATION, *input.shape] from all over the validation split: none that the accuracy is measured on."""
    images = trained.data.validation.images
    chosen: Pixels = images[np.linspace(0, len(images) - 1, min(CALIBRATION, len(images))).astype(int)]
    return chosen


class _Calibration:
    """What ONNX Runtime's quantiser reads its images from."""

    def __init__(self, images: Pixels) -> None:
        self._batches: Iterator[Pixels] = (images[start : start + BATCH] for start in range(0, len(images), BATCH))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _describe(path: Path, metadata: dict[str, str]) -> None:
    import onnx as format  # noqa: A004  # the package, not this project's runtime

    model = format.load(path)
    format.helper.set_model_props(model, metadata)
    format.save(model, path)

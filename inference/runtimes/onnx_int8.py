"""ONNX in int8: the graph's convolutions and matrix products over bytes, their ranges found on a few held-in rows."""

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from inference.runtime import Loaded, Network, Source
from inference.runtimes import onnx

ARTIFACT = "model-int8.onnx"
PRECISION = "int8"
BATCH = 8
missing = onnx.missing


def export(source: Source, path: Path, device: str) -> None:
    """Activations become uint8 and weights int8, each output channel with its own scale.

    That is what a CPU's byte instructions (VNNI) take; with signed activations ONNX Runtime is 2.4 times slower. Where
    a CPU has no such instructions, sums of 16 bits overflow: the worker's goldens find that out.
    """
    import onnx as format  # noqa: A004  # the package, not this project's runtime
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name, rows = source.contract.input.name, source.calibration
    batches = ({name: rows[start : start + BATCH]} for start in range(0, len(rows), BATCH))
    with tempfile.TemporaryDirectory() as scratch:
        float32, folded = Path(scratch, "float32.onnx"), Path(scratch, "folded.onnx")
        onnx.export(source, float32, device)
        quant_pre_process(float32, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            path,
            SimpleNamespace(get_next=lambda: next(batches, None)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    model = format.load(path)
    format.helper.set_model_props(model, source.metadata)
    format.save(model, path)


def load(path: Path, device: str, threads: int, network: Network) -> Loaded:
    return replace(onnx.load(path, device, threads, network), precision=PRECISION)

"""TorchScript in bfloat16: the same graph, its convolutions and matrix products in half the bits."""

from dataclasses import replace
from pathlib import Path

from inference.runtime import Loaded, Network, Source
from inference.runtimes import torchscript
from inference.torch_graph import Bfloat16

ARTIFACT = "model-bf16.pt"
PRECISION = "bfloat16"
missing = torchscript.missing


def export(source: Source, path: Path, device: str) -> None:
    """Traced on the kind of device that it is for: what lies elsewhere is not cast."""
    torchscript.export(replace(source, network=Bfloat16(source.network, device).to(device)), path, device)


def load(path: Path, device: str, threads: int, network: Network) -> Loaded:
    return replace(torchscript.load(path, device, threads, network), precision=PRECISION)

"""AOTInductor in bfloat16: the same machine code, its convolutions and matrix products in half the bits."""

from dataclasses import replace
from pathlib import Path

from inference.runtime import Loaded, Network, Source
from inference.runtimes import aoti
from inference.torch_graph import Bfloat16

ARTIFACT = "model-bf16.pt2"
PRECISION = "bfloat16"
missing = aoti.missing


def export(source: Source, path: Path, device: str) -> None:
    aoti.export(replace(source, network=Bfloat16(source.network, device)), path, device)


def load(path: Path, device: str, threads: int, network: Network) -> Loaded:
    return replace(aoti.load(path, device, threads, network), precision=PRECISION)

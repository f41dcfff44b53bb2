"""TorchScript in bfloat16: the same graph, its convolutions and matrix products in half the bits."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.on_torch import Bfloat16
from export.runtime import Loaded
from export.runtimes import torchscript

if TYPE_CHECKING:
    from export.trained import Trained

ARTIFACT = "model-bf16.pt"
PRECISION = "bfloat16"

missing = torchscript.missing


def export(trained: "Trained", path: Path, device: str) -> None:
    """Traced on the kind of device that it is for: what lies elsewhere is not cast."""
    torchscript.export(replace(trained, network=Bfloat16(trained.network, device).to(device)), path, device)


def load(path: Path, device: str, threads: int) -> Loaded:
    return replace(torchscript.load(path, device, threads), precision=PRECISION)

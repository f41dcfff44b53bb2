"""AOTInductor in bfloat16: the same machine code, its convolutions and matrix products in half the bits."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.on_torch import Bfloat16
from export.runtime import Loaded
from export.runtimes import aoti

if TYPE_CHECKING:
    from export.trained import Trained

ARTIFACT = "model-bf16.pt2"
PRECISION = "bfloat16"

missing = aoti.missing


def export(trained: "Trained", path: Path, device: str) -> None:
    aoti.export(replace(trained, network=Bfloat16(trained.network, device)), path, device)


def load(path: Path, device: str, threads: int) -> Loaded:
    return replace(aoti.load(path, device, threads), precision=PRECISION)

"""The network itself, run by torch as in training: the reference that every other runtime is compared with."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from export.on_torch import prepare, runner
from export.runtime import FLOAT32, Loaded
from training import weights
from training.files import sha256

if TYPE_CHECKING:
    from export.trained import Trained

ARTIFACT = "model.safetensors"
PRECISION = FLOAT32


def missing(_: str) -> str | None:
    return None


def export(trained: "Trained", path: Path, _: str) -> None:
    """The weights file as training wrote it, byte for byte; it carries the contract already."""
    shutil.copyfile(trained.path, path)


def load(path: Path, device: str, threads: int) -> Loaded:
    tf32 = prepare(device, threads)
    network, contract = weights.read(path)
    return Loaded(
        run=runner(network.to(device), contract, device),
        contract=contract,
        weights=sha256(path),
        provider="torch",
        device=device,
        tf32=tf32,
    )

"""The network itself, run by torch as in training: the reference that every other runtime is compared with."""

import shutil
from pathlib import Path

from inference import weights
from inference.runtime import FLOAT32, Loaded, Network, Source, never_missing
from inference.tools.files import sha256
from inference.torch_graph import prepare, runner

ARTIFACT = "model.safetensors"
PRECISION = FLOAT32
missing = never_missing


def export(source: Source, path: Path, _: str) -> None:
    """The weights file as training wrote it, byte for byte; it carries the contract already."""
    shutil.copyfile(source.path, path)


def load(path: Path, device: str, threads: int, network: Network) -> Loaded:
    tf32 = prepare(device, threads)
    trained, contract = weights.read(path, network)
    return Loaded(runner(trained.to(device), contract, device), contract, sha256(path), "torch", device, tf32=tf32)

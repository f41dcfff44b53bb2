"""AOTInductor: the network captured by `torch.export` and compiled to machine code, a `.pt2` package."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from export.on_torch import prepare, runner
from export.runtime import CONTRACT, WEIGHTS, Loaded
from training.contract import Contract

if TYPE_CHECKING:
    from export.trained import Trained

ARTIFACT = "model.pt2"


def missing() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        return None
    reason = f"AOTInductor compiles C++, and there is no {compiler} here."
    if compiler != "g++":
        return f"{reason} Set CXX to a C++ compiler that is there, or unset it for g++."
    return f"{reason} Install a C++ compiler (Debian: apt-get install g++)."


def export(trained: "Trained", path: Path) -> None:
    """The machine code is for the kind of processor that it is compiled on."""
    batch = torch.export.Dim("batch", min=1, max=trained.contract.max_batch)
    program = torch.export.export(trained.network, (trained.example,), dynamic_shapes=({0: batch},))
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs={"aot_inductor.metadata": trained.metadata}
    )


def load(path: Path, device: str, threads: int) -> Loaded:
    """Raises ValueError when the package was compiled for another kind of device."""
    tf32 = prepare(device, threads)
    package = torch._inductor.aoti_load_package(str(path))
    metadata = package.get_metadata()
    compiled_for = metadata["AOTI_DEVICE_KEY"]
    if compiled_for != device.partition(":")[0]:
        raise ValueError(f"{path.name} was compiled for {compiled_for} and can't run on {device}. Export it there.")
    return Loaded(
        run=runner(package, device),
        contract=Contract.from_json(metadata[CONTRACT]),
        weights=metadata[WEIGHTS],
        provider="AOTInductor",
        device=device,
        tf32=tf32,
    )

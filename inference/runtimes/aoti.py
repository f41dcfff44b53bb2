"""AOTInductor: the network captured by `torch.export` and compiled to machine code, a `.pt2` package."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from inference.runtime import FLOAT32, CannotRun, Loaded, Network, Source, device_kind
from inference.torch_graph import forbid_tf32, loaded, prepare

ARTIFACT = "model.pt2"
PRECISION = FLOAT32


def missing(device: str) -> str | None:
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        set_otherwise = "Set CXX to a C++ compiler that is there, or unset it for g++."
        mend = "Install a C++ compiler (Debian: apt-get install g++)." if compiler == "g++" else set_otherwise
        return f"AOTInductor compiles C++, and there is no {compiler} here. {mend}"
    if device == "cuda":
        from torch.utils.cpp_extension import CUDA_HOME

        if not CUDA_HOME:
            return "AOTInductor compiles with CUDA's headers, and there is no CUDA toolkit here. Set CUDA_HOME to one."
    return None


def export(source: Source, path: Path, device: str) -> None:
    """The machine code is for the kind of processor or GPU that it is compiled on, with TF32 or without.

    Frozen weights are laid out anew for the CPU's convolutions (ResNet-18: a seventh faster), and on a GPU cast to
    bfloat16 once, with batch normalisation folded into them (ResNet-50: half as fast again).
    """
    forbid_tf32(device)
    network = copy.deepcopy(source.network).to(device)
    batch = torch.export.Dim("batch", min=1, max=source.contract.max_batch)
    options = {"aot_inductor.metadata": source.metadata, "freezing": True}
    with torch.no_grad():  # else nothing is frozen
        program = torch.export.export(network, (source.example.to(device),), dynamic_shapes=({0: batch},))
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def load(path: Path, device: str, threads: int, _: Network) -> Loaded:
    """By what `torch._inductor.aoti_load_package` loads it with. Raises CannotRun for one that is for another device.

    That function imports the compiler, for a second, and compiles ten small programs to find out what the processor can
    do, for a line in a log: on a machine's first start 10 s on two cores, and 49 s on another machine's sixteen.
    """
    tf32 = prepare(device, threads)
    loader = torch._C._aoti.AOTIModelPackageLoader
    compiled_for = loader.load_metadata_from_package(str(path), "model")["AOTI_DEVICE_KEY"]  # type: ignore[attr-defined]
    if compiled_for != device_kind(device):
        raise CannotRun(
            f"{path.name} was compiled for {compiled_for} and can't run on {device}. Export it for that device."
        )
    alone = device != "cpu"  # without the locks that a CUDA graph can't record
    package: Any = loader(str(path), "model", alone, 1, -1)

    def graph(inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor
        [outputs] = package.run([inputs])
        return outputs

    return loaded(path, graph, package.get_metadata(), "AOTInductor", device, tf32)

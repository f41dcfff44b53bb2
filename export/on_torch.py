"""Running a graph with torch: what the eager, TorchScript and AOTInductor runtimes share."""

from collections.abc import Callable

import numpy as np
import torch

from export.runtime import Logits
from training.inputs import Pixels


def prepare(device: str, threads: int) -> bool:
    """Sets this process up to compute float32 as float32 on `threads` threads, and says whether TF32 is on.

    Raises ValueError when the device isn't there.
    """
    torch.set_num_threads(threads)
    check_device(device)
    return forbid_tf32(device)


def check_device(device: str) -> None:
    """Raises ValueError when the device isn't there."""
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(
            f"Device {device} was asked for, and torch finds no CUDA device. Ask for cpu, or mend the driver."
        )


def forbid_tf32(device: str) -> bool:
    """Whether TF32 is on all the same. It is a setting of the whole process, on by default for CUDA's convolutions."""
    if device == "cpu":
        return False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32


def runner(graph: Callable[[torch.Tensor], torch.Tensor], device: str) -> Callable[[Pixels], Logits]:
    """A graph over tensors → a callable over arrays."""

    @torch.inference_mode()
    def run(batch: Pixels) -> Logits:
        images = torch.from_numpy(np.require(batch, requirements=["C", "W"])).to(device)
        logits: Logits = graph(images).cpu().numpy()
        return logits

    return run

"""Running a graph with torch: what the eager, TorchScript and AOTInductor runtimes share."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from inference.contract import Contract
from inference.runtime import Batch, Logits

Graph = Callable[[torch.Tensor], torch.Tensor]


def prepare(device: str, threads: int) -> bool:
    """Sets this process up to compute float32 as float32 on `threads` threads, and says whether TF32 is on.

    Raises ValueError when the device isn't there.
    """
    torch.set_num_threads(threads)
    check_device(device)
    if device != "cpu":
        from inference.cuda_graph import use

        use(device)
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


def runner(graph: Graph, contract: Contract, device: str) -> Callable[[Batch], Logits]:
    """A graph over tensors → a callable over batches. On a GPU it is recorded: see `on_cuda.recorded`."""
    if device != "cpu":
        from inference.cuda_graph import recorded

        return recorded(graph, contract, device)

    @torch.inference_mode()
    def run(batch: Batch) -> Logits:
        logits: Logits = graph(torch.from_numpy(np.require(batch, requirements=["C", "W"]))).numpy()
        return logits

    return run


class Bfloat16(nn.Module):
    """A network for answers, whose convolutions and matrix products are computed in bfloat16 on one kind of device.

    The scaling before them stays float32, and so do the logits.
    """

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # a GPU's matrix units want it so
        self.device = device
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            logits: torch.Tensor = self.network(images)
        return logits.float()

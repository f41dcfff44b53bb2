"""Running a graph with torch: what the eager, TorchScript and AOTInductor runtimes share."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from inference.base import out_of_memory
from inference.contract import Contract
from inference.inputs import Batch
from inference.outputs import Outputs
from inference.runtime import CONTRACT, WEIGHTS, CannotRun, Loaded, writable

Graph = Callable[[torch.Tensor], torch.Tensor]

WARM_UPS = 3  # before a recording: libraries choose their kernels, and TorchScript compiles


def prepare(device: str, threads: int) -> bool:
    """Makes this process compute float32 as float32, and says whether TF32 is on. Raises ValueError for no device.

    A GPU becomes this process's, for which threads wait asleep, not on a core. Raises RuntimeError if that is refused.
    """
    torch.set_num_threads(threads)
    check_device(device)
    if device != "cpu":
        from cuda.bindings import driver

        index, asleep = torch.device(device).index or 0, driver.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC
        for [status] in (driver.cuInit(0), driver.cuDevicePrimaryCtxSetFlags(index, asleep)):
            if status != driver.CUresult.CUDA_SUCCESS:
                raise RuntimeError(f"The driver of {device} does not let a process wait asleep: {status.name}.")
        torch.cuda.set_device(index)
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


def loaded(path: Path, graph: Graph, metadata: Mapping[str, str], provider: str, device: str, tf32: bool) -> Loaded:
    """A graph with the metadata of its artifact."""
    contract = Contract.parse(metadata[CONTRACT], path)
    return Loaded(runner(graph, contract, device), contract, metadata[WEIGHTS], provider, device, tf32=tf32)


def runner(graph: Graph, contract: Contract, device: str) -> Callable[[Batch], Outputs]:
    """A graph over tensors → a callable over batches. On a GPU it is recorded: see `recorded`."""
    if device != "cpu":
        return recorded(graph, contract, device)

    @torch.inference_mode()
    def run(batch: Batch) -> Outputs:
        outputs: Outputs = graph(torch.from_numpy(writable(batch))).numpy()
        return outputs

    return run


class Bfloat16(nn.Module):
    """A network whose convolutions and matrix products are in bfloat16; its scaling and its outputs stay float32."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # a GPU's matrix units want it so
        self.device = device
        self.eval()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            outputs: torch.Tensor = self.network(inputs)
        return outputs.float()


class Buffers:
    """For one batch at a time, memory on the GPU, and page-locked memory, which is copied at full speed."""

    def __init__(self, contract: Contract, device: str) -> None:
        largest, dtype = contract.max_batch, torch.from_numpy(np.empty(0, contract.input.dtype)).dtype
        self.inputs = torch.zeros((largest, *contract.input.shape), dtype=dtype, device=device)
        self._staged = torch.zeros_like(self.inputs, device="cpu", pin_memory=True)
        self._outputs = torch.zeros((largest, *contract.output.shape), pin_memory=True)

    def put(self, batch: Batch) -> None:
        """[B, *input.shape], into the first B rows of `inputs`."""
        source = batch
        if isinstance(batch, np.ndarray):
            source = self._staged[: len(batch)]
            source.numpy()[:] = batch
        self.inputs[: len(batch)].copy_(source, non_blocking=True)

    def take(self, outputs: torch.Tensor) -> Outputs:
        """float32 [B, *output.shape] → an array, once it is computed."""
        answered = self._outputs[: len(outputs)].copy_(outputs, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return answered.numpy().copy()


def recorded(graph: Graph, contract: Contract, device: str) -> Callable[[Batch], Outputs]:
    """A graph as a callable that launches no kernel by itself: a CUDA graph for each of some batch sizes is replayed.

    A batch runs in the smallest that holds it, whose other rows are computed and left. Recordings read the weights
    where they lie, so the graph is kept. Raises CannotRun where its outputs are not the contract's, and torch's own
    errors of any other kind: they don't tell an artifact's fault from the GPU's. The callable raises OutOfMemory.
    """
    buffers, replays = Buffers(contract, device), {}
    with torch.inference_mode():
        for size in recorded_sizes(contract.max_batch):
            inputs, recording = buffers.inputs[:size], torch.cuda.CUDAGraph()
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    graph(inputs)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(recording):
                replays[size] = recording, graph(inputs)  # where each replay leaves its outputs
            check_outputs(replays[size][1], size, contract)

    @torch.inference_mode()
    def run(batch: Batch, _keep: Graph = graph) -> Outputs:
        with out_of_memory():
            size = min(size for size in replays if size >= len(batch))
            buffers.put(batch)
            recording, outputs = replays[size]
            recording.replay()
            return buffers.take(outputs[: len(batch)])

    return run


def check_outputs(outputs: torch.Tensor, size: int, contract: Contract) -> None:
    """Raises CannotRun unless they are what the contract says. Copying them would make it so without a word."""
    expected = (size, *contract.output.shape)
    if outputs.dtype != torch.float32 or outputs.shape != expected:
        raise CannotRun(
            f"The graph gave {outputs.dtype} {tuple(outputs.shape)}; the contract says torch.float32 {expected}."
        )


def recorded_sizes(largest: int) -> list[int]:
    """The powers of two up to the largest batch, and that."""
    return [*(2**power for power in range((largest - 1).bit_length())), largest]

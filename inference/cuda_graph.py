"""Running a graph on an NVIDIA GPU: where batches lie, and graphs that are recorded once and replayed."""

from collections.abc import Callable

import numpy as np
import torch

from inference.base import out_of_memory
from inference.contract import Contract
from inference.runtime import Batch, CannotRun, Logits
from inference.torch_graph import Graph

WARM_UPS = 3  # before a recording: libraries choose their kernels, and TorchScript compiles


def use(device: str) -> None:
    """Makes it this process's GPU. Who waits for it sleeps: CUDA would ask again and again, on a core others want.

    RuntimeError when the driver refuses.
    """
    from cuda.bindings import driver

    index = torch.device(device).index or 0
    asleep = driver.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC
    for [status] in (driver.cuInit(0), driver.cuDevicePrimaryCtxSetFlags(index, asleep)):
        if status != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"The driver of {device} does not let a process wait asleep: {status.name}.")
    torch.cuda.set_device(index)


class Room:
    """Memory on the GPU for the largest batch, and page-locked memory beside it, which is copied at full speed.

    For one batch at a time: a model that was loaded so is not for several threads.
    """

    def __init__(self, contract: Contract, device: str) -> None:
        shape = (contract.max_batch, *contract.input.shape)
        self.images = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._staged = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self._logits = torch.zeros((contract.max_batch, len(contract.labels)), pin_memory=True)

    def put(self, batch: Batch) -> None:
        """uint8 [B, *input.shape], into the first B rows of `images`."""
        source = batch
        if isinstance(batch, np.ndarray):
            source = self._staged[: len(batch)]
            source.numpy()[:] = batch
        self.images[: len(batch)].copy_(source, non_blocking=True)

    def take(self, logits: torch.Tensor) -> Logits:
        """float32 [B, C] → an array, once it is computed."""
        answered = self._logits[: len(logits)].copy_(logits, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return answered.numpy().copy()


def recorded(graph: Graph, contract: Contract, device: str) -> Callable[[Batch], Logits]:
    """A graph as a callable that launches no kernel by itself: a CUDA graph for each of some batch sizes is replayed.

    A batch runs in the smallest that holds it, whose other rows are computed and left. Recordings read the weights
    where they lie, so the graph is kept. Raises CannotRun where its logits are not the contract's, and torch's own
    errors of any other kind: they don't tell an artifact's fault from the GPU's. The callable raises OutOfMemory.
    """
    room = Room(contract, device)
    with torch.inference_mode():
        replays = {size: _record(graph, room.images[:size]) for size in sizes(contract.max_batch)}
    for size, (_, logits) in replays.items():
        check(logits, size, contract)

    @torch.inference_mode()
    def run(batch: Batch, _keep: Graph = graph) -> Logits:
        with out_of_memory():
            size = min(size for size in replays if size >= len(batch))
            room.put(batch)
            recording, logits = replays[size]
            recording.replay()
            return room.take(logits[: len(batch)])

    return run


def check(logits: torch.Tensor, size: int, contract: Contract) -> None:
    """Raises CannotRun unless they are what the contract says. Copying them would make it so without a word."""
    expected = (size, len(contract.labels))
    if logits.dtype != torch.float32 or logits.shape != expected:
        raise CannotRun(
            f"The graph gave {logits.dtype} {tuple(logits.shape)}; the contract says torch.float32 {expected}."
        )


def sizes(largest: int) -> list[int]:
    """The powers of two up to the largest batch, and that."""
    return [*(2**power for power in range((largest - 1).bit_length())), largest]


def _record(graph: Graph, images: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """The recording, and where each replay leaves its logits."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            graph(images)
    torch.cuda.current_stream().wait_stream(aside)
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        logits = graph(images)
    return recording, logits

"""Data-parallel training: the processes that torchrun started, each with its share of every batch.

All processes see the same files; rank 0 alone writes files and prints. Without torchrun there is one process, which is
rank 0 of 1, and nothing here changes what it computes.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(days=1)  # the others wait while rank 0 downloads and decodes; torchrun ends them if it dies


@contextmanager
def joined() -> Iterator[None]:
    """Joins the other processes, if there are any, and leaves them at the end.

    The first process that fails raises its error; the others fail after it, and end with exit code 2 and no message.
    """
    if not (dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1):
        yield
        return
    store, rank, size = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield
    except Exception as error:
        if store.add("failures", 1) > 1:
            time.sleep(10)  # torchrun ends all processes as soon as it sees the first one end
            raise SystemExit(2) from None
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # NCCL's and gloo's error for a closed connection
            raise ConnectionError(f"Another process of this training has ended ({error}).") from None
        raise
    dist.destroy_process_group()  # not after a failure: on GPUs it may wait for processes that wait for this one


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def own_device(device: torch.device) -> torch.device:
    """`cuda` → the CUDA device of this process. Raises ValueError when the machine has too few."""
    if size() == 1 or device.type != "cuda":
        return device
    wanted, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if wanted > found:
        raise ValueError(f"{wanted} processes need a CUDA device each, and there are {found}. Start no more than that.")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def threads() -> int:
    """CPU threads of an operation when all cores are to work: as many as torch has now, or this process's part."""
    part = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return torch.get_num_threads() if size() == 1 else max(1, part)


@contextmanager
def rank_0_first() -> Iterator[None]:
    """Rank 0 runs the block alone, for instance to fill a cache; then the others run it."""
    if rank() > 0:
        mean(torch.zeros(1))  # waits for rank 0
    yield
    if rank() == 0:
        mean(torch.zeros(1))


def distributed(network: nn.Module) -> nn.Module:
    """The network, with gradients that are averaged over all processes.

    Made anew for each epoch: it notes which weights are frozen when it is made, and the order of its additions, which
    is settled in its first step, is then the same in a resumed training.
    """
    return DistributedDataParallel(network) if size() > 1 else network


def share(rows: Tensor) -> Tensor:
    """The rows of this process: every `size`-th, filled up with the first rows so that all have as many."""
    if size() == 1:
        return rows
    padded = -(-len(rows) // size()) * size()
    return rows[torch.arange(rank(), padded, size()) % len(rows)]


def gathered(own: Tensor, count: int) -> Tensor:
    """The `count` rows, in order, of which each process computed its `share`."""
    if size() == 1:
        return own
    shares = [torch.empty_like(own) for _ in range(size())]
    dist.all_gather(shares, own)
    return torch.stack(shares, dim=1).flatten(0, 1)[:count]


def mean(value: Tensor) -> Tensor:
    """The mean over all processes, the same bits in each."""
    if size() > 1:
        dist.all_reduce(value)
    return value / size()


def take_buffers_of_rank_0(network: nn.Module) -> None:
    """For batch norms on CPUs, whose statistics are of each process's own rows."""
    for buffer in network.buffers() if size() > 1 else ():
        dist.broadcast(buffer, 0)

"""Data-parallel training: the processes that torchrun started, each with its share of every batch.

All of them draw the same permutations and augmentations and make the same steps, so the result is one process's but for
the order in which floats are added. They see the same files; rank 0 alone writes, and speaks. Without torchrun there is
one process, rank 0 of 1, and nothing is joined.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from inference.base import OutOfMemory

PATIENCE = timedelta(days=1)  # the others wait as long as rank 0 downloads and decodes; torchrun ends them if it dies


@contextmanager
def joined() -> Iterator[None]:
    """Joins the other processes, if there are any, and leaves them when all is done.

    The first to fail with a user's mistake says what it is; the others end without a word, with exit code 2 too.
    """
    if not (dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1):
        yield
        return
    store, rank, size = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield
    except (ValueError, OSError, OutOfMemory):
        if store.add("failures", 1) > 1:
            end_quietly()
        raise
    dist.destroy_process_group()  # not after a failure: on GPUs it may wait for processes that wait for this one


def end_quietly() -> NoReturn:
    """Ends this process after the one that says why: torchrun ends all as soon as it sees one that failed."""
    time.sleep(10)
    raise SystemExit(2)


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def own(device: torch.device) -> torch.device:
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
    if size() == 1:
        return torch.get_num_threads()
    return max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]))


@contextmanager
def rank_0_first() -> Iterator[None]:
    """Rank 0 goes through alone, for instance to fill a cache; then the others. When it fails, they end with it."""
    failed = torch.zeros(1)
    if rank():
        if total(failed):
            end_quietly()
        yield
        return
    try:
        yield
    except BaseException:
        failed += 1
        raise
    finally:
        total(failed)


@dataclass(frozen=True)
class Share:
    """The rows of `whole` rows that one process computes.

    With fewer rows than processes, some take a row of another's, so that all do the same steps; it is not `counted`.
    """

    rows: slice
    whole: int
    counted: bool = True

    @property
    def taken(self) -> int:
        return len(range(self.whole)[self.rows])

    @property
    def count(self) -> int:
        """Rows that count."""
        return self.taken if self.counted else 0

    @property
    def weight(self) -> float:
        """What the mean over its rows adds to the mean over all."""
        return self.count / self.whole


def share(whole: int) -> Share:
    """This process's share of `whole` rows."""
    start, stop = whole * rank() // size(), whole * (rank() + 1) // size()
    return Share(slice(start, stop), whole) if stop > start else Share(slice(0, 1), whole, counted=False)


def total(values: Tensor) -> Tensor:
    """The sum over all processes, in place, the same bits in each. Raises ConnectionError when one has ended."""
    if size() > 1:
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise ConnectionError(f"Another process of this training has ended ({error}).") from None
    return values


def collected(rows: Tensor, share: Share) -> Tensor:
    """The rows of all processes, each of which gives its share."""
    places = rows.new_zeros(share.whole, *rows.shape[1:])
    if share.counted:
        places[share.rows] = rows
    return total(places)


def total_gradients(network: nn.Module) -> None:
    """Sums each gradient over all processes: all in one message, after the backward pass instead of during it."""
    if size() == 1:
        return
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    sums = total(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(sums, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))

"""Whether more workers fit into the memory that is left: the kernel would end one of those that serve."""

from contextlib import suppress

import psutil

from inference.tools import limits
from serve.torchserve.management import Version
from serve.torchserve.record import NotServing, Server


def check_room(server: Server, like: Version, more: int) -> None:
    """Raises NotServing where `more` workers like those of that version need more memory than is left."""
    needed = more * max((_own_bytes(worker["pid"]) for worker in like.workers), default=0)
    free, limit = psutil.virtual_memory().available, limits.memory()
    if limit is not None:
        free = min(free, limit - sum(_own_bytes(process.pid) for process in server.processes()))
    if more > 0 and needed > free:
        raise NotServing(
            f"{more} more workers need about {needed >> 20} MiB, and {max(0, free) >> 20} MiB are left. "
            "Give the server more memory, or let other models have fewer workers."
        )


def _own_bytes(pid: int) -> int:
    """What would be free without that process; 0 for one that has ended."""
    with suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_full_info().uss)
    return 0

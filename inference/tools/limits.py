"""What a container's control group allows this process, in either version of Linux's control groups."""

import os
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")


def cores(groups: Path = GROUPS) -> int:
    """How many cores this process may keep busy, at least 1: by its affinity, and by the quota of `--cpus`."""
    given = len(os.sched_getaffinity(0))
    if text := _read(groups / "cpu.max"):  # microseconds of processor time, in each period
        quota, period = text.split()
    else:
        quota = _read(groups / "cpu" / "cpu.cfs_quota_us")
        period = _read(groups / "cpu" / "cpu.cfs_period_us")
    return max(1, min(given, int(quota) // int(period))) if quota.isdecimal() else given  # else "max", -1 or none


def threads_per_worker(workers: int) -> int:
    """So many that all workers together have no more than the cores given to this process, and at least 1."""
    return max(1, cores() // workers)


def memory(groups: Path = GROUPS) -> int | None:
    """The limit in bytes; None where there is none."""
    text = _read(groups / "memory.max") or _read(groups / "memory" / "memory.limit_in_bytes")
    return int(text) if text.isdecimal() and int(text) < 1 << 60 else None


def out_of_memory_kills(groups: Path = GROUPS) -> int:
    """How many processes of this container the kernel has ended because they needed more memory than the limit."""
    text = _read(groups / "memory.events") or _read(groups / "memory" / "memory.oom_control")
    counts = dict(line.split(maxsplit=1) for line in text.splitlines())
    return int(counts.get("oom_kill", 0))


def _read(path: Path) -> str:
    """The file's text; "" where this kernel has no such file."""
    return path.read_text().strip() if path.exists() else ""

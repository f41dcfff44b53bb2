"""A server's processes, whatever it starts: their processor time, their memory, their end."""

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

MARK = "BENCH_CONTENDER"  # in the environment of everything that a contender starts
STOP_SECONDS = 8


@dataclass(frozen=True)
class Cores:
    """For the server and for the generator: apart where there are enough of them, else the same."""

    server: tuple[int, ...]
    generator: tuple[int, ...]

    @property
    def apart(self) -> bool:
        return not set(self.server) & set(self.generator)


def divide(given: Sequence[int]) -> Cores:
    """From 4 cores on, a quarter of them (at most 4) is the generator's."""
    ordered = sorted(given)
    if len(ordered) < 4:
        return Cores(tuple(ordered), tuple(ordered))
    cut = len(ordered) - min(4, len(ordered) // 4)
    return Cores(tuple(ordered[:cut]), tuple(ordered[cut:]))


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """What is started within runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Tree:
    """A process and everything that it starts, found again by a mark in the environment and by parentage."""

    def __init__(self, root: "subprocess.Popen[str]", mark: str) -> None:
        self.root, self.mark = root, mark

    def processes(self) -> list[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        return list(found.values())

    def cpu(self) -> dict[int, tuple[str, float]]:
        """By process id: the program's name and the seconds of processor time that it has used so far."""
        used = {}
        for process in self.processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid] = process.name(), times.user + times.system
        return used

    def memory(self) -> int:
        """Bytes; memory shared with other processes is counted in part (PSS)."""
        total = 0
        for process in self.processes():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def stop(self) -> None:
        """Asks the first process to end, and ends what is left then."""
        with suppress(ProcessLookupError):
            self.root.send_signal(signal.SIGTERM)
        psutil.wait_procs(self.processes(), timeout=STOP_SECONDS)
        while left := [process for process in self.processes() if process.status() != psutil.STATUS_ZOMBIE]:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        self.root.wait()


def launch(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    log: IO[str],
    *,
    talks: bool = False,
) -> Tree:
    """`talks`: its standard input and output are pipes; else the log takes what it says."""
    mark = secrets.token_hex(8)
    root = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, MARK: mark},
        stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
        stdout=subprocess.PIPE if talks else log,
        stderr=log if talks else subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    return Tree(root, mark)


def spent(before: Mapping[int, tuple[str, float]], after: Mapping[int, tuple[str, float]]) -> dict[str, float]:
    """Seconds of processor time between two looks, by the program's name."""
    total: dict[str, float] = {}
    for pid, (name, seconds) in after.items():
        total[name] = total.get(name, 0.0) + seconds - before.get(pid, (name, 0.0))[1]
    return total

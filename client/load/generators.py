"""The processes that generate load, and the runs that they carry out together."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from client.cannot_check import CannotCheck
from client.load.plan import Plan, Requests, Seen

ROOT = Path(__file__).resolve().parents[2]
LEAD_SECONDS = 0.3  # from the decision to start a run to its start: each process has its plan by then
MOST_CONNECTIONS = 900  # of all processes together; below the 1,024 open files that systems allow by default

Progress = Callable[[float, int, int, int], bool]


@dataclass(frozen=True)
class Run:
    """What all processes do together; `Plan` says what the fields mean."""

    seconds: float
    timeout: float
    connections: int = MOST_CONNECTIONS
    due: NDArray[np.float64] | None = None
    objective: float = float("inf")

    def shares(self, count: int) -> list[Plan]:
        """One plan for each of `count` processes, or for as many as there are connections to share."""
        count = min(count, self.connections)
        start = time.monotonic() + LEAD_SECONDS
        whole = Plan(start, self.seconds, self.connections, self.timeout, objective=self.objective)
        return [
            replace(
                whole,
                connections=len(range(index, self.connections, count)),
                first=index,
                step=count,
                due=None if self.due is None else self.due[index::count],
            )
            for index in range(count)
        ]


class Generators:
    """`count` processes, which know where to send what, and wait for runs. A context manager: they end with it."""

    def __init__(self, address: tuple[str, int], requests: Requests, count: int) -> None:
        self._task, self._count = (address, requests), count
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for _ in range(self._count):
            self._pipes.append(self._start())
        for pipe in self._pipes:
            pipe.send(self._task)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.wait()

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "client.load.generate", str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._processes.append(process)
        return ours

    def run(self, run: Run, progress: Progress) -> list[Seen]:
        """What each process saw.

        `progress` hears the seconds since the start, and how many were answered, failed and were slow; the run sends no
        more once it gives True. Raises CannotCheck when a process ends by itself.
        """
        plans = run.shares(self._count)
        pipes = self._pipes[: len(plans)]
        for pipe, plan in zip(pipes, plans, strict=True):
            pipe.send(plan)
        return self._collect(pipes, plans[0].start, progress)

    def _collect(self, pipes: Sequence[Connection], start: float, progress: Progress) -> list[Seen]:
        seen: dict[Connection, Seen] = {}
        counts = dict.fromkeys(pipes, (0, 0, 0))
        stopped = False
        while len(seen) < len(pipes):
            for ready in wait([pipe for pipe in pipes if pipe not in seen]):
                assert isinstance(ready, Connection)
                found = _received(ready)
                counts[ready] = found.progress if isinstance(found, Seen) else found
                if isinstance(found, Seen):
                    seen[ready] = found
            answered, failed, slow = (sum(column) for column in zip(*counts.values(), strict=True))
            if progress(time.monotonic() - start, answered, failed, slow) and not stopped and len(seen) < len(pipes):
                stopped = True
                for pipe in pipes:
                    pipe.send(None)
        return [seen[pipe] for pipe in pipes]


def _received(pipe: Connection) -> Seen | tuple[int, int, int]:
    try:
        found: Seen | tuple[int, int, int] = pipe.recv()
    except (EOFError, OSError):
        raise CannotCheck("A process that sends requests has ended by itself. Its last words are above.") from None
    return found

"""The processes that generate load, and the runs that they carry out together."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

from client.load.generator import carry_out_runs
from client.load.plan import Observed, Requests, Run
from inference.tools.commands import CannotCheck

Progress = Callable[[float, int, int, int], bool]
ENDED = "A process that sends requests has ended by itself. Its last words are above."


class Generators:
    """`count` processes, which know where to send what, and wait for runs. A context manager: they end with it."""

    def __init__(self, address: tuple[str, int], requests: Requests, count: int) -> None:
        self._task, self._count = (address, requests), count
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> Self:
        spawn = multiprocessing.get_context("spawn")
        for _ in range(self._count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=carry_out_runs, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            for pipe in self._pipes:
                pipe.send(self._task)
            for pipe in self._pipes:
                _received(pipe)  # it has started, and is ready for runs
        except BaseException as error:
            self.__exit__()
            if isinstance(error, BrokenPipeError):
                raise CannotCheck(ENDED) from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()

    def run(self, run: Run, progress: Progress) -> list[Observed]:
        """What each process observed.

        `progress` hears the seconds since the start, and how many were answered, failed and were slow; the run sends no
        more once it gives True. Raises CannotCheck when a process ends by itself.
        """
        shares = run.shares(len(self._pipes))
        pipes = self._pipes[: len(shares)]
        for pipe, share in zip(pipes, shares, strict=True):
            pipe.send(share)
        observed: dict[Connection, Observed] = {}
        counts = dict.fromkeys(pipes, (0, 0, 0))
        stopped = False
        while len(observed) < len(pipes):
            for ready in wait([pipe for pipe in pipes if pipe not in observed]):
                assert isinstance(ready, Connection)
                found: Observed | tuple[int, int, int] = _received(ready)
                counts[ready] = found.progress if isinstance(found, Observed) else found
                if isinstance(found, Observed):
                    observed[ready] = found
            answered, failed, slow = (sum(column) for column in zip(*counts.values(), strict=True))
            lost = progress(time.monotonic() - shares[0].start, answered, failed, slow)
            if lost and not stopped and len(observed) < len(pipes):
                stopped = True
                for pipe in pipes:
                    pipe.send(None)
        return [observed[pipe] for pipe in pipes]


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        raise CannotCheck(ENDED) from None

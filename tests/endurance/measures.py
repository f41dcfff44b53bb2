"""What a server holds: memory over time, and open files when nobody asks."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

from tests.endurance.operators import java, workers
from tests.served.live import MODEL, Live

EVERY = 2.0  # seconds between two samples
QUIET_SECONDS = 5
WAIT_SECONDS = 120
ENOUGH = 5  # samples for a line
MB = 1e6


@dataclass(frozen=True)
class Sample:
    """Bytes that would be free without Java, and without its workers."""

    seconds: float
    java: int
    workers: int


def loaded(live: Live) -> list[psutil.Process]:
    """The workers where every one is READY, and none where one is missing; TorchServe goes on naming one that died."""
    ask, found = live.management(), workers(live)
    with ask.session:
        named = ask.versions(MODEL)
    pids = {worker.pid for version in named for worker in version.workers}
    whole = pids == {worker.pid for worker in found} and all(version.is_ready for version in named)
    return found if whole else []


def wait_for_workers(live: Live) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not loaded(live):
        assert time.monotonic() < deadline, "a worker that was killed does not come back"
        time.sleep(0.5)


@dataclass
class Memory:
    samples: list[Sample] = field(default_factory=list)

    def take(self, live: Live) -> None:
        """Nothing while a worker is missing or loads, since the next sum would be of other processes."""
        with suppress(psutil.NoSuchProcess):  # killed between two looks
            if found := loaded(live):
                held = sum(worker.memory_full_info().uss for worker in found)
                self.samples.append(Sample(time.monotonic(), java(live).memory_full_info().uss, held))

    @property
    def is_enough(self) -> bool:
        return len(self._second_half()) >= ENOUGH

    def slope(self, kind: str) -> float:
        """MB a minute over the second half, by linear regression."""
        seconds, held = self._line(kind)
        return float(np.polyfit(seconds, held, 1)[0] * 60 / MB)

    def grown(self, kind: str) -> float:
        """MB over the second half, by the same line."""
        seconds, _ = self._line(kind)
        return self.slope(kind) * (seconds[-1] - seconds[0]) / 60

    def last(self, kind: str) -> float:
        """MB."""
        return self._line(kind)[1][-1] / MB

    def _line(self, kind: str) -> tuple[list[float], list[int]]:
        half = self._second_half()
        assert len(half) >= ENOUGH, (
            f"Memory needs {ENOUGH} samples in the second half, and has {len(half)}: "
            "all the other time a worker was missing or loading."
        )
        return [sample.seconds for sample in half], [getattr(sample, kind) for sample in half]

    def _second_half(self) -> list[Sample]:
        if not self.samples:
            return []
        middle = (self.samples[0].seconds + self.samples[-1].seconds) / 2
        return [sample for sample in self.samples if sample.seconds >= middle]


@contextmanager
def remembering(live: Live) -> Iterator[Memory]:
    """From the beginning of the block to its end."""
    memory, ended = Memory(), threading.Event()

    def sample() -> None:
        while not ended.wait(EVERY):
            memory.take(live)

    with ThreadPoolExecutor(1) as pool:
        sampled = pool.submit(sample)
        try:
            yield memory
        finally:
            ended.set()
    sampled.result()


@dataclass(frozen=True)
class Files:
    """File descriptors, sockets included."""

    java: int
    workers: int


def open_files(live: Live) -> Files:
    """When nobody asks any more: the fewest that are seen, since what was left half done is closed in its own time."""
    wait_for_workers(live)
    seen, deadline = [_open_files(live)], time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1)
        seen.append(_open_files(live))
    return Files(min(files.java for files in seen), min(files.workers for files in seen))


def _open_files(live: Live) -> Files:
    return Files(java(live).num_fds(), sum(worker.num_fds() for worker in workers(live)))

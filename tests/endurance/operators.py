"""Those who operate the server meanwhile: versions are promoted and rolled back, and workers are killed."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from serve.torchserve.launch import MAIN_CLASS
from tests.endurance.tally import Tally
from tests.served.live import MODEL, Live

PROMOTE_SECONDS, KILL_SECONDS = (
    20,
    30,
)  # from half to one and a half times that, so that they fall together too
OTHER = {"1.0": "2.0", "2.0": "1.0"}
NEXT = {"promote": "rollback", "rollback": "promote"}


def java(live: Live) -> psutil.Process:
    [found] = [process for process in live.server.processes() if MAIN_CLASS in process.info["cmdline"]]
    return found


def workers(live: Live) -> list[psutil.Process]:
    return [process for process in live.server.processes() if MAIN_CLASS not in process.info["cmdline"]]


@dataclass(frozen=True)
class Operators:
    live: Live
    tally: Tally
    ended: threading.Event

    def promote(self, draw: random.Random) -> None:
        """The other version by turns promoted and rolled back to, by the real commands; what was refused, again."""
        command = "promote"
        while not self.ended.wait(PROMOTE_SECONDS * draw.uniform(0.5, 1.5)):
            if self._switch(command):
                command = NEXT[command]

    def _switch(self, command: str) -> bool:
        """Whether it was done. A command that fails says why, and changes nothing."""
        before = self.live.default()
        arguments = (command, MODEL, OTHER[before]) if command == "promote" else (command, MODEL)
        done = self.live.serve(*arguments, check=False)
        after = self.live.default()
        self.tally.count(f"{command}: done" if done.returncode == 0 else f"{command}: refused")
        if done.returncode != 0:
            self.tally.refused.append(done.stderr.strip())
        if after != (OTHER[before] if done.returncode == 0 else before):
            self.tally.wrong.append(f"{command} from {before} leads to {after}: {done.stdout}{done.stderr}")
        return done.returncode == 0

    def kill(self, draw: random.Random) -> None:
        """SIGKILL to one of the workers, of whichever version."""
        while not self.ended.wait(KILL_SECONDS * draw.uniform(0.5, 1.5)):
            if found := workers(self.live):
                draw.choice(found).kill()
                self.tally.count("workers killed")


@contextmanager
def operating(live: Live, tally: Tally, seed: int) -> Iterator[None]:
    """From the beginning of the block to its end."""
    ended = threading.Event()
    operators = Operators(live, tally, ended)
    with ThreadPoolExecutor(2) as pool:
        tasks = [
            pool.submit(task, random.Random(f"{seed} {task.__name__}")) for task in (operators.promote, operators.kill)
        ]
        try:
            yield
        finally:
            ended.set()
    for task in tasks:
        task.result()

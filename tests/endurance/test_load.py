"""Users of all kinds, promotions, rollbacks and killed workers, all at once: no answer is lost or wrong."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.endurance.length import length
from tests.endurance.measures import Files, Memory, open_files, remembering
from tests.endurance.operators import operating
from tests.endurance.tally import Right, Tally
from tests.endurance.users import using
from tests.served.live import MODEL, Live

SECONDS = length(short=40, full=600)
MORE_SECONDS = 120  # at most, where a slow machine has not got round to everything
REHEARSAL_SECONDS = 5
SEED = 5

ANSWERS = [f"{kind} from {version}" for kind in ("logits", "JSON", "byte by byte") for version in ("1.0", "2.0")]

# MB over the second half. In five minutes keeping each body would be 40 MB, and 1.6 MB were seen. In the short
# form Java's heap is still growing to its size, by 8 to 16 MB in half a minute.
LEVEL = {"java": length(short=50, full=20), "workers": 10}


@dataclass(frozen=True)
class Endured:
    seconds: float
    tally: Tally
    memory: Memory
    before: Files
    after: Files

    def table(self) -> str:
        counts = sorted(self.tally.counts.items())
        rows = [(what, f"{number:,}") for what, number in counts]
        rows += [("lost", f"{len(self.tally.lost):,}"), ("wrong", f"{len(self.tally.wrong):,}")]
        for kind in ("java", "workers"):
            rows += [
                (f"memory of {kind} at the end", f"{self.memory.last(kind):,.0f} MB"),
                (f"memory of {kind}, second half", f"{self.memory.slope(kind):+.2f} MB/min"),
                (f"open files of {kind}", f"{getattr(self.before, kind)} → {getattr(self.after, kind)}"),
            ]
        return "\n".join(
            [f"\nUnder load for {self.seconds:.0f} s, seed {SEED}", *(f"  {row[0]:40}{row[1]:>16}" for row in rows)]
        )


def changes(tally: Tally) -> int:
    return tally.counts["promote: done"] + tally.counts["rollback: done"]


def endure(memory: Memory, tally: Tally) -> float:
    """Goes on until all that is asked about was seen: a change may have been refused since it met a killed worker."""
    start = time.monotonic()
    time.sleep(SECONDS)
    while not (changes(tally) and all(tally.counts[what] for what in ANSWERS) and memory.is_enough):
        if time.monotonic() - start > SECONDS + MORE_SECONDS:
            break
        time.sleep(1)
    return time.monotonic() - start


@pytest.fixture(scope="module")
def endured(live: Live, say: Callable[[str], None]) -> Endured:
    """Both versions are loaded, and what opens files once and for all has done so, before they are counted."""
    live.make_default("2.0")
    right = Right.of(live)
    with using(live, right, SEED + 1):
        time.sleep(REHEARSAL_SECONDS)
    before = open_files(live)
    with remembering(live) as memory, using(live, right, SEED) as tally, operating(live, tally, SEED):
        seconds = endure(memory, tally)
    found = Endured(seconds, tally, memory, before, open_files(live))
    say(found.table())
    return found


def test_nobody_who_asks_with_the_clients_own_retries_loses_an_answer(endured: Endured) -> None:
    assert endured.tally.lost == []


def test_every_answer_is_that_of_the_version_that_it_attests_and_of_no_other(endured: Endured) -> None:
    assert endured.tally.wrong == []
    for what in ANSWERS:
        assert endured.tally.counts[what] > 0


def test_garbage_is_always_the_senders_fault(endured: Endured) -> None:
    found = {what for what in endured.tally.counts if what.startswith("garbage")}
    assert found == {"garbage answered 400"}


def test_versions_change_and_workers_die_meanwhile_and_a_change_that_meets_a_death_says_so(endured: Endured) -> None:
    assert changes(endured.tally) > 0
    assert len(endured.tally.refused) <= endured.tally.counts["workers killed"]
    for sentence in endured.tally.refused:
        assert re.fullmatch(rf"error: Version [12]\.0 of {MODEL} does not become the default, .+", sentence)


def test_memory_is_level_at_the_end(endured: Endured) -> None:
    for kind in ("java", "workers"):
        assert endured.memory.grown(kind) < LEVEL[kind]


def test_no_file_stays_open(endured: Endured) -> None:
    assert endured.after.java <= endured.before.java
    assert endured.after.workers <= endured.before.workers

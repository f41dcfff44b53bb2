"""What the endurance tests measure with finds what it is there to find."""

import math
from pathlib import Path

import pytest

from tests.endurance.disks import mounted
from tests.endurance.length import VARIABLE, length
from tests.endurance.measures import ENOUGH, MB, Memory, Sample
from tests.endurance.tally import Tally, judge


def sampled(minutes: float, leak: float) -> Memory:
    """A sample every two seconds: it warms up, then rises and falls by 3 MB each half minute, and leaks MB a minute."""
    seconds = [2.0 * number for number in range(int(30 * minutes))]
    held = [300 - 100 * math.exp(-at / 10) + 3 * math.sin(at / 5) + leak * at / 60 for at in seconds]
    return Memory([Sample(at, int(MB * held), int(MB * held)) for at, held in zip(seconds, held, strict=True)])


@pytest.mark.parametrize("leak", [0.0, 2.0, 10.0])
def test_the_slope_is_what_leaks_not_what_warms_up_or_swings(leak: float) -> None:
    memory = sampled(10, leak)
    assert memory.slope("workers") == pytest.approx(leak, abs=0.5)
    assert memory.grown("workers") == pytest.approx(5 * leak, abs=2.5)


@pytest.mark.parametrize("number", [0, 1, ENOUGH - 1])
def test_too_few_samples_are_said_to_be_too_few(number: int) -> None:
    memory = Memory(sampled(1, 0).samples[:number])
    assert not memory.is_enough
    for measure in (memory.slope, memory.grown, memory.last):
        with pytest.raises(AssertionError, match=rf"Memory needs {ENOUGH} samples in the second half, and has \d:"):
            measure("java")


def test_an_answer_is_right_only_where_it_is_that_of_the_attested_version_and_of_no_other() -> None:
    tally = Tally()
    judge(tally, "logits", 7, ["2.0"], "2.0")
    assert tally.wrong == []
    for versions, attested in ((["1.0"], "2.0"), ([], "2.0"), (["1.0", "2.0"], "2.0"), (["1.0"], "")):
        judge(tally, "logits", 7, versions, attested)
    assert len(tally.wrong) == 4
    assert tally.counts["logits from 2.0"] == 4


def test_a_length_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert length(short=1, full=2) == 1
    monkeypatch.setenv(VARIABLE, "full")
    assert length(short=1, full=2) == 2
    monkeypatch.setenv(VARIABLE, "long")
    with pytest.raises(ValueError, match=r"ENDURANCE is 'long'\. Set it to full, or to short"):
        length(short=1, full=2)


def test_where_there_is_no_mount_the_tests_of_disks_fail_and_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"There is no mount here, to mount a small disk\. Install it\."):
        mounted(tmp_path / "disk", megabytes=1).__enter__()

"""What control groups say, read from files as either version of them writes."""

import os
from pathlib import Path

import pytest

from inference.tools import limits

UNLIMITED = "9223372036854771712\n"


def groups(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "3200000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_cores_are_those_of_the_affinity_or_of_the_quota_whichever_is_less(
    tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    assert limits.cores(groups(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "1073741824\n"}, 1 << 30),
        ({"memory/memory.limit_in_bytes": UNLIMITED}, None),
        ({"memory/memory.limit_in_bytes": "536870912\n"}, 512 << 20),
    ],
)
def test_the_memory_limit_is_read_in_bytes(tmp_path: Path, files: dict[str, str], memory: int | None) -> None:
    assert limits.memory(groups(tmp_path, files)) == memory


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, 0),
        ({"memory.events": "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\n"}, 3),
        ({"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, 2),
    ],
)
def test_processes_that_the_kernel_ended_for_want_of_memory_are_counted(
    tmp_path: Path, files: dict[str, str], kills: int
) -> None:
    assert limits.out_of_memory_kills(groups(tmp_path, files)) == kills

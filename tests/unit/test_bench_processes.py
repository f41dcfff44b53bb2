"""The division of cores, and the processor time of a server's processes."""

import pytest

from benchmarks.processes import divide, spent


@pytest.mark.parametrize(
    ("given", "server", "generator"),
    [
        ([0], (0,), (0,)),
        ([1, 0], (0, 1), (0, 1)),
        ([0, 1, 2, 3], (0, 1, 2), (3,)),
        (list(range(64)), tuple(range(60)), (60, 61, 62, 63)),
    ],
)
def test_cores_are_divided_where_there_are_enough(
    given: list[int], server: tuple[int, ...], generator: tuple[int, ...]
) -> None:
    assert (divide(given).server, divide(given).generator) == (server, generator)


def test_processor_time_is_told_by_program_and_counts_new_processes() -> None:
    before = {1: ("java", 5.0), 2: ("python", 1.0), 9: ("gone", 3.0)}
    after = {1: ("java", 5.5), 2: ("python", 2.0), 3: ("python", 0.25)}
    assert spent(before, after) == {"java": 0.5, "python": 1.25}

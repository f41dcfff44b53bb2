"""What needs no server: arrivals, percentiles, the search for a rate, and which runs are believed."""

import math

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from client.load.campaign import RESOLUTION, STEPS, Campaign, confirm, search_highest_rate
from client.load.plan import Arrival, LoadOptions, Observed, Requests, Run, schedule
from client.load.result import Histogram, Result


@pytest.mark.parametrize("arrival", ["poisson", "constant"])
@pytest.mark.parametrize(("rate", "seconds", "count"), [(100, 10, 1000), (0.5, 4, 2), (33.3, 3, 100), (0.1, 1, 1)])
def test_a_schedule_offers_the_rate_within_its_time(arrival: Arrival, rate: float, seconds: float, count: int) -> None:
    due = schedule(rate, seconds, arrival, seed=7)
    assert len(due) == count
    assert (np.diff(due) >= 0).all()
    assert due[0] >= 0
    assert due[-1] < seconds


def test_constant_arrivals_are_equally_far_apart() -> None:
    assert np.allclose(schedule(250, 2, "constant", 0), np.arange(500) / 250)


def test_gaps_of_poisson_arrivals_are_exponential() -> None:
    gaps = np.diff(schedule(1000, 100, "poisson", 3)) * 1000  # in units of the mean
    assert gaps.mean() == pytest.approx(1, rel=0.01)
    assert gaps.std() == pytest.approx(1, rel=0.02)
    for length in (0.1, 1.0, 3.0):
        assert (gaps > length).mean() == pytest.approx(math.exp(-length), rel=0.05)


def test_a_seed_gives_the_same_arrivals_again_and_another_gives_others() -> None:
    first, again, other = (schedule(100, 5, "poisson", seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert not (first == other).any()


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 49_999])
def test_percentiles_are_those_of_numpy_to_three_digits(count: int) -> None:
    seconds = np.random.default_rng(count).lognormal(-4, 1.5, count)
    found = Histogram(seconds)
    for percent in (0.1, 50, 90, 99, 99.9, 100):
        exact = np.percentile(seconds, percent, method="inverted_cdf")
        assert found.percentile(percent) == pytest.approx(exact, rel=1e-3, abs=1e-6), percent


def test_a_histogram_is_written_as_other_tools_read_it() -> None:
    found = HdrHistogram.decode(Histogram(np.array([0.001, 0.002, 0.002, 5.0])).encoded())
    assert found.get_total_count() == 4
    assert found.get_count_at_value(2000) == 2


def test_latencies_below_a_microsecond_count_as_one() -> None:
    assert Histogram(np.array([0.0, 1e-9])).percentile(50) == pytest.approx(1e-6)


def test_every_so_many_requests_one_is_the_next_golden() -> None:
    requests = Requests([b"a", b"b"], [b"x", b"y", b"z"], golden_every=3)
    picked = [requests.pick(number) for number in range(12)]
    assert [row for _, row, _ in picked] == [0, None, None, 1, None, None, 2, None, None, 0, None, None]
    assert {body for body, row, _ in picked if row is None} == {b"a", b"b"}
    assert picked[3] == (b"y", 1, b"")


# The search.


@pytest.mark.parametrize("capacity", [1.0, 97.3, 640, 1010, 2500])
def test_the_search_ends_at_the_capacity(capacity: float) -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    found = search_highest_rate(capacity * 1.1, holds)
    assert found is not None
    assert capacity / RESOLUTION <= found <= capacity
    assert len(tried) <= STEPS


@pytest.mark.parametrize("estimate", [50, 100, 300, 1000])
def test_a_wrong_estimate_costs_trials_and_no_more(estimate: float) -> None:
    found = search_highest_rate(estimate, lambda rate: rate <= 200)
    assert found is not None
    assert 200 / RESOLUTION <= found <= 200


def test_no_rate_is_found_where_none_holds_and_the_search_ends() -> None:
    tried: list[float] = []

    def never(rate: float) -> bool:
        tried.append(rate)
        return False

    assert search_highest_rate(1000, never) is None
    assert 3 < len(tried) <= STEPS


def test_a_server_without_a_limit_ends_the_search_too() -> None:
    tried: list[float] = []

    def always(rate: float) -> bool:
        tried.append(rate)
        return True

    assert search_highest_rate(100, always) == tried[-1]
    assert len(tried) == STEPS


@pytest.mark.parametrize(("refused", "found"), [(0, 100.0), (1, 100 / RESOLUTION), (9, None)])
def test_a_rate_that_does_not_hold_again_gives_way_to_a_lower_one(refused: int, found: float | None) -> None:
    verdicts = iter([False] * refused + [True])
    assert confirm(100.0, lambda rate: rate if next(verdicts) else None) == found


# What is believed.

DUE = np.arange(1000) / 100


def result(latency: float = 0.02, late: float = 0.0, run: Run | None = None, **changes: object) -> Result:
    run = run or Run(10, 10, due=DUE)
    observed = Observed([(due, due + latency) for due in DUE.tolist()], lateness=[late] * len(DUE), seconds=10.0)
    for name, value in changes.items():
        setattr(observed, name, value)
    return Result(run, [observed], 20, [])


@pytest.mark.parametrize(
    ("latency", "late", "believed"),
    [
        (0.020, 0.0049, True),  # a few milliseconds are forgiven
        (0.020, 0.0051, False),
        (0.200, 0.019, True),  # a tenth of p99
        (0.200, 0.021, False),
        (5.000, 0.049, True),
        (5.000, 0.051, False),  # a stall, however slow the server
    ],
)
def test_a_run_is_rejected_when_the_generator_was_late(latency: float, late: float, believed: bool) -> None:
    rejection = result(latency, late).rejection
    assert (rejection is None) == believed
    assert rejection is None or rejection.startswith(f"The generator itself was late, by {1e3 * late:.1f} ms at p99")


HOLDS = {"outcome": "holds", "rejection": None}
MISSED = {"outcome": "p99 is 52.2 ms, over 50 ms.", "rejection": None}
LATE = {"outcome": "The generator itself was late.", "rejection": "The generator itself was late."}


@pytest.mark.parametrize(
    ("trials", "limited"),
    [
        ([(10, HOLDS)], False),
        ([(10, HOLDS), (20, LATE), (20, LATE), (15, HOLDS)], True),
        ([(10, HOLDS), (20, LATE), (20, MISSED), (15, HOLDS)], False),  # the second trial of a rate is what counts
        ([(10, HOLDS), (20, LATE), (20, HOLDS), (25, MISSED)], False),
        ([(20, HOLDS), (25, LATE), (25, LATE), (20, MISSED), (19, HOLDS)], False),  # one that held must do so again
        ([(20, HOLDS), (25, MISSED), (20, LATE), (20, LATE), (19, HOLDS)], True),
        ([(20, MISSED), (15, LATE), (15, LATE)], True),
        ([(20, LATE), (20, LATE), (15, MISSED)], False),
    ],
)
def test_the_lowest_rate_that_did_not_hold_says_whose_limit_was_found(
    trials: list[tuple[float, dict[str, str | None]]], limited: bool
) -> None:
    campaign = Campaign.__new__(Campaign)
    campaign.trials = [{"rate": rate, **trial} for rate, trial in trials]
    assert campaign.limited_by_generator == limited


def test_a_closed_loop_is_rejected_when_a_process_had_no_time_left() -> None:
    closed = Run(10, 10, 16)
    assert result(run=closed, cpu=9.0).rejection is None
    assert "took 99% of a core" in str(result(run=closed, cpu=9.9).rejection)


def test_failures_are_counted_by_kind_and_are_in_no_latency() -> None:
    found = result(failed=[(1.0, "HTTP 503"), (2.0, "hung up"), (3.0, "HTTP 503")], answered=[(0.0, 0.25)])
    assert found.errors == {"HTTP 503": 2, "hung up": 1}
    assert found.failure == "3 of 4 requests failed: 2 × HTTP 503, 1 × hung up."
    assert (found.percentile(0), found.percentile(100)) == pytest.approx((0.25, 0.25), rel=1e-3)


def test_a_run_without_an_answer_is_a_failure() -> None:
    assert result(answered=[]).failure == "Nothing was answered."


def test_a_run_that_was_given_up_has_not_held() -> None:
    given_up = result(lateness=[0.0] * 500)
    assert given_up.misses(1.0)
    assert result().misses(1.0) is None
    assert result().misses(0.019) == "p99 is 20.0 ms, over 19 ms."


def test_the_rate_counts_until_the_last_answer() -> None:
    assert result(0.0).achieved == pytest.approx(100)
    assert result(10.01).achieved == pytest.approx(50)
    assert result().offered == 100


def test_every_second_has_its_row() -> None:
    rows = result(1.5, failed=[(10.25, "hung up")]).by_second()
    assert [row["offered"] for row in rows] == [100] * 10 + [0, 0]
    assert [row["answered"] for row in rows] == [0, 50] + [100] * 9 + [50]
    assert [row["failed"] for row in rows] == [0] * 10 + [1, 0]
    assert [row["p99_s"] for row in rows[:10]] == pytest.approx([1.5] * 10)
    assert rows[11]["p50_s"] is None


# What is asked for.


def options(**changes: object) -> LoadOptions:
    asked = dict.fromkeys(("rate", "concurrency", "objective", "processes"))
    fixed = {"arrival": "poisson", "duration": 10.0, "find_max": False, "timeout": 10.0, "seed": 0}
    return LoadOptions(**{**asked, **fixed, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Give one of --rate, --concurrency and --find-max."),
        ({"rate": 5.0, "concurrency": 2}, "Give one of --rate, --concurrency and --find-max."),
        ({"rate": 5.0, "find_max": True, "objective": 0.05}, "Give one of --rate, --concurrency and --find-max."),
        ({"find_max": True}, "--find-max needs an objective: --slo-p99 MS"),
        ({"rate": 0.0}, "--rate must be above 0."),
        ({"rate": -1.0}, "--rate must be above 0."),
        ({"rate": math.nan}, "--rate must be above 0."),
        ({"rate": math.inf}, "--rate must be above 0."),
        ({"concurrency": 0}, "--concurrency must be above 0."),
        ({"concurrency": 901}, "--concurrency must be at most 900."),
        ({"rate": 5.0, "duration": 0.0}, "--duration must be above 0."),
        ({"rate": 5.0, "processes": 0}, "--processes must be above 0."),
        ({"rate": 5.0, "objective": -0.1}, "--slo-p99 must be above 0."),
        ({"rate": 5.0, "objective": 10.0}, "--timeout must be longer than the objective of --slo-p99."),
        ({"rate": 1e6}, "One run sends at most 5,000,000 requests. Lower --rate or --duration."),
        ({"find_max": True, "objective": 0.6}, "For --slo-p99 600 give --duration 12 or more."),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + sentence.replace("(", r"\(") + "$"):
        options(**changes)


@pytest.mark.parametrize(
    ("machine", "changes", "count"),
    [
        (1, {"rate": 9000.0}, 1),
        (2, {"rate": 9000.0}, 1),
        (16, {"rate": 100.0}, 1),
        (16, {"rate": 9000.0}, 3),
        (16, {"rate": 90_000.0}, 8),
        (16, {"concurrency": 384}, 8),
        (16, {"concurrency": 16}, 1),
        (16, {"find_max": True, "objective": 0.05}, 8),
        (2, {"rate": 5.0, "processes": 3}, 3),
    ],
)
def test_half_the_cores_send_at_most(
    monkeypatch: pytest.MonkeyPatch, machine: int, changes: dict[str, object], count: int
) -> None:
    monkeypatch.setattr("client.load.plan.cores", lambda: machine)
    assert options(**changes).generators == count


@pytest.mark.parametrize(("count", "connections"), [(1, 900), (3, 900), (4, 3)])
def test_processes_share_requests_and_connections(count: int, connections: int) -> None:
    shares = Run(1, 10, connections, due=DUE).shares(count)
    assert sum(share.connections for share in shares) == connections
    assert all(share.connections for share in shares)
    due: list[float] = sorted(when for share in shares for when in share.due.tolist())  # type: ignore[union-attr]
    assert due == DUE.tolist()
    assert len({share.start for share in shares}) == 1

"""The benchmarks' statistics, and the tables that the docs hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from benchmarks.table import ALONE, number, put, ranked, row, sound, spread, worst

ROOT = Path(__file__).parents[2]
GOOD = {"ok": True, "max_abs": 1e-6, "error_ratio": 1.0, "flips": 0, "sentence": ""}
BAD = {**GOOD, "ok": False, "max_abs": 0.5, "sentence": "3 of 4 differ."}


def measured(images: float, verdict: dict[str, Any] = GOOD, **errors: int) -> dict[str, Any]:
    figures = {
        "p50_s": 0.01,
        "p99_s": 0.02,
        "cpu_s": 0.03,
        "generator_cpu_s": 0.001,
        "memory_bytes": 5e8,
        "start_s": 2.0,
    }
    return {"images_per_s": images, **figures, "programs": {"java": 0.002}, "errors": errors, "verdict": verdict}


ROUNDS = [measured(100), measured(50), measured(80)]
BASE = row(ALONE, "in process", ROUNDS, ROUNDS)


def test_a_ratio_compares_rounds_of_the_same_turn() -> None:
    served = row("torchserve", "TorchServe", [measured(90), measured(49), measured(72)], ROUNDS)
    assert served["ratio"] == {"median": pytest.approx(0.9), "low": pytest.approx(0.9), "high": pytest.approx(0.98)}


def test_a_figure_that_a_round_lacks_is_none() -> None:
    assert spread([1.0, None]) is None
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_one_red_round_makes_the_verdict_red() -> None:
    assert worst([measured(1), measured(1, BAD), measured(1)]) == BAD
    assert worst([measured(1), measured(1, {**GOOD, "max_abs": 2e-6})])["max_abs"] == 2e-6


def test_errors_of_all_rounds_are_added_up() -> None:
    rounds = [measured(9, GOOD, refused=1), measured(9), measured(9, GOOD, refused=2, closed=1)]
    assert row("x", "X", rounds, ROUNDS)["errors"] == {"closed": 1, "refused": 3}


def test_the_wrong_and_the_failing_rank_last() -> None:
    fast_and_wrong = row("wrong", "Wrong", [measured(500, BAD)] * 3, ROUNDS)
    failing = row("failing", "Failing", [measured(400, GOOD, refused=1)] * 3, ROUNDS)
    slow, slower = (row(name, name, [measured(images)] * 3, ROUNDS) for name, images in (("slow", 40), ("slower", 20)))
    order = [one["name"] for one in ranked([slower, fast_and_wrong, slow, failing, BASE])]
    assert order == [ALONE, "slow", "slower", "wrong", "failing"]
    assert not sound(fast_and_wrong)
    assert not sound(failing)


def result(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "environment": {
            "cpu": "A CPU",
            "cores": 2,
            "python": "3.11",
            "torch": "2",
            "onnxruntime-gpu": "1",
            "commit": None,
        },
        "archive": {"name": "photos-onnx", "provider": "CPU", "precision": "float32", "decoder": "cpu"},
        "settings": {
            "rounds": 3,
            "seconds": 8,
            "connections": 8,
            "pictures": 64,
            "picture_bytes": 77000,
            "workers": 2,
            "batch_size": 1,
            "threads_per_worker": 1,
            "server_cores": [0, 1],
            "generator_cores": [0, 1],
        },
        "rows": list(rows),
        "absent": {"Triton": "It has no wheel."},
    }


def test_the_table_names_what_was_not_reached_and_what_was_not_measured() -> None:
    ours = {**row("torchserve", "TorchServe", [measured(90), measured(45), measured(72)], ROUNDS), "note": ""}
    peer = {**row("peer", "Peer", [measured(95), measured(47.5), measured(76)], ROUNDS), "versions": {}, "note": ""}
    told = table.cpu(result(BASE, ours, peer))
    assert "| served ÷ in process | ≥ 0.95 | 0.9 | no |" in told
    assert "| beside the best peer, Peer | ≥ 0.95 | 0.9 | no |" in told
    assert "Not measured: Triton. It has no wheel." in told


@pytest.mark.parametrize(("rate", "reached"), [(9_000, "yes"), (8_000, "no")])
def test_the_table_of_a_gpu_stands_beside_the_highest_rate_that_held(rate: float, reached: str) -> None:
    ours = {**row("torchserve", "TorchServe", [measured(10_000)], [measured(11_000)]), "note": ""}
    highest = {"offered_per_s": rate, "objective_s": 0.05, "ok": True}
    told = table.gpu({**result(ours), "highest": highest})
    assert "| images/s | ≥ 10,000 | 10,000 | yes |" in told
    assert f"| Poisson arrivals with p99 ≤ 50 ms ÷ images/s | ≥ 0.85 | {rate / 10_000:g} | {reached} |" in told


@pytest.mark.parametrize("rate", [9_000, None])
def test_the_table_of_a_gpu_says_when_no_rate_held(rate: float | None) -> None:
    ours = {**row("torchserve", "TorchServe", [measured(10_000)], [measured(11_000)]), "note": ""}
    told = table.gpu({**result(ours), "highest": {"offered_per_s": rate, "objective_s": 0.05, "ok": False}})
    assert "| Poisson arrivals with p99 ≤ 50 ms ÷ images/s | ≥ 0.85 | no rate holds it | no |" in told


def test_a_gpu_where_nothing_was_answered_has_no_figures() -> None:
    told = table.gpu({**result(BASE), "highest": None})
    assert "this project's TorchServe gave none in this run" in told


def test_a_contender_that_differs_is_shown_red_and_not_ranked() -> None:
    wrong = row("wrong", "Wrong", [measured(500, BAD)] * 3, ROUNDS)
    [line] = [line for line in table.cpu(result(BASE, wrong)).splitlines() if line.startswith("| Wrong")]
    assert "not ranked" in line
    assert "**different**: 3 of 4 differ." in line


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_only_what_lies_between_the_markers_is_replaced() -> None:
    document = "a\n<!-- x: begin -->\nold \\1\n<!-- x: end -->\nb"
    assert put(document, "x", r"new \1") == "a\n<!-- x: begin -->\nnew \\1\n<!-- x: end -->\nb"
    with pytest.raises(ValueError, match="once each"):
        put(document, "y", "new")


def test_the_docs_hold_the_tables_of_the_results() -> None:
    document = (ROOT / "docs" / "benchmarks.md").read_text()
    assert table.written(document, table.RESULTS) == document, "Write them: python -m benchmarks.table"


def test_every_result_says_what_it_was_measured_on() -> None:
    for path in table.RESULTS.glob("*.json"):
        found = json.loads(path.read_bytes())
        assert {"cpu", "cores", "python", "torch", "commit"} <= found["environment"].keys(), path
        assert found["date"], path


def taken(archive: str, runtime: str, whole: float, accuracy: float | None = None) -> dict[str, Any]:
    seconds = {"network": 0.8 * whole, "whole": whole}
    eager = None if accuracy is None else 0.98
    named = {"archive": archive, "runtime": runtime, "accuracy": accuracy, "eager_accuracy": eager}
    return {**named, "seconds": seconds, "rounds": [seconds]}


@pytest.mark.parametrize(
    ("whole", "accuracy", "gain", "lost"),
    [(0.008, 0.975, "2.50 | yes", "0.50 points | yes"), (0.016, 0.97, "1.25 | no", "1.00 points | no")],
)
def test_a_reduced_precision_is_held_to_what_it_gains_and_loses(
    whole: float, accuracy: float, gain: str, lost: str
) -> None:
    rows = [taken("photos-onnx", "onnx", 0.02), taken("photos-onnx-int8", "onnx_int8", whole, accuracy)]
    told = table.breakdown({"date": "2026-01-02", "environment": {"cpu": "A CPU"}, "rows": rows})
    assert f"| photos-onnx-int8 beside photos-onnx: throughput | ≥ 2 | {gain} |" in told
    assert f"| photos-onnx-int8 beside photos-onnx: top-1 lost | ≤ 0.5 points | {lost} |" in told


def test_float32_alone_is_held_to_nothing() -> None:
    rows = [taken("photos-onnx", "onnx", 0.02)]
    assert "reached" not in table.breakdown({"date": "2026-01-02", "environment": {"cpu": "A CPU"}, "rows": rows})

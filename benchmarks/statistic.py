"""Rounds of measurements as one row: medians with their lowest and highest, and the ratio to no server at all."""

import statistics
from collections.abc import Sequence
from typing import Any

FIGURES = ("images_per_s", "p50_s", "p99_s", "cpu_s", "generator_cpu_s", "memory_bytes", "start_s")
ALONE = "inprocess"

Round = dict[str, Any]
Row = dict[str, Any]


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """None where a round has no such figure."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return {"median": statistics.median(known), "low": min(known), "high": max(known)}


def row(name: str, title: str, rounds: Sequence[Round], alone: Sequence[Round]) -> Row:
    """`alone` are the rounds of the same turns in process: each ratio is one of two figures of the same turn."""
    pairs = zip(rounds, alone, strict=True)
    ratios = [one["images_per_s"] / base["images_per_s"] for one, base in pairs]
    errors = {kind for one in rounds for kind in one["errors"]}
    return {
        "name": name,
        "title": title,
        **{figure: spread([one[figure] for one in rounds]) for figure in FIGURES},
        "ratio": spread(ratios),
        "programs": _programs(rounds),
        "errors": {kind: sum(one["errors"].get(kind, 0) for one in rounds) for kind in sorted(errors)},
        "verdict": worst(rounds),
        "rounds": list(rounds),
    }


def worst(rounds: Sequence[Round]) -> dict[str, Any]:
    """The verdict of the first round that is red, else that with the largest difference."""
    verdicts: list[dict[str, Any]] = [one["verdict"] for one in rounds]
    red = [one for one in verdicts if not one["ok"]]
    return red[0] if red else max(verdicts, key=lambda one: one["max_abs"])


def _programs(rounds: Sequence[Round]) -> dict[str, float]:
    """Median seconds of processor time for an image, by the program's name."""
    names = sorted({name for one in rounds for name in one["programs"]})
    return {name: statistics.median(one["programs"].get(name, 0.0) for one in rounds) for name in names}


def ranked(rows: Sequence[Row]) -> list[Row]:
    """In process first, then the right ones by their ratio, the best first, then those that answered wrongly."""
    return sorted(rows, key=lambda one: (one["name"] != ALONE, not sound(one), -one["ratio"]["median"]))


def sound(row: Row) -> bool:
    """Whether its figures count: the same as eager, and no error."""
    return bool(row["verdict"]["ok"]) and not row["errors"]

"""What `client load` leaves: a table, a JSON file and a picture. matplotlib is needed for the picture alone."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from client.load.plan import LoadOptions
from client.load.result import PERCENTILES, Result
from client.load.target import Target
from inference.tools.files import publish
from inference.tools.versions import environment

COLUMNS = ("offered/s", "achieved/s", "errors", *(f"p{p:g}" for p in PERCENTILES), "max", "checked", "late p99")
WIDTHS = (10, 11, 7, 13, 13, 13, 13, 13)


def table(result: Result, title: str) -> Table:
    found = Table(*COLUMNS, title=title, title_justify="left", box=box.SIMPLE)
    lateness = "–" if result.offered is None else _ms(result.late)
    checked = f"{result.checked - len(result.wrong)} of {result.checked}"
    found.add_row(*_cells(result), checked, lateness)
    return found


def line(result: Result, outcome: str) -> str:
    """One trial of a search."""
    return "".join(cell.rjust(width) for cell, width in zip(_cells(result), WIDTHS, strict=True)) + "  " + outcome


def heading() -> str:
    return "".join(name.rjust(width) for name, width in zip(COLUMNS, WIDTHS, strict=False))


def _cells(result: Result) -> list[str]:
    latencies = [*(result.percentile(percent) for percent in PERCENTILES), result.percentile(100)]
    offered = "–" if result.offered is None else f"{result.offered:,.1f}"
    return [offered, f"{result.achieved:,.1f}", f"{len(result.failed):,}", *map(_ms, latencies)]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms"


def write(
    path: Path, target: Target, options: LoadOptions, problem: str | None, result: Result, trials: list[dict[str, Any]]
) -> Path:
    """Writes the report to `path`, and the picture beside it, whose path is given back."""
    report = {
        "model": target.asker.model,
        "url": target.asker.client.url,
        "ok": problem is None,
        "problem": problem,
        "mode": "closed" if options.concurrency else "open",
        "arrival": None if options.concurrency else options.arrival,
        "concurrency": options.concurrency,
        "processes": options.generators,
        "seed": options.seed,
        "files": len(target.files),
        "objective_s": options.objective,
        "environment": environment(),
        **result.as_json(),
        "by_second": result.by_second(),
        "histogram": result.histogram.encoded(),
        "trials": trials,
    }
    with publish(path) as draft:
        draft.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    picture = path.with_suffix(".png")
    with publish(picture) as draft:
        _draw(result, target.asker.model, draft)
    return picture


def _draw(result: Result, title: str, path: Path) -> None:
    """The latency that a share of requests does not exceed, up to the slowest; and the run, second by second."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    spectrum, latency, throughput = figure.subplots(1, 3)
    slowest_first = np.sort(result.latencies)[::-1]  # the i-th is exceeded by i of n
    spectrum.plot(len(slowest_first) / np.arange(1, len(slowest_first) + 1), 1e3 * slowest_first)
    spectrum.set(xscale="log", xlabel="percentile", ylabel="ms", title=f"{title}: latency", ylim=(0, None))
    spectrum.set_xticks([1 / (1 - p / 100) for p in PERCENTILES], [f"p{p:g}" for p in PERCENTILES])
    rows = result.by_second()[: max(1, int(result.run.seconds))]
    seconds = [row["second"] for row in rows]
    for name in ("p50", "p99"):
        values = [np.nan if row[f"{name}_s"] is None else 1e3 * row[f"{name}_s"] for row in rows]
        latency.plot(seconds, values, label=name, marker=".")
    latency.set(xlabel="due in second", ylabel="ms", title="Latency over time", ylim=(0, None))
    for name in ("offered", "answered", "failed"):
        if rows[0][name] is not None:
            throughput.plot(seconds, [row[name] or 0 for row in rows], label=name, marker=".")
    throughput.set(xlabel="second", ylabel="requests", title="Throughput over time", ylim=(0, None))
    latency.legend()
    throughput.legend()
    figure.savefig(path, dpi=120)

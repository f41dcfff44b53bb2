"""The comparison as tables and as a picture. matplotlib is needed for the picture alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

Figures = dict[str, float]
Row = dict[str, Any]

MS, S, MB, PLAIN = (1e3, "{:.2f} ms"), (1, "{:.2f} s"), (1e-6, "{:,.1f} MB"), (1, "{:,.0f}")

BLOCKS: dict[str, dict[str, tuple[str, tuple[float, str]]]] = {
    "Made and started": {
        "export": ("export_s", S),
        "artifact": ("artifact_bytes", MB),
        "load": ("load_s", S),
        "cold first answer": ("cold_first_answer_s", MS),
        "worker memory": ("worker_memory_bytes", MB),
    },
    "In process": {
        "p50": ("inprocess_p50_s", MS),
        "p99": ("inprocess_p99_s", MS),
        "images/s at batch {max_batch}": ("inprocess_images_per_s", PLAIN),
    },
    "Served, 1 connection": {
        "p50": ("served_1_p50_s", MS),
        "p99": ("served_1_p99_s", MS),
        "requests/s": ("served_1_per_s", PLAIN),
        "p50 over in process": ("overhead_p50_s", MS),
        "images/s, {images_per_request} a request": ("served_images_per_s_of_arrays", PLAIN),
    },
    "Served, 16 connections": {
        "p50": ("served_16_p50_s", MS),
        "p99": ("served_16_p99_s", MS),
        "requests/s": ("served_16_per_s", PLAIN),
    },
}

PANELS: dict[str, dict[str, tuple[str, float]]] = {
    "Latency, p50, one at a time (ms)": {"in process": ("inprocess_p50_s", 1e3), "served": ("served_1_p50_s", 1e3)},
    "Throughput (images/s)": {
        "16 connections": ("served_16_per_s", 1),
        "arrays of {images_per_request}": ("served_images_per_s_of_arrays", 1),
    },
    "Worker memory (MB)": {"PSS": ("worker_memory_bytes", 1e-6)},
}


def tables(rows: list[Row]) -> Iterable[Table]:
    """One row per runtime in each table; a median, with the lowest and highest of the rounds where they differ."""
    for title, block in BLOCKS.items():
        names = (name.format(**rows[0]) for name in block)  # all are of one model, so of one contract
        table = Table("model", *names, title=title, title_justify="left", box=box.SIMPLE)
        for row in rows:
            table.add_row(row["model"], *(_cell(row[name], *form) for name, form in block.values()))
        yield table
    columns = ("model", "provider", "largest difference", "error ratio", "flips", "")
    proof = Table(*columns, title="Beside eager", title_justify="left", box=box.SIMPLE)
    for row in rows:
        proof.add_row(row["model"], row["provider"], *verdict_cells(row))
    yield proof


def verdict_cells(verdict: Mapping[str, Any]) -> list[str]:
    """The largest difference from eager, the error ratio, the number of flips, and whether that is the same."""
    figures = [f"{verdict[name]:.2g}" if verdict[name] is not None else "–" for name in ("max_abs", "error_ratio")]
    outcome = "[green]same[/]" if verdict["ok"] else f"[red]different[/] {escape(verdict['sentence'])}"
    return [*figures, str(verdict["flips"]), outcome]


def _cell(spread: Figures | None, scale: float, form: str) -> str:
    if spread is None:
        return "–"
    middle, low, high = (form.format(scale * spread[name]) for name in ("median", "low", "high"))
    return middle if low == high else f"{middle}\n{low.split()[0]}–{high.split()[0]}"


def draw(rows: list[Row], path: Path) -> None:
    """Bars for each runtime, medians with lowest and highest, as a PNG. A panel that lacks figures is left out."""
    from matplotlib.figure import Figure

    panels = {key: bars for key, bars in PANELS.items() if all(row[name] for name, _ in bars.values() for row in rows)}
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        width = 0.8 / len(series)
        for index, (label, (name, scale)) in enumerate(series.items()):
            figures = np.array([[row[name][key] for row in rows] for key in ("low", "median", "high")]) * scale
            places = np.arange(len(rows)) + (index - (len(series) - 1) / 2) * width
            errors = np.diff(figures, axis=0)  # from low to median, and from there to high
            axes.bar(places, figures[1], width * 0.9, yerr=errors, capsize=3, label=label.format(**rows[0]))
        axes.set_xticks(range(len(rows)), [row["runtime"] for row in rows])
        axes.margins(y=0.3)  # room for the legend
        axes.legend()
        axes.set_title(title)
    figure.savefig(path, dpi=120)

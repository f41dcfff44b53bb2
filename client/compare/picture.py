"""The comparison as a picture. matplotlib is needed here alone."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from client.compare.tables import Row

PANELS = (
    ("Latency, p50, one at a time (ms)", (("in process", "inprocess_p50_s", 1e3), ("served", "served_1_p50_s", 1e3))),
    (
        "Throughput (images/s)",
        (
            ("16 connections", "served_16_per_s", 1),
            ("arrays of {images_per_request}", "served_images_per_s_of_arrays", 1),
        ),
    ),
    ("Worker memory (MB)", (("PSS", "worker_memory_bytes", 1e-6),)),
)


def draw(rows: list[Row], path: Path) -> None:
    """Bars for each runtime, medians with lowest and highest, as a PNG. A panel that lacks figures is left out."""
    panels = [panel for panel in PANELS if all(row[name] for row in rows for _, name, _ in panel[1])]
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _bars(axes, series, rows)
        axes.set_title(title)
    figure.savefig(path, dpi=120)


def _bars(axes: Axes, series: Sequence[tuple[str, str, float]], rows: list[Row]) -> None:
    """For each runtime a group of bars, one for each of `series`: its label, the figure's name, and its scale."""
    width = 0.8 / len(series)
    for index, (label, name, scale) in enumerate(series):
        middle, low, high = ([scale * row[name][key] for row in rows] for key in ("median", "low", "high"))
        errors = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        places = [place + (index - (len(series) - 1) / 2) * width for place in range(len(rows))]
        axes.bar(places, middle, width * 0.9, yerr=errors, capsize=3, label=label.format(**rows[0]))
    axes.set_xticks(range(len(rows)), [row["runtime"] for row in rows])
    axes.margins(y=0.3)  # room for the legend
    axes.legend()

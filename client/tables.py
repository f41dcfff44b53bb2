"""The comparison as tables for people."""

from collections.abc import Iterable
from typing import Any

from rich import box
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
        "images/s at batch 32": ("inprocess_images_per_s", PLAIN),
    },
    "Served, 1 connection": {
        "p50": ("served_1_p50_s", MS),
        "p99": ("served_1_p99_s", MS),
        "requests/s": ("served_1_per_s", PLAIN),
        "p50 over in process": ("overhead_p50_s", MS),
        "images/s, 32 a request": ("served_images_per_s_of_arrays", PLAIN),
    },
    "Served, 16 connections": {
        "p50": ("served_16_p50_s", MS),
        "p99": ("served_16_p99_s", MS),
        "requests/s": ("served_16_per_s", PLAIN),
    },
}


def tables(rows: list[Row]) -> Iterable[Table]:
    """One row per runtime in each table; a median, with the lowest and highest of the rounds where they differ."""
    for title, block in BLOCKS.items():
        table = Table("model", *block, title=title, title_justify="left", box=box.SIMPLE)
        for row in rows:
            table.add_row(row["model"], *(_cell(row[name], *form) for name, form in block.values()))
        yield table
    columns = ("model", "provider", "largest difference", "error ratio", "flips")
    proof = Table(*columns, title="The same as eager", title_justify="left", box=box.SIMPLE)
    for row in rows:
        figures = [f"{row[name]:.2g}" if row[name] is not None else "–" for name in ("max_abs", "error_ratio")]
        proof.add_row(row["model"], row["provider"], *figures, str(row["flips"]))
    yield proof


def _cell(spread: Figures, scale: float, form: str) -> str:
    middle, low, high = (form.format(scale * spread[name]) for name in ("median", "low", "high"))
    return middle if low == high else f"{middle}\n{low.split()[0]}–{high.split()[0]}"

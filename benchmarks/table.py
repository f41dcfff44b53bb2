"""Rounds of measurements as rows, and rows as tables.

Writes the tables of docs/benchmarks.md from the results: `python -m benchmarks.table`. `--check` only compares.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from inference.tools.commands import run
from inference.tools.files import publish

FIGURES = ("images_per_s", "p50_s", "p99_s", "cpu_s", "generator_cpu_s", "memory_bytes", "start_s")
ALONE = "inprocess"

Round = dict[str, Any]
Row = dict[str, Any]

RESULTS = Path(__file__).with_name("results")
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
OURS = "torchserve"
WHOLE = "whole"
WANTED_RATIO = 0.95
WANTED_RATE, WANTED_P99_MS, WANTED_RATIO_ON_GPU, WANTED_SHARE, WANTED_START_S = 10_000, 50, 0.9, 0.85, 10
NONE_OF_OURS = "Wanted figures: this project's TorchServe gave none in this run."
WANTED_GAIN, WANTED_LOSS = 2, 0.5

HEAD = (
    *("contender", "images/s", "p50 ms", "p99 ms", "server CPU ms", "generator CPU ms", "memory MB", "start s"),
    *("ratio", "errors", "beside eager"),
)


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


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is text, the others are figures."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float) -> str:
    """Three digits that mean something: 0.0123, 1.23, 12.3, 123, 1,234."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def put(document: str, name: str, text: str) -> str:
    """The document with `text` between the markers of that name. Raises ValueError when it has no such markers."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"The document needs the lines {begin} and {end}, once each.")
    between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return between.sub(lambda _: f"{begin}\n{text}\n{end}", document)


def cpu(found: dict[str, Any]) -> str:
    return _servers(found, _wanted(found["rows"]))


def gpu(found: dict[str, Any]) -> str:
    return _servers(found, _wanted_on_gpu(found["rows"], found["highest"]))


def _servers(found: dict[str, Any], wanted: str) -> str:
    rows = ranked(found["rows"])
    parts = [_made_on(found), table(HEAD, map(_cells, rows)), _versions(rows), wanted, _absent(found)]
    return "\n\n".join(part for part in parts if part)


def _made_on(found: dict[str, Any]) -> str:
    made, how = found["environment"], found["settings"]
    apart = not set(how["server_cores"]) & set(how["generator_cores"])
    where = (
        f"the generator on {len(how['generator_cores'])} other cores" if apart else "the generator on the same cores"
    )
    return (
        f"{found['date'][:10]}, {made.get('gpu', '')}{', ' * ('gpu' in made)}{made['cpu']}, {made['cores']} cores; "
        f"{found['archive']['name']} "
        f"({found['archive']['provider']}, {found['archive']['precision']}, decoder {found['archive']['decoder']}); "
        f"{how['workers']} processes × {how['threads_per_worker']} thread, each with {how['batch_size']} requests at a "
        f"time at most, {where}; {how['connections']} connections, "
        f"{how['pictures']} JPEGs of {number(how['picture_bytes'] / 1e3)} kB; medians of {how['rounds']} rounds of "
        f"{number(how['seconds'])} s (lowest–highest). Python {made['python']}, torch {made['torch']}, "
        f"ONNX Runtime {made['onnxruntime-gpu']}, commit {(made['commit'] or 'unknown')[:12]}."
    )


def _cells(row: Row) -> list[str]:
    scales = {"images_per_s": 1, "p50_s": 1e3, "p99_s": 1e3, "cpu_s": 1e3, "generator_cpu_s": 1e3}
    figures = [_shown(row[name], scale) for name, scale in {**scales, "memory_bytes": 1e-6, "start_s": 1}.items()]
    ratio = _shown(row["ratio"], 1) if sound(row) else "not ranked"
    return [row["title"], *figures, ratio, str(sum(row["errors"].values())), _verdict(row["verdict"])]


def _shown(spread: dict[str, float] | None, scale: float) -> str:
    if spread is None:
        return "–"
    middle, low, high = (number(spread[name] * scale) for name in ("median", "low", "high"))
    return middle if low == high else f"{middle} ({low}–{high})"


def _verdict(verdict: dict[str, Any]) -> str:
    if verdict["ok"]:
        return f"same ({verdict['max_abs']:.1g})"
    return f"**different**: {verdict['sentence']}"


def _versions(rows: list[Row]) -> str:
    found = [
        f"{row['title']}: {', '.join(f'{name} {version}' for name, version in row['versions'].items())}"
        + (f" ({row['note']})" if row["note"] else "")
        for row in rows
        if row.get("versions")
    ]
    return "Versions: " + "; ".join(found) + "." if found else ""


def _wanted(rows: list[Row]) -> str:
    """The figures to reach, beside what this run gave."""
    by_name = {row["name"]: row for row in rows if sound(row)}
    if OURS not in by_name:
        return NONE_OF_OURS
    ours = by_name[OURS]["ratio"]["median"]
    peers = [row for name, row in by_name.items() if name not in (OURS, ALONE)]
    best = max(peers, key=lambda row: row["ratio"]["median"], default=None)
    lines = [["served ÷ in process", f"≥ {WANTED_RATIO}", number(ours), _yes(ours >= WANTED_RATIO)]]
    if best:
        theirs = best["ratio"]["median"]
        lines.append(
            [f"beside the best peer, {best['title']}", f"≥ {number(theirs)}", number(ours), _yes(ours >= theirs)]
        )
    return table(("figure", "wanted", "measured", "reached"), lines)


def _wanted_on_gpu(rows: list[Row], highest: dict[str, Any] | None) -> str:
    """`highest` is of the report of `client load --find-max`."""
    ours = next((row for row in rows if row["name"] == OURS and sound(row)), None)
    if ours is None or ours["p99_s"] is None:
        return NONE_OF_OURS
    rate, slowest, ratio, start = (ours[name]["median"] for name in ("images_per_s", "p99_s", "ratio", "start_s"))
    figures = [
        ("images/s", f"≥ {WANTED_RATE:,}", rate, rate >= WANTED_RATE),
        ("p99 at that rate, ms", f"≤ {WANTED_P99_MS}", slowest * 1e3, slowest * 1e3 <= WANTED_P99_MS),
        ("served ÷ in process", f"≥ {WANTED_RATIO_ON_GPU}", ratio, ratio >= WANTED_RATIO_ON_GPU),
        ("start to first right answer, s", f"≤ {WANTED_START_S}", start, start <= WANTED_START_S),
    ]
    if highest:
        share = highest["offered_per_s"] / rate if highest["ok"] else None
        name = f"Poisson arrivals with p99 ≤ {highest['objective_s'] * 1e3:g} ms ÷ images/s"
        figures.append((name, f"≥ {WANTED_SHARE}", share, share is not None and share >= WANTED_SHARE))
    lines = [
        [name, wanted, "no rate holds it" if value is None else number(value), _yes(reached)]
        for name, wanted, value, reached in figures
    ]
    return table(("figure", "wanted", "measured", "reached"), lines)


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


def _absent(found: dict[str, Any]) -> str:
    return "\n".join(f"Not measured: {name}. {reason}" for name, reason in found["absent"].items())


def decoders(found: dict[str, Any]) -> str:
    sizes = found["sizes"]
    head = ("decoder", *(f"{size}, ms" for size in sizes), "largest difference from Pillow, in the same order")
    rows = [
        [row["decoder"], *(number(row["ms"][size]) for size in sizes), ", ".join(row["differences"].values())]
        for row in found["rows"]
    ]
    made = found["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['date'][:10]}, {made['cpu']}, one thread; {packages}.\n\n{table(head, rows)}"


def breakdown(found: dict[str, Any]) -> str:
    made, columns = found["environment"], [row["seconds"] for row in found["rows"]]
    steps = [step for step in columns[0] if step != WHOLE]
    rows = [[step, *(number(column[step] * 1e3) for column in columns)] for step in steps]
    rest = [max(0.0, column[WHOLE] - sum(column[step] for step in steps)) for column in columns]
    rows.append(["checks, copies, headers", *(number(value * 1e3) for value in rest)])
    rows.append(["bytes to top-5", *(number(column[WHOLE] * 1e3) for column in columns)])
    head = ("ms for one picture", *(row["archive"] for row in found["rows"]))
    rounds = len(found["rows"][0]["rounds"])
    made_on = f"{found['date'][:10]}, {made['cpu']}, one process, one thread; medians of {rounds} rounds."
    return "\n\n".join(part for part in (made_on, table(head, rows), _reduced(found["rows"])) if part)


def _reduced(rows: list[Row]) -> str:
    """What a reduced precision gains over the same runtime in float32, and what it loses."""
    full = {row["runtime"]: row for row in rows if row["accuracy"] is None}
    lines = []
    for row in rows:
        if row["accuracy"] is not None and (base := full.get(row["runtime"].partition("_")[0])):
            gain = base["seconds"][WHOLE] / row["seconds"][WHOLE]
            lost = round(100 * (row["eager_accuracy"] - row["accuracy"]), 6)
            name = f"{row['archive']} beside {base['archive']}"
            lines.append([f"{name}: throughput", f"≥ {WANTED_GAIN}", number(gain), _yes(gain >= WANTED_GAIN)])
            wanted = f"≤ {WANTED_LOSS} points"
            lines.append([f"{name}: top-1 lost", wanted, f"{lost:.2f} points", _yes(lost <= WANTED_LOSS)])
    return table(("figure", "wanted", "measured", "reached"), lines) if lines else ""


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "cpu": cpu,
    "gpu": gpu,
    "breakdown": breakdown,
    "decoders": decoders,
}


def written(document: str, results: Path) -> str:
    """The document with every table whose result there is."""
    for name, render in TABLES.items():
        path = results / f"{name}.json"
        if path.exists():
            document = put(document, name, render(json.loads(path.read_bytes())))
    return document


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if a table differs.")] = False,
    results: Annotated[Path, typer.Option(help="Where the results are.")] = RESULTS,
    document: Annotated[Path, typer.Option(help="What the tables are written to.")] = DOCUMENT,
) -> None:
    """Write the tables of docs/benchmarks.md from the results."""
    before = document.read_text()
    after = written(before, results)
    if check:
        raise typer.Exit(before != after)
    if before != after:
        with publish(document) as draft:
            draft.write_text(after)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    run(app)

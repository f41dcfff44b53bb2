"""Where each millisecond goes in process, archive by archive: `python -m benchmarks.breakdown ARCHIVE…`."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks import measured
from benchmarks.contenders import Subject
from benchmarks.measured import Plan
from benchmarks.pictures import pictures
from benchmarks.processes import divide
from benchmarks.servers import RESULTS, subject_of
from benchmarks.venvs import scratch
from inference.store.archive import unpacked
from inference.store.manifest import Manifest
from inference.tools.commands import run
from inference.tools.files import publish
from inference.tools.versions import environment

WARM_UP = 1.0


@contextmanager
def subject(name: str, store: Path) -> Iterator[Subject]:
    [archive] = Manifest.read(store).choose([name]).values()
    with unpacked(store / archive.file) as folder:
        yield subject_of(name, store, folder)


def measure(subjects: list[Subject], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One process on one core, one thread, by the archive's own code; the archives take turns."""
    shots = [str(path) for path in pictures(scratch() / "pictures")]
    plan = Plan(shots, [], 1, 1, WARM_UP, seconds, divide(list(os.sched_getaffinity(0))))
    taken: dict[str, list[dict[str, float]]] = {one.name: [] for one in subjects}
    for _ in range(rounds):
        for one in subjects:
            with tempfile.TemporaryDirectory() as place:
                taken[one.name].append(measured.steps(one, plan, Path(place)))
    return [_row(one, taken[one.name]) for one in subjects]


def _row(subject: Subject, rounds: list[dict[str, float]]) -> dict[str, Any]:
    kept = subject.archive.model_dump(include={"runtime", "precision", "accuracy", "eager_accuracy"})
    seconds = {step: median(one[step] for one in rounds) for step in rounds[0]}
    return {"archive": subject.name, **kept, "seconds": seconds, "rounds": rounds}


def main(
    names: Annotated[list[str], typer.Argument(help="Archives of the store, such as photos-onnx photos-onnx-int8.")],
    store: Annotated[Path, typer.Option(help="Where the archives are.")] = Path("model_store"),
    rounds: Annotated[int, typer.Option(min=1, help="How often each archive is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each time.")] = 5,
    results: Annotated[Path, typer.Option(help="Where to write.")] = RESULTS,
) -> None:
    """Time each step from a picture's bytes to its top-5, with no server."""
    with ExitStack() as stack:
        rows = measure([stack.enter_context(subject(name, store)) for name in names], rounds, seconds)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    with publish(results / "breakdown.json") as draft:
        draft.write_text(json.dumps({"date": when, "environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    run(app)

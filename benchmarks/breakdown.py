"""Where each millisecond goes in process, archive by archive: `python -m benchmarks.breakdown ARCHIVE…`."""

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import measured
from benchmarks.cpu import RESULTS, subject_of
from benchmarks.measured import Plan
from benchmarks.pictures import pictures
from benchmarks.processes import divide
from benchmarks.venvs import scratch
from client.environment import environment
from export.archive import unpacked
from export.manifest import Manifest
from training.commands import run
from training.files import publish

WARM_UP = 1.0


def measure(name: str, store: Path, seconds: float) -> dict[str, Any]:
    """One process on one core, one thread, by the archive's own code."""
    [archive] = Manifest.read(store).choose([name]).values()
    shots = [str(path) for path in pictures(scratch() / "pictures")]
    plan = Plan(shots, [], 1, WARM_UP, seconds, divide(list(os.sched_getaffinity(0))))
    with unpacked(store / archive.file) as folder, tempfile.TemporaryDirectory() as place:
        found = measured.steps(subject_of(name, store, folder), plan, Path(place))
    return {"archive": name, "runtime": archive.runtime, "precision": archive.precision, "seconds": found}


def main(
    names: Annotated[list[str], typer.Argument(help="Archives of the store, such as photos-onnx photos-onnx-int8.")],
    store: Annotated[Path, typer.Option(help="Where the archives are.")] = Path("model_store"),
    seconds: Annotated[float, typer.Option(min=0.1, help="For each archive.")] = 10,
    results: Annotated[Path, typer.Option(help="Where to write.")] = RESULTS,
) -> None:
    """Time each step from a picture's bytes to its top-5, with no server."""
    rows = [measure(name, store, seconds) for name in names]
    when = datetime.now(UTC).isoformat(timespec="seconds")
    with publish(results / "breakdown.json") as draft:
        draft.write_text(json.dumps({"date": when, "environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    run(app)

"""`python -m export calibrate MODEL`: how far every runtime is from eager, over many more inputs than an export has."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from export.calibration import evidence
from export.calibration.evidence import Evidence, Seen
from export.diagnose.bisect import it_runs
from export.pipeline import PACKAGES, answered_by_eager
from export.trained import Trained, load_trained
from inference import parity
from inference.goldens import Goldens
from inference.runtime import Loaded, load_artifact, runtime_module, runtime_names
from inference.tools.commands import no_crash_is_a_difference
from inference.tools.versions import processor, versions
from inference.torch_graph import check_device
from models import make_network

DEVICES = {"cpu": "cpu", "cuda": "cuda:0"}
THREADS = {"cpu": (1, 2), "cuda": (1,)}  # threads are the CPU's

References = dict[str, Goldens]  # by kind of input


@dataclass(frozen=True)
class Measured:
    """One artifact beside eager, by kind of input."""

    runtime: str
    loaded: Loaded
    limit: parity.Tolerance
    by_kind: dict[str, parity.Comparison]

    @property
    def verdict(self) -> parity.Comparison:
        return parity.worst_of([*self.by_kind.values()])

    def seen(self) -> Seen:
        verdict = self.verdict
        return Seen(
            runtime=self.runtime,
            precision=self.loaded.precision,
            provider=self.loaded.provider,
            compared=verdict.compared,
            flips=len(verdict.flips),
            error_ratio=verdict.error_ratio,
            worst={kind: one.max_abs for kind, one in self.by_kind.items() if one.max_abs is not None},
        )


@no_crash_is_a_difference()
def calibrate(
    model: Annotated[str, typer.Argument(help="A model of the zoo, exported.")],
    runtime: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be given several times.  [default: all with a row]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often inputs are drawn anew.")] = 5,
    inputs: Annotated[int, typer.Option(min=1, help="How many of each kind a seed draws.")] = 200,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What the artifacts were exported for.")] = "cpu",
    write: Annotated[
        bool, typer.Option("--write", help="Keep it in export/calibration/evidence/, and the worst in tolerances.toml.")
    ] = False,
    artifacts: Annotated[Path, typer.Option(help="Where training and export write.")] = Path("artifacts"),
    data_dir: Annotated[Path, typer.Option(help="Where downloaded data lies.")] = Path("data"),
) -> None:
    """Measure how far each exported artifact is from eager, which the tolerances rest on.

    Every input at batch sizes 1, 2, 3, 7 and the largest, with 1 and 2 threads, beside eager one at a time on one
    thread. Exit code 0: no answer is beyond its limit; 1: one is; 2: it could not be measured.
    """
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    check_device(device)
    trained = load_trained(model, artifacts, data_dir)
    chosen = _chosen(model, runtime, device, write)
    paths = {name: _artifact(trained, name) for name in chosen}
    references = _references(trained, seeds, inputs, console)
    measured = _measure_all(trained, references, paths, device, console)
    console.print(_table(measured, f"{model} on {device}: {_described(seeds, inputs, [*references])}"))
    _end_where_red(measured, console)
    if write:
        _write(_evidence(trained, device, (seeds, inputs), references, measured), console)


def _chosen(model: str, asked: list[str] | None, device: str, write: bool) -> list[str]:
    """Raises ValueError for a runtime that there isn't, or that has no row."""
    if asked and write:
        raise ValueError("The evidence is about every runtime of a model. Leave out --runtime, or --write.")
    names = [name.replace("-", "_") for name in asked or runtime_names()]
    for name in names:
        runtime_module(name)
    missing = {name: parity.unmeasured(model, name, device) for name in names}
    for reason in missing.values():
        if reason and asked:
            raise ValueError(reason)
    return [name for name, reason in missing.items() if not reason]


def _artifact(trained: Trained, runtime: str) -> Path:
    path = trained.path.with_name(runtime_module(runtime).ARTIFACT)
    if not path.exists():
        raise ValueError(f"{path} is missing. {_how_to_export(trained, runtime)}")
    return path


def _how_to_export(trained: Trained, runtime: str) -> str:
    return f"Export it: python -m export {trained.contract.model} --runtime {runtime.replace('_', '-')}"


def _references(trained: Trained, seeds: int, inputs: int, console: Console) -> References:
    spec = trained.contract.input
    rows = [split.images for split in trained.data.splits.values() if split.images.shape[1:] == spec.shape]
    drawn = [spec.probes(rows, np.random.default_rng(seed), inputs) for seed in range(seeds)]
    names = [f"{number} of seed {seed}" for seed in range(seeds) for number in range(inputs)]
    with console.status(f"Asking eager about {_described(seeds, inputs, [*drawn[0]])}"):
        return {
            kind: answered_by_eager(
                trained,
                [f"{kind} {name}" for name in names],
                [b""] * len(names),
                np.concatenate([one[kind] for one in drawn]),
            )
            for kind in drawn[0]
        }


def _described(seeds: int, inputs: int, kinds: list[str]) -> str:
    return f"{seeds * inputs * len(kinds):,} inputs, {inputs} each of {', '.join(kinds)} for each of {seeds} seeds"


def _measure_all(
    trained: Trained, references: References, paths: dict[str, Path], device: str, console: Console
) -> list[Measured]:
    steps = len(THREADS[device]) * len(references) * len(parity.batch_sizes(trained.contract.max_batch))
    measured = []
    with Progress(console=console, transient=True) as progress:
        for name, path in paths.items():
            task = progress.add_task(name, total=steps)
            measured.append(measure(trained, references, name, path, device, partial(progress.advance, task)))
    return measured


def measure(
    trained: Trained, references: References, runtime: str, path: Path, device: str, done: Callable[[], None]
) -> Measured:
    """One artifact over all references. `done` is called after each of them, at each batch size. Raises ValueError."""
    found: dict[str, list[parity.Comparison]] = {kind: [] for kind in references}
    for threads in THREADS[device]:
        with it_runs(path, runtime):
            loaded = load_artifact(runtime, path, DEVICES[device], threads, make_network)
        if (loaded.weights, loaded.contract) != (trained.digest, trained.contract):
            raise ValueError(f"{path} was made from other weights. {_how_to_export(trained, runtime)}")
        limit = parity.tolerance(trained.contract.model, runtime, loaded.precision, loaded.device)
        for kind, goldens in references.items():
            for size in parity.batch_sizes(loaded.contract.max_batch):
                with it_runs(path, runtime):
                    outputs = parity.run_goldens(loaded, goldens, size)
                found[kind].append(parity.compare(outputs, goldens, limit))
                done()
    return Measured(runtime, loaded, limit, {kind: parity.worst_of(ones) for kind, ones in found.items()})


def _table(measured: list[Measured], title: str) -> Table:
    columns = ("runtime", "precision", "compared", *measured[0].by_kind, "atol", "rtol", "margin", "flips")
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE, caption="margin: atol ÷ the worst seen")
    for one in measured:
        worst, limit = one.verdict.max_abs, one.limit
        margin = f"{limit.atol / worst:.1f}" if worst else "–"
        table.add_row(
            *(one.runtime, one.loaded.precision, f"{one.verdict.compared:,}"),
            *(_figure(one.by_kind[kind].max_abs) for kind in one.by_kind),
            *(f"{limit.atol:g}", f"{limit.rtol:g}", margin, str(len(one.verdict.flips))),
        )
    return table


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _end_where_red(measured: list[Measured], console: Console) -> None:
    red = [one for one in measured if not one.verdict.ok]
    for one in red:
        console.print(f"[red]{one.runtime} is beyond its limit:[/] {escape(one.verdict.sentence)}", soft_wrap=True)
    if red:
        raise typer.Exit(1)


def _evidence(
    trained: Trained, device: str, drawn: tuple[int, int], references: References, measured: list[Measured]
) -> Evidence:
    return Evidence(
        model=trained.contract.model,
        device=device,
        weights=trained.digest,
        seeds=drawn[0],
        inputs=drawn[1],
        batch_sizes=tuple(parity.batch_sizes(trained.contract.max_batch)),
        threads=THREADS[device],
        largest_logit=max(float(np.abs(goldens.outputs).max()) for goldens in references.values()),
        processor=_processor(device),
        versions=versions(PACKAGES),
        seen=tuple(one.seen() for one in measured),
    )


def _processor(device: str) -> str:
    """The model of what computed."""
    return processor() if device == "cpu" else torch.cuda.get_device_name(DEVICES[device])


def _write(found: Evidence, console: Console) -> None:
    found.write()
    evidence.write_worst(evidence.read_all())
    kept, table = os.path.relpath(found.path), os.path.relpath(parity.TABLE)
    console.print(f"Kept in {kept} and, as the worst seen, in {table}.", soft_wrap=True)
    for sentence in evidence.complaints():
        console.print(f"[yellow]{sentence}[/]", soft_wrap=True)

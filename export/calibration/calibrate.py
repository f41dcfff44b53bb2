"""`python -m export calibrate MODEL`: how far every runtime is from eager, over many more inputs than an export has."""

import os
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
from export.pipeline import PACKAGES, answered_by_eager, compare_at_every_size, load_to_compare
from export.trained import Trained, load_trained
from inference import parity
from inference.goldens import Goldens
from inference.runtime import runtime_module, runtime_names
from inference.tools.commands import no_crash_is_a_difference
from inference.tools.versions import processor, versions
from inference.torch_graph import check_device

DEVICES = {"cpu": "cpu", "cuda": "cuda:0"}
THREADS = {"cpu": (1, 2), "cuda": (1,)}  # threads are the CPU's

References = dict[str, Goldens]  # by kind of input
Measured = tuple[Seen, parity.Comparison]  # of one artifact beside eager, over all kinds


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
    if runtime and write:
        raise ValueError("The evidence is about every runtime of a model. Leave out --runtime, or --write.")
    paths = _artifacts(trained, runtime, device)
    spec = trained.contract.input
    rows = [split.inputs for split in trained.data.splits.values() if split.inputs.shape[1:] == spec.shape]
    drawn = [spec.probes(rows, np.random.default_rng(seed), inputs) for seed in range(seeds)]
    probes = {kind: np.concatenate([one[kind] for one in drawn]) for kind in drawn[0]}
    title = f"{seeds * inputs * len(probes):,} inputs, {inputs} each of {', '.join(probes)} for each of {seeds} seeds"
    names = [f"{number} of seed {seed}" for seed in range(seeds) for number in range(inputs)]
    with console.status(f"Asking eager about {title}"):
        references = {
            kind: answered_by_eager(trained, [f"{kind} {name}" for name in names], [b""] * len(names), probe)
            for kind, probe in probes.items()
        }
    with Progress(console=console, transient=True) as progress:
        measured = [_measure(trained, references, *artifact, device, progress) for artifact in paths.items()]
    console.print(_table(measured, [*references], f"{model} on {device}: {title}"))
    for seen, verdict in measured:
        if not verdict.ok:
            console.print(f"[red]{seen.runtime} is beyond its limit:[/] {escape(verdict.sentence)}", soft_wrap=True)
    if not all(verdict.ok for _, verdict in measured):
        raise typer.Exit(1)
    if write:
        _keep(trained, device, seeds, inputs, references, [seen for seen, _ in measured], console)


def _artifacts(trained: Trained, asked: list[str] | None, device: str) -> dict[str, Path]:
    """By runtime: those asked for, or all that have a row. Raises ValueError for what there isn't, or has no row."""
    found = {}
    for name in [name.replace("-", "_") for name in asked or runtime_names()]:
        path = trained.path.with_name(runtime_module(name).ARTIFACT)
        if reason := parity.unmeasured(trained.contract.model, name, device):
            if asked:
                raise ValueError(reason)
        elif path.exists():
            found[name] = path
        else:
            raise ValueError(f"{path} is missing. {_how_to_export(trained, name)}")
    return found


def _how_to_export(trained: Trained, runtime: str) -> str:
    return f"Export it: python -m export {trained.contract.model} --runtime {runtime.replace('_', '-')}"


def _measure(
    trained: Trained, references: References, runtime: str, path: Path, device: str, progress: Progress
) -> Measured:
    """Raises ValueError where the artifact can't be loaded or run, or is of other weights."""
    sizes = parity.batch_sizes(trained.contract.max_batch)
    task = progress.add_task(runtime, total=len(THREADS[device]) * len(references) * len(sizes))
    found: dict[str, list[parity.Comparison]] = {kind: [] for kind in references}
    for threads in THREADS[device]:
        loaded, run = load_to_compare(path, runtime, DEVICES[device], threads)
        if (loaded.weights, loaded.contract) != (trained.digest, trained.contract):
            raise ValueError(f"{path} was made from other weights. {_how_to_export(trained, runtime)}")
        limit = parity.tolerance(trained.contract.model, runtime, loaded.precision, loaded.device)
        for kind, goldens in references.items():
            for one in compare_at_every_size(run, goldens, limit):
                found[kind].append(one)
                progress.advance(task)
    by_kind = {kind: parity.worst_of(ones) for kind, ones in found.items()}
    verdict = parity.worst_of([*by_kind.values()])
    seen = Seen(
        runtime=runtime,
        precision=loaded.precision,
        provider=loaded.provider,
        compared=verdict.compared,
        flips=len(verdict.flips),
        error_ratio=verdict.error_ratio,
        worst={kind: one.max_abs for kind, one in by_kind.items() if one.max_abs is not None},
    )
    return seen, verdict


def _table(measured: list[Measured], kinds: list[str], title: str) -> Table:
    columns = ("runtime", "precision", "compared", *kinds, "atol", "rtol", "margin", "flips")
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE, caption="margin: atol ÷ the worst seen")
    for seen, verdict in measured:
        margin = f"{verdict.atol / verdict.max_abs:.1f}" if verdict.max_abs else "–"
        table.add_row(
            *(seen.runtime, seen.precision, f"{seen.compared:,}"),
            *(f"{seen.worst[kind]:.2g}" if kind in seen.worst else "–" for kind in kinds),
            *(f"{verdict.atol:g}", f"{verdict.rtol:g}", margin, str(seen.flips)),
        )
    return table


def _keep(
    trained: Trained, device: str, seeds: int, inputs: int, references: References, seen: list[Seen], console: Console
) -> None:
    found = Evidence(
        model=trained.contract.model,
        device=device,
        weights=trained.digest,
        seeds=seeds,
        inputs=inputs,
        batch_sizes=tuple(parity.batch_sizes(trained.contract.max_batch)),
        threads=THREADS[device],
        largest_logit=max(float(np.abs(goldens.outputs).max()) for goldens in references.values()),
        processor=processor() if device == "cpu" else torch.cuda.get_device_name(DEVICES[device]),
        versions=versions(PACKAGES),
        seen=tuple(seen),
    )
    found.write()
    evidence.write_worst(evidence.read_all())
    kept, table = os.path.relpath(found.path), os.path.relpath(parity.TABLE)
    console.print(f"Kept in {kept} and, as the worst seen, in {table}.", soft_wrap=True)
    for sentence in evidence.complaints():
        console.print(f"[yellow]{sentence}[/]", soft_wrap=True)

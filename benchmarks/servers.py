"""This project's TorchServe beside its peers, on this machine: `python -m benchmarks.servers`.

In every round each contender is started, measured under the same load and stopped, in each round the other way round.
The result is benchmarks/results/NAME.json; `python -m benchmarks.table` writes the docs' tables from it.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import measured
from benchmarks.contenders import CONTENDERS, Contender, NotPossible, Place, Subject
from benchmarks.measured import NotRunning, Plan, Round
from benchmarks.pictures import pictures
from benchmarks.processes import divide
from benchmarks.table import ALONE, Row, row
from benchmarks.venvs import SHARED, NotInstalled, scratch, versions
from inference import parity
from inference.store import manifest
from inference.store.archive import read_goldens, unpacked
from inference.tools.commands import run
from inference.tools.files import publish
from inference.tools.versions import environment
from serve.record import NotServing
from serve.torchserve.server import check_ports

RESULTS = Path(__file__).with_name("results")
ALONE_TITLE = "in process, no server"
CONNECTIONS_PER_CORE = 4
FIRST_PORT = 18080
OURS = "torchserve"
PEERS = ",".join(one for one in CONTENDERS if one != OURS)

DESCRIBED = {"sha256", "model", "runtime", "version", "precision", "provider", "device", "decoder"}

LEFT_OUT = {"Triton": "No adapter was written for it."}


def subject_of(name: str, store: Path, folder: Path) -> Subject:
    """`folder` holds the unpacked archive. Raises ValueError for what the store has not, or not whole."""
    [archive] = manifest.Manifest.read(store).choose([name]).values()
    manifest.check(store, {archive.file: archive})
    goldens = read_goldens(store / archive.file)
    limit = parity.tolerance(archive.model, archive.runtime, archive.precision, archive.device)
    return Subject(name, archive, store.resolve(), folder, goldens, limit)


def installed(names: list[str]) -> tuple[list[Contender], dict[str, str]]:
    """The contenders that can be started, and why the others can't. Raises ValueError where ours can't."""
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise ValueError(f"There is no contender {unknown[0]!r}. Choose among: {', '.join(CONTENDERS)}.")
    found, absent = [], {}
    for name in names:
        try:
            CONTENDERS[name].versions()
            found.append(CONTENDERS[name])
        except NotInstalled as error:
            if name == OURS:
                raise ValueError(f"{CONTENDERS[name].title} can't be measured: {error}") from None
            absent[name] = str(error)
    return found, absent


class Benchmark:
    """All contenders over all rounds; one that can't be started is absent, with its reason, from then on."""

    def __init__(self, subject: Subject, plan: Plan, contenders: list[Contender], absent: dict[str, str]) -> None:
        self.subject, self.plan, self.contenders, self.absent = subject, plan, contenders, absent
        self.rounds: dict[str, list[Round]] = {name: [] for name in (ALONE, *(one.name for one in contenders))}

    def turn(self, backwards: bool) -> Iterator[str]:
        """One round; gives the name of each contender that was measured."""
        for name in list(self.rounds)[:: -1 if backwards else 1]:
            if name not in self.absent:
                self._measure(name)
            yield name

    def _measure(self, name: str) -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch_folder:
            folder = Path(scratch_folder)
            if name == ALONE:
                self.rounds[name].append(measured.alone(self.subject, self.plan, folder))
                return
            try:
                self.rounds[name].append(self._served(CONTENDERS[name], folder))
            except (NotRunning, NotPossible) as error:
                self.absent[name] = str(error)

    def _served(self, contender: Contender, folder: Path) -> Round:
        place = Place(folder, free_port(), self.plan.workers)
        launch = contender.launch(self.subject, place)
        return measured.served(launch, self.subject, self.plan, place, contender.same_predictor)

    def rows(self) -> list[Row]:
        alone = self.rounds[ALONE]
        found = [row(ALONE, ALONE_TITLE, alone, alone)]
        for one in self.contenders:
            if one.name not in self.absent:
                figures = row(one.name, one.title, self.rounds[one.name], alone)
                found.append({**figures, "versions": one.versions(), "note": one.note})
        return found


def free_port() -> int:
    """The first of five in a row that nothing listens on."""
    for port in range(FIRST_PORT, FIRST_PORT + 1000, 10):
        try:
            check_ports(port)
            return port
        except NotServing:
            continue
    raise ValueError(f"No five free ports in a row from {FIRST_PORT} on. Stop what listens there.")


def plan_of(
    subject: Subject, shots: list[Path], workers: int, connections: int, warm_up: float, seconds: float
) -> Plan:
    """The archive itself says once, before anything is measured, what the right answers are."""
    cores = divide(list(os.sched_getaffinity(0)))
    paths = [str(shot) for shot in shots]
    workers, connections = workers or len(cores.server), connections or CONNECTIONS_PER_CORE * len(cores.server)
    plan = Plan(paths, [], workers, connections, warm_up, seconds, cores)
    with tempfile.TemporaryDirectory() as folder:
        bodies = measured.answers(subject, plan, Path(folder))
    return replace(plan, right=[_label(body) for body in bodies])


def _label(body: str) -> str:
    """An answer's beginning, with the most probable label and without its score, whose last digit may differ."""
    return json.dumps({"label": json.loads(body)["label"]}, ensure_ascii=False).rstrip("}")


def report(benchmark: Benchmark, made_by: dict[str, Any], seconds_taken: float, highest: Path | None) -> dict[str, Any]:
    load = json.loads(highest.read_bytes()) if highest else {}
    subject, plan = benchmark.subject, benchmark.plan
    archive = subject.archive
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": made_by,
        "archive": {
            "name": subject.name,
            **archive.model_dump(include=DESCRIBED),
        },
        "settings": {
            "rounds": len(benchmark.rounds[ALONE]),
            "seconds": plan.seconds,
            "warm_up": plan.warm_up,
            "connections": plan.connections,
            "pictures": len(plan.pictures),
            "picture_bytes": round(sum(Path(one).stat().st_size for one in plan.pictures) / len(plan.pictures)),
            "workers": plan.workers,
            "batch_size": archive.batch_size,
            "threads_per_worker": 1,
            "server_cores": list(plan.cores.server),
            "generator_cores": list(plan.cores.generator),
        },
        "seconds_taken": round(seconds_taken),
        "highest": {name: load[name] for name in ("offered_per_s", "objective_s", "ok")} if load else None,
        "rows": benchmark.rows(),
        "absent": {**{CONTENDERS[name].title: reason for name, reason in benchmark.absent.items()}, **LEFT_OUT},
    }


def _gpu(device: str) -> dict[str, str]:
    if device == "cpu":
        return {}
    import torch

    return {"gpu": torch.cuda.get_device_name()}


def main(
    archive: Annotated[str, typer.Option(help="What is served: an archive of the store.")] = "photos-onnx",
    store: Annotated[Path, typer.Option(help="Where the archives are.")] = Path("model_store"),
    peers: Annotated[str, typer.Option(help="Names, separated by commas; none for TorchServe alone.")] = PEERS,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each time.")] = 8,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of load before that, not measured.")] = 20,
    workers: Annotated[int, typer.Option(min=0, help="Of each contender; 0: one for each of the server's cores.")] = 0,
    connections: Annotated[int, typer.Option(min=0, help="At a time; 0: four for each of the server's cores.")] = 0,
    highest: Annotated[
        Path | None, typer.Option(help="A report of `client load --find-max`, to be shown beside the rest.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the file that is written to benchmarks/results.")] = "cpu",
    results: Annotated[Path, typer.Option(help="Where to write it.")] = RESULTS,
) -> None:
    """Measure this project's TorchServe and its peers around the very same predictor, and no server at all."""
    console, start = Console(stderr=True), time.monotonic()
    with ExitStack() as stack, Progress(console=console, transient=True) as progress:
        wanted = [OURS, *(peer for peer in peers.split(",") if peer not in ("", "none"))]
        installing = progress.add_task("Installing the peers", total=None)
        contenders, absent = installed(wanted)
        progress.remove_task(installing)
        folder = stack.enter_context(unpacked(manifest_path(archive, store)))
        subject = subject_of(archive, store, folder)
        made_by = {**environment(), **versions(Path(sys.executable), SHARED), **_gpu(subject.archive.device)}
        plan = plan_of(subject, pictures(scratch() / "pictures"), workers, connections, warm_up, seconds)
        benchmark = Benchmark(subject, plan, contenders, absent)
        task = progress.add_task("Measuring", total=rounds * len(benchmark.rounds))
        for turn in range(rounds):
            for measured_name in benchmark.turn(backwards=turn % 2 == 1):
                progress.update(task, advance=1, description=f"Measured {measured_name}")
        found = report(benchmark, made_by, time.monotonic() - start, highest)
    with publish(results / f"{name}.json") as draft:
        draft.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def manifest_path(name: str, store: Path) -> Path:
    [archive] = manifest.Manifest.read(store).choose([name]).values()
    return store / archive.file


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    run(app)

"""`python -m client compare`: the runtimes side by side, in process and served, in one run."""

import json
import statistics
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from client import Client
from client.access import is_local
from client.compare.report import Figures, Row, draw, tables
from client.errors import ClientError, Unreachable
from client.models import served_names
from client.options import Artifacts, ManagementUrl, Store, Url, console, require
from client.payloads import rows_payload, rows_per_request
from client.verify.asker import Asker
from inference import parity
from inference.goldens import Goldens
from inference.store.archive import run_inprocess
from inference.store.manifest import Archive, Manifest, check
from inference.tools.commands import CannotCheck, no_crash_is_a_difference
from inference.tools.files import publish
from inference.tools.limits import threads_per_worker
from inference.tools.versions import environment

ROUNDS = 3
REQUESTS = 300
WARM_UP = 50
CONNECTIONS = 16
PHASE_SECONDS = 2.0  # a phase sends no more after that, whatever its number of requests
TOTAL_SECONDS = 95  # no round begins that would end later


class Contender:
    """One served model, measured `ROUNDS` times; each round gives figures by name, in seconds, per second or bytes."""

    def __init__(self, asker: Asker, archive: Archive, path: Path, threads: int) -> None:
        self.asker, self.client, self.name, self.goldens = asker, asker.client, asker.model, asker.goldens
        self.archive, self.path, self.threads = archive, path, threads
        self.rounds: list[Figures] = []
        self.memory: list[float] = []

    def measure(self) -> None:
        self.rounds.append(self._inprocess() | self._served())
        self.memory += self._memory()

    def _inprocess(self) -> Figures:
        try:
            found = run_inprocess("timings", self.path, self.threads)
        except RuntimeError as error:
            raise CannotCheck(f"{self.name}: {error}") from None
        p50, p99 = np.percentile(found["one"], [50, 99])
        return {
            "load_s": float(found["load"]),
            "cold_first_answer_s": float(found["cold"]),
            "inprocess_p50_s": p50,
            "inprocess_p99_s": p99,
            "inprocess_images_per_s": int(found["batch_size"]) / np.median(found["batch"]),
        }

    def _served(self) -> Figures:
        from client.compare.timing import timed

        count = rows_per_request(self.asker.contract)
        array = rows_payload(self.asker.contract, self.goldens.inputs[np.arange(count) % len(self.goldens)])
        ask = partial(timed, self.client.url, self.name)
        requests = list(islice(cycle(self.goldens.requests), 2 * REQUESTS))
        ask(requests[:WARM_UP], CONNECTIONS, PHASE_SECONDS / 4)
        figures: Figures = {}
        for connections, sent in ((1, requests[:REQUESTS]), (CONNECTIONS, requests)):
            latencies, per_second = ask(sent, connections, PHASE_SECONDS)
            p50, p99 = np.percentile(latencies, [50, 99])
            name = f"served_{connections}"
            figures |= {f"{name}_p50_s": p50, f"{name}_p99_s": p99, f"{name}_per_s": per_second}
        _, arrays_per_second = ask([array.body] * (REQUESTS // 5), 1, PHASE_SECONDS, array.content_type)
        return figures | {"served_images_per_s_of_arrays": arrays_per_second * count}

    def _memory(self) -> list[float]:
        """Bytes of the model's workers, memory shared with other processes counted in part (PSS).

        Empty for a server elsewhere, for one that can't be asked for its workers, or where a worker has just gone.
        """
        import psutil

        if not is_local(self.client.url):
            return []
        with suppress(Unreachable, psutil.Error):
            versions = [one for one in self.client.versions(self.name) if one.version == self.archive.version]
            pids = [worker.pid for version in versions for worker in version.workers if worker.status == "READY"]
            return [float(sum(psutil.Process(pid).memory_full_info().pss for pid in pids))] if pids else []
        return []

    def row(self) -> Row:
        """The medians of all rounds with their lowest and highest, and how the served answers compare with eager's."""
        verdict, served = self.proof()
        return {
            "model": self.name,
            "runtime": self.archive.runtime,
            "provider": served["provider"],
            "device": served["device"],
            "precision": served["precision"],
            "artifact_sha256": served["artifact"],
            "weights_sha256": served["weights"],
            "max_batch": self.asker.contract.max_batch,
            "images_per_request": rows_per_request(self.asker.contract),
            **asdict(verdict),
            "flips": len(verdict.flips),
            "export_s": _spread([self.archive.export_seconds]),
            "artifact_bytes": _spread([self.archive.files[self.archive.artifact].bytes]),
            **{name: _spread([one[name] for one in self.rounds]) for name in self.rounds[0]},
            "worker_memory_bytes": _spread(self.memory) if self.memory else None,
            "overhead_p50_s": _spread([one["served_1_p50_s"] - one["inprocess_p50_s"] for one in self.rounds]),
        }

    def proof(self, count: int | None = None) -> tuple[parity.Comparison, dict[str, str]]:
        """How the served answers compare with eager's, on the first `count` goldens or all, and what they attest.

        Raises CannotCheck where that is not the archive: its time in process would stand beside another's over HTTP.
        """
        if self.goldens.weights != self.archive.weights:
            again = f"Export again: python -m export {self.archive.model} --new-goldens"
            raise CannotCheck(f"{self.path} has other weights than the goldens. {again}")
        goldens = self.goldens[:count]
        asked = [self.asker.outputs(row) for row in range(len(goldens))]
        if problem := next((one.problem for one in asked if one.problem), ""):
            raise CannotCheck(f"{self.name} cannot be compared. {problem}")
        outputs = np.concatenate([one.outputs for one in asked if one.outputs is not None])
        slack = np.array([self.asker.slack_of(one.served) for one in asked])
        return parity.compare(outputs, goldens, self.asker.limit, slack), asked[0].served


def _spread(values: list[float]) -> Figures:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def compare(
    models: Annotated[list[str] | None, typer.Argument(help="Served models to compare; all by default.")] = None,
    artifacts: Artifacts = Path("artifacts"),
    store: Store = Path("model_store"),
    url: Url = None,
    management_url: ManagementUrl = None,
) -> None:
    """Measure every runtime, in process and served, beside its difference from eager. Takes a minute or two.

    In process each has the threads that it has in a server that was started with one worker for each model.

    Exit code 0: all are the same as eager, 1: one differs, 2: could not be compared.
    """
    require("compare", "torch", "matplotlib", "psutil", "httptools")
    screen, all_same = console(), True
    with no_crash_is_a_difference(ClientError), Client(url, management_url) as client:
        manifest = Manifest.read(store)
        served = served_names(client, manifest)
        archives = manifest.choose(models or served)
        check(store, archives)
        threads = threads_per_worker(len(served))
        for model in sorted({archive.model for archive in archives.values()}):
            chosen = {name: archive for name, archive in archives.items() if archive.model == model}
            folder = artifacts / model
            contenders = _measured(client, chosen, folder, store, threads, screen)
            rows = [contender.row() for contender in contenders]
            for table in tables(rows):
                screen.print(table)
            report = {"environment": environment(), "rounds": len(contenders[0].rounds), "rows": rows}
            with publish(folder / "compare.json") as draft:
                draft.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
            with publish(folder / "compare.png") as draft:
                draw(rows, draft)
            screen.print(f"The figures are in {folder}/compare.json, drawn in {folder}/compare.png.", soft_wrap=True)
            all_same &= all(row["ok"] for row in rows)
    raise typer.Exit(0 if all_same else 1)


def _too_long(elapsed: float, rounds: int) -> bool:
    """Whether one more would end after `TOTAL_SECONDS`, if it takes as long as the others did."""
    return rounds > 0 and elapsed / rounds * (rounds + 1) > TOTAL_SECONDS


def _measured(
    client: Client, archives: dict[str, Archive], folder: Path, store: Path, threads: int, screen: Console
) -> list[Contender]:
    """All contenders in turn, in each round the other way round, so that a slow minute of the machine meets them all.

    At most `ROUNDS`, at least one, and none that would end after `TOTAL_SECONDS`.
    """
    goldens = Goldens.read(folder / "goldens.npz")
    contenders = [
        Contender(Asker(client, name, archive, goldens), archive, store / archive.file, threads)
        for name, archive in archives.items()
    ]
    for contender in contenders:
        contender.proof(1)
    start, rounds = time.monotonic(), 0
    with Progress(console=screen, transient=True) as progress:
        task = progress.add_task("Comparing", total=ROUNDS * len(contenders))
        while rounds < ROUNDS and not _too_long(time.monotonic() - start, rounds):
            for contender in contenders[:: 1 if rounds % 2 == 0 else -1]:
                contender.measure()
                progress.advance(task)
            rounds += 1
    return contenders

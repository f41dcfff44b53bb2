"""`python -m client compare`: the runtimes side by side, in process and served, in one run."""

import importlib.util
import json
import statistics
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from client.client import MANAGEMENT_URL, URL, Client
from client.environment import environment
from client.options import Artifacts, ManagementUrl, Store, Url, console
from client.tables import Figures, Row, tables
from client.timing import Target, Timing
from export import parity
from export.archive import run_inprocess
from export.goldens import Goldens
from export.manifest import Archive, Manifest, check
from serve.protocol import NPY
from serve.torchserve import threads_per_worker
from training.files import publish

ROUNDS = 3
REQUESTS = 300
WARM_UP = 50
IMAGES_PER_REQUEST = 32
CONNECTIONS = 16
NEEDED = ("torch", "matplotlib", "psutil")  # which the client alone installs without


class Contender:
    """One served model, measured `ROUNDS` times; each round gives figures by name, in seconds, per second or bytes."""

    def __init__(
        self, client: Client, name: str, archive: Archive, store: Path, goldens: Goldens, threads: int
    ) -> None:
        self.client, self.name, self.archive, self.goldens = client, name, archive, goldens
        self.path, self.threads = store / archive.file, threads
        self.rounds: list[Figures] = []

    def measure(self) -> None:
        self.rounds.append(self._inprocess() | self._served() | {"worker_memory_bytes": self._memory()})

    def _inprocess(self) -> Figures:
        found = run_inprocess("timings", self.path, self.threads)
        p50, p99 = np.percentile(found["one"], [50, 99])
        images = int(found["batch_size"]) / np.median(found["batch"])
        return {
            "load_s": float(found["load"]),
            "cold_first_answer_s": float(found["cold"]),
            "inprocess_p50_s": p50,
            "inprocess_p99_s": p99,
            "inprocess_images_per_s": images,
        }

    def _served(self) -> Figures:
        images, arrays = Target(self.client.url, self.name), Target(self.client.url, self.name, NPY)
        bodies = _repeat(self.goldens.requests, REQUESTS)
        images.time(bodies[:WARM_UP], CONNECTIONS)
        one, many = images.time(bodies, 1), images.time(_repeat(bodies, 2 * REQUESTS), CONNECTIONS)
        array = _npy(self.goldens.pixels[np.arange(IMAGES_PER_REQUEST) % len(self.goldens)])
        stacked = arrays.time([array] * (REQUESTS // 5), 1)
        figures = _figures("served_1", one) | _figures(f"served_{CONNECTIONS}", many)
        return figures | {"served_images_per_s_of_arrays": stacked.per_second * IMAGES_PER_REQUEST}

    def _memory(self) -> float:
        """Bytes of the model's workers, memory shared with other processes counted in part (PSS)."""
        import psutil

        workers = self.client.describe(self.name).workers
        return float(sum(psutil.Process(worker.pid).memory_full_info().pss for worker in workers))

    def row(self) -> Row:
        """The medians of all rounds with their lowest and highest, and how the served answers compare with eager's."""
        logits, served = self._answers()
        limit = parity.tolerance(self.archive.runtime, served["precision"], served["device"])
        verdict = parity.compare(logits, self.goldens, limit)
        fixed = {
            "export_s": self.archive.export_seconds,
            "artifact_bytes": self.archive.files[self.archive.artifact].bytes,
        }
        measured = {name: _spread([figures[name] for figures in self.rounds]) for name in self.rounds[0]}
        return {
            "model": self.name,
            "runtime": self.archive.runtime,
            "provider": served["provider"],
            "device": served["device"],
            "precision": served["precision"],
            "artifact_sha256": served["artifact"],
            "weights_sha256": served["weights"],
            "ok": verdict.ok,
            "max_abs": verdict.max_abs,
            "error_ratio": verdict.error_ratio,
            "flips": len(verdict.flips),
            **{name: _spread([value]) for name, value in fixed.items()},
            **measured,
            "overhead_p50_s": _spread([one["served_1_p50_s"] - one["inprocess_p50_s"] for one in self.rounds]),
        }

    def _answers(self) -> tuple[NDArray[np.float32], dict[str, str]]:
        found = [self.client.attested_logits(body, self.name) for body in self.goldens.requests]
        return np.concatenate([logits for logits, _ in found]), found[0][1]


def _figures(name: str, timing: Timing) -> Figures:
    return {
        f"{name}_p50_s": timing.percentile(50),
        f"{name}_p99_s": timing.percentile(99),
        f"{name}_per_s": timing.per_second,
    }


def _spread(values: list[float]) -> Figures:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _repeat(bodies: Iterable[bytes], count: int) -> list[bytes]:
    bodies = list(bodies)
    return [bodies[index % len(bodies)] for index in range(count)]


def _npy(pixels: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


def compare(
    models: Annotated[list[str] | None, typer.Argument(help="Served models to compare; all by default.")] = None,
    artifacts: Artifacts = Path("artifacts"),
    store: Store = Path("model_store"),
    url: Url = URL,
    management_url: ManagementUrl = MANAGEMENT_URL,
) -> None:
    """Measure every runtime, in process and served, beside its difference from eager. Takes a minute or two."""
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"compare needs {package}. Install it, or make setup where this project lies.")
    screen = console()
    with Client(url, management_url) as client:
        archives = Manifest.read(store).choose(models or client.models())
        check(store, archives)
        for model in sorted({archive.model for archive in archives.values()}):
            chosen = {name: archive for name, archive in archives.items() if archive.model == model}
            folder = artifacts / model
            rows = _measure(client, chosen, folder, store, screen)
            _write(folder, rows)
            for table in tables(rows):
                screen.print(table)
            screen.print(f"The figures are in {folder}/compare.json, drawn in {folder}/compare.png.", soft_wrap=True)


def _write(folder: Path, rows: list[Row]) -> None:
    from client.picture import draw

    report = {"environment": environment(), "rounds": ROUNDS, "rows": rows}
    with publish(folder / "compare.json") as draft:
        draft.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    with publish(folder / "compare.png") as draft:
        draw(rows, draft)


def _measure(client: Client, archives: dict[str, Archive], folder: Path, store: Path, screen: Console) -> list[Row]:
    """All contenders in turn, in each round the other way round, so that a machine's moods meet them all."""
    goldens, threads = Goldens.read(folder / "goldens.npz"), threads_per_worker(len(client.models()))
    contenders = [Contender(client, name, archive, store, goldens, threads) for name, archive in archives.items()]
    with Progress(console=screen, transient=True) as progress:
        task = progress.add_task("Comparing", total=ROUNDS * len(contenders))
        for turn in range(ROUNDS):
            for contender in contenders[:: 1 if turn % 2 == 0 else -1]:
                contender.measure()
                progress.advance(task)
    return [contender.row() for contender in contenders]

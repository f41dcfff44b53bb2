"""Does the proof cry wolf? `python -m benchmarks.false_alarms digits` asks a running server about random inputs.

Every answer is compared with the eager model's, computed in this process, by the tolerances that `client verify` has.
Nothing is asked twice: what would have been right at the second try is red here.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich import box
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from benchmarks.random_requests import RandomRequests
from client import Client
from client.connection import ONCE
from client.errors import ClientError
from client.models import served_names
from client.options import Artifacts, ManagementUrl, Store, Url, console
from client.payloads import rows_per_request
from client.verify.asker import Asked, Asker
from export.pipeline import answered_by_eager
from export.trained import Trained, load_trained
from inference import parity
from inference.goldens import Goldens
from inference.inputs.image import ImageInput
from inference.runtime import Loaded, load_artifact
from inference.store.manifest import Archive, Manifest, check
from inference.tools.commands import no_crash_is_a_difference, run
from models import make_network

CHUNK = 500  # inputs that are held in memory at once
CONCURRENT = 32  # requests in flight, at most
BURST = 100  # requests that are sent with one concurrency, at most
ARRAYS, NONSENSE = 0.05, 0.02  # how many arrays and bad requests come with each input
JSON = 0.3  # of the answers; the others are raw outputs

Ask = Callable[[], Asked]


@dataclass
class Tally:
    """What one runtime has answered so far, in process or over HTTP.

    `accompanied` counts single requests that shared a batch with others. `red` is the sentence about the first red one.
    """

    requests: int = 0
    answers: int = 0
    accompanied: int = 0
    largest: float = 0.0
    flips: int = 0
    reds: int = 0
    red: str = ""

    def add(self, verdict: parity.Comparison, accompanied: bool) -> None:
        self.requests += 1
        self.answers += verdict.compared
        self.accompanied += accompanied
        self.largest = max(self.largest, verdict.max_abs or 0.0)
        self.flips += len(verdict.flips)
        self.reds += not verdict.ok
        self.red = self.red or verdict.sentence


@dataclass
class Suspect:
    """One runtime as it is served, and its artifact in this process unless only HTTP was asked for."""

    name: str
    archive: Archive
    artifact: Loaded | None
    inprocess: Tally
    http: Tally

    @property
    def tallies(self) -> dict[str, Tally]:
        """By hop."""
        return {"runtime": self.inprocess, "http": self.http}


def suspects(names: list[str], manifest: Manifest, trained: Trained, http_only: bool) -> list[Suspect]:
    """Raises ValueError when none is served, or one in process is of other weights."""
    archives = {name: manifest.archives[name] for name in names if name in manifest.archives}
    mine = {name: archive for name, archive in archives.items() if archive.model == trained.contract.model}
    if not mine:
        model = trained.contract.model
        raise ValueError(f"No runtime of {model} is served. Start the server: python -m serve up {model}")
    return [
        Suspect(name, archive, None if http_only else _artifact(archive, trained), Tally(), Tally())
        for name, archive in mine.items()
    ]


def _artifact(archive: Archive, trained: Trained) -> Loaded:
    device = "cpu" if archive.device == "cpu" else "cuda:0"
    loaded = load_artifact(archive.runtime, trained.path.with_name(archive.artifact), device, 1, make_network)
    if loaded.weights != trained.digest:
        raise ValueError(f"{archive.artifact} is of other weights. Export again: python -m export {archive.model}")
    return loaded


def chunks(trained: Trained, inputs: int, seed: int) -> Iterator[Goldens]:
    """Random requests with eager's answers. An input's number, from 1, is in its name."""
    contract = trained.contract
    if not isinstance(contract.input, ImageInput):
        raise ValueError(f"{contract.model} takes no images, and nothing else is drawn at random.")
    requests = RandomRequests(trained.data.held_out.inputs, contract.input, seed)
    for rows in parity.batches(CHUNK, inputs):
        names, bodies, pixels = zip(*(requests.draw() for _ in range(rows.stop - rows.start)), strict=True)
        numbered = [f"input {number}, {name}" for number, name in enumerate(names, rows.start + 1)]
        yield answered_by_eager(trained, numbered, bodies, np.concatenate(pixels))


def asks(asker: Asker, rng: np.random.Generator) -> list[Ask]:
    """Every input by itself, with arrays of several and bad requests among them, in random order."""
    total, longest = len(asker.goldens), rows_per_request(asker.contract)
    lengths = rng.integers(1, longest + 1, round(ARRAYS * total))
    found = [
        *(_by_itself(asker, row, rng) for row in range(total)),
        *(_array(asker, rng.integers(total, size=length).tolist(), rng) for length in lengths),
        *[partial(_refused, asker)] * round(NONSENSE * total),
    ]
    return [found[turn] for turn in rng.permutation(len(found))]


def _by_itself(asker: Asker, row: int, rng: np.random.Generator) -> Ask:
    if rng.random() < JSON:
        return partial(asker.json, row, _turn(asker, rng))
    return partial(asker.outputs, row)


def _array(asker: Asker, rows: list[int], rng: np.random.Generator) -> Ask:
    if rng.random() < JSON:
        return partial(asker.json_rows, rows, _turn(asker, rng))
    return partial(asker.rows, rows)


def _turn(asker: Asker, rng: np.random.Generator) -> int:
    """Any of the ways of JSON: any number of labels, or none."""
    return int(rng.integers(len(asker.contract.output.variants)))


def _refused(asker: Asker) -> Asked:
    return Asked([], {}, problem=asker.nonsense())


def answers(planned: list[Ask], rng: np.random.Generator) -> Iterator[Asked]:
    """Bursts of random length, each with its own number of requests in flight."""
    while planned:
        length, concurrency = rng.integers(1, BURST + 1), int(rng.integers(1, CONCURRENT + 1))
        burst, planned = planned[:length], planned[length:]
        with ThreadPoolExecutor(concurrency) as workers:
            yield from workers.map(lambda ask: ask(), burst)


def judged(asker: Asker, one: Asked) -> parity.Comparison:
    """Outputs by their tolerance; JSON and refusals have been judged already."""
    expected = asker.goldens[one.rows]
    if one.outputs is not None:
        return parity.compare(one.outputs, expected, asker.limit, asker.slack_of(one.served))
    about = ", ".join(expected.names) or "a bad request"
    sentence = f"{about}: {one.problem}" if one.problem else ""
    return parity.Comparison(not sentence, len(one.rows), None, None, (), asker.limit.atol, asker.limit.rtol, sentence)


def question(suspect: Suspect, asker: Asker, rng: np.random.Generator) -> None:
    """All goldens of `asker`, in process in batches of a random size, and over HTTP."""
    if suspect.artifact:
        size = int(rng.integers(1, asker.contract.max_batch + 1))
        outputs = parity.run_goldens(suspect.artifact, asker.goldens, size)
        suspect.inprocess.add(parity.compare(outputs, asker.goldens, asker.limit), size > 1)
    for one in answers(asks(asker, rng), rng):
        suspect.http.add(judged(asker, one), len(one.rows) == 1 and one.served.get("batch_size", "1") != "1")


def question_all(client: Client, trained: Trained, found: list[Suspect], inputs: int, seed: int) -> None:
    """Prints a table of what was asked, and what was red, whatever ends it."""
    screen, rng = console(), np.random.default_rng(seed)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=screen, transient=True) as progress:
        task = progress.add_task("Asking", total=inputs)
        try:
            for goldens in chunks(trained, inputs, seed):
                for suspect in found:
                    question(suspect, Asker(client, suspect.name, suspect.archive, goldens), rng)
                progress.advance(task, len(goldens))
        finally:
            asked = f"{int(progress.tasks[task].completed):,} of {inputs:,} random inputs, seed {seed}"
            screen.print(report(found, f"{trained.contract.model}: {asked}"))
            for sentence in alarms(found):
                screen.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)


def report(found: list[Suspect], title: str) -> Table:
    columns = ("model", "hop", "requests", "answers", "in company", "largest difference", "flips", "red")
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE)
    for suspect in found:
        for hop, tally in suspect.tallies.items():
            if tally.requests:
                table.add_row(suspect.name, hop, *_cells(tally))
    return table


def alarms(found: list[Suspect]) -> list[str]:
    """The first red sentence of every model and hop that has one."""
    return [
        f"{suspect.name}, {hop}: {tally.red}"
        for suspect in found
        for hop, tally in suspect.tallies.items()
        if tally.reds
    ]


def _cells(tally: Tally) -> list[str]:
    counts = f"{tally.requests:,}", f"{tally.answers:,}", f"{tally.accompanied:,}"
    return [*counts, f"{tally.largest:.2g}", str(tally.flips), f"[red]{tally.reds:,}[/]" if tally.reds else "0"]


def main(
    model: Annotated[str, typer.Argument(help="A model that is trained, exported and served.")],
    inputs: Annotated[int, typer.Option(min=1, help="How many; every runtime is asked about each.")] = 50_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same inputs.")] = 0,
    http_only: Annotated[bool, typer.Option("--http", help="Not the artifacts in this process as well.")] = False,
    artifacts: Artifacts = Path("artifacts"),
    store: Store = Path("model_store"),
    data_dir: Annotated[Path, typer.Option(help="Where downloaded data lies.")] = Path("data"),
    url: Url = None,
    management_url: ManagementUrl = None,
) -> None:
    """Ask every served runtime of MODEL about random inputs. Exit code 0: none is red, 1: one is, 2: could not ask."""
    with no_crash_is_a_difference(ClientError), Client(url, management_url, retries=ONCE) as client:
        trained, manifest = load_trained(model, artifacts, data_dir), Manifest.read(store)
        found = suspects(served_names(client, manifest), manifest, trained, http_only)
        check(store, {suspect.name: suspect.archive for suspect in found})
        question_all(client, trained, found, inputs, seed)
    if alarms(found):
        raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    try:
        run(app)
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

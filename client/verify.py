"""`python -m client verify`: every hop from the training script's model to the HTTP response, compared with eager."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from client.client import MANAGEMENT_URL, URL, Client
from client.http_hops import CannotCheck, HttpHops
from client.options import Artifacts, ManagementUrl, Store, Url, console
from export.archive import Hop, archive_name, inprocess_hops
from export.goldens import Goldens
from export.manifest import Archive, Manifest, check
from export.parity import Comparison
from training.contract import Contract
from training.files import publish

THREADS = 1


@dataclass(frozen=True)
class Verdict:
    """One served model, hop by hop. `digest` is the SHA-256 of the weights that eager's answers come from."""

    model: str
    runtime: str
    digest: str
    hops: tuple[Hop, ...]

    @property
    def first_failing_hop(self) -> str | None:
        return next((hop.hop for hop in self.hops if not hop.comparison.ok), None)

    @property
    def ok(self) -> bool:
        return self.first_failing_hop is None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "runtime": self.runtime,
            "digest": self.digest,
            "ok": self.ok,
            "first_failing_hop": self.first_failing_hop,
            "hops": [{"hop": hop.hop, **asdict(hop.comparison)} for hop in self.hops],
        }


@dataclass(frozen=True)
class Verifier:
    """Where the three things to compare are: what training and export left, the archives, and the server.

    `eager` remembers the hop that all runtimes of a model have in common.
    """

    client: Client
    artifacts: Path
    store: Path
    eager: dict[str, Hop] = field(default_factory=dict)

    def verify(self, name: str, archive: Archive, http_only: bool) -> Verdict:
        folder = self.artifacts / archive.model
        goldens, contract = _goldens(folder / "goldens.npz"), Contract.read(folder / "contract.json")
        hops = [] if http_only else list(self._inprocess(name, archive, goldens))
        hops += HttpHops(self.client, name, archive, goldens, contract).run()
        return Verdict(name, archive.runtime, goldens.weights, tuple(hops))

    def _inprocess(self, name: str, archive: Archive, goldens: Goldens) -> Iterator[Hop]:
        """decode, eager, runtime, handler: each computed by the code in the archives, not by this repository's."""
        try:
            decode, runtime, handler = inprocess_hops(self.store / archive.file, goldens, archive.runtime, THREADS)
            eager = runtime if archive.runtime == "eager" else self._eager(archive.model, goldens)
        except (RuntimeError, FileNotFoundError) as error:
            raise CannotCheck(f"{name}: {error}") from None
        yield from (decode, Hop("eager", eager.comparison), runtime, handler)

    def _eager(self, model: str, goldens: Goldens) -> Hop:
        if model not in self.eager:
            archive = self.store / f"{archive_name(model, 'eager')}.mar"
            self.eager[model] = inprocess_hops(archive, goldens, "eager", THREADS)[1]
        return self.eager[model]


def verify(
    models: Annotated[
        list[str] | None, typer.Argument(help="Served models, such as digits-onnx; all by default.")
    ] = None,
    http_only: Annotated[bool, typer.Option("--http", help="Only the hops over HTTP, which need no torch.")] = False,
    artifacts: Artifacts = Path("artifacts"),
    store: Store = Path("model_store"),
    url: Url = URL,
    management_url: ManagementUrl = MANAGEMENT_URL,
) -> None:
    """Compare every hop with the eager model. Exit code 0: the same, 1: different, 2: could not be checked."""
    if not http_only and importlib.util.find_spec("torch") is None:
        raise CannotCheck(
            "The hops in process need torch. Install it, or check the others: python -m client verify --http"
        )
    screen = console()
    with Client(url, management_url) as client:
        archives = Manifest.read(store).choose(models or client.models())
        check(store, archives)
        verifier = Verifier(client, artifacts, store)
        verdicts = []
        for name, archive in archives.items():
            with screen.status(f"Verifying {name}"):
                verdicts.append(verifier.verify(name, archive, http_only))
            screen.print(_table(verdicts[-1]))
    for model in {archive.model for archive in archives.values()}:
        report = artifacts / model / "verify.json"
        _write(report, [verdict for verdict in verdicts if archives[verdict.model].model == model])
        screen.print(f"The report is in {report}.", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if all(verdict.ok for verdict in verdicts) else 1)


def _goldens(path: Path) -> Goldens:
    try:
        with path.open("rb") as file:
            return Goldens.read(file)
    except (BadZipFile, EOFError, KeyError, ValueError):
        raise CannotCheck(f"{path} is damaged. Export again, with --new-goldens.") from None


def _write(path: Path, verdicts: list[Verdict]) -> None:
    report = {"ok": all(verdict.ok for verdict in verdicts), "models": [verdict.as_json() for verdict in verdicts]}
    with publish(path) as draft:
        draft.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def _table(verdict: Verdict) -> Table:
    outcome = "the same as eager" if verdict.ok else f"differs from eager, first at {verdict.first_failing_hop}"
    columns = ("hop", "compared", "largest difference", "error ratio", "flips", "")
    limit = verdict.hops[-1].comparison
    caption = f"limit: {limit.atol:g} + {limit.rtol:g} · |eager|"
    table = Table(*columns, title=f"{verdict.model}: {outcome}", caption=caption, title_justify="left", box=box.SIMPLE)
    for hop in verdict.hops:
        table.add_row(hop.hop, *_cells(hop.comparison))
    return table


def _cells(comparison: Comparison) -> list[str]:
    figures = [f"{value:.2g}" if value is not None else "–" for value in (comparison.max_abs, comparison.error_ratio)]
    verdict = "[green]same[/]" if comparison.ok else f"[red]different[/] {escape(comparison.sentence)}"
    return [str(comparison.compared), *figures, str(len(comparison.flips)), verdict]

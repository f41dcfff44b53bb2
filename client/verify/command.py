"""`python -m client verify`: every hop from the training script's model to the HTTP response, compared with eager."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from client import Client
from client.errors import ClientError
from client.models import served_names
from client.options import Artifacts, ManagementUrl, Store, Url, console
from client.verify.asker import Asker
from client.verify.http_hops import HttpHops
from client.verify.verdict import Verdict, write, write_junit
from inference.contract import Contract
from inference.goldens import Goldens
from inference.selfcheck import Hop, inprocess_hops
from inference.store.archive import archive_name
from inference.store.manifest import Archive, Manifest, check
from inference.tools.commands import CannotCheck, no_crash_is_a_difference
from inference.tools.files import sha256

THREADS = 1


@dataclass(frozen=True)
class Verifier:
    """Where the three things to compare are: what training and export left, the archives, and the server."""

    client: Client
    artifacts: Path
    store: Path
    manifest: Manifest
    http_only: bool
    unbatched: bool
    known: dict[str, list[Hop]] = field(default_factory=dict)  # by archive's file; eager's is needed for every runtime

    def chosen(self, names: list[str]) -> dict[str, Archive]:
        """The archives of these names, or of all that are served; each is, to the byte, what was exported.

        Raises ValueError and CannotCheck.
        """
        archives = self.manifest.choose(names or served_names(self.client, self.manifest))
        if self.unbatched:
            archives = {name: archive.model_copy(update={"batch_size": 1}) for name, archive in archives.items()}
        eager: dict[str, Archive] = {}
        if not self.http_only:
            needed = {archive_name(archive.model, "eager"): name for name, archive in archives.items()}
            if missing := next((one for one in needed if one not in self.manifest.archives), None):
                name = needed[missing]
                advice = f"python -m export {archives[name].model} --runtime eager"
                raise CannotCheck(f"{name} needs {missing}; export it: {advice}")
            eager = {one: self.manifest.archives[one] for one in needed}
        check(self.store, archives | eager)
        return archives

    def verify(self, name: str, archive: Archive) -> Verdict:
        """Goldens and contract must belong to the weights beside them; where only HTTP is, those may be elsewhere."""
        model, folder = archive.model, self.artifacts / archive.model
        goldens, contract = Goldens.read(folder / "goldens.npz"), Contract.read(folder / "contract.json")
        weights = folder / "weights.safetensors"
        trained = goldens.weights if self.http_only and not weights.exists() else sha256(weights)
        if (trained, contract) != (goldens.weights, goldens.contract):
            again = f"Export again: python -m export {model} --new-goldens"
            raise CannotCheck(f"{model} was trained anew since it was exported. {again}")
        hops = [] if self.http_only else self._inprocess(name, archive, goldens)
        hops += HttpHops(Asker(self.client, name, archive, goldens)).run()
        return Verdict(name, archive, self.store / archive.file, goldens.weights, tuple(hops))

    def _inprocess(self, name: str, archive: Archive, goldens: Goldens) -> list[Hop]:
        """decode, eager, runtime, handler: each computed by the code in the archives, not by this repository's."""
        eager = self.manifest.archives[archive_name(archive.model, "eager")]
        try:
            for one in (archive, eager):
                if one.file not in self.known:
                    self.known[one.file] = inprocess_hops(self.store / one.file, goldens, one.runtime, THREADS)
        except (RuntimeError, FileNotFoundError) as error:
            raise CannotCheck(f"{name}: {error}") from None
        decode, runtime, handler = self.known[archive.file]
        return [decode, Hop("eager", self.known[eager.file][1].comparison), runtime, handler]


def verify(
    models: Annotated[
        list[str] | None, typer.Argument(help="Served models, such as digits-onnx; all by default.")
    ] = None,
    http_only: Annotated[bool, typer.Option("--http", help="Only the hops over HTTP, which need no torch.")] = False,
    artifacts: Artifacts = Path("artifacts"),
    store: Store = Path("model_store"),
    url: Url = None,
    management_url: ManagementUrl = None,
    unbatched: Annotated[
        bool, typer.Option("--unbatched", help="The server takes one request at a time; none needs to share a batch.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write the verdicts as JUnit XML too, for a CI system.")] = None,
) -> None:
    """Compare every hop with the eager model. Exit code 0: the same, 1: different, 2: could not be checked."""
    if junit:
        junit.unlink(missing_ok=True)
    with no_crash_is_a_difference(ClientError):
        manifest = Manifest.read(store)
        for model in {archive.model for archive in manifest.choose(models or []).values()}:  # a report is of this run
            _report(artifacts, model).unlink(missing_ok=True)
        if not http_only and importlib.util.find_spec("torch") is None:
            others = "Install it, or check the others: python -m client verify --http"
            raise CannotCheck(f"The hops in process need torch. {others}")
        screen, verdicts = console(), []
        with Client(url, management_url) as client:
            verifier = Verifier(client, artifacts, store, manifest, http_only, unbatched)
            for name, archive in verifier.chosen(models or []).items():
                with screen.status(f"Verifying {name}"):
                    verdicts.append(verdict := verifier.verify(name, archive))
                screen.print(verdict.table())
                if verdict.look_at:
                    screen.print(verdict.look_at, highlight=False, soft_wrap=True)
        for model in {verdict.archive.model for verdict in verdicts}:
            report = _report(artifacts, model)
            write(report, [verdict for verdict in verdicts if verdict.archive.model == model])
            screen.print(f"The report is in {report}.", highlight=False, soft_wrap=True)
        if junit:
            write_junit(junit, verdicts)
    raise typer.Exit(0 if all(verdict.ok for verdict in verdicts) else 1)


def _report(artifacts: Path, model: str) -> Path:
    return artifacts / model / "verify.json"

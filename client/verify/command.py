"""`python -m client verify`: every hop from the training script's model to the HTTP response, compared with eager."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from client.cannot_check import CannotCheck, no_crash_is_a_difference
from client.client import Client
from client.options import Artifacts, ManagementUrl, Store, Url, console
from client.verify.asker import Asker
from client.verify.http_hops import HttpHops
from client.verify.store_names import served_names
from client.verify.verdict import Verdict, write, write_junit
from inference.contract import Contract
from inference.goldens import Goldens
from inference.selfcheck import Hop, inprocess_hops
from inference.store.archive import archive_name
from inference.store.manifest import Archive, Manifest, check
from inference.tools.files import sha256

THREADS = 1


@dataclass(frozen=True)
class Verifier:
    """Where the three things to compare are: what training and export left, the archives, and the server.

    `manifest` is the store's; `http_only` and `unbatched` are the command's options. `known` remembers the hops of each
    archive's file: eager's is needed for every runtime of its model.
    """

    client: Client
    artifacts: Path
    store: Path
    manifest: Manifest
    http_only: bool
    unbatched: bool
    known: dict[str, list[Hop]] = field(default_factory=dict)

    def chosen(self, names: list[str]) -> dict[str, Archive]:
        """The archives of these names, or of all that are served; each is, to the byte, what was exported.

        Raises ValueError and CannotCheck.
        """
        archives = self.manifest.choose(names or served_names(self.client, self.manifest))
        if self.unbatched:
            archives = {name: archive.model_copy(update={"batch_size": 1}) for name, archive in archives.items()}
        check(self.store, archives if self.http_only else archives | _eager_archives(self.manifest, archives))
        return archives

    def verify(self, name: str, archive: Archive) -> Verdict:
        goldens = _reference(self.artifacts / archive.model, self.http_only)
        hops = [] if self.http_only else list(self._inprocess(name, archive, goldens))
        hops += HttpHops(Asker(self.client, name, archive, goldens)).run()
        file = self.store / archive.file
        return Verdict(name, archive.model, archive.runtime, goldens.weights, file, archive.device, tuple(hops))

    def _inprocess(self, name: str, archive: Archive, goldens: Goldens) -> Iterator[Hop]:
        """decode, eager, runtime, handler: each computed by the code in the archives, not by this repository's."""
        try:
            decode, runtime, handler = self._hops(archive, goldens)
            _, eager, _ = self._hops(self.manifest.archives[archive_name(archive.model, "eager")], goldens)
        except (RuntimeError, FileNotFoundError) as error:
            raise CannotCheck(f"{name}: {error}") from None
        yield from (decode, Hop("eager", eager.comparison), runtime, handler)

    def _hops(self, archive: Archive, goldens: Goldens) -> list[Hop]:
        if archive.file not in self.known:
            path = self.store / archive.file
            self.known[archive.file] = inprocess_hops(path, goldens, archive.runtime, THREADS)
        return self.known[archive.file]


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
    with no_crash_is_a_difference():
        manifest = Manifest.read(store)
        for model in {archive.model for archive in manifest.choose(models or []).values()}:  # a report is of this run
            _report(artifacts, model).unlink(missing_ok=True)
        if not http_only and importlib.util.find_spec("torch") is None:
            raise CannotCheck(
                "The hops in process need torch. Install it, or check the others: python -m client verify --http"
            )
        with Client(url, management_url) as client:
            verifier = Verifier(client, artifacts, store, manifest, http_only, unbatched)
            verdicts = _verdicts(verifier, verifier.chosen(models or []))
        if junit:
            write_junit(junit, verdicts)
    raise typer.Exit(0 if all(verdict.ok for verdict in verdicts) else 1)


def _verdicts(verifier: Verifier, archives: dict[str, Archive]) -> list[Verdict]:
    """Also printed, each as it is found, and written model by model in the end."""
    screen, verdicts = console(), []
    for name, archive in archives.items():
        with screen.status(f"Verifying {name}"):
            verdicts.append(verifier.verify(name, archive))
        screen.print(verdicts[-1].table())
        if advice := verdicts[-1].look_at:
            screen.print(advice, highlight=False, soft_wrap=True)
    for model in {archive.model for archive in archives.values()}:
        report = _report(verifier.artifacts, model)
        write(report, [verdict for verdict in verdicts if verdict.model == model])
        screen.print(f"The report is in {report}.", highlight=False, soft_wrap=True)
    return verdicts


def _report(artifacts: Path, model: str) -> Path:
    return artifacts / model / "verify.json"


def _eager_archives(manifest: Manifest, archives: dict[str, Archive]) -> dict[str, Archive]:
    """Those that the eager hop of `archives` runs."""
    needed = {archive_name(archive.model, "eager"): name for name, archive in archives.items()}
    for eager, name in needed.items():
        if eager not in manifest.archives:
            model = archives[name].model
            raise CannotCheck(f"{name} needs {eager}; export it: python -m export {model} --runtime eager")
    return {eager: manifest.archives[eager] for eager in needed}


def _reference(folder: Path, http_only: bool) -> Goldens:
    """Goldens, which must belong to the contract and weights beside them; with `http_only` those may be elsewhere."""
    goldens, contract = Goldens.read(folder / "goldens.npz"), Contract.read(folder / "contract.json")
    weights = folder / "weights.safetensors"
    trained = goldens.weights if http_only and not weights.exists() else sha256(weights)
    if (trained, contract) != (goldens.weights, goldens.contract):
        raise CannotCheck(
            f"{folder.name} was trained anew since it was exported. "
            f"Export again: python -m export {folder.name} --new-goldens"
        )
    return goldens

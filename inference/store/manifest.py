"""`model_store/manifest.json`: what every archive is, to the byte. The server starts from nothing else."""

import fcntl
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from inference.base import Frozen
from inference.tools.files import publish_text, sha256

NAME = "manifest.json"
FIRST_NAME = "manifest-first-edition.json"  # what a first edition's becomes when this one exports
LOCK = ".manifest.lock"  # holds nothing, and stays


class File(Frozen):
    sha256: str
    bytes: int


class Archive(Frozen):
    """One `.mar`. `weights` and `contract` are SHA-256 digests, `files` what it holds, `versions` what made it.

    `provider`, `precision` and `tf32` are those that the artifact was verified with. `accuracy` and `eager_accuracy`
    are the shares of held-out inputs decided right, by it and by eager; None where the precision is eager's own.
    """

    file: str
    sha256: str
    bytes: int
    model: str
    runtime: str
    version: str
    device: str
    provider: str
    precision: str
    tf32: bool
    artifact: str
    weights: str
    contract: str
    export_seconds: float
    files: dict[str, File]
    versions: dict[str, str]
    batch_size: int = 32
    decoder: str = "cpu"
    accuracy: float | None = None
    eager_accuracy: float | None = None


class FirstEdition(ValueError):
    """The store's archives hold other code than this edition runs."""


class Manifest(Frozen):
    """Archives by the name that they are served under: the newest of each, and what was exported before it.

    `earlier` holds other versions, newest first, and the archives of other weights than the newest export's.
    """

    edition: Literal[2] = 2  # of what archives hold; the first named none
    archives: dict[str, Archive]
    earlier: dict[str, tuple[Archive, ...]] = Field(default_factory=dict)

    @classmethod
    def read(cls, store: Path) -> "Manifest":
        """Raises ValueError when the store has no manifest, or none of this edition that can be read."""
        path = store / NAME
        if not path.exists():
            raise ValueError(f"{path} is missing. Export first: python -m export digits")
        try:
            found = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is damaged ({error.errors()[0]['msg']}). Export again.") from None
        if "edition" not in found.model_fields_set:
            models = sorted({archive.model for archive in found.archives.values()})
            again = " and ".join(f"python -m training {model} and python -m export {model}" for model in models)
            raise FirstEdition(f"{path} is of this project's first edition. Train and export again: {again}")
        return found

    def write(self, store: Path) -> None:
        publish_text(store / NAME, self.model_dump_json(indent=2) + "\n")

    def choose(self, names: list[str]) -> dict[str, Archive]:
        """The archives named, or all of them. Raises ValueError for a name that there isn't."""
        for name in (one for one in names if one not in self.archives):
            if name in self.earlier:
                again = f"python -m export {self.earlier[name][0].model}"
                raise ValueError(f"{name} is in the store only with older weights. Export it again: {again}")
            raise ValueError(f"There is no model {name!r} in the store. It has: {', '.join(self.archives)}.")
        return {name: self.archives[name] for name in names or self.archives}

    def versions(self, name: str) -> list[Archive]:
        """Every archive of that name, the newest first; none for a name that there isn't."""
        newest = [self.archives[name]] if name in self.archives else []
        return [*newest, *self.earlier.get(name, ())]

    def find(self, name: str, version: str) -> Archive:
        """Raises ValueError for a name or a version that there isn't."""
        known = {archive.version: archive for archive in self.versions(name)}
        if not known:
            names = sorted({*self.archives, *self.earlier})
            raise ValueError(f"There is no model {name!r} in the store. It has: {', '.join(names)}.")
        if version not in known:
            raise ValueError(f"There is no version {version!r} of {name} in the store. It has: {', '.join(known)}.")
        return known[version]


def check(store: Path, archives: dict[str, Archive]) -> None:
    """Raises ValueError naming the first archive that is not, to the byte, the one that the manifest describes."""
    for archive in archives.values():
        path = store / archive.file
        if not path.exists():
            raise ValueError(f"{path} is missing. Export again: python -m export {archive.model}")
        if sha256(path) != archive.sha256:
            raise ValueError(f"{path} is not the file that was exported and verified. Export it again, or restore it.")


def describe(path: Path) -> File:
    return File(sha256=sha256(path), bytes=path.stat().st_size)


def add(store: Path, name: str, archive: Archive) -> dict[str, Archive]:
    """Puts one archive into the store's manifest as the newest of that name, in the place of one of its version.

    Gives those, by their names, that were the newest and are no longer: archives of the same model with other weights
    or another contract. They are kept as earlier ones, as the file of every version is. Of two exports of one name and
    version at once, the file of one may stay beside the entry of the other: `check` refuses that.
    """
    made_from = archive.weights, archive.contract
    with (store / LOCK).open("a") as lock:  # to write, since NFS locks nothing else
        fcntl.flock(lock, fcntl.LOCK_EX)  # several exports may run at once
        path = store / NAME
        try:
            known = Manifest.read(store) if path.exists() else Manifest(archives={})
        except FirstEdition:
            path.rename(store / FIRST_NAME)
            known = Manifest(archives={})
        others = {other: entry for other, entry in known.archives.items() if other != name}
        of_model = {other: entry for other, entry in others.items() if entry.model == archive.model}
        stale = {other: entry for other, entry in of_model.items() if (entry.weights, entry.contract) != made_from}
        newest = {other: entry for other, entry in others.items() if other not in stale} | {name: archive}
        earlier = {
            other: tuple(entry for entry in known.versions(other) if (other, entry.version) != (name, archive.version))
            for other in {*stale, name}
        }
        kept = {other: entries for other, entries in (known.earlier | earlier).items() if entries}
        Manifest(archives=dict(sorted(newest.items())), earlier=dict(sorted(kept.items()))).write(store)
        return stale

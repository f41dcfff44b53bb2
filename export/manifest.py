"""`model_store/manifest.json`: what every archive is, to the byte. The server starts from nothing else."""

from pathlib import Path

from pydantic import ValidationError

from training.contract import Frozen
from training.files import publish, sha256

NAME = "manifest.json"


class File(Frozen):
    sha256: str
    bytes: int


class Archive(Frozen):
    """One `.mar`. `weights` and `contract` are SHA-256 digests, `files` what it holds, `versions` what made it.

    `provider`, `precision` and `tf32` are those that the artifact was verified with.
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


class Manifest(Frozen):
    """Archives by the name that they are served under."""

    archives: dict[str, Archive]

    @classmethod
    def read(cls, store: Path) -> "Manifest":
        """Raises ValueError when the store has no manifest, or none that can be read."""
        path = store / NAME
        if not path.exists():
            raise ValueError(f"{path} is missing. Export first: python -m export digits")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is damaged ({error.errors()[0]['msg']}). Export again.") from None

    def write(self, store: Path) -> None:
        with publish(store / NAME) as draft:
            draft.write_text(self.model_dump_json(indent=2) + "\n")

    def choose(self, names: list[str]) -> dict[str, Archive]:
        """The archives named, or all of them. Raises ValueError for a name that there isn't."""
        for name in names:
            if name not in self.archives:
                raise ValueError(f"There is no model {name!r} in the store. It has: {', '.join(self.archives)}.")
        return {name: self.archives[name] for name in names or self.archives}


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


def add(store: Path, name: str, archive: Archive) -> list[str]:
    """Puts one archive into the store's manifest, in the place of an earlier one of that name.

    Gives the names that it takes out: archives of the same model with other weights or another contract. Their files
    stay.
    """
    known = Manifest.read(store).archives if (store / NAME).exists() else {}
    others = {other: entry for other, entry in known.items() if other != name}
    stale = [other for other, entry in others.items() if _outdated(entry, archive)]
    kept = {other: entry for other, entry in others.items() if other not in stale}
    Manifest(archives=dict(sorted({**kept, name: archive}.items()))).write(store)
    return stale


def _outdated(entry: Archive, by: Archive) -> bool:
    return entry.model == by.model and (entry.weights, entry.contract) != (by.weights, by.contract)

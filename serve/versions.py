"""Which version of each model is the default, and which one a rollback goes back to: `promoted.json`."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from inference.base import Frozen
from inference.store.manifest import Archive, Manifest
from inference.tools.files import publish

NAME = "promoted.json"

# By the name of the model: the archives of its versions, the default first.
Chosen = dict[str, list[Archive]]


class Promoted(Frozen):
    """The default version of a model."""

    version: str
    sha256: str  # of the archive that was promoted: the same version may be exported again
    previous: str = ""  # the version that is kept beside it for a rollback, if any


_TABLE = TypeAdapter(dict[str, Promoted])


def recall_promoted(state: Path) -> dict[str, Promoted]:
    """By the name of the model; nothing where nothing was promoted. Raises ValueError for a file that is damaged."""
    path = state / NAME
    if not path.exists():
        return {}
    try:
        return _TABLE.validate_json(path.read_bytes())
    except ValidationError:
        raise ValueError(f"{path} is damaged. Delete it: the next start takes the newest versions.") from None


def remember_promoted(state: Path, promoted: dict[str, Promoted]) -> None:
    """What is said of other models stays."""
    _write(state, recall_promoted(state) | promoted)


def forget_promoted(state: Path, name: str) -> None:
    """The next start takes the newest version of that model. Raises ValueError where nothing is remembered of it."""
    known = recall_promoted(state)
    if name not in known:
        raise ValueError(f"No promoted version of {name!r} is remembered in {state / NAME}.")
    del known[name]
    _write(state, known)


def _write(state: Path, promoted: dict[str, Promoted]) -> None:
    with publish(state / NAME) as draft:
        draft.write_bytes(_TABLE.dump_json(promoted, indent=2) + b"\n")


def remember_defaults(state: Path, chosen: Chosen) -> None:
    """What `choose` gave becomes what the next start gives, however many newer versions are exported by then."""
    promoted = {}
    for name, (default, *others) in chosen.items():
        previous = others[0].version if others else ""
        promoted[name] = Promoted(version=default.version, sha256=default.sha256, previous=previous)
    remember_promoted(state, promoted)


def choose(manifest: Manifest, names: list[str], state: Path) -> Chosen:
    """What a start registers, by name: the default first, then the version that is kept for a rollback, if any.

    The default is the promoted version, or the newest of a model of which none was promoted. Without `names` it is all
    that the store has newest versions of, or that was promoted; a model of the zoo, such as digits, stands for all of
    those that are made of it. Raises ValueError for a name that there isn't, and for a promoted version that the store
    doesn't hold any more.
    """
    promoted = recall_promoted(state)
    known = sorted({*manifest.archives, *promoted})
    wanted = []
    for model in names:
        made_of_it = [name for name in known if any(one.model == model for one in manifest.versions(name))]
        wanted += made_of_it or [model]
    return {
        name: _promoted(manifest, name, promoted[name]) if name in promoted else [manifest.choose([name])[name]]
        for name in (wanted if names else known)
    }


def _promoted(manifest: Manifest, name: str, promoted: Promoted) -> list[Archive]:
    held = {archive.version: archive for archive in manifest.versions(name)}
    if promoted.version not in held:
        raise ValueError(
            f"Version {promoted.version} of {name} was promoted, and the store doesn't hold it. Export or restore it, "
            f"or have the newest served: python -m serve forget {name}"
        )
    if held[promoted.version].sha256 != promoted.sha256:
        raise ValueError(
            f"Version {promoted.version} of {name} was exported again since it was promoted. Restore it, and export "
            f"what is new as another version (--version), or have the newest served: python -m serve forget {name}"
        )
    return [held[version] for version in (promoted.version, promoted.previous) if version in held]

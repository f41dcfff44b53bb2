"""What a folder holds, to tell whether anything in it was changed."""

from pathlib import Path

from inference.tools.files import sha256


def snapshot(*folders: Path) -> dict[Path, str]:
    """The SHA-256 of every file below `folders`, hidden ones too."""
    return {path: sha256(path) for folder in folders for path in folder.rglob("*") if path.is_file()}

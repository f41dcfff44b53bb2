"""Archives and packages that a test changes."""

import zipfile
from collections.abc import Callable
from pathlib import Path


def rewrite(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """Changes what a zip holds, by name."""
    with zipfile.ZipFile(path) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, body in change(files).items():
            archive.writestr(entry, body)

"""A real file system of a few megabytes, to be filled or made read-only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
FILLING = "filling"


@dataclass(frozen=True)
class Disk:
    folder: Path

    def fill(self, left: int = 0) -> None:
        """Leaves room for `left` bytes, which are rounded down to whole pages."""
        free = os.statvfs(self.folder).f_bavail * PAGE
        (self.folder / FILLING).write_bytes(bytes(free - left // PAGE * PAGE))

    def lock(self) -> None:
        """Read-only from now on."""
        _mount("-o", "remount,ro", str(self.folder))


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Disk]:
    """An empty one at `folder`. Raises RuntimeError where there is no `mount`, or this user may not."""
    folder.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    except FileNotFoundError as error:
        raise RuntimeError(f"There is no {error.filename} here, to mount a small disk. Install it.") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"A small disk can't be mounted; run this as root. {error.stderr.strip()}") from None
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)

"""An archive from outside: its goldens, and how it runs by its own code, which can't see this repository."""

import os
import signal
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.goldens import Goldens

RUN_SECONDS = 300
SELF_CHECK = "inference/selfcheck.py"

# Freed memory is kept for the next batch, which the kernel would have to give anew, page by page (glibc's mallopt).
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}


def archive_name(model: str, runtime: str) -> str:
    """The name that an archive is served under."""
    return f"{model}-{runtime.replace('_', '-')}"


def archive_file(name: str, version: str) -> str:
    """The file of one version in a store, where all versions lie side by side."""
    return f"{name}-{version}.mar"


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Raises RuntimeError for a file that is no archive."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with zipfile.ZipFile(archive) as file:
                file.extractall(scratch)
        except (zipfile.BadZipFile, zlib.error):
            raise RuntimeError(f"{archive} is no archive, or a damaged one. Export it again.") from None
        yield Path(scratch)


def read_goldens(archive: Path) -> Goldens:
    with zipfile.ZipFile(archive) as file, file.open("goldens.npz") as goldens:
        return Goldens.read(goldens)


def environment(threads: int) -> dict[str, str]:
    """For an archive's code: threads fixed, this repository out of reach, glibc's settings kept where they are set."""
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    kept = os.pathsep.join(place for place in places if not Path(place, SELF_CHECK).exists())
    return {**KEPT_MEMORY, **os.environ, "PYTHONPATH": kept, "OMP_NUM_THREADS": str(threads)}


def run_inprocess(command: str, archive: Path, threads: int) -> dict[str, NDArray[Any]]:
    """Runs `inference.selfcheck` of an archive in a process of its own. Raises RuntimeError, with its last line."""
    with unpacked(archive) as directory:
        if not (directory / SELF_CHECK).exists():
            raise RuntimeError(f"{archive.name} was exported by another version of this project. Export it again.")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "inference.selfcheck", command, "out.npz"],
                cwd=directory,
                env=environment(threads),
                capture_output=True,
                text=True,
                check=False,
                timeout=RUN_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{archive.name} did not come to an end within {RUN_SECONDS} s.") from None
        if done.returncode:
            raise RuntimeError(f"{archive.name} does not run: {last_words(done)}")
        with np.load(directory / "out.npz", allow_pickle=False) as out:
            return dict(out)


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"its process was ended by {signal.Signals(-done.returncode).name}"
    return next(reversed(done.stderr.strip().splitlines()), f"it ended with exit code {done.returncode}")

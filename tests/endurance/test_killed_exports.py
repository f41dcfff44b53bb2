"""An export that is killed at any moment: the store holds whole archives that answer right, and the next one works."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from inference.selfcheck import inprocess_hops
from inference.store import manifest
from inference.store.archive import read_goldens
from inference.store.manifest import Archive, Manifest
from inference.tools.files import sha256
from tests.endurance.length import length
from tests.workspace import ROOT, Workspace

pytestmark = pytest.mark.rest

RUNTIME = "onnx"
KILLS = length(short=3, full=100)
SEED = 0


@dataclass
class Exports:
    """Exports to ONNX in one workspace, each in a process group and with a folder for scratch files of its own."""

    workspace: Workspace
    counts: Counter[str] = field(default_factory=Counter)
    ran: set[str] = field(default_factory=set)

    def run(self, version: str, seconds: float | None = None) -> float:
        """How long it took; it is killed after `seconds`."""
        scratch, start = self.workspace.folder / "tmp", time.monotonic()
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "export", "digits", "--runtime", RUNTIME, "--version", version],
            cwd=self.workspace.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, error = process.communicate(timeout=seconds)
            assert process.returncode == 0, error
            self.counts["had ended by themselves"] += 1
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):  # it ends in this moment
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            self.counts["killed"] += 1
        return time.monotonic() - start

    def entries(self) -> list[Archive]:
        known = Manifest.read(self.workspace.store)
        return [archive for name in {*known.archives, *known.earlier} for archive in known.versions(name)]

    def check(self, again: str) -> bool:
        """Every entry has its file and every file is right; False where one is not the file that its entry describes.

        That may be so of the version alone that was exported `again`.
        """
        cut = 0
        for archive in self.entries():
            try:
                manifest.check(self.workspace.store, {archive.file: archive})
            except ValueError:
                assert archive.version == again
                cut += 1
        for path in self.workspace.store.glob("[!.]*.mar"):
            self._check_archive(path)
        self.counts["cut off before the manifest"] += cut
        return cut == 0

    def _check_archive(self, path: Path) -> None:
        """Opened each time, and run when it is new."""
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
        digest = sha256(path)
        if digest not in self.ran:
            assert all(hop.comparison.ok for hop in inprocess_hops(path, read_goldens(path), RUNTIME, threads=1))
            self.ran.add(digest)


@pytest.mark.timeout(length(short=600, full=3600))
def test_an_export_killed_at_any_moment_leaves_whole_archives_that_answer_right_and_the_next_one_works(
    trained: Workspace, tmp_path: Path, say: Callable[[str], None]
) -> None:
    """By turns a new version, and the first one again, whose archive and manifest take their names one by one."""
    exports, draw = Exports(trained.copy_to(tmp_path)), random.Random(SEED)
    duration, number = exports.run("1.0"), 0
    while exports.counts["killed"] < KILLS:
        number += 1
        version = f"{number + 1}.0" if number % 2 else "1.0"
        before = exports.counts["killed"]
        took = exports.run(version, draw.uniform(0, duration))
        if exports.counts["killed"] == before:
            duration = took  # the machine has less to do than before
        whole = exports.check(again="1.0" if version == "1.0" else "")
        if number % 10 == 0 or exports.counts["killed"] == KILLS or not whole:
            exports.run("1.0")
            exports.check(again="")
    drafts = len(list(exports.workspace.store.glob(".*.mar")))
    counted = ", ".join(f"{count} {what}" for what, count in sorted(exports.counts.items()))
    say(f"\nExports to be killed, seed {SEED}: {counted}; {len(exports.ran)} archives run, {drafts} drafts left")

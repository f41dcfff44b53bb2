"""A server whose model has two versions, and the commands that change what it serves."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.goldens import Goldens
from inference.store import manifest
from inference.store.archive import read_goldens
from inference.store.manifest import Archive, Manifest
from serve import versions
from serve.record import Server, recall
from serve.torchserve.management import Management
from serve.torchserve.server import connect
from tests.workspace import Workspace
from tests.zips import rewrite

MODEL = "digits-onnx"
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Live:
    """A server with one model, whose store holds version 1.0, and 2.0 of other weights."""

    workspace: Workspace

    @property
    def run_directory(self) -> Path:
        return self.workspace.folder / ".serve"

    @property
    def server(self) -> Server:
        known = recall(self.run_directory)
        assert known
        return known

    def token(self) -> str:
        keys = json.loads((self.run_directory / "key_file.json").read_bytes())
        return str(keys["inference"]["key"])

    def serve(self, *command: str, check: bool = True) -> Done:
        return self.workspace.run("serve", *command, check=check)

    def up(self) -> None:
        self.serve("up", MODEL, "--port", str(self.workspace.port))

    def refused(self, *command: str) -> str:
        """The sentence of a command after which everything is as it was, and right."""
        before = self.state()
        done = self.serve(*command, check=False)
        assert done.returncode == 2, done.stdout
        assert self.state() == before
        assert self.serve("status").returncode == 0
        return done.stderr

    def management(self) -> Management:
        found = connect(self.server)
        assert found
        return found

    def default(self) -> str:
        return self.management().describe(MODEL).version

    def make_default(self, version: str) -> None:
        if self.default() != version:
            self.serve("promote", MODEL, version)

    def workers(self) -> dict[str, list[int]]:
        """The processes of each registered version."""
        ask = self.management()
        return {one.version: [worker.pid for worker in one.workers] for one in ask.versions(MODEL)}

    def state(self) -> dict[str, Any]:
        files = {name: (self.run_directory / name) for name in ("server.json", versions.NAME)}
        texts = {name: path.is_file() and path.read_text() for name, path in files.items()}
        return {"default": self.default(), "workers": self.workers(), **texts}

    def entry(self, version: str) -> Archive:
        return Manifest.read(self.workspace.store).find(MODEL, version)

    def goldens(self, version: str) -> Goldens:
        return read_goldens(self.workspace.store / self.entry(version).file)

    def repack(self, version: str, change: Callable[[Goldens], Goldens] = lambda same: same) -> None:
        """2.0 by another version's number, its goldens changed: an export that verified nothing."""
        store, old = self.workspace.store, self.entry("2.0")
        path, goldens = store / f"{MODEL}-{version}.mar", self.workspace.folder / "goldens.npz"
        change(self.goldens("2.0")).write(goldens)

        def renumbered(files: dict[str, bytes]) -> dict[str, bytes]:
            known = json.loads(files["MAR-INF/MANIFEST.json"])
            known["model"]["modelVersion"] = version
            told = {"MAR-INF/MANIFEST.json": json.dumps(known).encode(), "goldens.npz": goldens.read_bytes()}
            return files | told

        shutil.copy(store / old.file, path)
        rewrite(path, renumbered)
        made = {"file": path.name, "version": version, **manifest.describe(path).model_dump()}
        manifest.add(store, MODEL, old.model_copy(update=made))


@dataclass(frozen=True)
class Exports:
    """Two folders as a user leaves them one after the other: 1.0 is exported, and 2.0 of two epochs beside it."""

    first: Workspace
    both: Workspace


@contextmanager
def two_versions(exports: Exports, folder: Path) -> Iterator[Live]:
    """1.0 is served. 2.0 is exported beside it."""
    live = Live(exports.first.copy_to(folder))
    try:
        live.up()
        exports.both.copy_over(live.workspace)
        yield live
    finally:
        live.workspace.stop()

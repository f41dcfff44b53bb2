"""What export's tests share: a command run in this process, where torch is loaded already; a program in an archive."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from export.trained import Trained, load_trained
from inference.store.archive import environment
from inference.tools.commands import run
from tests.workspace import Workspace


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    error: str


def ended(app: typer.Typer, capsys: pytest.CaptureFixture[str]) -> Done:
    """Runs an app on the arguments that are set, until it ends."""
    with pytest.raises(SystemExit) as left:
        run(app)
    captured = capsys.readouterr()
    return Done(int(left.value.code or 0), captured.out, captured.err)


def trained_in(workspace: Workspace) -> Trained:
    return load_trained("digits", workspace.folder / "artifacts")


def printed(program: str, directory: Path) -> str:
    """What a program prints in an unpacked archive, in a process that can't see this repository."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env=environment(1),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()

"""What the tests of export's commands share: a command run in this process, where torch is loaded already."""

from dataclasses import dataclass

import pytest
import typer

from export.trained import Trained, load_trained
from tests.workspace import Workspace
from training.commands import run


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

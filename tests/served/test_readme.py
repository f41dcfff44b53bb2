"""What the README tells a newcomer to type, typed in a copy of what git has."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.workspace import ROOT, Workspace, free_port

# These two are made of the others, and of this test.
LEFT_OUT = ("make demo", "make test")


def commands() -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(line.removeprefix("$ ") for line in lines if line.startswith("$ ")))


def checkout(folder: Path, exported: Workspace) -> None:
    """Every file that git tracks or would track, the installed packages, and what train and export made of them.

    The session has run those two by the very commands of `make`, which finds nothing left to do.
    """
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for made in ("artifacts", "model_store"):
        shutil.copytree(exported.folder / made, folder / made)
    (folder / "model_store/.exported-digits").touch()


def test_the_readme_shows_the_two_commands_first() -> None:
    assert commands()[:2] == list(LEFT_OUT)


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_runs(tmp_path: Path, exported: Workspace) -> None:
    checkout(tmp_path, exported)
    assert (tmp_path / ".venv/.installed").exists(), "make setup comes before make test"
    environment = {**os.environ, "ENTERING_PORT": str(free_port())}
    try:
        for command in commands():
            if command not in LEFT_OUT:
                done = subprocess.run(
                    ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    finally:
        subprocess.run(["make", "stop"], cwd=tmp_path, env=environment, check=True)
    again = subprocess.run(["make", "export"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "python" not in again.stdout

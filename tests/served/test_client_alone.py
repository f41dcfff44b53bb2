"""The client installed by itself, in an environment without torch, against the running server."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.workspace import ROOT, Workspace

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "inference", "models", "training", "export", "serve", "client")


@dataclass(frozen=True)
class Alone:
    """`python` of an environment that holds the base dependencies and nothing else; `folder` is not the repository."""

    python: Path
    folder: Path
    key_file: Path

    def run(self, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [self.python, *arguments],
            cwd=folder or self.folder,
            env={**kept, "ENTERING_KEY_FILE": str(self.key_file), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )


def locked() -> list[str]:
    """The lock's requirements, NAME==VERSION with the marker if there is one."""
    return re.findall(r"^([\w.-]+==.+?) *\\?$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def pip(python: Path, *arguments: str | Path) -> str:
    command = [python, "-m", "pip", *arguments, "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheel(folder: Path) -> Path:
    """Built from a copy of the sources, so that it leaves nothing beside them, with the locked setuptools."""
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, sources / name)
    pip(Path(sys.executable), "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, sources)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def alone(served: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Installed by pip, which alone decides what the client needs; of everything it takes the lock's version."""
    folder = tmp_path_factory.mktemp("alone")
    empty, constraints = folder / "empty", folder / "constraints.txt"
    empty.mkdir()
    constraints.write_text("\n".join(locked()))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "install", "--constraint", constraints, wheel(folder))
    return Alone(python, empty, served.folder / ".serve" / "key_file.json")


def test_no_torch_is_installed(alone: Alone) -> None:
    installed = json.loads(alone.run("-m", "pip", "list", "--format", "json").stdout)
    names = {package["name"] for package in installed}
    assert "entering-production" in names
    assert not names & {"torch", "torchvision", "torchserve", "onnx", "onnxruntime", "onnxruntime-gpu", "matplotlib"}


def test_what_is_installed_is_what_is_locked(alone: Alone) -> None:
    installed = pip(alone.python, "freeze", "--exclude", "entering-production").lower().replace("_", "-").split()
    assert "numpy" in {line.partition("==")[0] for line in installed}
    assert set(installed) <= {line.split()[0] for line in locked()}


def test_help_names_the_commands(alone: Alone) -> None:
    done = alone.run("-m", "client", "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("predict", "verify", "compare", "load", "models"))


def test_predict_answers_away_from_the_repository(alone: Alone, served: Workspace) -> None:
    seven = served.artifacts / "samples" / "seven.png"
    done = alone.run("-m", "client", "predict", str(seven), "--url", served.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{seven}: 7 (0.")


def test_models_are_listed(alone: Alone, served: Workspace) -> None:
    done = alone.run("-m", "client", "models", "--management-url", served.management_url)
    assert done.returncode == 0
    assert "digits-torchscript" in done.stdout


def test_compare_says_what_is_missing(alone: Alone, served: Workspace) -> None:
    done = alone.run("-m", "client", "compare", *served.urls)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: compare needs torch. Install it")


def test_load_says_what_is_missing(alone: Alone, served: Workspace) -> None:
    done = alone.run("-m", "client", "load", "digits-onnx", "--rate", "9", "--url", served.url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: load needs hdrhistogram. Install it")


def test_verify_says_which_hops_need_torch(alone: Alone, served: Workspace) -> None:
    done = alone.run("-m", "client", "verify", *served.urls, folder=served.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: The hops in process need torch. Install it, or check the others: python -m client verify --http\n"
    )


def test_verify_over_http_needs_no_torch(alone: Alone, served: Workspace) -> None:
    done = alone.run("-m", "client", "verify", "digits-onnx", "--http", *served.urls, folder=served.folder)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((served.artifacts / "verify.json").read_bytes())
    assert [hop["hop"] for hop in report["models"][0]["hops"]] == ["http", "http_batched", "http_load"]


def test_the_library_is_used_in_three_lines(alone: Alone, served: Workspace) -> None:
    seven = served.artifacts / "samples" / "seven.png"
    program = (
        "from client.client import Client\n"
        f"with Client({served.url!r}) as client:\n"
        f"    print(client.predict({str(seven)!r}, 'digits-onnx').label)\n"
    )
    assert alone.run("-c", program).stdout == "7\n"

"""A virtual environment for each peer, made from its pinned requirements.

A peer's own packages come first in it; what only the predictor needs (torch, ONNX Runtime, …) it finds behind them, in
the environment that the benchmark runs in. So every contender computes with the same libraries, byte for byte. What
both need, such as numpy and pydantic, is pinned to this project's version in the peer's requirements.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PEERS = Path(__file__).with_name("peers")
INSTALL_SECONDS = 900
SHARED = ("numpy", "onnxruntime-gpu", "pillow", "pydantic", "simplejpeg", "torch")
VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


class NotInstalled(Exception):
    """The message is the installer's own last words, or says which library is another one than this project's."""


def scratch() -> Path:
    """Where the benchmarks keep what they make, in the working directory; git leaves it out."""
    folder = Path(".bench").resolve()
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    return folder


def python(peer: str) -> Path:
    """The peer's interpreter; its environment is made anew when its requirements have changed. Raises NotInstalled."""
    folder, requirements = scratch() / "venvs" / peer, PEERS / peer / "requirements.txt"
    stamp, made_from = folder / "made-from", _digest(requirements)
    interpreter = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != made_from:
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        _run([sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet", "-r", str(requirements)])
        _see_ours(interpreter)
        stamp.write_text(made_from)
    _check_shared(interpreter)
    return interpreter


def versions(interpreter: Path, packages: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = json.loads(_run([str(interpreter), "-c", VERSIONS, *packages]))
    return found


def _digest(requirements: Path) -> str:
    """Of everything that the environment is made from."""
    whole = requirements.read_bytes() + sys.version.encode() + sysconfig.get_path("platlib").encode()
    return hashlib.sha256(whole).hexdigest()


def _see_ours(interpreter: Path) -> None:
    packages = _run([str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    Path(packages, "behind.pth").write_text(sysconfig.get_path("platlib") + "\n")


def _check_shared(interpreter: Path) -> None:
    ours, theirs = versions(Path(sys.executable), SHARED), versions(interpreter, SHARED)
    other = [f"{name} {theirs[name]} instead of {ours[name]}" for name in SHARED if ours[name] != theirs[name]]
    if other:
        raise NotInstalled(f"It would compute with {', '.join(other)}.")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"The installation took longer than {INSTALL_SECONDS} s.") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(next((line for line in words if "ERROR" in line), words[-1] if words else "It failed."))
    return done.stdout

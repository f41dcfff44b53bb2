"""A folder in which a user has worked: trained, exported and, maybe, served; all by the real commands."""

import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from client.client import Client

ROOT = Path(__file__).resolve().parent.parent

# Where anything can be written by nobody, not even by root.
READ_ONLY = Path("/sys/entering-production")


@dataclass(frozen=True)
class Workspace:
    """`artifacts/`, `model_store/` and `.serve/` lie in `folder`. A server's ports begin at `port`.

    `root` is where the project lies whose commands are run.
    """

    folder: Path
    port: int
    root: Path = ROOT

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts" / "digits"

    @property
    def store(self) -> Path:
        return self.folder / "model_store"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root), "COLUMNS": "120"}

    @property
    def urls(self) -> tuple[str, ...]:
        return ("--url", self.url, "--management-url", self.management_url)

    def client(self, **options: object) -> Client:
        return Client(self.url, self.management_url, **options)  # type: ignore[arg-type]

    def copy_to(self, folder: Path) -> "Workspace":
        """The same files elsewhere, with ports of its own."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".serve"))
        return Workspace(folder, free_port())

    def copy_over(self, other: "Workspace") -> None:
        """What was trained and exported here takes the place of what was there, as if it had been done there."""
        for made in filter(Path.exists, (self.artifacts, self.store)):
            shutil.copytree(made, other.folder / made.relative_to(self.folder), dirs_exist_ok=True)

    def run(
        self, *command: str, check: bool = True, environment: Mapping[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """`python -m COMMAND` as a user types it in this folder. With `check`, a failure of it fails the test."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert not (check and done.returncode), f"{command} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def stop(self) -> None:
        """The server here is ended at once, and tidied up after: how one is stopped in its own time is tested."""
        ours = str(self.folder / ".serve")
        started = psutil.process_iter(["cmdline"])
        java = [process for process in started if any(ours in word for word in process.info["cmdline"] or [])]
        for process in java:
            process.kill()
        psutil.wait_procs(java, timeout=10)
        self.run("serve", "down")


HANDED_OUT: set[int] = set()


@contextmanager
def no_room_above(size: int) -> Iterator[None]:
    """No file can grow above `size` bytes, as on a full disk; in this process and in those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def free_port() -> int:
    """The first of five ports in a row that nothing listens on, and that no other workspace was given."""
    for port in range(20000 + os.getpid() % 2000 * 5, 40000, 5):
        if port not in HANDED_OUT and all(_is_free(port + offset) for offset in range(5)):
            HANDED_OUT.add(port)
            return port
    raise RuntimeError("no five free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0

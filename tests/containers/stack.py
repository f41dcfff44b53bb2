"""The project's docker-compose.yml as a user starts it, with a store, a port and a project name of its own."""

import json
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from inference.goldens import Goldens
from inference.store.archive import read_goldens
from inference.store.manifest import Archive, Manifest
from tests.workspace import ROOT, Workspace

IMAGE = "entering-production:test"
SERVICE = "serve-cpu"
MODEL = "digits-onnx"

# Debian's engine, where another `docker` may come first in PATH.
DOCKER = shutil.which("docker", path="/usr/bin") or "docker"

# The service counts as healthy after its workers have loaded and a check has passed; a busy machine takes its time.
START_SECONDS = 240

Done = subprocess.CompletedProcess[str]


def docker(*command: str, check: bool = True, timeout: float = 120) -> Done:
    """`docker COMMAND`. With `check`, a failure of it fails the test."""
    return _run([DOCKER, *command], os.environ.copy(), check, timeout)


def _run(command: list[str], environment: dict[str, str], check: bool, timeout: float) -> Done:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )
    words = f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    assert not (check and done.returncode), words
    return done


@dataclass
class Stack:
    """One compose project over the store of `workspace`, published on the workspace's port.

    `environment` is what a user sets before `docker compose`, such as ENTERING_MEMORY.
    """

    workspace: Workspace
    image: str = IMAGE
    environment: dict[str, str] = field(default_factory=dict)
    project: str = field(default_factory=lambda: f"entering-test-{secrets.token_hex(4)}")

    def compose(self, *command: str, check: bool = True, timeout: float = 120) -> Done:
        ours = {
            "COMPOSE_PROJECT_NAME": self.project,
            "ENTERING_IMAGE": self.image,
            "ENTERING_PORT": str(self.workspace.port),
            "ENTERING_STORE": str(self.workspace.store),
        }
        words = [DOCKER, "compose", "--profile", "cpu", *command]
        return _run(words, {**os.environ, **ours, **self.environment}, check, timeout)

    def up(self, service: str = SERVICE, check: bool = True) -> Done:
        """Returns when the service is healthy or, without `check`, has ended."""
        wait = ("--wait", "--wait-timeout", str(START_SECONDS))
        done = self.compose("up", "--detach", "--no-build", *wait, service, check=False, timeout=START_SECONDS + 60)
        if check and done.returncode:  # Compose may call a container unhealthy before the first check has ended
            self.wait_for("healthy")
        return done

    def down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "15")

    @property
    def container(self) -> str:
        return self.compose("ps", "--all", "--quiet", SERVICE).stdout.strip()

    def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.container).stdout)
        return found[0]

    def address(self, network: str = "default") -> str:
        """The container's own address on one of the project's networks."""
        networks = self.inspect()["NetworkSettings"]["Networks"]
        return str(networks[f"{self.project}_{network}"]["IPAddress"])

    def health(self) -> str:
        return str(self.inspect()["State"]["Health"]["Status"])

    def wait_for(self, health: str, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while (now := self.health()) != health:
            assert time.monotonic() < deadline, f"{now}, not {health}, after {seconds} s:\n{self.log()}"
            time.sleep(0.2)

    def log(self) -> str:
        """What the service has said since its container was made."""
        if not self.container:
            return ""
        done = docker("logs", self.container)
        return done.stdout + done.stderr

    def execute(self, *command: str, check: bool = True, timeout: float = 240) -> Done:
        """In the running container, as `docker compose exec` does it."""
        return self.compose("exec", "--no-TTY", SERVICE, *command, check=check, timeout=timeout)

    def python(self, code: str, check: bool = True) -> str:
        return self.execute("python", "-c", code, check=check).stdout

    def kill_processes(self, words: str) -> None:
        """SIGKILL, from inside, for each process whose command holds `words`; there has to be one."""
        code = (
            "import psutil\n"
            f"found = [p for p in psutil.process_iter(['cmdline']) if {words!r} in ' '.join(p.info['cmdline'] or [])\n"
            "         and p.pid != psutil.Process().pid]\n"
            "assert found\n"
            "for process in found: process.kill()"
        )
        self.python(code)

    def key_file(self) -> Path:
        """The clients' tokens, copied from the container as the documentation says."""
        path = self.workspace.folder / "key_file.json"
        self.compose("cp", f"{SERVICE}:/srv/state/key_file.json", str(path))
        return path

    def token(self) -> str:
        return str(json.loads(self.key_file().read_bytes())["inference"]["key"])

    def client(self, *command: str, check: bool = True) -> Done:
        """`python -m client COMMAND` on the host, in the workspace's folder."""
        ours = {"ENTERING_PORT": str(self.workspace.port), "ENTERING_KEY_FILE": str(self.key_file())}
        return self.workspace.run("client", *command, check=check, environment=ours)

    def post(
        self, body: bytes, token: str | None, path: str = f"predictions/{MODEL}", **headers: str
    ) -> requests.Response:
        """One request, never repeated."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return requests.post(f"{self.workspace.url}/{path}", data=body, headers=headers, timeout=60)


def goldens_of(store: Path, archive: Archive) -> Goldens:
    return read_goldens(store / archive.file)


def keep_only(store: Path, *names: str) -> None:
    """Takes all other models out of the store's manifest, so that a start takes less time."""
    known = Manifest.read(store)
    Manifest(archives={name: known.archives[name] for name in names}).write(store)

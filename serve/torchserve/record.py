"""What is remembered of a server between two commands, and which processes are its own."""

import json
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from inference.base import Frozen
from inference.tools.files import publish
from serve.torchserve.launch import Ports

NAME = "server.json"
KEYS = "key_file.json"  # TorchServe gives it the name


class NotServing(ValueError):
    """No server runs here, or it could not be started; the message holds its own last words."""


class Server(Frozen):
    """A running server, as remembered in `.serve/server.json`.

    `scratch` is where it unpacks archives, `models` the SHA-256 of each archive that it serves, by name and version.
    `state` is the folder that remembers which versions were promoted; it may outlive the server. Each model was started
    with so many `workers`, which a worker's number of threads follows from.
    """

    port: int
    scratch: str
    store: str
    state: str
    models: dict[str, dict[str, str]]
    workers: int = 1

    @property
    def ports(self) -> Ports:
        return Ports(self.port)

    def processes(self) -> list[psutil.Process]:
        """Java and its workers: whatever was started with this server's scratch folder in its command."""
        found = psutil.process_iter(["cmdline"])
        return [process for process in found if self.scratch in " ".join(process.info["cmdline"] or [])]

    def remember(self, run_directory: Path) -> None:
        with publish(run_directory / NAME) as draft:
            draft.write_text(self.model_dump_json(indent=2) + "\n")


def read_keys(run_directory: Path) -> dict[str, Any] | None:
    """TorchServe's own tokens; None until it has written them, which it does not do at one stroke."""
    try:
        keys: dict[str, Any] = json.loads((run_directory / KEYS).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return keys


def recall(run_directory: Path) -> Server | None:
    """The server that was started with this run directory and not stopped; it may have died since."""
    path = run_directory / NAME
    if not path.exists():
        return None
    try:
        return Server.model_validate_json(path.read_bytes())
    except ValidationError:
        raise NotServing(
            f"{path} is damaged, or another version of this project wrote it. If a server still runs, end its java "
            f"process; then delete {path}."
        ) from None


def find(run_directory: Path) -> Server | None:
    """The server that was started with this run directory, if any of its processes is alive."""
    server = recall(run_directory)
    return server if server and server.processes() else None

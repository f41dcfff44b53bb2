"""What is remembered of a server between two commands, which processes are its own, and what room they leave."""

import json
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import Field

from inference.base import Frozen
from inference.tools import limits
from inference.tools.files import publish
from inference.tools.torchserve import ModelVersion

NAME = "server.json"
SEE_LOG = "The server's log says why."


class NotServing(ValueError):
    """No server runs here, or it can't do what it was asked for; the message holds its own words."""


class NotPromoted(NotServing):
    def __init__(self, name: str, version: str, why: str) -> None:
        super().__init__(f"Version {version} of {name} does not become the default, which stays what it was: {why}")


class Server(Frozen):
    """A running server, as remembered in `server.json` of its run directory, where the host has its files too."""

    run_directory: Path = Field(exclude=True)
    port: int
    scratch: str  # where it unpacks archives
    store: str
    state: str  # the folder that remembers which versions were promoted; it may outlive the server
    models: dict[str, dict[str, str]]  # the SHA-256 of each archive that it serves, by name and version
    workers: int = 1  # that each model was started with; a worker's number of threads follows from it

    def processes(self) -> list[psutil.Process]:
        """Whatever was started with this server's scratch folder in its command."""
        found = psutil.process_iter(["cmdline"])
        return [process for process in found if self.scratch in " ".join(process.info["cmdline"] or [])]

    def remember(self) -> None:
        with publish(self.run_directory / NAME) as draft:
            draft.write_text(self.model_dump_json(indent=2) + "\n")

    def check_memory(self, like: ModelVersion, more: int) -> None:
        """Raises NotServing where `more` workers like those of that version need more memory than is left.

        The kernel would end one of those that serve.
        """
        needed = more * max((_own_bytes(worker.pid) for worker in like.workers), default=0)
        free, limit = psutil.virtual_memory().available, limits.memory()
        if limit is not None:
            free = min(free, limit - sum(_own_bytes(process.pid) for process in self.processes()))
        if more > 0 and needed > free:
            remedy = "Give the server more memory, or let other models have fewer workers."
            left = f"{max(0, free) >> 20} MiB are left"
            raise NotServing(f"{more} more workers need about {needed >> 20} MiB, and {left}. {remedy}")


def _own_bytes(pid: int) -> int:
    """What would be free without that process; 0 for one that has ended."""
    with suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_full_info().uss)
    return 0


def recall(run_directory: Path) -> Server | None:
    """The server that was started with this run directory and not stopped; it may have died since."""
    path = run_directory / NAME
    if not path.exists():
        return None
    try:
        return Server(**json.loads(path.read_bytes()), run_directory=run_directory)
    except (ValueError, TypeError):
        raise NotServing(
            f"{path} is damaged, or another version of this project wrote it. If a server still runs, end its java "
            f"process; then delete {path}."
        ) from None


def find(run_directory: Path) -> Server | None:
    """The server that was started with this run directory, if any of its processes is alive."""
    server = recall(run_directory)
    return server if server and server.processes() else None

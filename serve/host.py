"""The seam: what is asked of a host, which speaks HTTP and keeps workers alive, and which one it is.

A host serves archives as they are; its worker is ready only when it has answered the archive's goldens right. Which
versions there are to serve, who may ask, and whether the answers are right over HTTP is decided on this side.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

import requests

from inference.goldens import Goldens
from inference.store.manifest import Archive
from inference.tools.torchserve import ModelVersion
from serve.record import Server
from serve.torchserve import server as torchserve
from serve.versions import Chosen

Process = subprocess.Popen[bytes]


class Running(Protocol):
    """The questions and orders to a server that runs.

    They raise NotServing, with the host's own words, where it refuses, and `requests.RequestException` where no answer
    comes in time. Whoever connects closes the `session`.
    """

    @property
    def server(self) -> Server: ...
    @property
    def session(self) -> requests.Session: ...
    @property
    def token(self) -> str:
        """The one that it wants with a request for predictions."""

    def describe(self, name: str, version: str = "") -> ModelVersion:
        """The default version where none is given."""

    def described(self) -> list[tuple[ModelVersion, bool]]:
        """Every version that is there, or should be, and whether it is its model's default."""

    def ask(self, name: str, archive: Archive, goldens: Goldens) -> str:
        """What is wrong with the answers to these goldens, "" when nothing is."""

    def promote(self, name: str, archive: Archive, goldens: Goldens, remember: Callable[[], None]) -> None:
        """Makes that version the default, and calls `remember`; only the one that was the default stays beside it.

        It is loaded first, with as many workers, and has answered all goldens right. After a failure, and one of
        `remember` is one, the default is what it was. No request is lost, and none is answered by both.
        """

    def scale(self, name: str, version: str, workers: int) -> ModelVersion:
        """Gives a version so many workers, and returns when they are ready."""


class Host(Protocol):
    def new(self, run_directory: Path, store: Path, state: Path, port: int, chosen: Chosen, workers: int = 1) -> Server:
        """A server to be started, with its files in `run_directory`, which answers predictions at `port`."""

    def check_ports(self, port: int) -> None:
        """Raises NotServing naming the first of all the ports that a server at `port` takes and can't have."""

    def metrics_port(self, port: int) -> int:
        """Where a server at `port` tells its own metrics."""

    def log(self, run_directory: Path) -> Path:
        """Where a server's words go that is started in the background."""

    def start(self, server: Server, chosen: Chosen, output: IO[bytes] | int) -> Process:
        """Starts the server, which was remembered before, to be stopped in any case."""

    def load_failed(self, words: str) -> bool:
        """Whether the server has said, in all its words so far, that something will never be ready."""

    def connect(self, server: Server, seconds: float | None = None) -> Running | None:
        """None until it can be asked. All that is asked then has `seconds` together, or each its own time."""

    def stop(self, server: Server, *, at_once: bool = False) -> None:
        """Leaves no process, token or unpacked archive behind. Requests in flight may be cut off."""


HOST: Host = torchserve

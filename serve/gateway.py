"""The gateway in front of TorchServe: how HAProxy is configured, started, drained and given new tokens."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inference.protocol import BODY_LIMIT
from serve.access import Tokens
from serve.torchserve.launch import Ports
from serve.torchserve.record import NotServing

HERE = Path(__file__).resolve().parent
SOCKET = "gateway.sock"
METRICS_PORT = 9100
EXPORTER_PORT = 9101
QUIET_SECONDS = 1
DRAIN_SECONDS = 10


@dataclass(frozen=True)
class Gateway:
    """HAProxy with its files in `directory`, asking the TorchServe at `ports`.

    `port` is where predictions are asked for, on every address; `metrics_host` the one address of its metrics.
    """

    directory: Path
    port: int
    metrics_host: str
    ports: Ports

    def start(self, models: Iterable[str], tokens: Tokens, torchserve_token: str) -> "subprocess.Popen[bytes]":
        """Raises NotServing when HAProxy is missing, or does not take its configuration or its ports."""
        program = shutil.which("haproxy")
        if not program:
            raise NotServing(
                "HAProxy is not installed. Install it (Debian: apt-get install haproxy), or use the image."
            )
        names = list(models)
        self._file("models.map").write_text("".join(f"{name} {name}\n" for name in names))
        self._file("backends.cfg").write_text("".join(map(self._backend, names)))
        self._file("tokens.lst").touch(mode=0o600)
        self._file("tokens.lst").write_text("".join(f"Bearer {token}\n" for token in tokens.valid()))
        self._file(SOCKET).unlink(missing_ok=True)
        command = [program, "-db", "-f", str(HERE / "haproxy.cfg"), "-f", str(self._file("backends.cfg"))]
        environment = {**os.environ, **self._variables(), "TORCHSERVE_TOKEN": torchserve_token}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        while not self._answers():
            if process.poll() is not None:
                raise NotServing("HAProxy could not start; its own words are above.")
            time.sleep(0.05)
        return process

    def drain(self, process: "subprocess.Popen[bytes]") -> None:
        """Takes no new request, and returns when those in flight are answered, or after DRAIN_SECONDS.

        A connection that a client keeps open may still send one request; when none has come for QUIET_SECONDS, all are
        closed.
        """
        # The control is opened before the stop, which closes the socket; it breaks off when HAProxy ends by itself.
        with suppress(OSError), Control(self._file(SOCKET)) as control:
            process.send_signal(signal.SIGUSR1)
            deadline, quiet = time.monotonic() + DRAIN_SECONDS, time.monotonic() + QUIET_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
                if _in_flight(control.ask("show stat")):
                    quiet = time.monotonic() + QUIET_SECONDS
                elif time.monotonic() > quiet:  # the end comes right after a look that found nothing in flight
                    break
        self.end(process)

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait()
        self._file(SOCKET).unlink(missing_ok=True)

    def _answers(self) -> bool:
        """Whether this HAProxy has taken its ports: its control socket comes with them."""
        with suppress(NotServing), Control(self._file(SOCKET)):
            return True
        return False

    def _backend(self, name: str) -> str:
        return f"backend {name}\n    server torchserve 127.0.0.1:{self.ports.inference}\n"

    def _variables(self) -> dict[str, str]:
        """What `haproxy.cfg` names in ${…}."""
        return {
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_SOCKET": str(self._file(SOCKET)),
            "GATEWAY_TOKENS": str(self._file("tokens.lst")),
            "GATEWAY_MODELS": str(self._file("models.map")),
            "BODY_LIMIT": str(BODY_LIMIT),
            "METRICS_ADDRESS": f"{self.metrics_host}:{METRICS_PORT}",
            "EXPORTER_ADDRESS": f"127.0.0.1:{EXPORTER_PORT}",
            "TORCHSERVE_METRICS_ADDRESS": f"127.0.0.1:{self.ports.metrics}",
        }

    def _file(self, name: str) -> Path:
        return self.directory.resolve() / name


def let_in(control: "Control", directory: Path, tokens: Tokens, ended: str | None) -> None:
    """Makes a running HAProxy take `tokens`, and no longer the one that has `ended`. Raises NotServing when it won't.

    `directory` holds its files.
    """
    known = directory.resolve() / "tokens.lst"
    wishes = [f"add acl {known} Bearer\\ {tokens.current}", *([f"del acl {known} Bearer\\ {ended}"] if ended else [])]
    for wish in wishes:
        if refused := control.ask(wish).strip():
            raise NotServing(f"The gateway does not take the new token: {refused}")


class Control:
    """A conversation with HAProxy over its control socket. Raises NotServing where nothing answers."""

    PROMPT = b"\n> "

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise NotServing("No gateway is running here.") from None
        self.ask("prompt")

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, words: str) -> str:
        """What HAProxy says before it prompts again, or ends."""
        self._socket.sendall(f"{words}\n".encode())
        answer = b""
        while not answer.endswith(self.PROMPT) and (part := self._socket.recv(1 << 16)):
            answer += part
        return answer.removesuffix(self.PROMPT).decode()


def _in_flight(statistics: str) -> int:
    """Requests that TorchServe has not answered yet, of what HAProxy says as CSV."""
    rows = (line.split(",") for line in statistics.splitlines())
    return sum(int(row[4]) for row in rows if row[1:2] == ["BACKEND"] and not row[0].startswith(":"))

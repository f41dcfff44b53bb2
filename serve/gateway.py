"""The gateway in front of the host: how HAProxy is configured, started, drained and given new tokens."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inference.protocol import BODY_LIMIT
from serve.access import Tokens
from serve.host import HOST, Process
from serve.record import NotServing, Server

CONFIGURATION = Path(__file__).resolve().with_name("haproxy.cfg")
SOCKET, TOKENS = "gateway.sock", "tokens.lst"  # in the server's run directory
METRICS_PORT = 9100
EXPORTER_PORT = 9101
QUIET_SECONDS = 1
DRAIN_SECONDS = 10


def start(server: Server, host_token: str, tokens: Tokens, port: int, metrics_address: str) -> Process:
    """Lets those with `tokens` ask the server at `port`, on every address; metrics are at one address only.

    Raises NotServing when HAProxy is missing, or does not take its configuration or its ports.
    """
    program = shutil.which("haproxy")
    if not program:
        raise NotServing("HAProxy is not installed. Install it (Debian: apt-get install haproxy), or use the image.")
    folder = server.run_directory.resolve()
    backends, models, known, address = (folder / name for name in ("backends.cfg", "models.map", TOKENS, SOCKET))
    backend = "backend {}\n    server torchserve 127.0.0.1:{}\n"
    backends.write_text("".join(backend.format(name, server.port) for name in server.models))
    models.write_text("".join(f"{name} {name}\n" for name in server.models))
    known.touch(mode=0o600)
    known.write_text("".join(f"Bearer {token}\n" for token in tokens.valid()))
    address.unlink(missing_ok=True)
    variables = {  # what the configuration names in ${…}
        "GATEWAY_PORT": str(port),
        "GATEWAY_SOCKET": str(address),
        "GATEWAY_TOKENS": str(known),
        "GATEWAY_MODELS": str(models),
        "BODY_LIMIT": str(BODY_LIMIT),
        "METRICS_ADDRESS": f"{metrics_address}:{METRICS_PORT}",
        "EXPORTER_ADDRESS": f"127.0.0.1:{EXPORTER_PORT}",
        "TORCHSERVE_METRICS_ADDRESS": f"127.0.0.1:{HOST.metrics_port(server.port)}",
        "TORCHSERVE_TOKEN": host_token,
    }
    command = [program, "-db", "-f", str(CONFIGURATION), "-f", str(backends)]
    process = subprocess.Popen(command, env=os.environ | variables, stdin=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        with suppress(NotServing), control(server.run_directory):  # it comes with the ports
            return process
        time.sleep(0.05)
    raise NotServing("HAProxy could not start; its own words are above.")


def drain(server: Server, process: Process) -> None:
    """Takes no new request, and returns when those in flight are answered, or after DRAIN_SECONDS.

    A connection that a client keeps open may still send one request, until none has come for QUIET_SECONDS.
    """
    # The control is opened before the stop, which closes the socket; it breaks off when HAProxy ends by itself.
    with suppress(OSError), control(server.run_directory) as ask:
        process.send_signal(signal.SIGUSR1)
        deadline, quiet = time.monotonic() + DRAIN_SECONDS, time.monotonic() + QUIET_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            rows = [line.split(",") for line in ask("show stat").splitlines()]
            backends = [row for row in rows if row[1:2] == ["BACKEND"] and not row[0].startswith(":")]
            if any(int(row[4]) for row in backends):  # requests that the host has not answered yet
                quiet = time.monotonic() + QUIET_SECONDS
            elif time.monotonic() > quiet:  # the end comes right after a look that found nothing in flight
                break


def end(server: Server, process: Process) -> None:
    process.kill()
    process.wait()
    (server.run_directory / SOCKET).unlink(missing_ok=True)


@contextmanager
def control(run_directory: Path) -> Iterator[Callable[[str], str]]:
    """Asks a server's HAProxy over its control socket, and gives what it says. Raises NotServing where none answers."""
    prompt = b"\n> "
    with socket.socket(socket.AF_UNIX) as connection:

        def ask(words: str) -> str:
            connection.sendall(f"{words}\n".encode())
            answer = b""
            while not answer.endswith(prompt) and (part := connection.recv(1 << 16)):
                answer += part
            return answer.removesuffix(prompt).decode()

        try:
            connection.connect(str(run_directory.resolve() / SOCKET))
        except OSError:
            raise NotServing("No gateway is running here.") from None
        ask("prompt")
        yield ask


def update_tokens(run_directory: Path, ask: Callable[[str], str], tokens: Tokens, ended: str | None) -> None:
    """Lets in with `tokens`, and no longer with the one that has `ended`. Raises NotServing when HAProxy won't."""
    known = run_directory.resolve() / TOKENS
    commands = [f"add acl {known} Bearer\\ {tokens.current}"]
    commands += [f"del acl {known} Bearer\\ {ended}"] if ended else []
    for command in commands:
        if refused := ask(command).strip():
            raise NotServing(f"The gateway does not take the new token: {refused}")

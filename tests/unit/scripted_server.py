"""A real HTTP server on a free port, whose answers a test writes."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import numpy as np
import requests

from inference.protocol import ATTESTED, JSON, NPY


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0  # bytes that are announced and never sent


Script = Callable[[Call], Reply]


class Server:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.calls: list[Call] = []


@contextmanager
def scripted(script: Script | list[Reply]) -> Iterator[Server]:
    """Answers each call by a function, or the calls in turn from a list, the last of which is given again."""
    lock = threading.Lock()
    open_connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            open_connections.append(self.connection)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            call = Call(self.command, self.path, dict(self.headers), self.rfile.read(length))
            with lock:
                server.calls.append(call)
                turn = len(server.calls) - 1
            reply = script[min(turn, len(script) - 1)] if isinstance(script, list) else script(call)
            self._send(reply)

        do_GET = do_POST

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(reply.body) + reply.missing))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = reply.missing > 0

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = False
    server = Server(listener.server_port)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        for connection in open_connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        listener.server_close()
        thread.join()


ATTESTATION = {name: f"some {name}" for name in ATTESTED} | {"decoder": "cpu"}
HEADERS = {ATTESTED[name]: value for name, value in ATTESTATION.items()}


def one(label: str = "7", score: float = 0.75) -> dict[str, Any]:
    return {"label": label, "score": score, "top": [{"label": label, "score": score}, {"label": "1", "score": 0.125}]}


def answer(value: Any) -> Reply:
    return Reply(body=json.dumps(value).encode(), headers={"Content-Type": JSON, **HEADERS})


def npy(array: Any) -> Reply:
    stream = BytesIO()
    np.save(stream, array)
    return Reply(body=stream.getvalue(), headers={"Content-Type": NPY, **HEADERS})


def failure(status: int, kind: str = "SomeException", message: str = "The server's own words.") -> Reply:
    return Reply(status, json.dumps({"code": status, "type": kind, "message": message}).encode())


BAD_TOKEN = failure(400, "InvalidKeyException", "Token Authorization failed.")


def response(reply: Reply) -> requests.Response:
    """A reply as requests would give it, without a server."""
    found = requests.Response()
    found.status_code = reply.status
    found.raw = BytesIO(reply.body)
    found.headers.update(reply.headers)
    return found

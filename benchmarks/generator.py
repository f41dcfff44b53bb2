"""The load: a closed loop over connections that stay open, in HTTP/1.1 on bare sockets, the same for every server.

`python -m benchmarks.generator` reads its task as JSON from standard input and writes what it saw to standard output.
It imports nothing but the standard library, so that it takes little from the server on the same machine.
"""

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

ANSWER_SECONDS = 60
PAUSE_SECONDS = 0.05  # after a broken connection
LIMIT = 1 << 20


class Broken(Exception):
    """The server closed the connection, or answered what is no HTTP/1.1 with a Content-Length."""


@dataclass(frozen=True)
class Task:
    """`pictures` are files; the answer to each must begin as `right` says, in the same order."""

    port: int
    path: str
    headers: Mapping[str, str]
    pictures: list[str]
    right: list[str]
    connections: int
    seconds: float


@dataclass
class Seen:
    """`answered` counts all right answers; `latencies` (seconds) are those that came within the task's time."""

    latencies: list[float] = field(default_factory=list)
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Connection:
    """One connection: a request, then its answer, then the next."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by their names in lower case, and body. Raises Broken or OSError."""
        self.socket.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if "content-length" not in headers:
            raise Broken(f"no Content-Length after {status}")
        while len(body) < int(headers["content-length"]):
            body += self._more()
        return int(status.split()[1]), headers, body

    def _more(self) -> bytes:
        data = self.socket.recv(LIMIT)
        if not data:
            raise Broken("the connection was closed")
        return data

    def close(self) -> None:
        self.socket.close()


def request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    fields = {"Host": "127.0.0.1", **headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def run(task: Task) -> dict[str, Any]:
    """All connections at once. Beside what they saw: the seconds of processor time that this took."""
    bodies = [Path(picture).read_bytes() for picture in task.pictures]
    asked = [
        (request(task.path, task.headers, body), right.encode()) for body, right in zip(bodies, task.right, strict=True)
    ]
    seen = [Seen() for _ in range(task.connections)]
    turns, cpu, start = count(), time.process_time(), time.perf_counter()
    threads = [Thread(target=_loop, args=(task, asked, one, turns, start + task.seconds)) for one in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "latencies": [latency for one in seen for latency in one.latencies],
        "answered": sum(one.answered for one in seen),
        "errors": dict(sum((one.errors for one in seen), Counter())),
        "cpu_s": time.process_time() - cpu,
    }


def _loop(task: Task, asked: list[tuple[bytes, bytes]], seen: Seen, turns: Iterator[int], end: float) -> None:
    connection: Connection | None = None
    while (start := time.perf_counter()) < end:
        sent, right = asked[next(turns) % len(asked)]
        try:
            connection = connection or Connection(task.port)
            status, _, body = connection.ask(sent)
        except (Broken, OSError) as error:
            seen.errors[f"{type(error).__name__}: {error}"] += 1
            if connection:
                connection.close()
            connection = None
            time.sleep(PAUSE_SECONDS)
            continue
        done = time.perf_counter()
        if status != 200 or not body.startswith(right):
            seen.errors[f"{status}: {body[:80].decode(errors='replace')}"] += 1
            continue
        seen.answered += 1
        if done <= end:
            seen.latencies.append(done - start)
    if connection:
        connection.close()


if __name__ == "__main__":
    print(json.dumps(run(Task(**json.load(sys.stdin)))))

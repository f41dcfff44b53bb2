"""HTTP/1.1 with no library between the clock and the socket: one request at a time on a connection that stays open."""

import asyncio
import re
import select
import selectors
import socket
from collections.abc import Mapping
from typing import Protocol, cast
from urllib.parse import quote, urlsplit

STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


def post(host: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole request, to be sent as often as wanted."""
    fields = {"Host": host, **headers, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {quote(path)} HTTP/1.1\r\n{lines}\r\n".encode() + body


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond. epoll's own timeout is in milliseconds, rounded up, by which all would be sent late."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(PreciseSelector())


def resolved(url: str) -> tuple[str, int]:
    """The IP address and the port of a server."""
    parts = urlsplit(url)
    address = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)[0][4]
    return str(address[0]), int(address[1])


class Owner(Protocol):
    """Who hears what becomes of a request, and then may send another."""

    def answered(self, connection: "Connection", status: int, head: bytes, body: bytes) -> None: ...

    def hung_up(self, connection: "Connection", reason: str) -> None: ...


class Connection(asyncio.Protocol):
    def __init__(self, owner: Owner) -> None:
        self._owner, self._received, self._needed = owner, bytearray(), 0
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def close(self) -> None:
        """Nothing more is heard of it."""
        self._ended = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) >= self._needed:
            self._look()

    def _look(self) -> None:
        """Whether the answer is whole. Its length is looked for once; what comes later is only counted."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end])
        status, length = STATUS.match(head), LENGTH.search(head)
        if not status or not length:
            self._end("no HTTP/1.1 answer with its length")
            return
        self._needed = end + 4 + int(length[1])
        if len(self._received) >= self._needed:
            body = bytes(self._received[end + 4 : self._needed])
            self._received.clear()
            self._needed = 0
            self._ended = bool(CLOSES.search(head))
            self._owner.answered(self, int(status[1]), head, body)

    @property
    def ended(self) -> bool:
        """Whether it takes no further request."""
        return self._ended or self._transport.is_closing()

    def connection_lost(self, _: Exception | None) -> None:
        self._end("hung up")

    def _end(self, reason: str) -> None:
        if not self._ended:
            self.close()
            self._owner.hung_up(self, reason)


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

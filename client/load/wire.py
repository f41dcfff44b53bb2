"""HTTP/1.1 with httptools alone between the clock and the socket: one request at a time on a kept connection."""

import asyncio
import select
import selectors
import socket
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import quote, urlsplit

from httptools import HttpParserError, HttpResponseParser


def post(host: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
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
    parts = urlsplit(url)
    address = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)[0][4]
    return str(address[0]), int(address[1])


Headers = list[tuple[bytes, bytes]]
Answered = Callable[["HttpConnection", int, Headers, bytes], None]


class HttpConnection(asyncio.Protocol):
    """An answer ends by its length, with its last chunk, or where it has neither, with the connection.

    `answered` hears of each, and may send another request; `hung_up` hears why there won't be one. What begins with
    `on_` is called by httptools, which would make a parser's error of any error in it.
    """

    def __init__(self, answered: Answered, hung_up: "Callable[[HttpConnection, str], None]") -> None:
        self._answered, self._hung_up, self._parser = answered, hung_up, HttpResponseParser(self)
        self._closed = self._whole = self._ends_with_connection = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def close(self) -> None:
        """Nothing more is heard of it."""
        self._closed = True
        self._transport.abort()

    @property
    def ended(self) -> bool:
        """Whether it takes no further request."""
        return self._closed or self._transport.is_closing()

    def on_message_begin(self) -> None:
        self._headers: Headers = []
        self._body = bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._keeps_open = self._parser.should_keep_alive()
        if not self._keeps_open:
            names = {name.lower() for name, _ in self._headers}
            self._ends_with_connection = not names & {b"content-length", b"transfer-encoding"}

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._whole, self._ends_with_connection = True, False

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._end("no HTTP/1.1 answer")
            return
        if self._whole:
            self._whole = False
            self._answer(self._keeps_open)

    def connection_lost(self, error: Exception | None) -> None:
        if self._ends_with_connection and not error and not self._closed:
            self._answer(False)
        self._end("hung up")

    def _answer(self, keeps_open: bool) -> None:
        self._closed = not keeps_open
        self._answered(self, self._parser.get_status_code(), self._headers, bytes(self._body))

    def _end(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._hung_up(self, reason)

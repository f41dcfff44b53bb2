"""A worker reads what TorchServe's own code would read, in fewer pieces."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from ts.protocol import otf_message_handler

from serve.torchserve.handler import _read_ahead as read_ahead

END = struct.pack("!i", -1)
HEADERS = {"Host": "127.0.0.1", "Content-Type": "image/jpeg", "Accept": "*/*"}


def told(text: bytes) -> bytes:
    return struct.pack("!i", len(text)) + text


def request(number: int, body: bytes) -> bytes:
    headers = b"".join(told(name.encode()) + told(value.encode()) for name, value in HEADERS.items())
    return told(b"request %d" % number) + headers + END + told(b"body") + told(b"image/jpeg") + told(body) + END


def message(*bodies: bytes) -> bytes:
    """A batch as Java sends it."""
    return b"I" + b"".join(request(*one) for one in enumerate(bodies)) + END


class Counted(socket.socket):
    """Counts how often the kernel is asked."""

    asked = 0

    def recv(self, *given: Any) -> bytes:
        self.asked += 1
        return super().recv(*given)

    def recv_into(self, *given: Any) -> int:
        self.asked += 1
        return super().recv_into(*given)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, Counted]]:
    monkeypatch.setattr(otf_message_handler, "_retrieve_buffer", otf_message_handler._retrieve_buffer)
    java, worker = socket.socketpair()
    counted = Counted(fileno=worker.detach())
    with java:
        yield java, counted
    os.close(counted.detach())  # what reads ahead holds it open


def test_a_message_is_read_as_torchserve_reads_it_with_fewer_questions(ends: tuple[socket.socket, Counted]) -> None:
    java, worker = ends
    bodies = [bytes([number]) * 5_000 for number in range(8)]
    java.sendall(message(*bodies))
    expected, before = otf_message_handler.retrieve_msg(worker), worker.asked
    read_ahead()
    java.sendall(message(*bodies))
    assert otf_message_handler.retrieve_msg(worker) == expected
    assert worker.asked - before < before / 10
    assert [one["parameters"][0]["value"] for one in expected[1]] == bodies


def test_messages_that_came_together_are_read_one_after_the_other(ends: tuple[socket.socket, Counted]) -> None:
    java, worker = ends
    read_ahead()
    java.sendall(message(b"first") + message(b"second", b""))
    read = [otf_message_handler.retrieve_msg(worker)[1] for _ in range(2)]
    assert [[one["parameters"][0]["value"] for one in batch] for batch in read] == [[b"first"], [b"second", b""]]


def test_a_body_is_bytes_so_that_nothing_copies_it(ends: tuple[socket.socket, Counted]) -> None:
    java, worker = ends
    read_ahead()
    java.sendall(message(b"body"))
    [one] = otf_message_handler.retrieve_msg(worker)[1]
    body = one["parameters"][0]["value"]
    assert bytes(body) is body


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_worker_ends_when_java_has_gone(ends: tuple[socket.socket, Counted], length: int) -> None:
    java, worker = ends
    read_ahead()
    java.sendall(message(b"body")[:length])
    java.close()
    with pytest.raises(SystemExit) as ended:
        otf_message_handler.retrieve_msg(worker)
    assert ended.value.code == 0

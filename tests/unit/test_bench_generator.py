"""The load generator against a server that is scripted, and the division of cores."""

import socket
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from benchmarks.generator import Connection, Task, request, run
from benchmarks.processes import divide, spent

ANSWERS = {
    "right": b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"label": "cat"',
    "wrong": b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"label": "dog"',
    "refused": b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy",
    "endless": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "closed": b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\nonly",
}


def serve(listener: socket.socket, answer: bytes, closes: bool) -> None:
    """Answers each request of 4 bytes' body the same, in two parts, on one connection after the other."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            while data := connection.recv(65536):
                if data.endswith(b"jpeg"):
                    connection.sendall(answer[:20])
                    connection.sendall(answer[20:])
                    if closes:
                        break


def ask(kind: str, folder: Path) -> dict[str, Any]:
    """For longer where a busy machine got to nothing."""
    picture = folder / "a.jpg"
    picture.write_bytes(b"jpeg")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Thread(target=serve, args=(listener, ANSWERS[kind], kind == "closed"), daemon=True)
        server.start()
        port = listener.getsockname()[1]
        for seconds in (0.3, 3, 30):
            found = run(Task(port, "/predict", {"X-A": "b"}, [str(picture)], ['{"label": "cat"'], 1, seconds))
            if found["answered"] > 1 or found["errors"]:
                break
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
    return found


def test_right_answers_are_counted_with_their_latencies(tmp_path: Path) -> None:
    found = ask("right", tmp_path)
    assert found["errors"] == {}
    assert found["answered"] - 1 <= len(found["latencies"]) <= found["answered"]
    assert found["answered"] > 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("wrong", '200: {"label": "dog"'),
        ("refused", "503: busy"),
        ("endless", "Broken: no Content-Length after HTTP/1.1 200 OK"),
        ("closed", "Broken: the connection was closed"),
    ],
)
def test_anything_but_the_right_answer_is_an_error(kind: str, error: str, tmp_path: Path) -> None:
    found = ask(kind, tmp_path)
    assert found["latencies"] == []
    assert found["errors"][error] > 0


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    found = run(Task(port, "/", {}, [str(tmp_path / "a.jpg")], [""], 1, 0.1))
    assert [error.split(":")[0] for error in found["errors"]] == ["ConnectionRefusedError"]


def test_one_connection_carries_many_requests() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, args=(listener, ANSWERS["right"], False), daemon=True).start()
        connection = Connection(listener.getsockname()[1])
        for _ in range(3):
            assert connection.ask(request("/", {}, b"jpeg")) == (200, {"content-length": "15"}, b'{"label": "cat"')
        connection.close()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("given", "server", "generator"),
    [
        ([0], (0,), (0,)),
        ([1, 0], (0, 1), (0, 1)),
        ([0, 1, 2, 3], (0, 1, 2), (3,)),
        (list(range(64)), tuple(range(60)), (60, 61, 62, 63)),
    ],
)
def test_cores_are_divided_where_there_are_enough(
    given: list[int], server: tuple[int, ...], generator: tuple[int, ...]
) -> None:
    assert (divide(given).server, divide(given).generator) == (server, generator)


def test_processor_time_is_told_by_program_and_counts_new_processes() -> None:
    before = {1: ("java", 5.0), 2: ("python", 1.0), 9: ("gone", 3.0)}
    after = {1: ("java", 5.5), 2: ("python", 2.0), 3: ("python", 0.25)}
    assert spent(before, after) == {"java": 0.5, "python": 1.25}

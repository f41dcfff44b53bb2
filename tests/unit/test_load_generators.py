"""The generator's processes against real servers: what is sent when, and what is made of every answer."""

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from client.load.generators import Generators
from client.load.plan import Observed, Requests, Run, schedule
from client.load.result import Result
from client.load.wire import post, resolved
from inference.tools.commands import CannotCheck
from tests.unit.scripted_server import Call, Reply, Script, failure, scripted
from tests.unit.test_client_retries import free_port

BODIES = [f"body {index}".encode() for index in range(7)]
GOLDENS = [b"golden 0", b"golden 1"]


def request(body: bytes) -> bytes:
    return post("127.0.0.1", "/predictions/some model", {"X-Some": "field"}, body)


REQUESTS = Requests([request(body) for body in BODIES], [request(body) for body in GOLDENS], golden_every=10)


def never(*_: float) -> bool:
    return False


def send(url: str, run: Run, processes: int = 1) -> Result:
    with Generators(resolved(url), REQUESTS, processes) as generators:
        return Result(run, generators.run(run, never), 0, [])


def observe(url: str, run: Run) -> Observed:
    with Generators(resolved(url), REQUESTS, 1) as generators:
        [observed] = generators.run(run, never)
    return observed


def constant(rate: float, seconds: float, timeout: float = 10, connections: int = 100) -> Run:
    return Run(seconds, timeout, connections, schedule(rate, seconds, "constant", 0))


def stalling(after: int, seconds: float) -> Script:
    """Answers at once, until after so many it answers nothing for some seconds."""
    lock, count, until = threading.Lock(), 0, 0.0

    def script(_: Call) -> Reply:
        nonlocal count, until
        with lock:
            count += 1
            if count == after:
                until = time.monotonic() + seconds
        time.sleep(max(0.0, until - time.monotonic()))
        return Reply()

    return script


def test_a_stall_is_counted_by_all_who_would_have_come_meanwhile() -> None:
    """Coordinated omission: a closed loop asks nothing while it waits, and finds one slow answer of very many."""
    with scripted(stalling(after=20, seconds=1)) as server:
        found = send(server.url, constant(rate=100, seconds=2))
    assert len(found.latencies) == 200
    slow = (found.latencies > 0.5).sum()
    assert slow >= 49  # due in the first half of the stall
    assert found.percentile(99) >= 0.95
    stall = 0.19  # when the twentieth is due, at the earliest
    during = (found.due > stall + 0.05) & (found.due < stall + 0.9)
    ends = (found.due + found.latencies)[during]
    assert ends.min() >= stall + 0.99  # from when they were due, not from when they were sent

    with scripted(stalling(after=20, seconds=1)) as server:
        closed = send(server.url, Run(2, 10, 1))
    assert (closed.latencies > 0.5).sum() == 1


def test_every_failure_is_counted_by_its_kind_and_in_no_latency() -> None:
    numbers = iter(range(1_000))

    def script(_: Call) -> Reply:
        match next(numbers) % 10:
            case 3:
                return failure(503)
            case 7:
                return Reply(missing=5)
        return Reply(body=b"answer")

    with scripted(script) as server:
        found = send(server.url, constant(rate=100, seconds=1))
    assert found.errors == {"HTTP 503": 10, "hung up": 10}
    assert len(found.latencies) == 80
    assert found.failure == "20 of 100 requests failed: 10 × HTTP 503, 10 × hung up."


def test_an_answer_that_begins_otherwise_than_it_must_is_a_failure() -> None:
    with scripted([Reply(body=b'{"label": "cat", "score": 1}')]) as server:
        requests = Requests([request(b"a cat"), request(b"a dog")], beginnings=[b'{"label": "cat"', b'{"label": "dog"'])
        with Generators(resolved(server.url), requests, 1) as generators:
            [observed] = generators.run(Run(10, 10, 2, most=20), never)
    assert len(observed.answered) == 10
    assert [reason for _, reason in observed.failed] == ['200: {"label": "cat", "score": 1}'] * 10


def test_a_closed_loop_goes_on_after_a_failure() -> None:
    numbers = iter(range(100_000))
    with scripted(lambda _: Reply(missing=next(numbers) % 3)) as server:
        found = send(server.url, Run(0.5, 10, 2))
    assert found.errors.keys() == {"hung up"}
    assert len(found.latencies) >= 2
    assert found.connections == 2


def test_what_takes_too_long_is_a_failure() -> None:
    def script(_: Call) -> Reply:
        time.sleep(0.6)
        return Reply()

    with scripted(script) as server:
        found = send(server.url, constant(rate=20, seconds=0.5, timeout=0.2, connections=4))
    assert found.errors == {"no answer within 0.2 s": 10}
    assert found.waited > 0
    assert len(found.latencies) == 0


@pytest.mark.parametrize("connections", [None, 3])
def test_a_server_that_is_not_there_is_a_failure_of_every_request(connections: int | None) -> None:
    run = Run(0.3, 10, connections) if connections else constant(rate=50, seconds=0.3)
    found = send(f"http://127.0.0.1:{free_port()}", run)
    assert found.errors.keys() == {"no connection (ConnectionRefusedError)"}
    assert len(found.failed) >= 10
    assert len(found.latencies) == 0


def test_requests_that_find_no_connection_wait_and_count_from_when_they_were_due() -> None:
    def script(_: Call) -> Reply:
        time.sleep(0.05)
        return Reply()

    with scripted(script) as server:
        found = send(server.url, constant(rate=100, seconds=0.5, connections=2))
    assert len(found.latencies) == 50
    assert found.connections == 2
    assert found.waited >= 40
    assert found.latencies.max() >= 50 * 0.05 / 2 - 0.5  # two at a time, since the first was due
    assert found.lateness.max() < found.latencies.max() / 2  # which is the server's doing


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_send_together_what_one_would_have_sent(processes: int) -> None:
    with scripted(lambda _: Reply()) as server:
        found = send(server.url, constant(rate=210, seconds=1), processes)
    assert len(found.latencies) == 210
    assert len(found.cpu) == processes
    expected = [
        GOLDENS[number // 10 % 2] if number % 10 == 0 else BODIES[number % len(BODIES)] for number in range(210)
    ]
    assert Counter(call.body for call in server.calls) == Counter(expected)
    assert {(call.path, call.headers["X-Some"]) for call in server.calls} == {("/predictions/some%20model", "field")}


def test_a_run_that_is_lost_ends_before_its_time() -> None:
    with scripted(lambda _: Reply()) as server:
        run = constant(rate=100, seconds=30)
        with Generators(resolved(server.url), REQUESTS, 2) as generators:
            result = Result(run, generators.run(run, lambda _now, answered, _failed, _slow: answered >= 10), 0, [])
            assert result.ended_early
            assert 10 <= len(result.latencies) < 3_000
            short = constant(rate=100, seconds=0.3)  # and what comes next is whole
            assert len(Result(short, generators.run(short, never), 0, []).latencies) == 30
    assert len(server.calls) == len(result.latencies) + 30


def test_a_generator_that_had_no_processor_is_found_to_be_late() -> None:
    with scripted(lambda _: Reply()) as server:
        run = constant(rate=100, seconds=1)
        with Generators(resolved(server.url), REQUESTS, 1) as generators:
            (process,) = generators._processes
            assert process.pid
            pid, paused = process.pid, False

            def pause(now: float, *_: int) -> bool:
                nonlocal paused
                if now > 0.2 and not paused:
                    paused = True
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(0.4)
                    os.kill(pid, signal.SIGCONT)
                return False

            found = Result(run, generators.run(run, pause), 0, [])
    assert (found.lateness > 0.2).sum() >= 15
    assert "The generator itself was late" in str(found.rejection)
    assert len(found.latencies) == 100


def test_a_process_that_ends_by_itself_ends_the_run() -> None:
    with scripted(lambda _: Reply()) as server:
        run = constant(rate=100, seconds=30)
        with Generators(resolved(server.url), REQUESTS, 1) as generators:
            (process,) = generators._processes

            def end(*_: float) -> bool:
                process.kill()
                return False

            with pytest.raises(CannotCheck, match="has ended by itself"):
                generators.run(run, end)


# Answers that come as no server of ours sends them.


@contextmanager
def raw(*pieces: bytes) -> Iterator[str]:
    """Answers the first request in these pieces, one after the other, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.01)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


LENGTH, CHUNKED = b"content-length: 5", b"Transfer-Encoding: chunked"
HEAD = b"HTTP/1.1 200 OK\r\nServer: some\r\n" + LENGTH + b"\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD + b"12345",),
        (HEAD[:7], HEAD[7:40], HEAD[40:] + b"1", b"2345"),
        tuple(bytes([byte]) for byte in HEAD + b"12345"),
        (HEAD.replace(b"some", b"some\r\nConnection: close") + b"12345",),
        (HEAD.replace(LENGTH, b"Connection: close") + b"12345",),
        (HEAD.replace(LENGTH, b"Connection: close") + b"1", b"2345"),
        (HEAD.replace(b"/1.1", b"/1.0").replace(LENGTH, b"Date: today") + b"12345",),
        (HEAD.replace(LENGTH, CHUNKED) + b"5\r\n12345\r\n0\r\n\r\n",),
        (HEAD.replace(LENGTH, CHUNKED) + b"2;some=extension\r\n1", b"2\r\n3\r\n34", b"5\r\n0\r\nA: trailer\r\n\r\n"),
        tuple(bytes([byte]) for byte in HEAD.replace(LENGTH, CHUNKED) + b"1\r\n1\r\n4\r\n2345\r\n0\r\n\r\n"),
    ],
)
def test_an_answer_is_put_together_however_it_arrives(pieces: tuple[bytes, ...]) -> None:
    with raw(*pieces) as url:
        observed = observe(url, Run(0.1, 10, due=np.zeros(1)))
    assert (len(observed.answered), observed.failed) == (1, [])
    [(row, headers, body)] = observed.goldens
    assert (row, headers["Server"], body) == (0, "some", b"12345")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (HEAD.replace(LENGTH, CHUNKED) + b"5\r\n12345\r\n", "hung up"),  # the last chunk is missing
        (HEAD.replace(LENGTH, CHUNKED) + b"five\r\n12345\r\n", "no HTTP/1.1 answer"),
        (HEAD + b"12345" + HEAD[5:], "no HTTP/1.1 answer"),
        (b"220 mail.example.com ESMTP\r\n\r\n", "no HTTP/1.1 answer"),
        (HEAD + b"1234", "hung up"),
        (HEAD[:20], "hung up"),
        (b"", "hung up"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(answer: bytes, kind: str) -> None:
    with raw(answer) as url:
        found = send(url, Run(0.1, 10, due=np.zeros(1)))
    assert found.errors == {kind: 1}


def test_a_connection_that_stays_open_carries_chunked_answers_one_after_the_other() -> None:
    chunked = (HEAD.replace(LENGTH, CHUNKED), b"3\r\n123\r\n", b"2\r\n45\r\n0\r\n\r\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(65536):
                    for piece in chunked:
                        connection.sendall(piece)

        thread = threading.Thread(target=answer)
        thread.start()
        observed = observe(f"http://127.0.0.1:{listener.getsockname()[1]}", Run(10, 10, 1, most=21))
        thread.join()
    assert (len(observed.answered), observed.failed, observed.connections) == (21, [], 1)
    assert [body for _, _, body in observed.goldens] == [b"12345"] * 3

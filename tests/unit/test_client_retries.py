"""What the client repeats, for how long, and what it says when it gives up."""

import itertools
import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, ClassVar

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from client import Client
from client.connection import Retries
from client.errors import (
    Rejected,
    ServerFailed,
    TimedOut,
    TokenRejected,
    UnknownModel,
    Unreachable,
    WorkerDied,
    seconds_of,
)
from tests.unit.scripted_server import BAD_TOKEN, Call, Reply, answer, failure, one, scripted

QUICK = Retries(busy=2.0, refused=0.3, first_delay=0.01, longest_delay=0.05)
MODEL = "digits-onnx"


def client_for(url: str, retries: Retries = QUICK, timeout: tuple[float, float] = (1.0, 5.0)) -> Client:
    return Client(url, token="secret", retries=retries, timeout=timeout)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


WORKER_DIED = failure(500, "InternalServerException", "Worker died.")
SCALED_DOWN = failure(500, "InternalServerException", "Worker scaled down.")


@pytest.mark.parametrize("reply", [failure(503), failure(507), WORKER_DIED, SCALED_DOWN])
def test_a_full_queue_and_a_dead_worker_are_waited_for(reply: Reply) -> None:
    with scripted([reply, reply, answer(one("7"))]) as server, client_for(server.url) as client:
        assert client.predict(b"image", MODEL).label == "7"
    assert len(server.calls) == 3
    assert {call.body for call in server.calls} == {b"image"}


@pytest.mark.parametrize("reply", [failure(507), WORKER_DIED, SCALED_DOWN])
def test_a_request_that_seems_to_kill_workers_is_not_sent_for_ever(reply: Reply) -> None:
    with scripted([reply]) as server, client_for(server.url) as client, pytest.raises(WorkerDied):
        client.predict(b"image", MODEL)
    assert len(server.calls) == 1 + QUICK.deaths


@pytest.mark.parametrize("status", [400, 404, 405, 413, 429, 500, 502, 504])
def test_nothing_else_is_repeated(status: int) -> None:
    with (
        scripted([failure(status), answer(one())]) as server,
        client_for(server.url) as client,
        pytest.raises((Rejected, ServerFailed), match="own words") as caught,
    ):
        client.predict(b"image", MODEL)
    assert len(server.calls) == 1
    assert (caught.value.status, caught.value.model) == (status, MODEL)
    assert caught.value.words == "The server's own words."


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (failure(400), Rejected),
        (failure(404), UnknownModel),
        (BAD_TOKEN, TokenRejected),
        (failure(401), TokenRejected),
        (failure(500), ServerFailed),
        (Reply(302, headers={"Location": "http://127.0.0.1:1/elsewhere"}), ServerFailed),
    ],
)
def test_each_status_has_its_error(reply: Reply, kind: type[Exception]) -> None:
    with scripted([reply]) as server, client_for(server.url) as client, pytest.raises(kind) as caught:
        client.predict(b"image", MODEL)
    assert type(caught.value) is kind


def test_an_error_that_is_not_json_keeps_the_words_it_has() -> None:
    gateway = Reply(502, b"<h1>Bad gateway</h1>")
    with scripted([gateway]) as server, client_for(server.url) as client, pytest.raises(ServerFailed, match="Bad gate"):
        client.predict(b"image", MODEL)


def test_waiting_for_a_busy_server_ends_within_its_budget() -> None:
    retries = Retries(busy=0.3, first_delay=0.01, longest_delay=0.05)
    with scripted([failure(503)]) as server, client_for(server.url, retries) as client:
        started = time.monotonic()
        with pytest.raises(ServerFailed) as caught:
            client.predict(b"image", MODEL)
        elapsed = time.monotonic() - started
    assert caught.value.status == 503
    assert 0.2 < elapsed < 1.0
    assert len(server.calls) >= 5


def busy(retry_after: str) -> Reply:
    return replace(failure(503), headers={"Retry-After": retry_after})


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    with scripted([busy("1"), answer(one("7"))]) as server, client_for(server.url) as client:
        started = time.monotonic()
        assert client.predict(b"image", MODEL).label == "7"
        assert time.monotonic() - started >= 1
    assert len(server.calls) == 2


@pytest.mark.parametrize("retry_after", ["3", "9" * 400, "Fri, 31 Dec 2199 23:59:59 GMT"])
def test_a_server_that_says_to_come_back_too_late_is_not_asked_again(retry_after: str) -> None:
    with scripted([busy(retry_after)]) as server, client_for(server.url) as client:
        started = time.monotonic()
        with pytest.raises(ServerFailed, match="own words") as caught:
            client.predict(b"image", MODEL)
        assert time.monotonic() - started < 1  # the time for repeats is two seconds
    assert caught.value.retry_after >= 3
    assert len(server.calls) == 1


def test_a_date_to_come_back_at_is_understood() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 58 < seconds_of(in_a_minute) <= 60


@pytest.mark.parametrize("text", ["", "soon", "-1", "1e3", "0", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 99 Nov 1994"])
def test_what_says_no_time_to_come_back_at_is_no_time(text: str) -> None:
    assert seconds_of(text) == 0


@given(st.text())
def test_no_retry_after_breaks_the_client(text: str) -> None:
    assert seconds_of(text) >= 0


def test_a_refused_connection_is_tried_again_and_then_unreachable() -> None:
    with client_for(f"http://127.0.0.1:{free_port()}") as client:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="Is the server running") as caught:
            client.predict(b"image", MODEL)
        elapsed = time.monotonic() - started
    assert type(caught.value) is Unreachable
    assert caught.value.status is None
    assert 0.2 < elapsed < 1.5


def test_a_server_that_comes_up_in_time_is_found() -> None:
    class Refusing(requests.adapters.HTTPAdapter):
        """Refuses twice, by sending where nothing listens, and then lets through."""

        turns = itertools.count()
        nowhere = f"http://127.0.0.1:{free_port()}"

        def get_connection_with_tls_context(self, request, verify, proxies=None, cert=None):  # type: ignore[no-untyped-def]
            if next(self.turns) < 2:
                return self.poolmanager.connection_from_url(self.nowhere)
            return super().get_connection_with_tls_context(request, verify, proxies, cert)

    session = requests.Session()
    session.mount("http://", Refusing())
    with (
        scripted([answer(one("3"))]) as server,
        Client(server.url, token="secret", retries=QUICK, session=session) as client,
    ):
        assert client.predict(b"image", MODEL).label == "3"
    assert len(server.calls) == 1


def test_closing_the_client_ends_its_waits() -> None:
    retries = Retries(busy=60.0, first_delay=30.0, longest_delay=30.0)
    with scripted([failure(503)]) as server:
        client = client_for(server.url, retries)
        threading.Timer(0.2, client.close).start()
        started = time.monotonic()
        with pytest.raises(ServerFailed):
            client.predict(b"image", MODEL)
        assert time.monotonic() - started < 5


def test_a_slow_answer_is_a_timeout_and_is_not_repeated() -> None:
    done = threading.Event()

    def slow(_: Call) -> Reply:
        done.wait(5)
        return answer(one())

    with scripted(slow) as server, client_for(server.url, timeout=(1.0, 0.2)) as client:
        with pytest.raises(TimedOut, match=r"within 0\.2 s\."):
            client.predict(b"image", MODEL)
        done.set()
    assert len(server.calls) == 1


@pytest.mark.parametrize("missing", [1, 10_000])
def test_an_answer_that_breaks_off_is_the_servers_failure(missing: int) -> None:
    broken = Reply(body=answer(one()).body, missing=missing)
    with scripted([broken]) as server, client_for(server.url) as client, pytest.raises(ServerFailed, match="broke off"):
        client.predict(b"image", MODEL)
    assert len(server.calls) == 1


def test_timeouts_are_on_by_default() -> None:
    class Recording(requests.Session):
        seen: ClassVar[list[Any]] = []

        def request(self, *arguments: Any, **settings: Any) -> requests.Response:
            self.seen.append(settings["timeout"])
            return super().request(*arguments, **settings)

    with scripted([answer(one())]) as server, Client(server.url, token="secret", session=Recording()) as client:
        client.predict(b"image", MODEL)
    [(connect, read)] = Recording.seen
    assert 0 < connect <= read <= 60


@given(first=st.floats(0.001, 1.0), longest=st.floats(0.001, 10.0))
def test_delays_grow_to_their_bound_and_stay_under_it(first: float, longest: float) -> None:
    delays = list(itertools.islice(Retries(first_delay=first, longest_delay=longest).delays(), 20))
    bounds = [min(first * 2**turn, longest) for turn in range(20)]
    assert all(bound / 2 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))

"""What the client makes of an answer, and that it trusts none that makes no sense."""

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from client import answers
from client.client import Client
from client.errors import ClientError, Rejected, ServerFailed, TimedOut
from client.payloads import payload
from inference.base import BadInput
from inference.outputs import Outputs
from inference.outputs.classes import ClassPrediction
from tests.unit.scripted_server import ATTESTATION, Call, Reply, Server, answer, failure, npy, one, response, scripted

MODEL = "digits-onnx"
BATCH = np.zeros((2, 28, 28, 1), np.uint8)


def client_for(server: Server) -> Client:
    return Client(server.url, server.url, token="secret", management_token="secret")


def ask(reply: Reply, **about: Any) -> Any:
    with scripted([reply]) as server, client_for(server) as client:
        return getattr(client, about.get("method", "predict"))(about.get("source", b"image"), MODEL)


def test_a_prediction_holds_the_answer_and_what_served_it() -> None:
    prediction = ask(answer(one("7", 0.75)))
    assert (prediction.label, prediction.score) == ("7", 0.75)
    assert [(entry.label, entry.score) for entry in prediction.top] == [("7", 0.75), ("1", 0.125)]
    assert prediction.served == ATTESTATION


def test_a_batch_is_answered_in_order() -> None:
    found = ask(answer({"predictions": [one("3"), one("4")]}), method="predict_batch", source=BATCH)
    assert [prediction.label for prediction in found] == ["3", "4"]
    assert [prediction.served for prediction in found] == [ATTESTATION] * 2


def test_predict_gives_one_prediction_and_points_to_the_method_that_gives_more() -> None:
    assert ask(answer({"predictions": [one("3")]}), source=BATCH[:1]).label == "3"
    with pytest.raises(BadInput, match="predict_batch"):
        ask(answer({"predictions": [one(), one()]}), source=BATCH)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"7",
        b"null",
        b"[]",
        b"{}",
        b"<html>Welcome</html>",
        b'{"label": "7"',
        b'{"label": "7", "score": 0.5}',
        b'{"label": "7", "score": 0.5, "top": []}',
        b'{"label": 7, "score": 0.5, "top": [{"label": "7", "score": 0.5}]}',
        b'{"label": "7", "score": "0.5", "top": [{"label": "7", "score": 0.5}]}',
        b'{"label": "7", "score": NaN, "top": [{"label": "7", "score": 0.5}]}',
        b'\xff\xfe{"label": "7"}',
    ],
)
def test_json_that_is_no_prediction_is_the_servers_failure(body: bytes) -> None:
    with pytest.raises(ServerFailed, match="The server's answer cannot be used: ") as caught:
        ask(Reply(body=body))
    assert (caught.value.status, caught.value.model) == (200, MODEL)
    assert "\n" not in str(caught.value)


def test_fewer_answers_than_inputs_are_the_servers_failure() -> None:
    with pytest.raises(ServerFailed, match="1 results for 2 inputs"):
        ask(answer({"predictions": [one()]}), method="predict_batch", source=BATCH)
    with pytest.raises(ServerFailed, match="3 results for 2 inputs"):
        ask(npy(np.zeros((3, 10), "f4")), method="logits", source=BATCH)


@given(arrays.arrays(np.float32, st.tuples(st.just(2), st.integers(1, 12)), elements=st.floats(width=32)))
def test_logits_are_lossless(logits: Outputs) -> None:
    for order in (logits, np.asfortranarray(logits)):
        found = answers.outputs(response(npy(order)), payload(BATCH), MODEL)
        assert found.dtype == np.float32
        assert found.flags.owndata
        assert np.array_equal(found.view(np.uint32), logits.view(np.uint32))


def test_logits_come_with_what_served_them() -> None:
    logits, served = ask(npy(np.ones((1, 10), "f4")), method="attested_outputs")
    assert logits.shape == (1, 10)
    assert served == ATTESTATION


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 10), "f8"),
        np.zeros((2, 10), ">f4"),
        np.zeros((2, 10), "i4"),
        np.zeros(20, "f4"),
        np.float32(0),
        np.array([[None, {}]]),
    ],
)
def test_logits_of_another_type_or_shape_are_the_servers_failure(wrong: Any) -> None:
    with pytest.raises(ServerFailed, match=r"instead of float32 \[N, …\]"):
        answers.outputs(response(npy(wrong)), payload(BATCH), MODEL)


@given(cut=st.integers(0, 207))
def test_cut_logits_are_the_servers_failure(cut: int) -> None:
    whole = npy(np.zeros((2, 10), "f4")).body
    with pytest.raises(ServerFailed, match="npy"):
        answers.outputs(response(Reply(body=whole[:cut])), payload(BATCH), MODEL)


@given(st.binary(max_size=300))
def test_no_answer_at_all_makes_the_client_stumble(body: bytes) -> None:
    for read in (answers.outputs, answers.predictions):
        with pytest.raises(ServerFailed):
            read(response(Reply(body=body)), payload(BATCH), MODEL)


def test_many_answers_keep_the_order_of_the_inputs() -> None:
    def slower_at_first(call: Call) -> Reply:
        time.sleep(0.1 / (1 + int(call.body)))
        return answer(one(call.body.decode()))

    with scripted(slower_at_first) as server, client_for(server) as client:
        found = list(client.predict_many((str(n).encode() for n in range(40)), MODEL, concurrency=8))
    assert [prediction.label for prediction in found if isinstance(prediction, ClassPrediction)] == [
        *map(str, range(40))
    ]


def test_an_error_takes_the_place_of_its_prediction_and_the_rest_goes_on() -> None:
    def script(call: Call) -> Reply:
        return failure(400, "BadInput", "Not an image.") if call.body == b"bad" else answer(one(call.body.decode()))

    with scripted(script) as server, client_for(server) as client:
        found = list(client.predict_many([b"1", b"bad", "missing.png", np.zeros(3, np.uint8), b"5"], MODEL))
    assert [type(outcome) for outcome in found] == [
        ClassPrediction,
        Rejected,
        FileNotFoundError,
        BadInput,
        ClassPrediction,
    ]


def test_many_inputs_are_taken_only_as_they_are_needed() -> None:
    taken = itertools.count()
    ahead: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            next(taken)
            yield b"image"

    with scripted([answer(one())]) as server, client_for(server) as client:
        outcomes = client.predict_many(endless(), MODEL, concurrency=3)
        for given, _ in enumerate(itertools.islice(outcomes, 20)):
            ahead.append(int(repr(taken)[6:-1]) - given)
        outcomes.close()
    assert max(ahead) <= 2 * 3
    assert len(server.calls) <= 20 + 2 * 3


def test_no_more_requests_are_in_flight_than_asked_for() -> None:
    lock, flying, peak = threading.Lock(), [0], [0]

    def script(_: Call) -> Reply:
        with lock:
            flying[0] += 1
            peak[0] = max(peak[0], flying[0])
        time.sleep(0.02)
        with lock:
            flying[0] -= 1
        return answer(one())

    with scripted(script) as server, client_for(server) as client:
        assert len(list(client.predict_many([b"image"] * 30, MODEL, concurrency=4))) == 30
    assert 2 <= peak[0] <= 4


@pytest.mark.parametrize("concurrency", [0, -1, 33])
def test_concurrency_beyond_the_connections_is_refused_at_once(concurrency: int) -> None:
    with Client() as client, pytest.raises(ValueError, match="from 1 to 32"):
        client.predict_many([], MODEL, concurrency=concurrency)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://host", "http://", "http://host:port", "http://host:99999"]
)
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a server"):
        Client(url)


@pytest.mark.parametrize(
    ("variables", "url", "management_url"),
    [
        ({}, "http://127.0.0.1:8080", "http://127.0.0.1:8081"),
        ({"ENTERING_PORT": "9000"}, "http://127.0.0.1:9000", "http://127.0.0.1:9001"),
        (
            {"ENTERING_PORT": "9000", "ENTERING_URL": "http://host/", "ENTERING_MANAGEMENT_URL": "http://other:1"},
            "http://host",
            "http://other:1",
        ),
        ({"ENTERING_PORT": "9000", "ENTERING_URL": "http://host"}, "http://host", "http://127.0.0.1:9001"),
    ],
)
def test_a_client_asks_where_the_environment_says(
    variables: dict[str, str], url: str, management_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ENTERING_PORT", "ENTERING_URL", "ENTERING_MANAGEMENT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Client() as client, Client("http://given", "http://given:2") as told:
        assert (client.url, client.management_url) == (url, management_url)
        assert (told.url, told.management_url) == ("http://given", "http://given:2")


@pytest.mark.parametrize("port", ["http", "-1", "0", "65535", "80.5"])
def test_a_port_that_is_none_is_refused_by_its_name(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENTERING_URL", raising=False)
    monkeypatch.setenv("ENTERING_PORT", port)
    with pytest.raises(ValueError, match=f"ENTERING_PORT is '{port}'"):
        Client()


def described(ready: int, workers: int, minimum: int = 1, **more: Any) -> Reply:
    states = ["READY"] * ready + ["UNLOADING"] * (workers - ready)
    told = [{"id": str(9000 + n), "status": state, "pid": n, "memoryUsage": 5} for n, state in enumerate(states)]
    version = {"modelName": MODEL, "modelVersion": "1.0", "minWorkers": minimum, "workers": told, **more}
    return answer([version])


def test_all_models_are_listed_page_by_page() -> None:
    pages = [{"models": [{"modelName": "a", "modelUrl": "a.mar"}], "nextPageToken": "1"}, {"models": []}]
    with scripted([answer(page) for page in pages]) as server, client_for(server) as client:
        assert client.models() == ["a"]
    assert [call.path for call in server.calls] == ["/models?limit=100", "/models?limit=100&nextPageToken=1"]


def test_a_description_holds_workers_attestation_and_contract() -> None:
    own = '{"attestation": {"runtime": "onnx"}, "contract": {"model": "digits"}}'
    reply = described(1, 2, jobQueueStatus={"remainingCapacity": 99}, customizedMetadata=own)
    with scripted([reply]) as server, client_for(server) as client:
        version = client.describe(MODEL)
    assert server.calls[0].path == f"/models/{MODEL}?customized=true"
    assert [worker.status for worker in version.workers] == ["READY", "UNLOADING"]
    assert (version.workers[0].pid, version.workers[0].memory) == (0, 5)
    assert (version.ready_workers, version.is_ready) == (1, False)
    assert version.attestation == {"runtime": "onnx"}
    assert version.metadata["contract"] == {"model": "digits"}


@pytest.mark.parametrize("words", ["", "free text", "[1]", '{"attestation": 7}'])
def test_a_model_that_is_not_ours_is_described_without_attestation(words: str) -> None:
    with scripted([described(1, 1, customizedMetadata=words)]) as server, client_for(server) as client:
        assert client.describe(MODEL).attestation == {}


def test_waiting_ends_when_all_workers_are_ready() -> None:
    steps = [failure(404), failure(503), described(0, 0), described(1, 2), described(1, 1, 2), described(2, 2, 2)]
    with scripted(steps) as server, client_for(server) as client:
        client.wait_ready(MODEL, timeout=30)
    assert len(server.calls) == len(steps)


@pytest.mark.parametrize(("reply", "why"), [(described(1, 2), "1 workers ready"), (failure(503), "own words")])
def test_waiting_in_vain_says_what_stood_in_the_way(reply: Reply, why: str) -> None:
    with scripted([reply]) as server, client_for(server) as client, pytest.raises(TimedOut, match=f"0.3 s. .*{why}"):
        client.wait_ready(MODEL, timeout=0.3)


def test_every_error_carries_model_status_and_words() -> None:
    error = Rejected("The body is empty.", MODEL, 400)
    assert isinstance(error, ClientError)
    assert str(error) == "digits-onnx: The body is empty. (HTTP 400)"

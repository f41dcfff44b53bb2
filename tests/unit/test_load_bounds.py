"""What keeps `compare` short where a model is slow: phases end by the clock, and arrays fit into a request."""

import math

import pytest

from client.compare import command as compare
from client.compare.timing import timed
from client.errors import ServerFailed
from client.payloads import rows_per_request
from inference import selfcheck as inprocess
from inference.inputs.image import ImageInput
from tests.unit.scripted_server import Reply, failure, scripted
from tests.unit.test_contract import DIGITS


@pytest.fixture(autouse=True)
def _some_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTERING_TOKEN", "SECRET")


@pytest.mark.parametrize(("seconds", "sent"), [(math.inf, 100), (3600, 100), (0, 4)])
def test_a_phase_ends_by_count_or_by_time_and_each_connection_has_sent_something(seconds: float, sent: int) -> None:
    with scripted([Reply()]) as server:
        latencies, _ = timed(server.url, "some", [b"body"] * 100, 4, seconds)
    assert len(latencies) == len(server.calls) == sent


@pytest.mark.parametrize(("seconds", "turns"), [(3600, [0, 1, 2, 3]), (0, [0])])
def test_timings_in_process_end_by_count_or_by_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, turns: list[int]
) -> None:
    monkeypatch.setattr(inprocess, "SECONDS", seconds)
    assert list(inprocess._rounds(4)) == turns


@pytest.mark.parametrize(
    ("side", "channels", "max_batch", "images"),
    [(28, 1, 32, 32), (224, 3, 32, 32), (224, 3, 8, 8), (256, 3, 32, 32), (299, 3, 32, 24), (2000, 3, 32, 1)],
)
def test_as_many_images_as_fit_go_into_one_request(side: int, channels: int, max_batch: int, images: int) -> None:
    shape = ImageInput(height=side, width=side, channels=1 if channels == 1 else 3)
    contract = DIGITS.model_copy(update={"inputs": (shape,), "max_batch": max_batch})
    assert rows_per_request(contract) == images


def test_what_fails_while_it_is_timed_is_an_error() -> None:
    with scripted([Reply(), failure(503)]) as server, pytest.raises(ServerFailed, match="HTTP 503"):
        timed(server.url, "some", [b"body"] * 10, 2)


@pytest.mark.parametrize(
    ("elapsed", "rounds", "too_long"), [(1e6, 0, False), (0.49, 1, False), (0.51, 1, True), (0.66, 2, False)]
)
def test_the_first_round_is_always_measured(
    monkeypatch: pytest.MonkeyPatch, elapsed: float, rounds: int, too_long: bool
) -> None:
    monkeypatch.setattr(compare, "TOTAL_SECONDS", 1)
    assert compare._too_long(elapsed, rounds) == too_long

"""TorchServe's own adapter, in process: what it hands over is answered as the archive's predictor answers it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.store.archive import unpacked
from tests.integration.exporting import printed
from tests.workspace import Workspace

# What each program begins with, in the unpacked archive: TorchServe's own classes around the archive's own handler.
ARRANGE = """
import itertools
from pathlib import Path

from ts.context import Context, RequestProcessor
from ts.protocol import otf_message_handler

from handler import Handler
from inference.bundle import Bundle, read_goldens
from inference.messages import Request
from inference.protocol import ATTESTED, JSON, NPY

HERE = Path()
bundle, goldens = Bundle.read(HERE), read_goldens(HERE)

def context(requests=1, gpu=None, **headers):
    manifest = {"model": {"modelName": bundle.name, "modelVersion": bundle.version}}
    made = Context(bundle.name, str(HERE), manifest, requests, gpu, "")
    made.request_processor = [RequestProcessor(dict(headers)) for _ in range(requests)]
    return made

def request(body, accept):
    return Request(body, headers={"accept": accept})

def worker():
    handler = Handler()
    handler.initialize(context())
    return handler

def assert_same(given, told, expected):
    assert given == [answer.body for answer in expected]
    for index, answer in enumerate(expected):
        assert told.get_response_status(index)[0] == answer.status
        sent = {name.lower(): value for name, value in told.get_response_headers(index).items()}
        own = {name.lower(): value for name, value in answer.headers.items()}
        assert sent == {**own, "content-type": answer.content_type}
"""


@pytest.fixture(scope="module")
def archive(exported: Workspace) -> Iterator[Path]:
    with unpacked(exported.store / "digits-onnx-1.0.mar") as directory:
        yield directory


def run(program: str, archive: Path) -> None:
    assert printed(f"{ARRANGE}\n{program}\nprint('all of it')", archive) == "all of it"


@pytest.mark.parametrize("field", ["body", "image"])
def test_goldens_are_answered_as_by_the_predictor_in_batches_of_any_size(archive: Path, field: str) -> None:
    """A form's field brings the headers of its own part, which TorchServe puts among the request's."""
    program = f"""
handler, predictor = worker(), bundle.load(HERE, "cpu", 1)
for accept, size in itertools.product((NPY, JSON), (1, 7, 32)):
    for start in range(0, len(goldens), size):
        bodies = goldens.requests[start : start + size]
        told = context(len(bodies), accept=accept, {field}={{"content-type": ""}})
        given = handler.handle([{{"{field}": bytearray(body)}} for body in bodies], told)
        expected = predictor.answer([request(body, accept) for body in bodies])
        assert {{answer.status for answer in expected}} == {{200}}
        assert expected[0].headers[ATTESTED["batch_size"]] == str(len(bodies))
        assert_same(given, told, expected)
"""
    run(program, archive)


def test_a_bad_request_gets_its_400_and_the_others_of_its_batch_their_answers(archive: Path) -> None:
    program = """
handler, predictor = worker(), bundle.load(HERE, "cpu", 1)
bodies = [goldens.requests[0], b"no picture", goldens.requests[1]]
told = context(len(bodies), accept=NPY)
given = handler.handle([{"body": body} for body in bodies], told)
assert [told.get_response_status(index)[0] for index in range(3)] == [200, 400, 200]
assert_same(given, told, predictor.answer([request(body, NPY) for body in bodies]))
alone = predictor.answer([request(body, NPY) for body in goldens.requests[:2]])
assert [given[0], given[2]] == [answer.body for answer in alone]
"""
    run(program, archive)


def test_a_worker_that_has_started_reads_ahead(archive: Path) -> None:
    program = """
before = otf_message_handler._retrieve_buffer
worker()
assert otf_message_handler._retrieve_buffer is not before
assert otf_message_handler._retrieve_buffer.__module__ == "handler"
"""
    run(program, archive)


def test_a_worker_that_was_given_another_device_does_not_start(archive: Path) -> None:
    program = """
try:
    Handler().initialize(context(gpu=0))
except RuntimeError as error:
    assert str(error) == "The archive asks for device cpu; this worker was given cuda:0.", error
else:
    raise AssertionError("it started")
"""
    run(program, archive)

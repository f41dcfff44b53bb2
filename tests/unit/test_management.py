"""What TorchServe refuses is told on one line. A real HTTP server stands for it, and gives answers that it gave."""

import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests

from inference.goldens import Goldens
from inference.inputs.image import ImageInput
from serve.record import NotServing, Server
from serve.torchserve.management import Management
from tests.contracts import classifier
from tests.unit.archives import ARCHIVE
from tests.unit.scripted_server import Reply, scripted

GOLDENS = Goldens(
    weights="0" * 64,
    contract=classifier("digits", ImageInput(height=28, width=28, channels=1), "0123456789"),
    names=("first",),
    requests=(b"a picture",),
    inputs=np.zeros((1, 28, 28, 1), np.uint8),
    outputs=np.zeros((1, 10), np.float32),
    oracle=np.zeros((1, 10)),
)
KEYS = {use: {"key": "token"} for use in ("inference", "management")}


def management(port: int) -> Management:
    server = Server(run_directory=Path(), port=port, scratch="", store="", state="", models={})
    return Management(server, KEYS, requests.Session(), time.monotonic() + 30)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{\n  "code": 500,\n  "type": "InternalServerException",\n  "message": "Worker died."\n}', "Worker died."),
        (b'{"message": "two\\n  lines"}', "two lines"),
        (b"<html>\n  <b>no JSON</b>\n</html>\n", "<html> <b>no JSON</b> </html>"),
    ],
)
def test_a_golden_that_is_refused_is_told_on_one_line(body: bytes, words: str) -> None:
    with scripted([Reply(500, body)]) as server:
        said = management(urlsplit(server.url).port or 0).ask("digits-onnx", ARCHIVE, GOLDENS)
    assert said == f"a golden was answered 500: {words}"


def test_a_call_that_is_refused_is_told_in_torchserves_words() -> None:
    body = b'{\n  "code": 404,\n  "type": "ModelNotFoundException",\n  "message": "Model not found: digits-onnx"\n}'
    with scripted([Reply(404, body)]) as server, pytest.raises(NotServing, match=r"^Model not found: digits-onnx$"):
        # the interface for management is at the port behind the one for predictions
        management((urlsplit(server.url).port or 0) - 1).describe("digits-onnx")

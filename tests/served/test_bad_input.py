"""Bad input over HTTP: the right status and a sentence for whoever sent it, and nothing at all for anybody else."""

import io
import json
import struct
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import ExifTags, Image

from inference.goldens import Goldens
from inference.outputs import Outputs
from inference.outputs.classes import TOP_K
from inference.protocol import BODY_LIMIT, NPY
from inference.runtime import Loaded, runtime_module
from inference.tools.limits import threads_per_worker
from models import make_network
from tests.served.asking import RUNTIMES, Eager, Raw, close, npy
from tests.unit.test_inputs import Trap, animated, encoded, noise, png
from tests.workspace import Workspace

IMAGE = encoded(Image.fromarray(noise(28, 28)))
ARRAY = {"headers": {"Content-Type": NPY}}
GOODS = 8


def bomb() -> bytes:
    """20,000 × 20,000 pixels in 50 KB."""
    return png(struct.pack(">IIBB", 20_000, 20_000, 1, 0), bytes(2_501) * 20_000)


def pickled() -> bytes:
    return npy(np.array([{"seven": 7}] * 2, dtype=object))


def array(body: bytes) -> dict[str, Any]:
    return {"body": body, **ARRAY}


def header(name: str, value: str | bytes) -> dict[str, Any]:
    return {"body": IMAGE, "headers": {name: value}}


# What reaches a model: how it is posted, and what the 400 says.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an empty body": ({}, "The body is empty. Send the bytes of a PNG, JPEG or WebP image."),
    "no body, by GET": ({"method": "GET"}, "The body is empty."),
    "text": ({"body": b"seven"}, "is not a PNG, JPEG or WebP image. Send the file's bytes as they are."),
    "JSON": ({"body": b'{"data": 7}', "headers": {"Content-Type": "application/json"}}, "is not a PNG, JPEG or WebP"),
    "a truncated PNG": ({"body": IMAGE[: len(IMAGE) // 2]}, "is damaged or incomplete"),
    "one pixel": ({"body": encoded(Image.new("L", (1, 1)))}, "is 1 × 1 pixels. Send one of at least 8 × 8."),
    "a bomb": ({"body": bomb()}, "is too large. Send one of at most 25,000,000 pixels."),
    "an animated GIF": ({"body": animated("GIF")}, "is not a PNG, JPEG or WebP image"),
    "an animated WebP": ({"body": animated("WEBP")}, "is animated. Send one frame."),
    "npy of another dtype": (array(npy(np.zeros((2, 28, 28, 1), np.int64))), "has dtype int64. Send uint8 of shape"),
    "npy of NaN": (array(npy(np.full((2, 28, 28, 1), np.nan, np.float32))), "has dtype float32. Send uint8"),
    "npy of another shape": (array(npy(noise(2, 1, 28, 28))), "has shape [2, 1, 28, 28]. Send uint8 of shape [N, 28"),
    "npy of another rank": (array(npy(noise(28, 28))), "has shape [28, 28]. Send uint8 of shape [N, 28, 28, 1]"),
    "npy of nothing": (array(npy(noise(0, 28, 28, 1))), "N at least 1"),
    "npy cut short": (array(npy(noise(2, 28, 28, 1))[:-1]), "Send it whole"),
    "pickled npy": (array(pickled()), "has dtype object. Send uint8"),
    "npy that is not said to be": ({"body": npy(noise(2, 28, 28, 1))}, "is not a PNG, JPEG or WebP image"),
    **{
        f"{TOP_K}: {value}": (header(TOP_K, value), f"{TOP_K} is '{value}'. Send a whole number from 1 to 10.")
        for value in ("0", "11", "x")
    },
    "headers that are not ASCII": (header("Accept", b"\xff\xfe"), "Accept is 'ÿþ'. Ask for application/json or"),
    "a header with the body's name": ({"body": b"seven", "headers": {"body": "x"}}, "is not a PNG, JPEG or WebP image"),
    "a form's field with a header's name": ({"files": {"Host": b"seven"}}, "is not a PNG, JPEG or WebP image"),
    "Accept: text/html": (header("Accept", "text/html"), "Accept is 'text/html'. Ask for application/json or"),
    "two files in a form": ({"files": {"one": IMAGE, "two": IMAGE}}, "Beside the body came two. Send one body"),
    "an empty form": ({"files": {"one": ("", b"")}}, "The body is empty."),
}

# What the server turns away itself.
TURNED_AWAY: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown model": ({"body": IMAGE, "path": "digits-onyx"}, 404, "Model not found: digits-onyx"),
    "unknown version": ({"body": IMAGE, "path": "digits-onnx/9.9"}, 404, "Model version: 9.9 does not exist"),
    "no token": ({"body": IMAGE, "token": False}, 400, "Token Authorization failed."),
    "wrong token": (
        {"body": IMAGE, "token": False, "headers": {"Authorization": "Bearer x"}},
        400,
        "Token Authorization failed.",
    ),
}

ALL = {name: (options, 400, words) for name, (options, words) in REFUSED.items()} | TURNED_AWAY


@pytest.fixture(scope="module")
def goldens(served: Workspace) -> Goldens:
    return Goldens.read(served.artifacts / "goldens.npz")


@pytest.fixture(scope="module")
def onnx(served: Workspace) -> Loaded:
    """The runtime in this process, on as many threads as in a worker."""
    module = runtime_module("onnx")
    return module.load(served.artifacts / module.ARTIFACT, "cpu", threads_per_worker(len(RUNTIMES)), make_network)


@contextmanager
def good_requests(raw: Raw, goldens: Goldens, onnx: Loaded) -> Iterator[None]:
    """While the body runs, goldens are asked for; each has to come back with the very bits of a batch of that size."""
    with ThreadPoolExecutor(GOODS) as workers:
        futures = [workers.submit(raw.logits, body) for body in goldens.requests[:GOODS]]
        yield
    for row, future in enumerate(futures):
        check_bits(future, row, goldens, onnx)


def check_bits(future: Future[tuple[Outputs, int]], row: int, goldens: Goldens, onnx: Loaded) -> int:
    """The size of the batch that golden `row` was answered in."""
    logits, size = future.result()
    assert np.array_equal(logits, onnx(goldens.inputs[[row] * size])[:1])
    assert close(logits, goldens.outputs[[row]], "digits-onnx")
    return size


def refusal(response: requests.Response) -> tuple[int, str]:
    """The status and the message of an error that has the form of TorchServe's own."""
    error = response.json()
    assert response.headers["Content-Type"] == "application/json"
    assert error.keys() == {"code", "type", "message"}
    assert error["code"] == response.status_code
    return error["code"], error["message"]


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_refused_with_a_sentence_and_harms_nobody_else(
    raw: Raw, goldens: Goldens, onnx: Loaded, name: str
) -> None:
    options, status, words = ALL[name]
    worker = raw.worker()
    with good_requests(raw, goldens, onnx):
        found = refusal(raw.post(**options))
    assert found[0] == status
    assert words in found[1]
    assert raw.worker().pid == worker.pid


def test_bad_requests_of_every_kind_in_one_batch_leave_the_good_ones_bit_for_bit(
    raw: Raw, goldens: Goldens, onnx: Loaded
) -> None:
    """They queue behind a large array, so that the worker takes them all at once; at the third try at the latest."""
    worker = raw.worker()
    for _ in range(3):
        good, bad = ask_all_at_once(raw, goldens)
        sizes = [check_bits(future, row, goldens, onnx) for row, future in enumerate(good)]
        for future, (_, words) in zip(bad, REFUSED.values(), strict=True):
            assert words in refusal(future.result())[1]
        if sizes == [len(good)] * len(good):
            break
    else:
        pytest.fail(f"no batch held all of them: {sizes}")
    assert raw.worker().pid == worker.pid


def ask_all_at_once(raw: Raw, goldens: Goldens) -> tuple[list[Future[Any]], list[Future[Any]]]:
    """Half of the good requests, all bad ones, and the other half: 32 at most, which is a batch."""
    half = (32 - len(REFUSED)) // 2
    assert half > 0
    with ThreadPoolExecutor(33) as workers:
        large = workers.submit(raw.logits, npy(np.zeros((8_000, 28, 28, 1), np.uint8)), content_type=NPY)
        time.sleep(0.1)
        first = [workers.submit(raw.logits, body) for body in goldens.requests[:half]]
        time.sleep(0.05)
        bad = [workers.submit(raw.post, **options) for options, _ in REFUSED.values()]
        time.sleep(0.05)
        last = [workers.submit(raw.logits, body) for body in goldens.requests[half : 2 * half]]
    assert large.result()[0].shape == (8_000, 10)
    return first + last, bad


def test_a_pickle_is_never_opened(raw: Raw, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = npy(np.array([Trap(sprung)] * 2, dtype=object))
    for content_type in (NPY, "", "application/octet-stream", "application/python-pickle"):
        assert raw.post(trap, headers={"Content-Type": content_type}).status_code == 400
    assert not sprung.exists()
    np.load(io.BytesIO(trap), allow_pickle=True)
    assert sprung.exists()  # the trap works


def test_a_body_over_the_limit_is_413_and_one_of_the_limit_is_taken(raw: Raw, goldens: Goldens, onnx: Loaded) -> None:
    worker = raw.worker()
    with good_requests(raw, goldens, onnx):
        responses = [raw.post(bytes(BODY_LIMIT + more)) for more in (0, 1, BODY_LIMIT)]
    assert [response.status_code for response in responses] == [400, 413, 413]
    assert "is not a PNG" in refusal(responses[0])[1]
    assert raw.worker().pid == worker.pid


# What looks odd and is right.

ODD: dict[str, dict[str, Any]] = {
    "a header with the body's name": {"body": IMAGE, "headers": {"body": "x"}},
    "that, and an array": {
        "body": npy(np.asarray(Image.open(io.BytesIO(IMAGE)))[None, ..., None]),
        "headers": {"body": "x", "Content-Type": NPY},
    },
    "a form's field with a header's name": {"files": {"Host": IMAGE}},
    "a form's field with the name of an option": {"files": {"accept": IMAGE}},
    "a header with a dictionary's name": {"body": IMAGE, "headers": {"content-type": "{}", "__class__": "x"}},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_is_answered_as_any_other_and_harms_nobody_else(
    raw: Raw, goldens: Goldens, onnx: Loaded, eager: Eager, name: str
) -> None:
    with good_requests(raw, goldens, onnx):
        options = dict(ODD[name])
        response = raw.post(**options | {"headers": {**options.get("headers", {}), "Accept": NPY}})
    assert response.status_code == 200, response.text
    assert close(np.load(io.BytesIO(response.content)), eager.logits(IMAGE), "digits-onnx")


def pictures() -> dict[str, bytes]:
    """One picture, unlike any of its turns, in the forms that are easily got wrong."""
    grey = Image.fromarray(np.add.outer(np.arange(40) * 2, np.arange(48) * 3).astype(np.uint8))
    rgb = Image.merge("RGB", (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.new("L", grey.size, 40)))
    rgba = rgb.copy()
    rgba.putalpha(grey)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return {
        "RGBA": encoded(rgba),
        "palette": encoded(rgb.quantize(16)),
        "palette with a transparent colour": encoded(rgb.quantize(16), transparency=3),
        "16-bit": encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)),
        "CMYK": encoded(rgb.convert("CMYK"), "JPEG"),
        "EXIF-rotated": encoded(rgb, "JPEG", exif=exif),
    }


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("form", pictures())
def test_a_picture_of_any_form_is_answered_as_eager_answers_what_training_would_see(
    raw: Raw, eager: Eager, form: str, runtime: str
) -> None:
    body = pictures()[form]
    logits, _ = raw.logits(body, f"digits-{runtime}")
    assert close(logits, eager.logits(body), runtime)


def test_an_exif_rotated_jpeg_is_not_answered_as_it_is_stored(raw: Raw, eager: Eager) -> None:
    body = pictures()["EXIF-rotated"]
    stored = encoded(Image.open(io.BytesIO(body)), "PNG", exif=b"")
    assert not close(raw.logits(body)[0], eager.logits(stored), "onnx")


def test_what_is_refused_is_told_in_json_even_where_npy_was_asked_for(raw: Raw) -> None:
    response = raw.post(b"seven", headers={"Accept": NPY})
    assert json.loads(response.content)["code"] == 400

"""What the client takes, what it sends for it, and what it refuses to send."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from client.client import Client
from client.payloads import Source, payload
from inference.base import BadInput
from inference.inputs.image import ImageInput, Pixels
from inference.protocol import BODY_LIMIT, NPY
from inference.tools.npy import decode_npy
from tests.contracts import decode
from tests.unit.scripted_server import answer, npy, one, scripted

SPEC = ImageInput(height=28, width=28, channels=1)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_travels_as_it_is(kind: type, tmp_path: Path) -> None:
    (tmp_path / "seven.jpg").write_bytes(b"any bytes at all")
    sent = payload(kind(tmp_path / "seven.jpg"))
    assert (sent.body, sent.count) == (b"any bytes at all", 1)
    assert sent == payload(b"any bytes at all")


@pytest.mark.parametrize("mode", MODES)
def test_a_pil_image_travels_as_png_of_the_same_mode_and_pixels(mode: str) -> None:
    image = picture(mode)
    arrived = Image.open(BytesIO(payload(image).body))
    assert (arrived.format, arrived.mode) == ("PNG", mode)
    assert np.array_equal(np.asarray(arrived), np.asarray(image))


@pytest.mark.parametrize("mode", ["CMYK", "F", "HSV"])
def test_a_mode_that_png_cannot_hold_is_refused(mode: str) -> None:
    with pytest.raises(BadInput, match=f"{mode}.*convert it to RGB"):
        payload(picture(mode))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_opened_image_is_turned_by_the_server_as_its_file_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    picture("L").save(file, "JPEG", exif=exif)
    as_file = decode(file.getvalue(), SPEC)
    assert np.array_equal(decode(payload(Image.open(file)).body, SPEC), as_file)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(28), st.just(28), st.just(1))))
def test_an_array_arrives_bit_for_bit(batch: Pixels) -> None:
    sent = payload(batch)
    assert (sent.content_type, sent.count) == (NPY, len(batch))
    assert np.array_equal(decode_npy(sent.body, SPEC.dtype, SPEC.shape), batch)


def test_one_image_as_an_array_is_a_batch_of_one() -> None:
    assert payload(np.zeros((28, 28, 1), np.uint8)) == payload(np.zeros((1, 28, 28, 1), np.uint8))


def test_an_array_in_any_memory_order_arrives_the_same() -> None:
    batch = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28, 1)
    assert payload(np.asfortranarray(batch)) == payload(batch)
    assert payload(batch[::-1]) == payload(batch[::-1].copy())


@pytest.mark.parametrize("shape", [(), (28,), (28, 28), (1, 1, 28, 28, 1), (0, 28, 28, 1)])
def test_an_array_of_another_rank_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"shape \[.*Send uint8 of shape"):
        payload(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, object])
def test_an_array_of_another_type_is_refused(dtype: type) -> None:
    with pytest.raises(BadInput, match="Send uint8"):
        payload(np.zeros((28, 28, 1), dtype))


@pytest.mark.parametrize("wrong", [None, 7, [[0]]])
def test_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(BadInput, match="Send bytes, a path, a PIL image or a NumPy array"):
        payload(wrong)  # type: ignore[arg-type]


def test_a_missing_file_is_the_systems_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        payload(tmp_path / "nowhere.png")


@pytest.mark.parametrize("kind", ["bytes", "file", "array"])
def test_a_body_over_the_limit_is_refused_before_it_is_sent(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "big.png"
    file.write_bytes(bytes(BODY_LIMIT + 1))
    sources: dict[str, Source] = {
        "bytes": bytes(BODY_LIMIT + 1),
        "file": file,
        "array": np.zeros((BODY_LIMIT, 1, 1), np.uint8),
    }
    with scripted([answer(one())]) as server, Client(server.url) as client:
        with pytest.raises(BadInput, match="6,553,500 bytes"):
            client.predict(sources[kind], "digits-onnx")
        client.predict(bytes(BODY_LIMIT), "digits-onnx")
    assert [len(call.body) for call in server.calls] == [BODY_LIMIT]


def test_the_request_says_what_is_sent_and_what_is_wanted() -> None:
    batch = np.zeros((2, 28, 28, 1), np.uint8)
    replies = [answer(one()), answer({"predictions": [one(), one()]}), npy(np.zeros((2, 10), "f4"))]
    with scripted(replies) as server, Client(server.url) as client:
        client.predict(b"image", "digits-onnx/1.0")
        client.predict_batch(batch, "digits-onnx", top_k=2)
        client.logits(batch, "digits-onnx")
    image, ranked, lossless = server.calls
    assert [call.path for call in server.calls] == ["/predictions/digits-onnx/1.0"] + ["/predictions/digits-onnx"] * 2
    assert (image.headers["Accept"], image.headers["Content-Type"]) == ("application/json", "application/octet-stream")
    assert "X-Top-K" not in image.headers
    assert (ranked.headers["X-Top-K"], ranked.headers["Content-Type"]) == ("2", NPY)
    assert lossless.headers["Accept"] == NPY

"""The GPU's way from JPEGs to pixels, but for nvJPEG itself: another decoder stands in for it where there is no GPU."""

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from inference.base import BadInput, OutOfMemory
from inference.inputs import CPU, Body, Decoded
from inference.inputs.image import NVJPEG, NVJPEG_OR_CPU, ImageInput, nvjpeg
from inference.inputs.image.decode import UPRIGHT, read_image
from inference.inputs.image.forms import FORMS, PHOTO_FORMS
from inference.predictor import decode_all
from models.photos import INPUT
from tests.contracts import decode
from tests.unit.test_inputs_photos import EMPTY_SCAN


def photo(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(picture: Image.Image, **options: object) -> bytes:
    stream = BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(photo(), exif=exif)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """In nvJPEG's place libjpeg-turbo decodes, and fails for a whole batch; how many it was given each time."""
    sizes = []

    def decode_all(bodies: Sequence[bytes], device: str) -> list[torch.Tensor]:
        sizes.append(len(bodies))
        try:
            return [torch.tensor(as_stored(body)).permute(2, 0, 1).to(device) for body in bodies]
        except BadInput as error:
            raise RuntimeError("Failed to decode batch: 3\nmore") from error

    monkeypatch.setattr(nvjpeg, "_decode", decode_all)
    return sizes


def on_gpu(name: str) -> Callable[[Sequence[Body]], list[Decoded | BadInput]]:
    """How a GPU's worker decodes by that name; what is done on the device is done on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageInput, "unsuited", lambda *_: None)
        return partial(decode_all, INPUT, INPUT.decoder(name, "cpu"))


def as_stored(body: bytes) -> np.ndarray:
    """Not turned upright."""
    pixels = read_image(body, INPUT)
    axes, swapped = UPRIGHT.get(Image.open(BytesIO(body)).getexif().get(0x0112, 1), ((), False))
    return np.ascontiguousarray(np.flip(pixels.swapaxes(0, 1) if swapped else pixels, axes))


@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
def test_a_jpeg_is_turned_upright_before_it_is_cropped(orientation: int, batches: list[int]) -> None:
    body = turned(orientation)
    [found] = nvjpeg.decode_jpegs([body], INPUT, "cpu")
    assert isinstance(found, Decoded)
    assert found.decoder == "nvjpeg"
    np.testing.assert_array_equal(found.rows, decode(body, INPUT))
    assert batches == [1]


def test_pictures_of_many_sizes_keep_their_order(batches: list[int]) -> None:
    bodies = [jpeg(photo(width, 60, width)) for width in (90, 60, 120, 90, 61, 90)]
    found = nvjpeg.decode_jpegs(bodies, INPUT, "cpu")
    for one, body in zip(found, bodies, strict=True):
        assert isinstance(one, Decoded)
        np.testing.assert_array_equal(one.rows, decode(body, INPUT))
    assert batches == [6]


@pytest.mark.parametrize("form", PHOTO_FORMS)
def test_nvjpeg_gets_jpegs_in_grey_and_ycbcr_and_nothing_else(form: str, batches: list[int]) -> None:
    [found] = nvjpeg.decode_jpegs([PHOTO_FORMS[form](photo())], INPUT, "cpu")
    suits = form.startswith("jpeg") and form != "jpeg cmyk"
    assert isinstance(found, Decoded) == suits
    assert batches == [1] * suits


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("options", [{"keep_rgb": True}, {"keep_rgb": True, "progressive": True}])
def test_a_jpeg_that_is_stored_as_rgb_is_not_for_nvjpeg(options: dict[str, object]) -> None:
    assert nvjpeg.decode_jpegs([jpeg(photo(), **options)], INPUT, "cpu") == [None]


@pytest.mark.usefixtures("batches")
def test_a_camera_s_jpeg_without_a_jfif_mark_is_for_nvjpeg() -> None:
    body = jpeg(photo())
    length = int.from_bytes(body[4:6], "big")
    assert body[2:4] == b"\xff\xe0"
    [found] = nvjpeg.decode_jpegs([body[:2] + body[4 + length :]], INPUT, "cpu")
    assert isinstance(found, Decoded)


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("end", [-1, -2, -100])
def test_a_jpeg_without_its_end_is_refused_though_nvjpeg_would_fill_it_in(end: int) -> None:
    [found] = nvjpeg.decode_jpegs([jpeg(photo(400, 300))[:end]], INPUT, "cpu")
    assert isinstance(found, BadInput)
    assert "its end is missing" in str(found)


def test_one_that_nvjpeg_cannot_decode_does_not_touch_its_batch_mates(batches: list[int]) -> None:
    good = jpeg(photo(400, 300))
    bad = good[:2000] + nvjpeg.END
    found = nvjpeg.decode_jpegs([good] * 5 + [bad] + [good] * 2, INPUT, "cpu")
    assert [isinstance(one, Decoded) for one in found] == [True] * 5 + [False] + [True] * 2
    assert str(found[5]).startswith(
        "The image is damaged, incomplete or a JPEG of a rare kind (nvJPEG says Failed to d"
    )
    assert batches == [8, 4, 4, 2, 1, 1, 2]


def test_scans_are_counted_for_nvjpeg_even_behind_one_of_all_channels() -> None:
    body = jpeg(photo(1600, 1200))
    [found] = nvjpeg.decode_jpegs([body[:-2] + EMPTY_SCAN * 1_000 + body[-2:]], INPUT, "cpu")
    assert str(found) == "The JPEG has 1,001 scans. Save it anew, with ten at most."


@pytest.mark.parametrize(
    "said",
    [
        "Failed to create nvjpeg state: 5",
        "Error while decoding JPEG images: CUDA out of memory. Tried to allocate 2 GiB.",
    ],
)
def test_full_memory_is_not_taken_for_a_bad_jpeg(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision makes a plain RuntimeError of it."""
    monkeypatch.setattr(nvjpeg, "_decode", failing(said))
    with pytest.raises(OutOfMemory):
        nvjpeg.decode_jpegs([jpeg(photo())], INPUT, "cpu")


@pytest.mark.usefixtures("batches")
def test_a_sampling_that_nvjpeg_does_not_know_is_the_jpegs_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's words for it end in no number. It looks at each before it decodes any."""
    good, rare, decode_all = jpeg(photo()), jpeg(photo(400, 300)), nvjpeg._decode

    def decode_none_beside_the_rare(bodies: Sequence[bytes], device: str) -> list[torch.Tensor]:
        return failing("Unknown chroma subsampling")() if rare in bodies else decode_all(bodies, device)

    monkeypatch.setattr(nvjpeg, "_decode", decode_none_beside_the_rare)
    first, found, last = nvjpeg.decode_jpegs([good, rare, good], INPUT, "cpu")
    assert isinstance(first, Decoded)
    assert isinstance(last, Decoded)
    assert isinstance(found, BadInput)
    assert "nvJPEG says Unknown chroma subsampling" in str(found)


@pytest.mark.usefixtures("batches")
def test_a_jpeg_that_tells_its_size_twice_is_not_for_nvjpeg() -> None:
    body = jpeg(photo())
    frame = body.index(b"\xff\xc0")
    length = 2 + int.from_bytes(body[frame + 2 : frame + 4], "big")
    again = body[frame : frame + length]
    assert nvjpeg.decode_jpegs([body[:frame] + again + body[frame:]], INPUT, "cpu") == [None]


@pytest.mark.parametrize(
    "said", ["Couldn't load the image extension", "Failed to initialize nvjpeg with default backend: 1"]
)
def test_what_no_picture_is_to_blame_for_is_an_error(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvjpeg, "_decode", failing(said))
    with pytest.raises(RuntimeError, match=said):
        on_gpu(NVJPEG_OR_CPU)([(jpeg(photo()), "")])


def test_a_header_that_tells_nvjpeg_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvjpeg, "_decode", lambda *_: [torch.zeros(3, 8, 8, dtype=torch.uint8)])
    [found] = nvjpeg.decode_jpegs([jpeg(photo())], INPUT, "cpu")
    assert "its header tells of two sizes" in str(found)


def failing(said: str) -> Callable[..., list[torch.Tensor]]:
    def fail(*_: object) -> list[torch.Tensor]:
        raise RuntimeError(said)

    return fail


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("behind", [b"\0\xff\xda\0", b"ftyp" + b"\xff\xd9 \xff\xda" * 3])
def test_what_comes_behind_the_picture_does_not_matter(behind: bytes) -> None:
    """Phones append films."""
    body = jpeg(photo())
    [found] = nvjpeg.decode_jpegs([body + behind], INPUT, "cpu")
    assert isinstance(found, Decoded)


@pytest.mark.usefixtures("batches")
def test_the_end_of_a_picture_within_the_header_is_not_the_pictures_end() -> None:
    body = jpeg(photo(400, 300))
    small = jpeg(photo(16, 16))
    segment = b"\xff\xee" + (len(small) + 2).to_bytes(2, "big") + small
    assert isinstance(nvjpeg.decode_jpegs([body[:2] + segment + body[2:]], INPUT, "cpu")[0], Decoded)
    [found] = nvjpeg.decode_jpegs([body[:2] + segment + body[2:-100]], INPUT, "cpu")
    assert "its end is missing" in str(found)


@pytest.mark.usefixtures("batches")
def test_two_pictures_in_one_file_are_answered_by_the_first() -> None:
    stream = BytesIO()
    photo().save(stream, "MPO", save_all=True, append_images=[photo(seed=1)])
    [found] = nvjpeg.decode_jpegs([stream.getvalue()], INPUT, "cpu")
    assert isinstance(found, Decoded)
    np.testing.assert_array_equal(found.rows, decode(stream.getvalue(), INPUT))


@pytest.mark.parametrize("name", [NVJPEG, NVJPEG_OR_CPU])
def test_what_nvjpeg_cannot_decode_is_refused_or_decoded_on_the_cpu_as_configured(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvjpeg, "_decode", failing("Failed to decode batch: 4"))
    body = jpeg(photo())
    [found] = on_gpu(name)([(body, "")])
    if name == NVJPEG:
        assert isinstance(found, BadInput)
    else:
        assert isinstance(found, Decoded)
        assert found.decoder == "cpu"
        np.testing.assert_array_equal(found.rows, decode(body, INPUT))


@pytest.mark.usefixtures("batches")
def test_what_is_no_image_at_all_is_refused_by_every_decoder() -> None:
    for name in ImageInput.decoders:
        [found] = on_gpu(name)([(b"text", "")])
        assert isinstance(found, BadInput)


@pytest.mark.usefixtures("batches")
def test_formats_that_are_not_for_nvjpeg_and_arrays_are_decoded_on_the_cpu_and_say_so() -> None:
    stream = BytesIO()
    np.save(stream, np.zeros((2, *INPUT.shape), np.uint8))
    bodies = [(FORMS["png rgb"](photo()), ""), (stream.getvalue(), "application/x-npy"), (FORMS["webp"](photo()), "")]
    found = on_gpu(NVJPEG)(bodies)
    assert [one.decoder for one in found if isinstance(one, Decoded)] == ["cpu"] * 3
    assert [len(one.rows) for one in found if isinstance(one, Decoded)] == [1, 2, 1]


def test_a_decoder_that_does_not_suit_is_refused_with_what_to_do() -> None:
    grey = ImageInput(height=28, width=28, channels=1)
    assert INPUT.unsuited("gpu", "cuda") == "There is no decoder 'gpu'. Choose one of: cpu, nvjpeg, nvjpeg-or-cpu."
    assert "needs an NVIDIA GPU. Export for --device cuda" in str(INPUT.unsuited(NVJPEG, "cpu"))
    assert "for coloured inputs that are cropped" in str(grey.unsuited(NVJPEG, "cuda:0"))
    assert INPUT.unsuited(NVJPEG, "cuda:0") is None
    assert grey.unsuited(CPU, "cpu") is None
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        INPUT.decoder(NVJPEG, "cpu")

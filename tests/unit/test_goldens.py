"""Goldens: what they are made of, and that a file gives them back."""

import hashlib
import struct
from dataclasses import fields
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from inference.goldens import Goldens
from inference.inputs.image import ImageInput, Pixels
from inference.inputs.image.forms import FORMS, OTHER_PHOTO_SIZES, PHOTO_FORMS, PHOTO_SIZES, SIZES
from models import digits
from tests.contracts import classifier, decode

HELD_OUT = digits.data("bundled", Path()).held_out.inputs
REQUESTS = dict(digits.INPUT.requests(HELD_OUT))


def opened(body: bytes) -> Image.Image:
    return Image.open(BytesIO(body))


SMALL = classifier("small", ImageInput(height=5, width=4, channels=3), ("ñ", "ü"))


def small(requests: tuple[bytes, ...] = (b"abc", b"", b"defgh")) -> Goldens:
    count = len(requests)
    random = np.random.default_rng(count)
    return Goldens(
        weights="0" * 64,
        contract=SMALL,
        names=tuple(f"ñ {index}" for index in range(count)),
        requests=requests,
        inputs=random.integers(0, 256, (count, 5, 4, 3), np.uint8),
        outputs=random.normal(size=(count, 2)).astype(np.float32),
        oracle=random.normal(size=(count, 2)),
    )


def assert_same(one: Goldens, other: Goldens) -> None:
    for field in fields(Goldens):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs, strict=True)
        else:
            assert mine == theirs


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5))
def test_what_was_written_is_read_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes]) -> None:
    path, goldens = tmp_path_factory.getbasetemp() / "goldens.npz", small(tuple(bodies))
    goldens.write(path)
    assert_same(Goldens.read(path), goldens)
    with path.open("rb") as file:
        assert_same(Goldens.read(file), goldens)


def test_a_file_that_holds_a_pickle_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "goldens.npz", requests=np.array([object()]), ends=np.array([1]))
    assert_damaged(tmp_path / "goldens.npz")


def assert_damaged(path: Path) -> None:
    """It is refused by its name, and not with numpy's advice to allow pickles."""
    with pytest.raises(ValueError, match="is damaged") as error:
        Goldens.read(path)
    assert str(error.value) == f"{path} is damaged. Export with --new-goldens to make it anew."


@pytest.mark.parametrize("content", [b"", b"goldens", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04N."])
def test_a_file_that_holds_no_goldens_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "goldens.npz").write_bytes(content)
    assert_damaged(tmp_path / "goldens.npz")


def test_a_file_of_other_arrays_or_of_one_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "goldens.npz", weights=np.array("w"))
    assert_damaged(tmp_path / "goldens.npz")
    with (tmp_path / "goldens.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert_damaged(tmp_path / "goldens.npz")


@given(st.data())
def test_goldens_of_which_a_part_was_lost_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.npz"
    small().write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert_damaged(path)


@given(st.data())
def test_goldens_with_one_changed_byte_are_refused_or_unharmed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    small().write(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = Goldens.read(path)
    except ValueError:
        assert_damaged(path)
    else:
        assert_same(found, small())


def test_a_place_before_the_files_begin_is_damage(tmp_path: Path) -> None:
    """zipfile then seeks to below 0, an error of the operating system's."""
    path = tmp_path / "goldens.npz"
    small().write(path)
    content = bytearray(path.read_bytes())
    [end] = struct.iter_unpack("<4s4H2LH", content[-22:])  # the record at the end of the directory
    content[-22:] = struct.pack("<4s4H2LH", *end[:6], end[6] + 2 * len(content), end[7])
    path.write_bytes(content)
    assert_damaged(path)


def test_goldens_that_are_not_there_are_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Goldens.read(tmp_path / "goldens.npz")


def test_rows_are_chosen_with_all_that_belongs_to_them() -> None:
    goldens = small()
    assert_same(goldens[1:], goldens[[1, 2]])
    chosen = goldens[[2, 0]]
    assert (chosen.names, chosen.requests) == (("ñ 2", "ñ 0"), (b"defgh", b"abc"))
    np.testing.assert_array_equal(chosen.inputs, goldens.inputs[[2, 0]])
    np.testing.assert_array_equal(chosen.outputs, goldens.outputs[[2, 0]])
    np.testing.assert_array_equal(chosen.oracle, goldens.oracle[[2, 0]])
    assert len(chosen) == 2


def test_there_are_at_least_64_and_no_two_are_the_same() -> None:
    assert len(REQUESTS) == len(list(digits.INPUT.requests(HELD_OUT))) == len(FORMS) * len(SIZES) >= 64
    assert len({hashlib.sha256(body).digest() for body in REQUESTS.values()}) == len(REQUESTS)


def test_each_is_made_of_another_scan() -> None:
    """So with every form made the same and every size too, all still differ in content."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference.inputs.image.forms.PHOTO_FORMS", dict.fromkeys(PHOTO_FORMS, FORMS["png grey"]))
        patch.setattr("inference.inputs.image.forms.SIZES", [(28, 28)] * len(SIZES))
        assert len({body for _, body in digits.INPUT.requests(HELD_OUT)}) == len(REQUESTS)


def test_the_same_scans_give_the_same_bytes() -> None:
    assert dict(digits.INPUT.requests(HELD_OUT)) == REQUESTS


def test_they_come_in_every_size_smaller_and_larger_than_the_input_and_of_other_shapes() -> None:
    sizes = {opened(body).size for body in REQUESTS.values()}
    assert sizes == set(SIZES)
    assert any(max(size) < 28 for size in sizes)
    assert any(min(size) > 28 for size in sizes)
    assert any(width < height for width, height in sizes)
    assert any(width > height for width, height in sizes)


def test_they_come_in_every_format_and_mode_that_clients_send() -> None:
    found = {(image.format, image.mode) for image in map(opened, REQUESTS.values())}
    assert found >= {
        *(("PNG", mode) for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "I;16")),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
        ("WEBP", "RGB"),
    }


def test_some_must_be_turned_upright() -> None:
    turns = {opened(body).getexif().get(ExifTags.Base.Orientation) for body in REQUESTS.values()}
    assert turns == {None, 3, 6}


@pytest.mark.parametrize("name", REQUESTS)
def test_each_decodes_to_a_picture(name: str) -> None:
    pixels = decode(REQUESTS[name], digits.INPUT)
    assert pixels.shape == (1, 28, 28, 1)
    assert np.ptp(pixels) > 100  # a digit on its ground, not one shade


def test_too_few_held_out_images_are_an_error_with_the_number() -> None:
    with pytest.raises(ValueError, match=r"Goldens need 78 held-out images, and there are 5\."):
        list(digits.INPUT.requests(HELD_OUT[:5]))


def test_images_in_colour_make_requests_too() -> None:
    colour = np.repeat(HELD_OUT, 3, axis=-1)
    assert [name for name, _ in digits.INPUT.requests(colour)] == list(REQUESTS)


PHOTO = ImageInput(height=224, width=224, channels=3, fit="crop", short_side=256)


def photographs(count: int) -> Pixels:
    """uint8 [count, 224, 224, 3], each of other colours in large patches, with some noise."""
    random = np.random.default_rng(0)
    patches = random.integers(0, 200, (count, 8, 8, 3), np.uint8).repeat(28, axis=1).repeat(28, axis=2)
    photographs: Pixels = patches + random.integers(0, 50, patches.shape, np.uint8)
    return photographs


PHOTOGRAPHS = dict(PHOTO.requests(photographs(40)))


def test_of_photographs_there_are_few_in_every_form_and_one_as_large_as_cameras_make_them() -> None:
    assert 26 <= len(PHOTOGRAPHS) <= 30
    assert {name.rpartition(" ")[0] for name in PHOTOGRAPHS} == {*FORMS, "jpeg progressive"}
    sizes = {opened(body).size for body in PHOTOGRAPHS.values()}
    assert sizes == set().union(OTHER_PHOTO_SIZES, *PHOTO_SIZES.values())
    assert sizes >= {(500, 375), (375, 500), (1280, 960), (224, 224), (300, 200), (64, 48)}
    assert max(max(size) / min(size) for size in sizes) > 10


def test_a_progressive_jpeg_is_one() -> None:
    found = {name: "progressive" in opened(body).info for name, body in PHOTOGRAPHS.items()}
    assert {name.rpartition(" ")[0] for name, progressive in found.items() if progressive} == {"jpeg progressive"}


def test_photographs_stay_small_enough_to_travel_in_an_archive() -> None:
    pixels = 224 * 224 * 3 * len(PHOTOGRAPHS)
    assert sum(map(len, PHOTOGRAPHS.values())) + pixels < 8e6  # before compression, of which noise leaves much


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_each_photograph_is_cropped_from_a_picture(name: str) -> None:
    pixels = decode(PHOTOGRAPHS[name], PHOTO)
    assert pixels.shape == (1, 224, 224, 3)
    assert np.ptp(pixels) > 100


def test_too_few_photographs_are_an_error_with_the_number() -> None:
    with pytest.raises(ValueError, match=rf"Goldens need {len(PHOTOGRAPHS)} held-out images, and there are 20\."):
        list(PHOTO.requests(photographs(20)))

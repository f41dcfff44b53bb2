"""A photograph has the pixels that Pillow gives it, whatever kind of JPEG it is, or it is refused; never grey ones."""

import base64
import io
import random
import re
import struct
import time
import warnings

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps

from inference.base import BadInput
from inference.inputs.image import Pixels
from inference.inputs.image.decode import from_image, read_image
from tests.contracts import decode
from tests.unit.test_inputs import CROP, RGB, edits, encoded, noise

# Of 16 × 16 pixels and by libjpeg-turbo's cjpeg and imagecodecs, because Pillow writes neither.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8ybqm"
    "x5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/yQARCAAQABAD"
    "ASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD9KXl+IvGYXT1dh2UiIED/2Q=="
)
TWELVE_BITS = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8ybqm"
    "x5moq6T/wQALDAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAACQb/xAAaEAAABwAAAAAAAAAAAAAAAAAABwgkNEJR/9oACAEBAAA/ACZT6TMZ"
    "tlQl6fSZjNsqJpPpMxm2VCXp9JmM2yo//9k="
)


def photograph(width: int, height: int) -> Image.Image:
    """Smooth, with some grain."""
    smooth = Image.fromarray(noise(8, 8, 3)).resize((width, height), Image.Resampling.BICUBIC)
    return Image.blend(smooth, Image.fromarray(noise(height, width, 3)), 0.1)


def pillows(body: bytes) -> Pixels:
    """[h, w, 3], by Pillow alone."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB"))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def frame(body: bytes) -> int:
    """Where the header of the frame begins, which says the size in bytes 5 to 8 and the channels after it."""
    found = re.search(rb"\xff[\xc0-\xc2]\0[\x0b\x11\x14]", body)
    assert found
    return found.start()


def replaced(body: bytes, at: int, new: bytes) -> bytes:
    return body[:at] + new + body[at + len(new) :]


def says(body: bytes, width: int, height: int) -> bytes:
    """The JPEG, whose header says another size."""
    return replaced(body, frame(body) + 5, struct.pack(">HH", height, width))


def without(body: bytes, marker: bytes) -> bytes:
    """The JPEG without the first segment of that marker."""
    at = body.index(marker)
    return body[:at] + body[at + 2 + int.from_bytes(body[at + 2 : at + 4]) :]


def subsampled(pattern: str) -> bytes:
    made: bytes = simplejpeg.encode_jpeg(np.asarray(PHOTO), colorsubsampling=pattern)
    return made


PHOTO = photograph(75, 52)
BASELINE = encoded(PHOTO, "JPEG")
CMYK = encoded(PHOTO.convert("CMYK"), "JPEG")
PROGRESSIVE = encoded(PHOTO, "JPEG", progressive=True)
GREY = encoded(PHOTO.convert("L"), "JPEG")
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
SEVERAL = encoded(PHOTO, "MPO", save_all=True, append_images=[photograph(40, 40)])
KINDS = {"baseline": BASELINE, "CMYK": CMYK, "progressive": PROGRESSIVE, "grey": GREY}

READ = {
    "CMYK": CMYK,
    "CMYK, progressive": encoded(PHOTO.convert("CMYK"), "JPEG", progressive=True),
    "CMYK, turned": encoded(PHOTO.convert("CMYK"), "JPEG", exif=turned()),
    "CMYK, not said to be Adobe's": without(CMYK, b"\xff\xee"),
    "YCCK": replaced(CMYK, CMYK.index(b"Adobe") + 11, b"\2"),
    "several pictures": SEVERAL,
    "several pictures, turned": encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO], exif=turned()),
    "several pictures, said and missing": SEVERAL[: SEVERAL.rindex(b"\xff\xd8\xff")],
    "restart markers": encoded(PHOTO, "JPEG", restart_marker_blocks=3),
    "restart markers, progressive": encoded(PHOTO, "JPEG", restart_marker_blocks=3, progressive=True),
    "4:4:0": subsampled("440"),
    "4:1:1": subsampled("411"),
    "arithmetic coding": ARITHMETIC,
    "a colour profile": encoded(PHOTO, "JPEG", icc_profile=LAB),
    "something behind it": BASELINE + bytes(range(256)) * 9,
    "another JPEG behind it": BASELINE + GREY,
    "fill bytes": BASELINE.replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
}


@pytest.mark.parametrize("kind", READ)
def test_every_kind_of_jpeg_has_the_pixels_that_pillow_gives_it(kind: str) -> None:
    assert np.array_equal(read_image(READ[kind], RGB), pillows(READ[kind]))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_content_and_not_the_name_says_what_an_image_is(kind: str) -> None:
    body = encoded(PHOTO, kind)
    assert np.array_equal(decode(body, CROP, "image/jpeg"), from_image(Image.open(io.BytesIO(body)), CROP)[None])


@pytest.mark.parametrize("size", [(20_000, 1_250), (1_250, 20_000)])
def test_a_photograph_of_20_000_pixels_is_read(size: tuple[int, int]) -> None:
    shade = (200, 60, 30)
    assert np.ptp(decode(encoded(Image.new("RGB", size, shade), "JPEG"), CROP), axis=(1, 2)).max() == 0


def test_a_progressive_photograph_may_be_as_large_as_any() -> None:
    body = encoded(Image.new("L", (5_000, 5_000), 90), "JPEG", progressive=True)
    assert decode(body, CROP).shape == (1, 224, 224, 3)


# Refused, with what to do.


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (TWELVE_BITS, r"rare kind \(its header can't be read\)\. Send the whole file, or save it anew\.$"),
        (replaced(BASELINE, frame(BASELINE) + 11, b"\x31"), r"rare kind \(.* subsampling .* or save it anew\.$"),
        (replaced(BASELINE, frame(BASELINE) + 1, b"\xca"), r"rare kind \(Invalid progressive"),
        (BASELINE[: frame(BASELINE) + 6], r"damaged or incomplete \(Truncated File Read\)\. Send the whole file\.$"),
        (says(BASELINE, 0, 52), "its header can't be read"),
        (says(BASELINE, 75, 0), "its header can't be read"),
        (says(BASELINE, 5_001, 5_000), "is 5,001 × 5,000 pixels. Send one of at most 25,000,000"),
        (says(BASELINE, 65_535, 65_535), "is too large. Send one of at most 25,000,000"),
    ],
    ids=["12 bits", "rare subsampling", "arithmetic and not", "half a header", "0 wide", "0 high", "large", "huge"],
)
def test_a_jpeg_that_can_not_be_read_is_refused_with_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        decode(body, CROP)


@pytest.mark.parametrize("size", [(75, 104), (150, 52), (75, 16), (16, 52), (4_000, 3_000)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_whose_header_lies_about_its_size_is_refused(kind: str, size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match=r"damaged, incomplete or .*Corrupt JPEG data"):
        decode(says(KINDS[kind], *size), CROP)


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_lost_its_end_is_refused_even_with_an_end_marker_put_behind_it(kind: str) -> None:
    """Pillow gives grey pixels in place of the missing ones, and no error, when the marker is there."""
    whole = KINDS[kind]
    for lost in (*range(1, 9), 20, 100, 250):
        with pytest.raises(BadInput, match="Premature end of JPEG file"):
            decode(whole[:-lost], CROP)
    for lost in (20, 100, 250):
        with pytest.raises(BadInput, match="premature end of data segment"):
            decode(whole[:-lost] + b"\xff\xd9", CROP)


EMPTY_SCAN = b"\xff\xda\0\x08\1\1\0\0\x3f\0"  # of one channel


@pytest.mark.parametrize(
    "body",
    [encoded(PHOTO, "JPEG", progressive=True)[:-2], BASELINE[: BASELINE.index(b"\xff\xda")]],
    ids=["progressive", "a scan for each channel"],
)
def test_more_scans_than_a_second_is_for_are_refused_before_they_are_decoded(body: bytes) -> None:
    """A scan of ten bytes goes over all of 5,000 × 5,000 pixels: a megabyte of them would take minutes."""
    start = time.perf_counter()
    with pytest.raises(BadInput, match=r"has 1,\d\d\d scans\. Save it anew, with ten at most\.$"):
        decode(says(body, 5_000, 5_000) + EMPTY_SCAN * 1_001, CROP)
    assert time.perf_counter() - start < 1


def test_scans_behind_one_of_all_channels_are_refused_after_the_first() -> None:
    start = time.perf_counter()
    with pytest.raises(BadInput, match="damaged, incomplete"):
        decode(says(BASELINE[:-2], 5_000, 5_000) + EMPTY_SCAN * 100_000, CROP)
    assert time.perf_counter() - start < 1


def test_a_jpeg_with_a_scan_behind_one_of_all_channels_is_refused() -> None:
    """So nobody has to count them."""
    with pytest.raises(BadInput, match="damaged, incomplete"):
        decode(BASELINE[:-2] + EMPTY_SCAN + BASELINE[-2:], CROP)


def test_what_only_looks_like_a_scan_of_all_channels_hides_none_of_the_picture() -> None:
    """A segment's end and the header behind it, read as one, are as long as the header of a scan of four channels."""
    cmyk = KINDS["CMYK"]
    segment = b"\xff\xe5" + struct.pack(">H", 2 + 6) + b"\xff\xda\0\x0e\4\0"
    body = says(cmyk[: cmyk.index(b"\xff\xda")], 5_000, 5_000) + segment
    with pytest.raises(BadInput, match=r"has 1,\d\d\d scans"):
        decode(body + EMPTY_SCAN.replace(b"\1\1", b"\1C") * 1_001, CROP)


def test_a_thumbnail_with_a_scan_of_all_channels_hides_no_scans_of_the_picture() -> None:
    """What a header's segments hold is not the picture's own first scan."""
    scan = BASELINE.index(b"\xff\xda")
    segment = b"\xff\xe5" + struct.pack(">H", 2 + 14) + BASELINE[scan : scan + 14]
    body = says(BASELINE[:2] + segment + BASELINE[2:scan], 5_000, 5_000)
    with pytest.raises(BadInput, match=r"has 1,\d\d\d scans"):
        decode(body + EMPTY_SCAN * 1_001, CROP)


# Damaged anywhere: what Pillow gives, or refused.


def same_or_refused(body: bytes) -> bool:
    """Whether it is read; then it has the pixels that Pillow gives it."""
    try:
        pixels = read_image(body, RGB)
    except BadInput as error:
        assert 20 < len(str(error)) < 500  # noqa: PT017
        return False
    assert np.array_equal(pixels, pillows(body))
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_with_a_wrong_byte_or_a_missing_part_is_read_as_pillow_does_or_refused(kind: str) -> None:
    draw = random.Random(0)
    whole = KINDS[kind]
    wrong = [replaced(whole, draw.randrange(len(whole)), draw.randbytes(1)) for _ in range(300)]
    read = [same_or_refused(body) for body in wrong]
    assert 0 < sum(read) < 300
    for _ in range(100):
        start, stop = sorted(draw.randrange(len(whole) + 1) for _ in range(2))
        same_or_refused(whole[:start] + whole[stop:])


# Not those with EXIF: Pillow's own turning stumbles over a damaged one.
FUZZED = [body for body in (*KINDS.values(), *READ.values()) if b"Exif" not in body]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(FUZZED), st.lists(edits, min_size=1, max_size=4))
def test_a_damaged_jpeg_of_any_kind_is_read_as_pillow_does_or_refused(
    whole: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    body = bytearray(whole)
    for position, removed, inserted in edits:
        at = position % (len(body) + 1)
        body[at : at + removed] = inserted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
        same_or_refused(bytes(body))

"""Any bytes become the array the graph takes, or a BadInput that says what to send; never anything else."""

import io
import pickle
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
from torchvision.transforms.v2.functional import center_crop, resize

from inference.base import BadInput
from inference.inputs.image import ImageInput, Pixels
from inference.inputs.image.decode import from_image, read_image
from inference.tools.npy import NPY, decode_npy
from tests.contracts import decode

GREY = ImageInput(height=28, width=28, channels=1)
RGB = ImageInput(height=28, width=28, channels=3)
WIDE = ImageInput(height=20, width=30, channels=3)
CROP = ImageInput(height=224, width=224, channels=3, fit="crop", short_side=256)


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(header: bytes, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG made by hand; `header` is width, height, bits and colour type, `chunks` come before the pixels."""
    parts = [(b"IHDR", header + b"\0\0\0"), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def png16(samples: NDArray[np.uint16], *chunks: tuple[bytes, bytes]) -> bytes:
    """[height, width, 1 or 3] as a 16-bit PNG."""
    height, width, channels = samples.shape
    colour_type = {1: 0, 3: 2}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(struct.pack(">IIBB", width, height, 16, colour_type), rows, *chunks)


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def npy_header(header: str, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"


def over_black(rgba: Pixels) -> Pixels:
    """RGB over black, in floating point; a decoder may round either way."""
    return np.round(rgba[..., :3] * (rgba[..., 3:] / 255)).astype(np.uint8)


def grey_of(rgb: Pixels) -> Pixels:
    """ITU-R 601-2 luma, [..., 3] → [..., 1]."""
    luma: NDArray[np.float64] = rgb @ np.array([0.299, 0.587, 0.114])
    return np.round(luma)[..., None].astype(np.uint8)


def apart(a: Pixels, b: Pixels) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# What is right is decoded right.


@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
def test_an_image_of_the_right_size_is_unchanged_bit_for_bit(spec: ImageInput) -> None:
    pixels = noise(*spec.shape)
    body = encoded(Image.fromarray(pixels.squeeze()))
    assert np.array_equal(decode(body, spec), pixels[None])


def test_grey_and_colour_agree_within_the_rounding_of_the_conversion() -> None:
    pixels = noise(28, 28)
    grey, colour = encoded(Image.fromarray(pixels)), encoded(Image.fromarray(pixels).convert("RGB"))
    assert apart(decode(grey, GREY), decode(colour, GREY)) <= 1
    assert np.array_equal(decode(grey, RGB), decode(colour, RGB))
    rgb = noise(28, 28, 3)
    assert apart(decode(encoded(Image.fromarray(rgb)), GREY)[0], grey_of(rgb)) <= 1


def test_rgba_lies_over_black() -> None:
    rgba = noise(28, 28, 4)
    body = encoded(Image.fromarray(rgba))
    assert apart(decode(body, RGB)[0], over_black(rgba)) <= 1
    assert apart(decode(body, GREY)[0], grey_of(over_black(rgba))) <= 2


def test_grey_with_alpha_lies_over_black() -> None:
    la = noise(28, 28, 2)
    wanted = over_black(la[..., [0, 0, 0, 1]])[..., :1]
    assert apart(decode(encoded(Image.fromarray(la, "LA")), GREY)[0], wanted) <= 1


def test_a_palette_is_looked_up_and_its_transparent_colour_is_black() -> None:
    indices, colours = noise(28, 28) % 16, noise(16, 3, seed=1)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours.tobytes())
    image.putdata(indices.ravel().tolist())
    assert np.array_equal(decode(encoded(image), RGB)[0], colours[indices])
    wanted = np.where((indices == 5)[..., None], 0, colours[indices])
    assert np.array_equal(decode(encoded(image, transparency=5), RGB)[0], wanted)


def test_one_bit_is_black_and_white() -> None:
    bits = noise(28, 28) > 127
    assert np.array_equal(decode(encoded(Image.fromarray(bits)), GREY)[0, ..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
def test_sixteen_bit_grey_is_scaled_not_clipped(spec: ImageInput) -> None:
    samples = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28, 1)
    wanted = np.round(samples / 257).astype(np.uint8).repeat(spec.channels, axis=2)
    assert np.array_equal(decode(png16(samples), spec)[0], wanted)


def test_the_transparent_value_of_sixteen_bit_grey_is_black() -> None:
    samples = np.full((28, 28, 1), 60000, np.uint16)
    samples[3, 4] = 60001
    body = png16(samples, (b"tRNS", struct.pack(">H", 60000)))
    assert np.argwhere(decode(body, GREY)[0, ..., 0]).tolist() == [[3, 4]]


def test_sixteen_bit_colour_is_scaled_not_clipped() -> None:
    samples = np.linspace(0, 65535, 28 * 28 * 3).astype(np.uint16).reshape(28, 28, 3)
    assert apart(decode(png16(samples), RGB)[0], np.round(samples / 257).astype(np.uint8)) <= 1


def test_a_cmyk_jpeg_looks_like_its_rgb() -> None:
    rgb = Image.new("RGB", (28, 28), (200, 60, 30))
    body = encoded(rgb.convert("CMYK"), "JPEG", quality=100)
    assert apart(decode(body, RGB), decode(encoded(rgb), RGB)) <= 3


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"subsampling": 2}], ids=str)
def test_every_kind_of_jpeg_is_read(options: dict[str, Any]) -> None:
    smooth = Image.linear_gradient("L").resize((28, 28))
    body = encoded(smooth.convert("RGB"), "JPEG", quality=100, **options)
    assert apart(decode(body, GREY), decode(encoded(smooth), GREY)) <= 3


def test_webp_is_read() -> None:
    pixels = noise(28, 28, 3)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), "WEBP", lossless=True), RGB)[0], pixels)


def test_a_jpeg_with_a_second_picture_in_it_is_its_first() -> None:
    first, second = Image.new("RGB", (28, 28), "white"), Image.new("RGB", (28, 28))
    body = encoded(first, "MPO", save_all=True, append_images=[second])
    assert decode(body, GREY).min() == 255


# EXIF orientation → the array as stored, turned upright: written from the standard, in numpy.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_every_exif_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 100, "lossless": True} if kind != "PNG" else {}
    stored = np.asarray(Image.radial_gradient("L").resize((40, 40))).copy()
    stored[:10, :20] = 255
    stored[10:20, :8] = 0
    stored = np.ascontiguousarray(stored[:36, :, None].repeat(3, axis=2))  # [36, 40, 3], unlike any of its turns
    turned = decode(encoded(Image.fromarray(stored), kind, exif=exif, **options), WIDE)
    upright = decode(
        encoded(Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](stored))), kind, **options), WIDE
    )
    assert apart(turned, upright) <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize(("width", "height"), [(56, 28), (28, 56), (84, 28), (10, 20), (100, 9)])
@pytest.mark.parametrize("spec", [GREY, WIDE], ids=["grey", "wide"])
def test_an_image_keeps_its_aspect_ratio_and_black_fills_the_rest(spec: ImageInput, width: int, height: int) -> None:
    pixels = decode(encoded(Image.new("L", (width, height), 255)), spec)[0]
    scale = min(spec.width / width, spec.height / height)
    rows, columns = pixels.any(axis=(1, 2)), pixels.any(axis=(0, 2))
    assert (rows.sum(), columns.sum()) == (round(height * scale), round(width * scale))
    assert set(np.unique(pixels)) <= {0, 255}
    assert abs(int(np.argmax(rows)) - int(np.argmax(rows[::-1]))) <= 1
    assert abs(int(np.argmax(columns)) - int(np.argmax(columns[::-1]))) <= 1


modes = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])


@given(modes, st.integers(8, 60), st.integers(8, 60), st.sampled_from([GREY, RGB, WIDE]), st.integers(0, 99))
def test_every_mode_and_size_gives_the_same_array_each_time(
    mode: str, width: int, height: int, spec: ImageInput, seed: int
) -> None:
    if mode == "I;16":
        image = Image.fromarray(noise(height, width, 2, seed=seed).view(np.uint16)[..., 0])
    else:
        image = Image.fromarray(noise(height, width, 4, seed=seed)).convert("RGB").convert(mode)
    first = from_image(image, spec)
    assert first.shape == spec.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, from_image(image.copy(), spec))


@given(st.integers(8, 60), st.integers(8, 60), st.booleans())
def test_training_and_serving_see_the_same_pixels(width: int, height: int, lossless: bool) -> None:
    """The data set hands images over as they are, a request brings them as bytes."""
    image = Image.fromarray(noise(height, width, 3))
    body = encoded(image, "PNG") if lossless else encoded(image, "JPEG")
    seen_in_training = from_image(Image.open(io.BytesIO(body)), GREY)
    assert np.array_equal(decode(body, GREY), seen_in_training[None])


@given(
    size=st.tuples(st.integers(16, 90), st.integers(16, 90)),
    subsampling=st.sampled_from([0, 1, 2]),
    quality=st.sampled_from([1, 50, 90, 100]),
    progressive=st.booleans(),
    mode=st.sampled_from(["RGB", "L"]),
)
def test_a_jpeg_has_the_pixels_that_pillow_gives_it(
    size: tuple[int, int], subsampling: int, quality: int, progressive: bool, mode: str
) -> None:
    image = Image.fromarray(noise(*size, 3)).convert(mode)
    body = encoded(image, "JPEG", subsampling=subsampling, quality=quality, progressive=progressive)
    pillows = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    assert np.array_equal(read_image(body, RGB), pillows)


def test_a_jpeg_that_stores_rgb_as_it_is_has_the_pixels_that_pillow_gives_it() -> None:
    body = encoded(Image.fromarray(noise(40, 50, 3)), "JPEG", keep_rgb=True)
    assert np.array_equal(read_image(body, RGB), np.asarray(Image.open(io.BytesIO(body)).convert("RGB")))


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (224, 224), (256, 256), (300, 301), (48, 64), (100, 1600)])
def test_a_crop_has_the_pixels_of_torchvisions_own_transforms(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(*size, 3)).resize((size[1] // 2, size[0] // 2)).resize(size[::-1])
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = center_crop(resize(planes, [256], antialias=True), [224, 224])
    assert np.array_equal(from_image(image, CROP), expected.permute(1, 2, 0).numpy())


def test_a_crop_is_the_centre_of_a_wider_one() -> None:
    """Training keeps its images wider than the network takes them, to cut them anew in each epoch."""
    canvas = CROP.model_copy(update={"height": 256, "width": 256})
    for size in ((375, 500), (501, 300), (256, 259)):
        image = Image.fromarray(noise(*size, 3))
        assert np.array_equal(from_image(image, canvas)[16:-16, 16:-16], from_image(image, CROP))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright_before_it_is_cropped(orientation: int) -> None:
    image = Image.fromarray(noise(300, 500, 3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    body = encoded(image, "JPEG", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    assert np.array_equal(decode(body, CROP), from_image(upright, CROP)[None])


def test_a_photograph_too_oblong_to_crop_is_refused() -> None:
    assert decode(encoded(Image.new("RGB", (1600, 100))), CROP).shape == (1, 224, 224, 3)
    with pytest.raises(BadInput, match=r"^The image is 20,000 × 1,000 pixels, which is too narrow. Crop it.$"):
        decode(encoded(Image.new("RGB", (20_000, 1_000))), CROP)
    with pytest.raises(BadInput, match=r"1 × 500 pixels\. Send one of at least 8 × 8"):
        decode(encoded(Image.new("RGB", (1, 500))), CROP)


# What is wrong is refused with a sentence.


def broken_palette() -> bytes:
    return png(struct.pack(">IIBB", 28, 28, 8, 3), bytes(29) * 28)


def text_bomb() -> bytes:
    """50 MB of text in 50 KB."""
    text = b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9)
    return png(struct.pack(">IIBB", 28, 28, 8, 0), bytes(29) * 28, (b"zTXt", text))


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(noise(28, 28, 3, seed=seed)) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is empty. Send"),
        (b"seven", "is not a PNG, JPEG or WebP image"),
        ("sept à la carte".encode("utf-16"), "is not a PNG, JPEG or WebP image"),
        (encoded(Image.new("L", (28, 28)), "GIF"), "is not a PNG, JPEG or WebP image"),
        (animated("GIF"), "is not a PNG, JPEG or WebP image"),
        (encoded(Image.new("L", (28, 28)), "BMP"), "is not a PNG, JPEG or WebP image"),
        (encoded(Image.new("L", (28, 28)), "TIFF"), "is not a PNG, JPEG or WebP image"),
        (animated("PNG"), "is animated. Send one frame"),
        (animated("WEBP"), "is animated. Send one frame"),
        (encoded(Image.new("L", (1, 1))), "is 1 × 1 pixels. Send one of at least 8 × 8"),
        (encoded(Image.new("L", (7, 900))), "is 7 × 900 pixels. Send one of at least 8 × 8"),
        (encoded(Image.new("L", (8, 900))), "is 8 × 900 pixels, which is too narrow. Crop it"),
        (encoded(Image.new("L", (5_000, 5_001))), "is 5,000 × 5,001 pixels. Send one of at most 25,000,000"),
        (broken_palette(), "is damaged or incomplete"),
        (text_bomb(), "is damaged or incomplete"),
    ],
)
def test_an_image_that_can_not_be_served_is_refused_with_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        decode(body, GREY)


@pytest.mark.parametrize(("kind", "after_the_pixels"), [("PNG", 20), ("JPEG", 0), ("WEBP", 0)])
def test_an_image_truncated_anywhere_is_refused(kind: str, after_the_pixels: int) -> None:
    """A PNG ends with two checksums and an empty chunk, 20 bytes: without them its picture is still whole."""
    whole = encoded(Image.fromarray(noise(28, 28)), kind)
    pixels = decode(whole, GREY)
    for end in range(1, len(whole) - after_the_pixels):
        with pytest.raises(BadInput):
            decode(whole[:end], GREY)
    for end in range(len(whole) - after_the_pixels, len(whole)):
        assert np.array_equal(decode(whole[:end], GREY), pixels)


@pytest.mark.parametrize("side", [7_500, 10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_its_pixels_are_decoded(side: int) -> None:
    """7,500 × 7,500 is over the contract's limit, 10,000² warns in Pillow, 20,000² raises there."""
    body = png(struct.pack(">IIBB", side, side, 1, 0), bytes(side // 8 + 1) * side)
    assert len(body) < 60_000
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="at most 25,000,000"):
            decode(body, GREY)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01" + b"\3\0\xff\0\0\0\0\xff" * 9,
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\x2a\0\0\0\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\1\0\x2a\0\0\0\0\0\0",
        noise(400).tobytes(),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_does_not_harm_the_picture(kind: str, exif: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    image = Image.fromarray(noise(28, 28))
    assert np.array_equal(decode(encoded(image, kind, exif=exif), GREY), decode(encoded(image, kind), GREY))
    assert capfd.readouterr() == ("", "")


def test_metadata_is_left_alone() -> None:
    image = Image.fromarray(noise(28, 28))
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "seven", zip=True)
    body = encoded(image, pnginfo=info, icc_profile=b"no profile", dpi=(300, 300))
    assert np.array_equal(decode(body, GREY), decode(encoded(image), GREY))


# npy


@given(st.integers(1, 40), st.booleans(), st.sampled_from([GREY, RGB, WIDE]))
def test_an_npy_comes_back_as_it_was(count: int, fortran_order: bool, spec: ImageInput) -> None:
    array = noise(count, *spec.shape)
    body = npy(np.asfortranarray(array) if fortran_order else array)
    for content_type in (NPY, "Application/X-NPY; version=1", f" {NPY} "):
        assert np.array_equal(decode(body, spec, content_type), array)


def test_an_npy_is_not_copied() -> None:
    assert not decode(npy(noise(2, *GREY.shape)), GREY, NPY).flags.owndata


def zipped(array: Pixels) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, array)
    return stream.getvalue()


GOOD = npy(noise(2, *GREY.shape))
U1 = "{'descr': '|u1', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is empty"),
        (npy(np.zeros((2, *GREY.shape), np.float32)), r"has dtype float32. Send uint8 of shape \[N, 28, 28, 1\]"),
        (npy(np.full((2, *GREY.shape), np.nan)), "has dtype float64"),
        (npy(np.zeros((2, *GREY.shape), np.int8)), "has dtype int8"),
        (npy(np.zeros(2, [("a", "u1")])), "has dtype"),
        (npy(noise(2, 28, 28)), r"has shape \[2, 28, 28\]. Send uint8 of shape \[N, 28, 28, 1\]"),
        (npy(noise(*GREY.shape)), r"has shape \[28, 28, 1\]"),
        (npy(noise(2, 28, 28, 3)), r"has shape \[2, 28, 28, 3\]"),
        (npy(noise(2, 1, 28, 28)), r"has shape \[2, 1, 28, 28\]"),
        (npy(np.zeros((0, *GREY.shape), np.uint8)), "N at least 1"),
        (npy(np.uint8(7)), r"has shape \[\]"),
        (GOOD[:-1], "holds 1,567 values where its header says"),
        (GOOD + b"x", "holds 1,569 values where its header says"),
        (GOOD[:60], "is not a whole npy file"),
        (GOOD[:7], "is not a whole npy file"),
        (npy(noise(2, *GREY.shape), version=(2, 0)), r"has format version \(2, 0\). Save it with numpy.save"),
        (npy(noise(2, *GREY.shape), version=(3, 0)), r"has format version \(3, 0\)"),
        (zipped(noise(2, *GREY.shape)), "is not a whole npy file"),
        (encoded(Image.new("L", (28, 28))), "is not a whole npy file"),
        (npy_header(U1 % "(9999999999999, 28, 28, 1)"), "holds 0 values where its header says"),
        (npy_header(U1 % "(-1, 28, 28, 1)"), "N at least 1"),
        (npy_header(U1 % f"(0x{'f' * 100}, 28, 28, 1)"), "holds 0 values where its header says"),
        (npy_header(U1 % f"(0x{'f' * 5000}, 28, 28, 1)"), "is not a whole npy file"),
        (npy_header(U1 % f"({'-' * 5000}1, 28, 28, 1)"), "is not a whole npy file"),
        (npy_header(U1 % "(2L, 28, 28, 1)"), "holds 0 values where its header says"),
        (npy_header(U1 % "(2, 28, 28, 1"), "is not a whole npy file"),
        (npy_header(U1 % "__import__('os')"), "is not a whole npy file"),
        (npy_header("{}"), "is not a whole npy file"),
        (npy_header("[1"), "is not a whole npy file"),
    ],
)
def test_an_npy_that_can_not_be_served_is_refused_with_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as refusal:
        decode(body, GREY, NPY)
    assert len(str(refusal.value)) < 400


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = Trap(sprung)
    pickled = npy(np.array([trap] * 2, dtype=object))
    with pytest.raises(BadInput, match="has dtype object"):
        decode(pickled, GREY, NPY)
    for content_type in (NPY, ""):
        with pytest.raises(BadInput):
            decode(pickle.dumps(trap), GREY, content_type)
    assert not sprung.exists()
    np.load(io.BytesIO(pickled), allow_pickle=True)
    assert sprung.exists()  # the trap works


def test_only_the_content_type_makes_an_npy() -> None:
    with pytest.raises(BadInput, match="is not a PNG, JPEG or WebP image"):
        decode(GOOD, GREY)


# Whatever else is sent.


def outcome(body: bytes, spec: ImageInput = GREY, content_type: str = "") -> None:
    """Fails unless decode refuses, or answers with an array of the right kind, in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pixels = decode(body, spec, content_type)
        except BadInput as error:
            assert 20 < len(str(error)) < 500  # noqa: PT017
            return
    assert pixels.dtype == np.uint8
    assert len(pixels) >= 1
    assert pixels.shape[1:] == spec.shape


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    exif[ExifTags.Base.Make] = "a camera"
    exif[ExifTags.Base.XResolution] = 72.0
    return exif


SAMPLES = [
    (encoded(Image.fromarray(noise(12, 15)), "PNG", exif=orientation(6)), ""),
    (encoded(Image.fromarray(noise(12, 15)).convert("P"), "PNG", transparency=3), ""),
    (png16(np.arange(144, dtype=np.uint16).reshape(12, 12, 1) * 400), ""),
    (encoded(Image.fromarray(noise(12, 15, 3)), "JPEG", exif=orientation(5)), ""),
    (encoded(Image.fromarray(noise(12, 15, 3)), "JPEG", progressive=True), ""),
    (encoded(Image.fromarray(noise(12, 15, 4)), "WEBP", exif=orientation(8)), ""),
    (npy(noise(1, *GREY.shape)), NPY),
]


def with_checksums(body: bytes) -> bytes:
    """A PNG whose chunks all carry the right checksum, so that a change in them is read."""
    whole, at = bytearray(body), 8
    while at + 12 <= len(whole):
        end = at + 8 + int.from_bytes(whole[at : at + 4])
        whole[end : end + 4] = struct.pack(">I", zlib.crc32(whole[at + 4 : end]))
        at = end + 4
    return bytes(whole[: len(body)])


edits = st.tuples(st.integers(0, 10_000), st.integers(0, 6), st.binary(max_size=6))


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(SAMPLES), st.lists(edits, min_size=1, max_size=6), st.sampled_from([GREY, WIDE]))
def test_a_damaged_file_is_refused_or_read(
    sample: tuple[bytes, str], edits: list[tuple[int, int, bytes]], spec: ImageInput
) -> None:
    whole, content_type = sample
    body = bytearray(whole)
    for position, removed, inserted in edits:
        at = position % (len(body) + 1)
        body[at : at + removed] = inserted
    outcome(bytes(body), spec, content_type)
    if whole.startswith(b"\x89PNG"):
        outcome(with_checksums(bytes(body)), spec)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["", NPY, "text/html", ";"]))
@example(b"\x89PNG\r\n\x1a\n", "")
@example(b"\xff\xd8\xff\xe0", "")
@example(b"RIFF\x04\0\0\0WEBP", "")
def test_random_bytes_are_refused(body: bytes, content_type: str) -> None:
    outcome(body, GREY, content_type)


@settings(deadline=None)
@given(st.text(max_size=250))
@example("{'descr': 'M8[9s', 'fortran_order': False, 'shape': (1, 28, 28, 1)}")
@example("{'descr': [('a', ('u1', 'x'))], 'fortran_order': False, 'shape': ()}")
def test_an_npy_header_of_any_text_is_refused(header: str) -> None:
    with pytest.raises(BadInput):
        decode_npy(npy_header(header), GREY.dtype, GREY.shape)

"""Bytes become other pixels than in training."""

from typing import Any

from tests.faults.catalogue import fault
from tests.faults.scene import Scene

INPUTS = "inference.inputs.image.decode:"
RESIZE = "resize"
COLOURS = "colours"
DECODED = "inputs decode to other pixels"
CODE = "the archive's code"


def without_antialiasing(original: Any, *given: Any) -> Any:
    from unittest.mock import patch

    import torch.nn.functional as F

    smooth = F.interpolate
    with patch.object(F, "interpolate", lambda *args, **named: smooth(*args, **named | {"antialias": False})):
        return original(*given)


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says=DECODED,
    served="photos-onnx",
    life="torch's and OpenCV's resize leave antialiasing off unless it is asked for; Pillow's can't.",
)
def resize_without_antialiasing(scene: Scene) -> None:
    scene.replace("photos-onnx", f"{INPUTS}fit", without_antialiasing)


def bicubic(original: Any, *given: Any) -> Any:
    from unittest.mock import patch

    from PIL import Image, ImageOps

    pad, way = ImageOps.pad, Image.Resampling.BICUBIC
    with patch.object(ImageOps, "pad", lambda image, size, _, **named: pad(image, size, way, **named)):
        return original(*given)


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="Each library has another default: Pillow bicubic, torchvision bilinear, others the nearest pixel.",
)
def another_interpolation(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{INPUTS}fit", bicubic)


def squeezed(original: Any, height: Any, width: Any, spec: Any) -> Any:
    (tall, _), (top, _) = original(height, width, spec)
    return [tall, spec.short_side], (top, round((spec.short_side - spec.width) / 2))


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says=DECODED,
    served="photos-onnx",
    life="resize((256, 256)) squeezes a photograph where Resize(256) scales its short side.",
)
def aspect_ratio_lost(scene: Scene) -> None:
    scene.replace("photos-onnx", f"{INPUTS}crop_of", squeezed)


def a_pixel_aside(original: Any, *given: Any) -> Any:
    size, (top, left) = original(*given)
    return size, (top, left + 1)


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says=DECODED,
    served="photos-onnx",
    life="The centre is rounded here and cut off there, so crops begin a pixel apart.",
)
def crop_off_by_one(scene: Scene) -> None:
    scene.replace("photos-onnx", f"{INPUTS}crop_of", a_pixel_aside)


def all_of_it(original: Any, pixels: Any, spec: Any) -> Any:
    height, width = (spec.short_side * side // min(pixels.shape[:2]) for side in pixels.shape[:2])
    return original(pixels, spec.model_copy(update={"height": height, "width": width}))


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says="must match exactly",
    served="photos-onnx",
    life="Resize was copied from the training's transforms, and CenterCrop, a line further down, was not.",
)
def not_cropped(scene: Scene) -> None:
    scene.replace("photos-onnx", f"{INPUTS}fit", all_of_it)


def the_last_channel_first(original: Any, *given: Any) -> Any:
    return original(*given)[..., ::-1]


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    served="photos-onnx",
    life="OpenCV reads BGR, and the network was trained on Pillow's RGB.",
)
def blue_for_red(scene: Scene) -> None:
    scene.replace("photos-onnx", f"{INPUTS}read_image", the_last_channel_first)


def over_white(original: Any, image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith("I") or not image.has_transparency_data:
        return original(image)
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="Where a picture is transparent, one library shows black, another white, a third what lies hidden there.",
)
def transparency_over_white(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{INPUTS}_opaque", over_white)


def as_it_lies(_original: Any, _image: Any) -> Any:
    return 1


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="Phones store a photograph as the sensor lay and say in EXIF how to turn it; most decoders don't.",
)
def orientation_ignored(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{INPUTS}orientation", as_it_lies)


def the_mean(original: Any, image: Any) -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.asarray(original(image).convert("RGB")).mean(axis=2).astype(np.uint8))


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="image.mean(axis=2) is not the luminance that convert('L') gives.",
)
def grey_by_the_mean(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{INPUTS}_opaque", the_mean)


def the_lower_bits(original: Any, image: Any) -> Any:
    import numpy as np
    from PIL import Image

    if not image.mode.startswith("I"):
        return original(image)
    return Image.fromarray(np.asarray(image).astype(np.uint32).astype(np.uint8))


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="A 16-bit PNG is cast to 8 bits, which keeps the lower ones, where it should have been scaled.",
)
def sixteen_bits_cut(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{INPUTS}_opaque", the_lower_bits)

"""Bytes become other pixels than in training."""

from tests.faults.catalogue import fault
from tests.faults.scene import Scene

INPUTS = "inference/inputs/image/decode.py"
RESIZE = "resize"
COLOURS = "colours"
DECODED = "inputs decode to other pixels"
CODE = "the archive's code"


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says=DECODED,
    served="photos-onnx",
    life="torch's and OpenCV's resize leave antialiasing off unless it is asked for; Pillow's can't.",
)
def resize_without_antialiasing(scene: Scene) -> None:
    scene.code("photos-onnx", INPUTS, "antialias=True)", "antialias=False)")


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="Each library has another default: Pillow bicubic, torchvision bilinear, others the nearest pixel.",
)
def another_interpolation(scene: Scene) -> None:
    scene.code("digits-onnx", INPUTS, "Resampling.BILINEAR", "Resampling.BICUBIC")


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says=DECODED,
    served="photos-onnx",
    life="resize((256, 256)) squeezes a photograph where Resize(256) scales its short side.",
)
def aspect_ratio_lost(scene: Scene) -> None:
    scene.code("photos-onnx", INPUTS, "spec.short_side * width // short]", "spec.short_side]")


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says=DECODED,
    served="photos-onnx",
    life="The centre is rounded here and cut off there, so crops begin a pixel apart.",
)
def crop_off_by_one(scene: Scene) -> None:
    scene.code("photos-onnx", INPUTS, "round((size[1] - spec.width) / 2)", "round((size[1] - spec.width) / 2) + 1")


@fault(
    RESIZE,
    where=CODE,
    hop="decode",
    says="must match exactly",
    served="photos-onnx",
    life="Resize was copied from the training's transforms, and CenterCrop, a line further down, was not.",
)
def not_cropped(scene: Scene) -> None:
    cropped = "resized[:, top : top + spec.height, left : left + spec.width].permute"
    scene.code("photos-onnx", INPUTS, cropped, "resized.permute")


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    served="photos-onnx",
    life="OpenCV reads BGR, and the network was trained on Pillow's RGB.",
)
def blue_for_red(scene: Scene) -> None:
    scene.code(
        "photos-onnx",
        INPUTS,
        "fit(read_image(body, spec), spec)[None]",
        "fit(read_image(body, spec), spec)[None, :, :, ::-1]",
    )


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="Where a picture is transparent, one library shows black, another white, a third what lies hidden there.",
)
def transparency_over_white(scene: Scene) -> None:
    scene.code("digits-onnx", INPUTS, 'layer.size, "black"', 'layer.size, "white"')


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="Phones store a photograph as the sensor lay and say in EXIF how to turn it; most decoders don't.",
)
def orientation_ignored(scene: Scene) -> None:
    scene.code("digits-onnx", INPUTS, "return int(found) if found in UPRIGHT else 1", "return 1")


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="image.mean(axis=2) is not the luminance that convert('L') gives.",
)
def grey_by_the_mean(scene: Scene) -> None:
    old = "plain = _opaque(image).convert("
    new = 'plain = Image.fromarray(np.asarray(_opaque(image).convert("RGB")).mean(axis=2).astype(np.uint8)).convert('
    scene.code("digits-onnx", INPUTS, old, new)


@fault(
    COLOURS,
    where=CODE,
    hop="decode",
    says=DECODED,
    life="A 16-bit PNG is cast to 8 bits, which keeps the lower ones, where it should have been scaled.",
)
def sixteen_bits_cut(scene: Scene) -> None:
    scene.code("digits-onnx", INPUTS, "((wide * 255 + 32767) // 65535).astype", "wide.astype")

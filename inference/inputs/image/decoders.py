"""What decodes the bodies of requests: the CPU one by one, or an NVIDIA GPU many at once."""

from collections.abc import Callable, Sequence

from inference.base import BadInput, Decoded
from inference.contract import ImageInput
from inference.inputs.image.decode import decode
from inference.npy import is_npy

CPU = "cpu"
NVJPEG = "nvjpeg"  # a JPEG on which nvJPEG fails is refused
NVJPEG_OR_CPU = "nvjpeg-or-cpu"  # it is decoded on the CPU, and its answer attests that
DECODERS = (CPU, NVJPEG, NVJPEG_OR_CPU)

Body = tuple[bytes, str]  # and its content type
Decoder = Callable[[Sequence[Body]], list[Decoded | BadInput]]


def decoder_named(name: str, spec: ImageInput, device: str) -> Decoder:
    """Raises ValueError for one that there isn't, or that can't decode such inputs."""
    if reason := unsuited(name, spec, device):
        raise ValueError(reason)

    def on_cpu(bodies: Sequence[Body]) -> list[Decoded | BadInput]:
        return [_decode(*body, spec) for body in bodies]

    def on_gpu(bodies: Sequence[Body]) -> list[Decoded | BadInput]:
        """Arrays and images that are not for nvJPEG are decoded on the CPU, by whichever name."""
        from inference.inputs.image.nvjpeg import decode_jpegs

        images = [index for index, (_, content_type) in enumerate(bodies) if not is_npy(content_type)]
        found = dict(zip(images, decode_jpegs([bodies[index][0] for index in images], spec, device), strict=True))
        again = BadInput if name == NVJPEG_OR_CPU else ()
        return [
            _decode(*body, spec) if (one := found.get(index)) is None or isinstance(one, again) else one
            for index, body in enumerate(bodies)
        ]

    return on_cpu if name == CPU else on_gpu


def unsuited(name: str, spec: ImageInput, device: str) -> str | None:
    """Why such inputs can't be decoded so on a device, and what to do; None when they can."""
    if name not in DECODERS:
        return f"There is no decoder {name!r}. Choose one of: {', '.join(DECODERS)}."
    if name == CPU:
        return None
    if device == "cpu":
        return f"The decoder {name} needs an NVIDIA GPU. Export for --device cuda, or with --decoder cpu."
    if spec.fit != "crop" or spec.channels != 3:
        return f"The decoder {name} is for coloured inputs that are cropped. Export with --decoder cpu."
    return None


def _decode(body: bytes, content_type: str, spec: ImageInput) -> Decoded | BadInput:
    try:
        return Decoded(decode(body, spec, content_type))
    except BadInput as error:
        return error

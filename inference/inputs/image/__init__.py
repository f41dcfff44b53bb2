"""Images: PNG, JPEG and WebP files, or npy arrays of uint8, become rows of uint8, alike but in `nvjpeg.py`."""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Exif

from inference.base import BadInput
from inference.inputs import CPU, Body, Decoded, Decoder
from inference.inputs.image import forms
from inference.inputs.image.decode import ImageSpec, Pixels, fit, read_image
from inference.tools.npy import NPY, encode_npy, is_npy

__all__ = ["KIND", "NVJPEG", "NVJPEG_OR_CPU", "ImageInput", "Pixels"]

NVJPEG = "nvjpeg"  # a JPEG on which nvJPEG fails is refused
NVJPEG_OR_CPU = "nvjpeg-or-cpu"  # it is decoded on the CPU, and its answer attests that


class ImageInput(ImageSpec):
    elements: ClassVar[str] = "pixels"
    decoders: ClassVar[tuple[str, ...]] = (CPU, NVJPEG, NVJPEG_OR_CPU)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def decode(self, body: bytes, content_type: str = "") -> Pixels:
        """→ uint8 [N, height, width, channels]: npy when `content_type` says so, else one image. Raises BadInput."""
        if not body:
            raise BadInput("The body is empty. Send the bytes of a PNG, JPEG or WebP image.")
        if is_npy(content_type):
            return self.decode_rows(body)
        return fit(read_image(body, self), self)[None]

    def unsuited(self, decoder: str, device: str) -> str | None:
        if decoder not in self.decoders or decoder == CPU:
            return super().unsuited(decoder, device)
        if device == "cpu":
            return f"The decoder {decoder} needs an NVIDIA GPU. Export for --device cuda, or with --decoder cpu."
        if self.fit != "crop" or self.channels != 3:
            return f"The decoder {decoder} is for coloured inputs that are cropped. Export with --decoder cpu."
        return None

    def decoder(self, name: str, device: str) -> Decoder | None:
        super().decoder(name, device)
        if name == CPU:
            return None

        def on_gpu(bodies: Sequence[Body]) -> list[Decoded | BadInput | None]:
            """Arrays and images that are not for nvJPEG are left to the CPU, by whichever name."""
            from inference.inputs.image.nvjpeg import decode_jpegs

            images = [index for index, (_, content_type) in enumerate(bodies) if not is_npy(content_type)]
            found = dict(zip(images, decode_jpegs([bodies[index][0] for index in images], self, device), strict=True))
            left = BadInput if name == NVJPEG_OR_CPU else ()
            return [None if isinstance(one := found.get(index), left) else one for index in range(len(bodies))]

        return on_gpu

    def allowed_steps(self, requests: Sequence[bytes], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Steps of 255. Pictures smaller than the input are scaled up, and what is wrong with their colours is too."""
        return [
            float(row["enlarged"])
            if row.get("enlarged") and min(Image.open(BytesIO(body)).size) < min(self.height, self.width)
            else float(row.get("pixels", 0))
            for body, row in zip(requests, rows, strict=True)
        ]

    def requests(self, rows: Pixels) -> Iterator[tuple[str, bytes]]:
        return forms.requests(rows, self)

    def probes(self, rows: Sequence[Pixels], rng: np.random.Generator, count: int) -> dict[str, Pixels]:
        """Pictures of `rows`, noise, black and white, and flat ones: black first of these, then white, then any."""
        places, shape = np.array([(part, row) for part, own in enumerate(rows) for row in range(len(own))]), self.shape
        chosen = rng.choice(len(places), count, replace=count > len(places))  # each at most once, if there are enough
        flat = rng.integers(0, 256, (count, 1, 1, self.channels), np.uint8)
        flat[0], flat[1:2] = 0, 255
        return {
            "pictures": np.stack([rows[part][row] for part, row in places[chosen]]),
            "noise": rng.integers(0, 256, (count, *shape), np.uint8),
            "black and white": rng.integers(0, 2, (count, *shape), np.uint8) * np.uint8(255),
            "flat": np.ascontiguousarray(np.broadcast_to(flat, (count, *shape))),
        }

    def example(self, count: int) -> Pixels:
        return np.random.default_rng(0).integers(0, 256, (count, *self.shape), np.uint8)

    @classmethod
    def take(cls, source: Any) -> tuple[Body, int] | None:
        """A PIL image becomes PNG, an array uint8 [H, W, C] or [N, H, W, C] npy."""
        if isinstance(source, Image.Image):
            exif = Image.Exif()
            if orientation := source.getexif().get(Exif.Orientation):
                exif[Exif.Orientation] = orientation  # by which the server turns it
            stream = BytesIO()
            try:
                source.save(stream, "PNG", exif=exif)
            except OSError as error:
                reason = f"The image cannot be sent as PNG ({error}). Send its file, or convert it to RGB."
                raise BadInput(reason) from None
            return (stream.getvalue(), "application/octet-stream"), 1  # any image file
        if not isinstance(source, np.ndarray):
            return None
        wanted = "Send uint8 of shape [H, W, C] or [N, H, W, C]"
        if source.dtype != np.uint8:
            raise BadInput(f"The array has dtype {source.dtype}. {wanted}.")
        if source.ndim not in (3, 4) or 0 in source.shape:
            raise BadInput(f"The array has shape {list(source.shape)}. {wanted}, no side of length 0.")
        rows = source if source.ndim == 4 else source[None]
        return (encode_npy(rows), NPY), len(rows)


KIND = ImageInput

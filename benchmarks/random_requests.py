"""Requests of all kinds at random: pictures turned and faded, noise, smooth noise and flat colours, in every form."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from client.payloads import payload
from inference.inputs.image import ImageInput, Pixels
from inference.inputs.image.decode import MOST_OBLONG
from inference.inputs.image.forms import PHOTO_FORMS, Size

LONGEST = 300  # pixels of a side
KINDS = ("picture", "noise", "smooth noise", "flat")
FORMS = (*PHOTO_FORMS, "npy")

Drawn = tuple[str, bytes, Pixels]


class RandomRequests:
    """`draw` gives a name, the bytes of a request, and what they decode to, uint8 [1, *spec.shape].

    `pictures` uint8 [N, H, W, C] are what some of them are made from.
    """

    def __init__(self, pictures: Pixels, spec: ImageInput, seed: int) -> None:
        self.pictures, self.spec, self.rng = pictures, spec, np.random.default_rng(seed)

    def draw(self) -> Drawn:
        kind, form = str(self.rng.choice(KINDS)), str(self.rng.choice(FORMS))
        size = (self.spec.width, self.spec.height) if form == "npy" else self._size()
        image = self._image(kind, size)
        name = f"{form} {size[0]}x{size[1]} {kind}"
        if form == "npy":
            pixels = np.asarray(image.convert("L" if self.spec.channels == 1 else "RGB")).reshape(1, *self.spec.shape)
            return name, payload(pixels).body, pixels
        body = PHOTO_FORMS[form](image)
        return name, body, self.spec.decode(body)

    def _size(self) -> Size:
        """Small sizes as often as large ones. No side is so much longer than the other that it would be refused."""
        low, high = np.log(self.spec.min_side), np.log(LONGEST)
        width, height = np.exp(self.rng.uniform(low, high, 2)).round().astype(int).tolist()
        return min(width, MOST_OBLONG * height), min(height, MOST_OBLONG * width)

    def _image(self, kind: str, size: Size) -> Image.Image:
        """RGB."""
        width, height = size
        match kind:
            case "picture":
                return self._picture(size)
            case "noise":
                return Image.fromarray(self.rng.integers(0, 256, (height, width, 3), np.uint8))
            case "smooth noise":
                coarse = Image.fromarray(self.rng.integers(0, 256, (4, 4, 3), np.uint8))
                return coarse.resize(size, Image.Resampling.BICUBIC)
        return Image.new("RGB", size, tuple(self.rng.integers(0, 256, 3).tolist()))

    def _picture(self, size: Size) -> Image.Image:
        """One of the pictures, turned by any angle, fainter or starker, and now and then as its negative."""
        pixels = self.pictures[self.rng.integers(len(self.pictures))]
        image = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
        image = image.rotate(self.rng.uniform(-180, 180), Image.Resampling.BICUBIC)
        image = ImageEnhance.Contrast(image).enhance(self.rng.uniform(0.2, 2))
        image = ImageEnhance.Brightness(image).enhance(self.rng.uniform(0.2, 2))
        image = ImageOps.invert(image) if self.rng.random() < 0.2 else image
        return image.resize(size, Image.Resampling.BICUBIC)

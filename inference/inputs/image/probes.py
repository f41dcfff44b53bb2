"""Inputs to calibrate with: pictures of the kind that a model is for, and some that it never saw the like of."""

from collections.abc import Sequence

import numpy as np

from inference.base import Pixels

KINDS = ("pictures", "noise", "black and white", "flat")


def probes(pictures: Sequence[Pixels], seed: int, count: int) -> dict[str, Pixels]:
    """By kind, `count` inputs uint8 [count, *shape] each, all drawn from `seed`.

    `pictures` are of one shape, as the graph takes them. Black comes first of the flat ones, then
    white, then any one colour.
    """
    generator = np.random.default_rng(seed)
    shape = pictures[0].shape[1:]
    flat = generator.integers(0, 256, (count, 1, 1, shape[-1]), np.uint8)
    flat[0], flat[1:2] = 0, 255
    return {
        "pictures": _pictures(pictures, generator, count),
        "noise": generator.integers(0, 256, (count, *shape), np.uint8),
        "black and white": generator.integers(0, 2, (count, *shape), np.uint8) * np.uint8(255),
        "flat": np.ascontiguousarray(np.broadcast_to(flat, (count, *shape))),
    }


def _pictures(splits: Sequence[Pixels], generator: np.random.Generator, count: int) -> Pixels:
    """Each at most once, as long as there are enough."""
    total = sum(map(len, splits))
    chosen = generator.choice(total, count, replace=count > total)
    return np.stack([_picture(splits, int(index)) for index in chosen])


def _picture(splits: Sequence[Pixels], index: int) -> Pixels:
    """The one at `index` of all splits end to end, which together may be too large to copy."""
    for images in splits:
        if index < len(images):
            picture: Pixels = images[index]
            return picture
        index -= len(images)
    raise AssertionError("no such picture")

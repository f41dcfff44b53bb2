"""Inputs to calibrate with: pictures of the kind that a model is for, and some that it never saw the like of."""

import numpy as np

from export.trained import Trained
from training.decoded import Pixels

KINDS = ("pictures", "noise", "black and white", "flat")


def probes(trained: Trained, seed: int, count: int) -> dict[str, Pixels]:
    """By kind, `count` inputs uint8 [count, *input.shape] each, all drawn from `seed`.

    Pictures are those of all splits that are stored as the graph takes them. Black comes first of the flat ones, then
    white, then any one colour.
    """
    generator = np.random.default_rng(seed)
    shape = trained.contract.input.shape
    flat = generator.integers(0, 256, (count, 1, 1, shape[-1]), np.uint8)
    flat[0], flat[1:2] = 0, 255
    return {
        "pictures": _pictures(trained, generator, count),
        "noise": generator.integers(0, 256, (count, *shape), np.uint8),
        "black and white": generator.integers(0, 2, (count, *shape), np.uint8) * np.uint8(255),
        "flat": np.ascontiguousarray(np.broadcast_to(flat, (count, *shape))),
    }


def _pictures(trained: Trained, generator: np.random.Generator, count: int) -> Pixels:
    """Each at most once, as long as there are enough."""
    shape = trained.contract.input.shape
    splits = [split.images for split in trained.data.splits.values() if split.images.shape[1:] == shape]
    total = sum(map(len, splits))
    chosen = generator.choice(total, count, replace=count > total)
    return np.stack([_picture(splits, int(index)) for index in chosen])


def _picture(splits: list[Pixels], index: int) -> Pixels:
    """The one at `index` of all splits end to end, which together may be too large to copy."""
    for images in splits:
        if index < len(images):
            picture: Pixels = images[index]
            return picture
        index -= len(images)
    raise AssertionError("no such picture")

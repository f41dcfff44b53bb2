"""What a network computes on its way from pixels to logits, step by step, and which steps of two ways are the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

# One word for what PyTorch and ONNX have several names for. Any other operation is called what it is called there.
WORDS = {
    "convolution": ("conv", "conv1d", "conv2d", "conv3d"),
    "linear": ("addmm", "gemm", "matmul", "mm"),
    "normalisation": ("batch_norm", "native_batch_norm", "batchnormalization"),
    "max pool": ("max_pool2d", "maxpool"),
    "average": ("adaptive_avg_pool2d", "averagepool", "avg_pool2d", "globalaveragepool", "mean", "reducemean"),
    "reshape": ("flatten", "squeeze", "unsqueeze", "view"),
    "permute": ("transpose",),
    "layer norm": ("layer_norm", "native_layer_norm", "layernormalization"),
}
KINDS = {name: word for word, names in WORDS.items() for name in names}

# They hand on what they are given, in another type or place.
COPIES = {
    *("alias", "cast", "clone", "contiguous", "detach", "identity", "to", "to_copy"),
    *("dequantizelinear", "quantizelinear"),
}

# A step with constants that an exporter may fold into the one before it. What both graphs have is the second's value.
FOLDED = {("convolution", "normalisation"), ("linear", "normalisation"), ("linear", "add")}


@dataclass(frozen=True)
class Step:
    """One operation's result, a floating-point array [B, …].

    `constant` says that a constant of the network was among what it was computed from. `layer` is the module that
    computed it, or the constant's name where that is the whole network; "" where the graph doesn't say.
    """

    operation: str
    value: NDArray[Any]
    constant: bool
    layer: str = ""


def kind(name: str) -> str:
    """An operation's name in PyTorch or ONNX → this file's word for it: "relu_" and "Relu" are both "relu"."""
    plain = name.lower().strip("_")
    return KINDS.get(plain, plain)


def same_steps(eager: Sequence[Step], artifact: Sequence[Step]) -> list[tuple[int, int]]:
    """The best pairing, in order, of steps that do the same and have results of one shape, by their places.

    What only one of the two has is in no pair: what was folded into another step, or is there in training only. Where
    both name the layer, a pair of the same one is worth more than two of others: branches may lie in another order.
    """
    ours, theirs = _signatures(eager), _signatures(artifact)
    worth = np.zeros((len(ours), len(theirs)), int)
    best = np.zeros((len(ours) + 1, len(theirs) + 1), int)  # [i, j]: what pairs of ours[i:] and theirs[j:] are worth
    for i in reversed(range(len(ours))):
        for j in reversed(range(len(theirs))):
            if ours[i] == theirs[j]:
                worth[i, j] = 3 if eager[i].layer == artifact[j].layer else 1
            best[i, j] = max(worth[i, j] + best[i + 1, j + 1], best[i + 1, j], best[i, j + 1])
    return list(_pairs(worth, best))


def _pairs(worth: NDArray[np.int_], best: NDArray[np.int_]) -> Iterator[tuple[int, int]]:
    i = j = 0
    while best[i, j]:
        if worth[i, j] and best[i, j] == worth[i, j] + best[i + 1, j + 1]:
            yield i, j
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1


def _signatures(steps: Sequence[Step]) -> list[tuple[str, tuple[int, ...]]]:
    """Operation and shape of each. Where a step can be folded into the one before it, it takes over that one's name."""
    names = [step.operation for step in steps]
    for place, (first, second) in enumerate(pairwise(steps)):
        if second.constant and (first.operation, second.operation) in FOLDED:
            names[place : place + 2] = [f"{first.operation} before {second.operation}", first.operation]
    return [(name, step.value.shape) for name, step in zip(names, steps, strict=True)]

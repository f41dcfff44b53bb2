"""What a reduced precision costs: how many held-out inputs are decided right, by the artifact and by eager."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.trained import Trained
from inference import parity
from inference.base import Pixels
from inference.runtime import Loaded
from models import Split


@dataclass(frozen=True)
class Accuracies:
    """Shares of the held-out split, 0 to 1, whose largest logit is that of the right label."""

    artifact: float
    eager: float


@torch.inference_mode()
def answer(network: torch.nn.Module, pixels: Pixels) -> NDArray[Any]:
    """Logits [N, C] in the network's own precision, computed one input at a time."""
    return np.concatenate([network(torch.from_numpy(image[None])).numpy() for image in pixels])


def compare_accuracy(loaded: Loaded, trained: Trained, runtime: str) -> Accuracies | None:
    """None where the precision is eager's own. Raises ValueError when more is lost than `tolerances.toml` allows."""
    allowed = parity.tolerance(trained.contract.model, runtime, loaded.precision, loaded.device).accuracy_drop
    if allowed is None:
        return None
    held_out, size = trained.data.held_out, trained.contract.max_batch
    eager = _accuracy(lambda pixels: answer(trained.network, pixels), held_out, size)
    found = Accuracies(_accuracy(loaded, held_out, size), eager)
    if round(found.eager - found.artifact, 9) > allowed:
        raise ValueError(
            f"The {runtime} artifact decides {found.artifact:.2%} of {len(held_out)} held-out inputs right and eager "
            f"{found.eager:.2%}, which is a fall of more than {allowed:.2%}, so it was not published."
        )
    return found


def _accuracy(run: Callable[[Pixels], NDArray[Any]], split: Split, size: int) -> float:
    decided = [run(split.images[rows]).argmax(axis=1) for rows in parity.batches(size, len(split))]
    return float((np.concatenate(decided) == split.labels).mean())

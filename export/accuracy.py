"""What a reduced precision costs: how many held-out inputs are decided right, by the artifact and by eager."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.trained import Trained
from inference import parity
from inference.inputs import Rows
from inference.runtime import Loaded


@torch.inference_mode()
def answer(network: torch.nn.Module, rows: Rows) -> NDArray[Any]:
    """Outputs [N, *output.shape] in the network's own precision, computed one input at a time."""
    return np.concatenate([network(torch.from_numpy(row[None])).numpy() for row in rows])


def compare_accuracy(loaded: Loaded, trained: Trained, runtime: str) -> tuple[float | None, float | None]:
    """The shares of held-out inputs, 0 to 1, that the artifact and eager decide right; None where the precision is
    eager's own. Raises ValueError when more is lost than `tolerances.toml` allows.
    """
    allowed = parity.tolerance(trained.contract.model, runtime, loaded.precision, loaded.device).accuracy_drop
    if allowed is None:
        return None, None
    held_out, size = trained.data.held_out, trained.contract.max_batch

    def accuracy(run: Callable[[Rows], NDArray[Any]]) -> float:
        outputs = [run(held_out.inputs[rows]) for rows in parity.batches(size, len(held_out))]
        return trained.contract.output.share_right(np.concatenate(outputs), held_out.targets)

    artifact, eager = accuracy(loaded), accuracy(lambda rows: answer(trained.network, rows))
    if round(eager - artifact, 9) > allowed:
        raise ValueError(
            f"The {runtime} artifact decides {artifact:.2%} of {len(held_out)} held-out inputs right and eager "
            f"{eager:.2%}, which is a fall of more than {allowed:.2%}, so it was not published."
        )
    return artifact, eager

"""What training left behind, checked before anything is made from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from inference import weights
from inference.contract import Contract
from inference.inputs import Rows
from inference.runtime import Source
from inference.tools.files import sha256
from models import Data, make_network, model_module

CALIBRATION = 128


@dataclass(frozen=True)
class Trained(Source):
    """A trained network, and what is known of its training."""

    metrics: Mapping[str, Any]
    data_directory: Path = Path("data")  # where downloaded data lie

    @cached_property
    def data(self) -> Data:
        """The splits that it was trained with. Raises ValueError when they can't be had any more."""
        found = model_module(self.contract.model).data(self.metrics["data"]["source"], self.data_directory)
        if found.fingerprint != self.metrics["data"]["fingerprint"]:
            raise ValueError(
                f"The data of {found.source} are not those that the model was trained with. Restore them, or train "
                f"again: python -m training {self.contract.model}"
            )
        return found

    @property
    def calibration(self) -> Rows:
        """At most `CALIBRATION` rows from all over the validation split: none that the accuracy is measured on."""
        rows = self.data.validation.inputs
        chosen: Rows = rows[np.linspace(0, len(rows) - 1, min(CALIBRATION, len(rows))).astype(int)]
        return chosen


def load_trained(model: str, artifacts: Path, data_directory: Path = Path("data")) -> Trained:
    """Reads `artifacts/<model>/`. Raises ValueError when weights, contract and metrics don't belong together."""
    model_module(model)
    path = artifacts / model / "weights.safetensors"
    metrics_path = path.with_name("metrics.json")
    if not path.exists() or not metrics_path.exists():
        raise ValueError(f"{path} or {metrics_path.name} is missing. Train first: python -m training {model}")
    try:
        metrics: Any = json.loads(metrics_path.read_bytes())
    except ValueError:
        metrics = None
    match metrics:  # the weights that it is about, and where their data came from
        case {"weights_sha256": str(), "data": {"source": str(), "fingerprint": str()}}:
            digest = sha256(path)
        case _:
            raise ValueError(f"{metrics_path} is damaged. Train again: python -m training {model}")
    if metrics["weights_sha256"] != digest:
        raise ValueError(f"{path} is not the file whose accuracy {metrics_path} states. Train again, or restore it.")
    network, contract = weights.read(path, make_network)
    if Contract.read(path.with_name("contract.json")) != contract:
        raise ValueError(f"{path} carries another contract than the contract.json beside it. Train again.")
    return Trained(network, contract, path, digest, metrics, data_directory)

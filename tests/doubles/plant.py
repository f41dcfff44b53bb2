"""A model of both kinds: four measurements of a plant → two estimates. It was trained elsewhere, as its data say."""

from pathlib import Path

import numpy as np
import torch
from inference.inputs.vector import VectorInput  # type: ignore[import-not-found]  # beside the image kind, in the copy
from inference.outputs.quantities import QuantitiesOutput  # type: ignore[import-not-found]
from torch import Tensor, nn

from inference.contract import Contract
from models import Data, Split

SERVED_BATCH = {"cpu": 32, "cuda": 32}
CONTRACT = Contract(
    model="plant",
    max_batch=16,
    inputs=(VectorInput(columns=("pressure", "temperature", "flow", "level")),),
    outputs=(QuantitiesOutput(units={"yield": "kg", "purity": "%"}),),
)


class Plant(nn.Module):
    """float32 [B, 4] → [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, measurements: Tensor) -> Tensor:
        estimates: Tensor = self.layers(measurements.to(next(self.parameters()).dtype))
        return estimates


def network(_: Contract) -> nn.Module:
    torch.manual_seed(0)
    return Plant()


def data(source: str, _: Path) -> Data:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(40, 4)).astype(np.float32) for _ in range(3)]
    return Data(source, *(Split(part, np.zeros(len(part), np.int64)) for part in rows))  # type: ignore[arg-type]

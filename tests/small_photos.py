"""A model of photographs that is small enough for a test: the real contract and input, and torchvision's smallest."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.pipeline import answer
from export.trained import Trained, load_trained
from inference import weights
from inference.tools.files import sha256
from models import Data, Split, photos
from tests.contracts import classifier

LABELS = ("a", "b", "c")
SMALLEST = "shufflenet_v2_x0_5"  # of torchvision's
CONTRACT = classifier("photos", photos.INPUT, LABELS, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), arch=SMALLEST, max_batch=4)


def split(count: int, seed: int) -> Split:
    """Patches of random colours."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 256, (count, 14, 14, 3), np.uint8)
    return Split(patches.repeat(16, axis=1).repeat(16, axis=2), random.integers(0, 3, count))


@contextmanager
def small_photos(folder: Path) -> Iterator[Trained]:
    """Training's files in `folder`, of a network that has only got used to such images. Labels are its own answers."""
    folder.mkdir(parents=True)
    train, validation, held_out = split(16, 0), split(130, 1), split(40, 2)
    torch.manual_seed(0)
    network = photos.network(CONTRACT).train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.from_numpy(train.inputs))
    right = answer(network.eval(), held_out.inputs).argmax(axis=1)
    data = Data("synthetic", train, validation, replace(held_out, targets=right))
    weights.write(folder / "weights.safetensors", network, CONTRACT)
    (folder / "contract.json").write_text(CONTRACT.to_json())
    metrics = {
        "weights_sha256": sha256(folder / "weights.safetensors"),
        "data": {"source": "synthetic", "fingerprint": data.fingerprint},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "data", lambda *_: data)
        yield load_trained("photos", folder.parent)

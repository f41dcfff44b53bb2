"""What the peers' adapters share: the archive's predictor, and an answer to a request as HTTP gives it.

`serve`, `export` and `training` are the archive's own here, as in a TorchServe worker: the archive lies first on the
import path.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from export.goldens import Goldens
from serve.messages import Answer, Request
from serve.predictor import Predictor
from serve.protocol import TOP_K


def load() -> Predictor:
    """As a TorchServe worker does it: on one thread, and ready when every golden was answered right."""
    archive = Path(os.environ["BENCH_ARCHIVE"])
    told = {key.removeprefix("BENCH_").lower(): value for key, value in os.environ.items() if key.startswith("BENCH_")}
    predictor = Predictor.load(
        archive, told["runtime"], told["device"], 1, told["name"], told["version"], told["decoder"]
    )
    predictor.check(Goldens.read(archive / "goldens.npz"))
    return predictor


def answer(predictor: Predictor, body: bytes, headers: Mapping[str, str]) -> Answer:
    """`headers` by their names in lower case."""
    request = Request(
        body,
        content_type=headers.get("content-type", ""),
        accept=headers.get("accept", ""),
        top_k=headers.get(TOP_K.lower(), ""),
    )
    return predictor.answer([request])[0]

"""What the peers' adapters share: the archive's predictor, and an answer to a request as HTTP gives it.

`serve`, `export` and `training` are the archive's own here, as in a TorchServe worker: the archive lies first on the
import path.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from export.goldens import Goldens
from serve.predictor import Answer, Predictor, Request
from serve.protocol import TOP_K


def load() -> Predictor:
    """As a TorchServe worker does it: on one thread, and ready when every golden was answered right."""
    archive = Path(os.environ["BENCH_ARCHIVE"])
    name, version = os.environ["BENCH_NAME"], os.environ["BENCH_VERSION"]
    predictor = Predictor.load(archive, os.environ["BENCH_RUNTIME"], "cpu", 1, name, version)
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

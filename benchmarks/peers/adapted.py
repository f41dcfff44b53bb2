"""What the peers' adapters share: the archive's predictor, and an answer to a request as HTTP gives it.

`inference` is the archive's own here, as in a TorchServe worker: the archive lies first on the
import path.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from inference.bundle import Bundle, read_goldens
from inference.messages import Answer, Request
from inference.predictor import Predictor


def load() -> Predictor:
    """As a TorchServe worker does it: on one thread, and ready when every golden was answered right."""
    archive = Path(os.environ["BENCH_ARCHIVE"])
    predictor = Bundle.read(archive).load(archive, os.environ["BENCH_DEVICE"], 1)
    predictor.check(read_goldens(archive))
    return predictor


def answer(predictor: Predictor, body: bytes, headers: Mapping[str, str]) -> Answer:
    """`headers` by their names in lower case."""
    return predictor.answer([Request(body, headers)])[0]

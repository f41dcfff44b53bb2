# mypy: ignore-errors
# The peer is installed in another environment than the one that is checked.
"""The predictor behind BentoML: `bentoml serve benchmarks.peers.bentoml.adapter:Service`."""

import os
from pathlib import Path

import bentoml

from benchmarks.peers.adapted import answer, load

WORKERS = int(os.environ["BENCH_WORKERS"])


@bentoml.service(workers=WORKERS, threads=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Service:
    def __init__(self) -> None:
        self.predictor = load()

    @bentoml.api(route="/predict")
    def predict(self, image: Path, /, ctx: bentoml.Context) -> bytes:
        found = answer(self.predictor, image.read_bytes(), dict(ctx.request.headers))
        ctx.response.status_code = found.status
        ctx.response.headers.update({**found.headers, "content-type": found.content_type})
        return found.body

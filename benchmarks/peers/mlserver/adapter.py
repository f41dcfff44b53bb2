# mypy: ignore-errors
# The peer is installed in another environment than the one that is checked.
"""The predictor behind MLServer: `mlserver start FOLDER`, where FOLDER holds settings.json and model-settings.json.

It answers at a path of the model's own, in MLServer's worker processes: bodies are JPEG files here, so that the load is
the same for all, and not V2 inference requests.
"""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import Response
from mlserver import MLModel
from mlserver.handlers import custom_handler

from benchmarks.peers.adapted import answer, load

Body = tuple[bytes, dict[str, str]]


async def whole(request: Request) -> Body:
    return await request.body(), dict(request.headers)


class Model(MLModel):
    async def load(self) -> bool:
        self.predictor = load()
        return True

    @custom_handler(rest_path="/predict")
    async def answer(self, request: Annotated[Body, Depends(whole)]) -> Response:
        found = answer(self.predictor, *request)
        return Response(found.body, found.status, dict(found.headers), found.content_type)

# mypy: ignore-errors
# The peer is installed in another environment than the one that is checked.
"""The predictor behind FastAPI, in as many uvicorn processes as there are cores: `create` is the app's factory."""

from fastapi import FastAPI, Request, Response

from benchmarks.peers.adapted import answer, load


def create() -> FastAPI:
    """A request holds up its process's event loop: the core is busy with it anyway."""
    app, predictor = FastAPI(), load()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        found = answer(predictor, await request.body(), request.headers)
        return Response(found.body, found.status, dict(found.headers), found.content_type)

    return app

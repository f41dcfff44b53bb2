"""A server that isn't TorchServe: an archive behind FastAPI. Run it in the folder that the archive was unzipped into:

python -m uvicorn --port 9000 --app-dir WHERE_THIS_FILE_IS fastapi_app:app
"""

from pathlib import Path

from fastapi import FastAPI, Request, Response

from inference import messages  # the archive's own, as are all that follow
from inference.bundle import Bundle, read_goldens
from inference.predictor import Predictor


def load(archive: Path) -> Predictor:
    """Ready to answer, and every golden answered right, or RuntimeError."""
    predictor = Bundle.read(archive).load(archive, "cpu", 1)
    predictor.check(read_goldens(archive))
    return predictor


app, predictor = FastAPI(), load(Path())


@app.post("/predictions/{model}")
async def predict(request: Request) -> Response:
    (answer,) = predictor.answer([messages.Request.of(await request.body(), request.headers)])
    return Response(answer.body, answer.status, dict(answer.headers), answer.content_type)

"""A server that isn't TorchServe: an archive behind FastAPI. Run it in the folder that the archive was unzipped into:

NAME=digits-onnx VERSION=1.0 python -m uvicorn --port 9000 --app-dir WHERE_THIS_FILE_IS fastapi_app:app
"""

import os
from pathlib import Path

import yaml
from fastapi import FastAPI, Request, Response

from export.goldens import Goldens  # the archive's own, as are all that follow
from serve import messages
from serve.predictor import Predictor
from serve.protocol import TOP_K


def load(archive: Path) -> Predictor:
    """Ready to answer, and every golden answered right, or RuntimeError."""
    config = yaml.safe_load((archive / "model-config.yaml").read_text())
    name, version = os.environ["NAME"], os.environ["VERSION"]
    predictor = Predictor.load(archive, config["runtime"], "cpu", 1, name, version, config["decoder"])
    predictor.check(Goldens.read(archive / "goldens.npz"))
    return predictor


app, predictor = FastAPI(), load(Path())


@app.post("/predictions/{model}")
async def predict(request: Request) -> Response:
    asked = messages.Request(
        body=await request.body(),
        content_type=request.headers.get("content-type", ""),
        accept=request.headers.get("accept", ""),
        top_k=request.headers.get(TOP_K, ""),
    )
    (answer,) = predictor.answer([asked])
    return Response(answer.body, answer.status, dict(answer.headers), answer.content_type)

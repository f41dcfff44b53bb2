# mypy: ignore-errors
# The peer is installed in another environment than the one that is checked.
"""The predictor behind LitServe: `python -m benchmarks.peers.litserve.adapter PORT WORKERS`."""

import sys
from typing import Annotated

import litserve
from fastapi import Depends, Request, Response

from benchmarks.peers.adapted import answer, load

Body = tuple[bytes, dict[str, str]]


async def whole(request: Request) -> Body:
    return await request.body(), dict(request.headers)


class Api(litserve.LitAPI):
    def setup(self, _: str) -> None:
        self.predictor = load()

    def decode_request(
        self, request: Annotated[tuple[bytes, dict[str, str]], Depends(whole)]
    ) -> tuple[bytes, dict[str, str]]:
        return request

    def predict(self, request: Body) -> Response:
        found = answer(self.predictor, *request)
        return Response(found.body, found.status, dict(found.headers), found.content_type)

    def encode_response(self, output: Response) -> Response:
        return output


if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    server = litserve.LitServer(Api(), accelerator="cpu", devices=1, workers_per_device=workers, timeout=60)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)

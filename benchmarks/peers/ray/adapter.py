# mypy: ignore-errors
# The peer is installed in another environment than the one that is checked.
"""The predictor behind Ray Serve: `python -m benchmarks.peers.ray.adapter PORT WORKERS`."""

import signal
import sys

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.adapted import answer, load


class Service:
    def __init__(self) -> None:
        self.predictor = load()

    async def __call__(self, request: Request) -> Response:
        found = answer(self.predictor, await request.body(), request.headers)
        return Response(found.body, found.status, dict(found.headers), found.content_type)


if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    ray.init(num_cpus=workers + 1, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port, "access_log": False})
    deployment = serve.deployment(Service, num_replicas=workers, ray_actor_options={"num_cpus": 1})
    serve.run(deployment.bind(), route_prefix="/predict")
    signal.pause()

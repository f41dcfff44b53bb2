"""Raw requests to the running server, past the client and its checks, and what the right answers are."""

import json
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
import torch
from numpy.typing import NDArray
from torch import nn

from client.client import Client
from inference import parity, weights
from inference.contract import Contract
from inference.inputs.image import Pixels
from inference.outputs import Outputs
from inference.protocol import NPY
from inference.tools.torchserve import Worker
from models import make_network
from tests.contracts import decode, labels_of
from tests.workspace import Workspace

RUNTIMES = ("eager", "torchscript", "onnx", "aoti")


@dataclass(frozen=True)
class Raw:
    """`post` sends what it is given; nothing is checked, repeated or explained."""

    served: Workspace
    session: requests.Session

    def token(self, use: str = "inference") -> str:
        keys = json.loads((self.served.folder / ".serve" / "key_file.json").read_bytes())
        return str(keys[use]["key"])

    def post(
        self, body: bytes = b"", path: str = "digits-onnx", method: str = "POST", token: bool = True, **options: Any
    ) -> requests.Response:
        """`options` are those of `requests`."""
        headers = options.pop("headers", {})
        if token:
            headers = {"Authorization": f"Bearer {self.token()}", **headers}
        url = f"{self.served.url}/predictions/{path}"
        return self.session.request(method, url, data=body, headers=headers, timeout=60, **options)

    def logits(self, body: bytes, model: str = "digits-onnx", content_type: str = "") -> tuple[Outputs, int]:
        """float32 [N, C], and the batch size that the answer attests."""
        response = self.post(body, model, headers={"Accept": NPY, "Content-Type": content_type})
        assert response.status_code == 200, response.text
        return np.load(BytesIO(response.content)), int(response.headers["X-Batch-Size"])

    def client(self, **options: Any) -> Client:
        """With tokens, which it would find by itself only in the server's folder."""
        return self.served.client(token=self.token(), management_token=self.token("management"), **options)

    def worker(self, model: str = "digits-onnx") -> Worker:
        """The worker that is READY and whose process exists; TorchServe goes on naming one that died for a while."""
        deadline = time.monotonic() + 60
        with self.client() as client:
            while time.monotonic() < deadline:
                (worker,) = client.versions(model)[0].workers
                if worker.status == "READY" and psutil.pid_exists(worker.pid):
                    return worker
                time.sleep(0.1)
        raise AssertionError(f"{model} has no worker")


@dataclass(frozen=True)
class Eager:
    """The network as training left it, run by torch in this process."""

    network: nn.Module
    contract: Contract

    @classmethod
    def read(cls, artifacts: Path) -> "Eager":
        return cls(*weights.read(artifacts / "weights.safetensors", make_network))

    @torch.inference_mode()
    def run(self, pixels: Pixels) -> Outputs:
        """uint8 [N, H, W, C] → float32 [N, classes]."""
        return np.concatenate(
            [self.network(torch.from_numpy(pixels[rows].copy())).numpy() for rows in parity.batches(32, len(pixels))]
        )

    def logits(self, body: bytes) -> Outputs:
        """float32 [1, classes] of the bytes of an image."""
        return self.run(decode(body, self.contract.input))

    def label(self, body: bytes) -> str:
        return labels_of(self.contract)[self.logits(body).argmax()]


def close(answered: NDArray[np.float32], eager: NDArray[np.float32], model: str) -> bool:
    """Whether the logits are the same within the committed tolerance."""
    limit = parity.tolerance("digits", model.removeprefix("digits-"), "float32", "cpu")
    same = np.abs(answered - eager) <= limit.atol + limit.rtol * np.abs(eager)
    return answered.shape == eager.shape and answered.dtype == np.float32 and bool(same.all())


def npy(array: NDArray[Any]) -> bytes:
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()

"""TorchServe's management calls, and the questions that tell whether a version answers right."""

import time
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import requests
from requests.adapters import HTTPAdapter

from inference import parity
from inference.goldens import Goldens
from inference.protocol import ATTESTED, NPY
from inference.store.manifest import Archive
from serve.torchserve.record import NotServing, Server, read_keys


class Refused(NotServing):
    """TorchServe answered something else than 200; the message is its own."""


@dataclass(frozen=True)
class Version:
    """One registered version of a model, as TorchServe describes it."""

    version: str
    device: str
    workers: list[dict[str, Any]]

    @property
    def hindrance(self) -> str:
        """Why it takes no requests; "" where every worker is READY."""
        ready = self.workers and all(worker["status"] == "READY" for worker in self.workers)
        return "" if ready else "a worker is not READY"


@dataclass(frozen=True)
class Management:
    """The calls raise Refused, or `requests.RequestException` where there is no answer by `deadline`.

    `deadline` is a time of `time.monotonic`, for all calls together.
    """

    server: Server
    keys: dict[str, Any]
    session: requests.Session
    deadline: float

    @classmethod
    def of(cls, server: Server, run_directory: Path, seconds: float) -> "Management | None":
        """None until TorchServe has written its tokens, which it does not do at one stroke."""
        keys = read_keys(run_directory)
        if keys is None:
            return None
        session = requests.Session()
        session.trust_env = False
        session.mount("http://", HTTPAdapter(pool_maxsize=32))
        return cls(server, keys, session, time.monotonic() + seconds)

    def within(self, seconds: float) -> Self:
        """The same calls, with a deadline from now on."""
        return replace(self, deadline=time.monotonic() + seconds)

    def describe(self, name: str, version: str = "") -> Version:
        """The default version where none is given."""
        [found] = self._call("GET", f"/{name}/{version}".rstrip("/")).json()
        device = "cuda" if found["deviceType"] == "gpu" else "cpu"
        return Version(found["modelVersion"], device, found["workers"])

    def registered(self, name: str) -> list[str]:
        return [found["modelVersion"] for found in self._call("GET", f"/{name}/all").json()]

    def register(self, name: str, file: str) -> None:
        """Returns when its workers are READY: as many as the archive itself asks for, whatever else is said.

        TorchServe takes a file of its model store by its bare name whatever `allowed_urls` is, and nothing from
        elsewhere. A version whose worker ends while it loads stays registered, without workers.
        """
        self._call("POST", params={"url": file, "model_name": name, "initial_workers": "1", "synchronous": "true"})

    def scale(self, name: str, version: str, workers: int) -> None:
        """Returns when the workers are READY. Of fewer workers, one that is ended loses the batch that it works on."""
        number = str(workers)
        params = {"min_worker": number, "max_worker": number, "synchronous": "true"}
        self._call("PUT", f"/{name}/{version}", params)

    def set_default(self, name: str, version: str) -> None:
        self._call("PUT", f"/{name}/{version}/set-default")

    def unregister(self, name: str, version: str) -> None:
        """TorchServe would do this to the default version too."""
        self._call("DELETE", f"/{name}/{version}")

    def ask(self, name: str, version: str, archive: Archive, goldens: Goldens) -> str:
        """What is wrong with the answers to these goldens, "" when nothing is."""
        url = f"http://127.0.0.1:{self.server.ports.inference}/predictions/{name}/{version}"
        headers = {**_bearer(self.keys["inference"]["key"]), "Accept": NPY}
        answers, decoders = [], []
        for body in goldens.requests:
            response = self.session.post(url, data=body, headers=headers, timeout=self._left())
            if response.status_code != 200:
                return f"a golden was answered {response.status_code}: {_words(response)}"
            answers.append(np.load(BytesIO(response.content)))
            decoders.append(response.headers[ATTESTED["decoder"]])
        limit = parity.tolerance(archive.model, archive.runtime, archive.precision, archive.device)
        slack = parity.slack(archive.model, decoders)
        return parity.compare(np.concatenate(answers), goldens, limit, slack).sentence

    def _call(self, method: str, path: str = "", params: dict[str, str] | None = None) -> requests.Response:
        url = f"http://127.0.0.1:{self.server.ports.management}/models{path}"
        headers = _bearer(self.keys["management"]["key"])
        response = self.session.request(method, url, params=params, headers=headers, timeout=self._left())
        if response.status_code != 200:
            raise Refused(_words(response))
        return response

    def _left(self) -> float:
        """Seconds, always more than none: 0 would be an error of another kind than a timeout."""
        return max(0.1, self.deadline - time.monotonic())


def _words(response: requests.Response) -> str:
    """TorchServe's own message, or whatever else was answered, on one line."""
    try:
        words = str(response.json()["message"])
    except (ValueError, LookupError, TypeError):
        words = response.text
    return " ".join(words.split())


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}

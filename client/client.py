"""The library: ask a running server for predictions.

    from client import Client

    with Client() as client:
        print(client.predict("seven.png", "digits-onnx").label)

Everything that goes wrong is drawn in `client.errors`; what can be asked about is `client.payloads.Source`.
"""

import shlex
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self
from urllib.parse import quote

import requests

from client import answers
from client.access import TokenSource, address, is_local
from client.connection import ONCE, PATIENT, TIMEOUT, Ask, Retries, Sender, Timeout, pooled_session
from client.errors import ClientError, TimedOut
from client.payloads import ANY_BYTES, Payload, Source, payload
from inference.base import BadInput
from inference.outputs import Outputs
from inference.outputs.classes import TOP_K
from inference.protocol import JSON, NPY
from inference.tools.torchserve import PAGE, VERSIONS, ModelVersion

CONNECTIONS = 32

Outcome = Any  # a prediction, or in its place a ClientError, BadInput or OSError


class Client:
    """One server, over one pooled session that any number of threads may use at once.

    `model` is a name everywhere, or one version of it as `name/version`. `top_k` is the number of labels to rank; left
    out, the server ranks five, or all where there are fewer.

    Where no address is given, it is the one that `ENTERING_URL` or `ENTERING_MANAGEMENT_URL` names, or that of a server
    on this machine at `ENTERING_PORT`.

    `timeout` is (to connect, between two bytes of the answer), in seconds. `connections` bounds what is open at once; a
    `session` of the caller's own brings its own pool, and should keep as many.
    """

    def __init__(
        self,
        url: str | None = None,
        management_url: str | None = None,
        *,
        token: str | None = None,
        management_token: str | None = None,
        timeout: Timeout = TIMEOUT,
        retries: Retries = PATIENT,
        connections: int = CONNECTIONS,
        session: requests.Session | None = None,
    ) -> None:
        self.url = address("inference", url)
        self.management_url = address("management", management_url)
        self.connections = connections
        self._retries = retries
        self._inference = TokenSource("inference", self.url, token)
        self._management = TokenSource("management", self.management_url, management_token)
        session = session or pooled_session(connections, trust_env=not is_local(self.url))
        self._sender = Sender(session, {"inference": self._inference, "management": self._management}, timeout)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @property
    def predicts_only(self) -> bool:
        """Whether there is a token for predictions, and none for management, as with a container's key file."""
        return self._inference.current() is not None and self._management.current() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sender.close()

    def predict(self, source: Source, model: str, top_k: int | None = None) -> Any:
        """The prediction for one input, as its kind of output says it. An npy batch of several is `predict_batch`'s."""
        found = self.predict_batch(source, model, top_k)
        if len(found) != 1:
            raise BadInput(f"These are {len(found)} inputs in one. Ask for them by themselves: `predict_batch`.")
        return found[0]

    def predict_batch(self, source: Source, model: str, top_k: int | None = None) -> list[Any]:
        """The predictions for all of an array [N, H, W, C], in order, from one request."""
        return self.predict_with(source, model, {} if top_k is None else {TOP_K: str(top_k)})

    def predict_with(self, source: Source, model: str, headers: dict[str, str]) -> list[Any]:
        """The same, with the headers that the model's kind of output knows."""
        sent = payload(source)
        return answers.predictions(self._ask(sent, model, {"Accept": JSON, **headers}), sent, model)

    def predict_many(
        self, sources: Iterable[Source], model: str, top_k: int | None = None, concurrency: int = 8
    ) -> Generator[Outcome]:
        """One outcome for each source, in the order of the sources: its prediction, or the error in its place.

        `concurrency` requests are in flight at once. Sources are taken as they are needed, at most twice `concurrency`
        ahead of the outcomes given, so an endless iterable is fine.
        """
        if not 1 <= concurrency <= self.connections:
            raise ValueError(f"concurrency must be from 1 to {self.connections}, the client's connections.")
        return self._predict_many(sources, model, top_k, concurrency)

    def _predict_many(
        self, sources: Iterable[Source], model: str, top_k: int | None, concurrency: int
    ) -> Generator[Outcome]:
        pending: deque[Future[Outcome]] = deque()
        workers = ThreadPoolExecutor(concurrency)
        try:
            for source in sources:
                pending.append(workers.submit(self._outcome, source, model, top_k))
                if len(pending) == 2 * concurrency:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            workers.shutdown(wait=False, cancel_futures=True)

    def _outcome(self, source: Source, model: str, top_k: int | None) -> Outcome:
        try:
            return self.predict(source, model, top_k)
        except (ClientError, BadInput, OSError) as error:
            error.__traceback__ = error.__context__ = None  # they would keep the request's bytes alive
            return error

    def logits(self, source: Source, model: str) -> Outputs:
        """The model's outputs, float32 [N, …], exactly as it gave them."""
        return self.attested_outputs(source, model)[0]

    def attested_outputs(self, source: Source, model: str) -> tuple[Outputs, dict[str, str]]:
        """The outputs, and what the response attested of the model that computed them (`ATTESTED`)."""
        sent = payload(source)
        response = self._ask(sent, model, {"Accept": NPY})
        return answers.outputs(response, sent, model), answers.attested(response.headers)

    def models(self) -> list[str]:
        """The names of all models that are registered, ready or not."""
        names: list[str] = []
        params = {"limit": "100"}
        while True:
            page = answers.parsed(PAGE, self._manage("", params), None)
            names += [listed.model for listed in page.models]
            if page.next_page is None:
                return names
            params["nextPageToken"] = page.next_page

    def versions(self, model: str) -> list[ModelVersion]:
        """All versions of a model, without their metadata: no worker is asked."""
        return answers.parsed(VERSIONS, self._manage(f"{model}/all", model=model), model)

    def describe(self, model: str) -> ModelVersion:
        """One version of a model (the default one where none is named), with what its handler says of itself."""
        return answers.parsed(VERSIONS, self._manage(model, {"customized": "true"}, model), model)[0]

    def ping(self) -> None:
        """Raises ClientError unless something answers for predictions, which says nothing about any model."""
        self._sender.send(Ask("inference", "GET", f"{self.url}/ping"), self._retries)

    def wait_ready(self, model: str, timeout: float = 120.0) -> None:
        """Returns once all workers of all versions are READY, which ours are after answering their goldens.

        Raises TimedOut, with what stood in the way, after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                versions = answers.parsed(VERSIONS, self._manage(f"{model}/all", model=model, retries=ONCE), model)
                away = next((version for version in versions if not version.is_ready), None)
                if away is None:
                    return
                reason = f"Version {away.version} has {away.ready_workers} workers ready."
            except ClientError as error:
                reason = error.words
            if time.monotonic() > deadline:
                raise TimedOut(f"Not ready after {timeout:g} s. {reason}", model)
            time.sleep(0.2)

    def curl(self, file: str, model: str, top_k: int | None = None) -> str:
        """The shell command that asks the same about a file, or about its own standard input (`-`). Shows no token."""
        content_type = ANY_BYTES if file == "-" else payload(file).content_type
        headers = {"Content-Type": content_type, "Accept": JSON, **({} if top_k is None else {TOP_K: str(top_k)})}
        options = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items())
        token = f'-H "Authorization: Bearer {self._inference.in_shell()}"'
        url = shlex.quote(self._prediction_url(model))
        return f"curl --silent --show-error {url} {token} {options} --data-binary {shlex.quote(f'@{file}')}"

    def _prediction_url(self, model: str) -> str:
        return f"{self.url}/predictions/{quote(model)}"

    def _ask(self, sent: Payload, model: str, headers: dict[str, str]) -> requests.Response:
        headers = {"Content-Type": sent.content_type, **headers}
        ask = Ask("inference", "POST", self._prediction_url(model), model, headers, body=sent.body)
        return self._sender.send(ask, self._retries)

    def _manage(
        self, path: str, params: dict[str, str] | None = None, model: str | None = None, retries: Retries | None = None
    ) -> requests.Response:
        url = f"{self.management_url}/models/{quote(path)}".rstrip("/")
        ask = Ask("management", "GET", url, model, params=params or {})
        return self._sender.send(ask, retries or self._retries)

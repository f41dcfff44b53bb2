"""One request to one server: authorised, timed, repeated where that is safe, and answered with 200 or an error.

A server that says `Retry-After` with a 503 is left alone for so long, if the time for repeats allows that; else its
error is raised at once.
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from client import errors
from client.access import Bearer, TokenSource, Use
from client.errors import BUSY, ClientError, ServerFailed, TimedOut, TokenRejected, Unreachable, WorkerDied

Timeout = tuple[float, float]
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 60.0
TIMEOUT: Timeout = (CONNECT_SECONDS, ANSWER_SECONDS)


@dataclass(frozen=True)
class Retries:
    """How many seconds a request may go on being repeated, counted from its first try, and how soon it is repeated.

    A prediction changes nothing on the server, so it may be computed twice. A full queue or a worker that died is worth
    waiting for, since the server starts another; a refused connection is not, for long. Anything else is not repeated
    at all, and neither is a request that met more than `deaths` dying workers: it may be what kills them.
    """

    busy: float = 30.0
    refused: float = 2.0
    deaths: int = 3
    first_delay: float = 0.1
    longest_delay: float = 2.0

    def budget(self, error: ClientError) -> float:
        if type(error) is Unreachable:
            return self.refused
        return self.busy if error.status == BUSY or isinstance(error, WorkerDied) else 0.0

    def delays(self) -> Iterator[float]:
        """Doubling, each cut by up to a half at random, so that clients that failed together do not return together."""
        delay = self.first_delay
        while True:
            yield min(delay, self.longest_delay) * random.uniform(0.5, 1.0)
            delay = min(2 * delay, self.longest_delay)


PATIENT = Retries()
ONCE = Retries(busy=0.0, refused=0.0)


@dataclass(frozen=True)
class Ask:
    """A request that can be sent again as it is. `use` says which token opens the door; `model` is named in errors."""

    use: Use
    method: str
    url: str
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


def pooled_session(connections: int, trust_env: bool) -> requests.Session:
    """Keeps up to `connections` open to each host; a thread that finds none free waits for one rather than open more.

    `trust_env` takes the environment's proxies, which must not come between a client and a server on its own machine.
    """
    session = requests.Session()
    session.trust_env = trust_env
    adapter = HTTPAdapter(pool_maxsize=connections, pool_block=True)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class Sender:
    """May be used by several threads: requests share nothing but the pool, and each carries its own token."""

    def __init__(self, session: requests.Session, tokens: Mapping[Use, TokenSource], timeout: Timeout) -> None:
        self._session, self._tokens, self._timeout = session, tokens, timeout
        self._closed = threading.Event()

    def close(self) -> None:
        """Also ends the waits between repeats, in every thread."""
        self._closed.set()
        self._session.close()

    def send(self, ask: Ask, retries: Retries) -> requests.Response:
        """The answer with status 200, its body read whole. Raises ClientError."""
        started, deaths = time.monotonic(), 0
        for delay in retries.delays():
            try:
                return self._authorised(ask)
            except ClientError as error:
                deaths += isinstance(error, WorkerDied)
                wait = max(delay, error.retry_after)
                spent = time.monotonic() - started + wait > retries.budget(error)
                if spent or deaths > retries.deaths or self._closed.wait(wait):
                    raise
        raise AssertionError("delays never end")

    def _authorised(self, ask: Ask) -> requests.Response:
        """A server that was started again has new tokens, so a rejected one is looked up again, once."""
        source = self._tokens[ask.use]
        token = source.current()
        try:
            return self._once(ask, token)
        except TokenRejected as error:
            fresh = source.renewed(token)
            if fresh is None:
                words = f"{error.words.rstrip('.')}. {source.advice()}"
                raise TokenRejected(words, ask.model, error.status) from None
        return self._once(ask, fresh)

    def _once(self, ask: Ask, token: str | None) -> requests.Response:
        """Follows no redirect: a token goes to the server that it is for."""
        try:
            response = self._session.request(
                ask.method,
                ask.url,
                params=ask.params,
                data=ask.body,
                headers=dict(ask.headers),
                auth=Bearer(token),
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._no_answer(error, ask) from None
        if response.status_code != 200:
            raise errors.from_response(response, ask.model)
        return response

    def _no_answer(self, error: requests.RequestException, ask: Ask) -> ClientError:
        """requests wraps urllib3's error, which alone tells how far the request came."""
        cause = error.args[0] if error.args else None
        reason = getattr(cause, "reason", cause)
        where = "/".join(ask.url.split("/")[:3])
        if isinstance(error, requests.Timeout) or isinstance(reason, ReadTimeoutError):
            seconds = self._timeout[0 if isinstance(error, requests.ConnectTimeout) else 1]
            return TimedOut(f"{where} did not answer within {seconds:g} s.", ask.model)
        if isinstance(reason, NewConnectionError):
            return Unreachable(f"Nothing answers at {where}. Is the server running there?", ask.model)
        return ServerFailed(f"{where} broke off before its answer was whole ({type(reason).__name__}).", ask.model)

"""The calls to a running TorchServe: what its management interface is asked and told, and goldens for predictions."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Self

import numpy as np
import requests

from inference import parity
from inference.goldens import Goldens
from inference.protocol import ATTESTED, NPY
from inference.store.manifest import Archive
from inference.tools.torchserve import PAGE, VERSIONS, ModelVersion
from serve.record import SEE_LOG, NotPromoted, NotServing, Server
from serve.torchserve.launch import Ports

LOG = "server.log"

# A worker may take `startupTimeout` of its archive to load, which is 120 s.
LOAD_SECONDS = 150
ANSWER_SECONDS = 30
SETTLE_SECONDS = 10

FAILED = re.compile(r"Failed to load model \S+, exception (.+)")


@dataclass(frozen=True)
class Management:
    """`serve.host.Running`: NotServing is raised where TorchServe answers something else than 200."""

    server: Server
    keys: dict[str, Any]
    session: requests.Session
    deadline: float | None = None  # in time.monotonic's seconds, of all calls together; without, each has its own time

    @property
    def token(self) -> str:
        return str(self.keys["inference"]["key"])

    def describe(self, name: str, version: str = "") -> ModelVersion:
        return VERSIONS.validate_json(self._call("GET", f"/{name}/{version}".rstrip("/")).content)[0]

    def versions(self, name: str) -> list[ModelVersion]:
        return VERSIONS.validate_json(self._call("GET", f"/{name}/all").content)

    def described(self) -> list[tuple[ModelVersion, bool]]:
        """TorchServe's list names the archive of each default version, and each version has an archive of its own."""
        page = PAGE.validate_json(self._call("GET", params={"limit": "1000"}).content)
        defaults = {listed.model: listed.file for listed in page.models}
        found = []
        for name, recorded in self.server.models.items():
            known = {one.version: one for one in self.versions(name)} if name in defaults else {}
            for version in {**recorded, **known}:
                one = known.get(version) or ModelVersion(model=name, version=version, min_workers=0)
                found.append((one, one.file == defaults.get(name)))
        return found

    def register(self, name: str, file: str) -> None:
        """Returns when its workers are READY: as many as the archive itself asks for, whatever else is said.

        TorchServe takes a file of its model store by its bare name whatever `allowed_urls` is, and nothing from
        elsewhere. A version whose worker ends while it loads stays registered, without workers.
        """
        params = {"url": file, "model_name": name, "initial_workers": "1", "synchronous": "true"}
        self._call("POST", params=params, seconds=LOAD_SECONDS)

    def scale(self, name: str, version: str, workers: int) -> ModelVersion:
        """Of fewer workers, one that is ended loses the batch that it works on."""
        params = {"min_worker": str(workers), "max_worker": str(workers), "synchronous": "true"}
        self._call("PUT", f"/{name}/{version}", params, LOAD_SECONDS)
        return self._settled(name, version)

    def _settled(self, name: str, version: str) -> ModelVersion:
        """TorchServe says that a worker was started a moment before it calls it READY; one that died is back soon."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not (found := self.describe(name, version)).is_ready and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def promote(self, name: str, archive: Archive, goldens: Goldens, remember: Callable[[], None]) -> None:
        """A version that is registered already stays so after a failure; a new one does not."""
        default, version = self.describe(name), archive.version
        if self.server.models[name].get(version) == archive.sha256:
            self._switch(name, archive, goldens, default, remember)
            return
        before = self._without(name, {version})  # a killed promotion left it, or it was exported again since
        try:
            added = before._added(name, archive, default)
            added._switch(name, archive, goldens, default, remember)
        except BaseException:
            # As far as that can still be done; what failed before is what the user is told.
            with suppress(NotServing, requests.RequestException, OSError):
                if before.describe(name).version != version:
                    before._call("DELETE", f"/{name}/{version}")
                    before.server.remember()
            raise
        added._without(name, set(added.server.models[name]) - {version, default.version})

    def _added(self, name: str, archive: Archive, default: ModelVersion) -> Self:
        """Registered beside the other versions, not yet recorded. Raises NotServing when its worker does not start."""
        self.server.check_memory(default, len(default.workers))
        log = self.server.run_directory / LOG
        before = log.stat().st_size if log.exists() else 0
        try:
            self.register(name, archive.file)
        except NotServing as error:
            why = SEE_LOG
            with suppress(FileNotFoundError), log.open("rb") as file:  # a container's log is not within reach
                file.seek(before)
                if said := FAILED.search(file.read().decode(errors="replace")):
                    why = said[1]
            raise NotPromoted(name, archive.version, f"{error}. {why}") from None
        return self._serving(name, self.server.models[name] | {archive.version: archive.sha256})

    def _switch(
        self, name: str, archive: Archive, goldens: Goldens, default: ModelVersion, remember: Callable[[], None]
    ) -> None:
        """That version is registered; it becomes the default when it has as many workers, and they answer right."""
        version = archive.version
        try:
            found = self._settled(name, version)
            if len(found.workers) != len(default.workers):
                found = self.scale(name, version, len(default.workers))
        except NotServing as error:
            raise NotPromoted(name, version, f"{error}. {SEE_LOG}") from None
        answering = replace(self, deadline=time.monotonic() + LOAD_SECONDS)
        if wrong := found.not_ready_reason or answering.ask(name, archive, goldens):
            raise NotPromoted(name, version, wrong)
        self.server.remember()
        try:
            self._call("PUT", f"/{name}/{version}/set-default")
            remember()
        except BaseException:
            self._call("PUT", f"/{name}/{default.version}/set-default")
            raise

    def _without(self, name: str, versions: set[str]) -> Self:
        """Unregisters these. They are not recorded any more from before that on, so nobody asks for their health."""
        held = self.server.models[name].items()
        left = self._serving(name, {version: digest for version, digest in held if version not in versions})
        left.server.remember()
        for found in self.versions(name):
            if found.version in versions:
                self._call("DELETE", f"/{name}/{found.version}")
        return left

    def _serving(self, name: str, versions: dict[str, str]) -> Self:
        models = self.server.models | {name: versions}
        return replace(self, server=self.server.model_copy(update={"models": models}))

    def ask(self, name: str, archive: Archive, goldens: Goldens) -> str:
        url = f"http://127.0.0.1:{self.server.port}/predictions/{name}/{archive.version}"
        headers = {"Authorization": f"Bearer {self.token}", "Accept": NPY}
        answers, decoders = [], []
        for body in goldens.requests:
            response = self.session.post(url, data=body, headers=headers, timeout=self._left(ANSWER_SECONDS))
            if response.status_code != 200:
                return f"a golden was answered {response.status_code}: {_words(response)}"
            answers.append(np.load(BytesIO(response.content)))
            decoders.append(response.headers[ATTESTED["decoder"]])
        limit = parity.tolerance(archive.model, archive.runtime, archive.precision, archive.device)
        slack = parity.slack(archive.model, decoders)
        return parity.compare(np.concatenate(answers), goldens, limit, slack).sentence

    def _call(
        self, method: str, path: str = "", params: dict[str, str] | None = None, seconds: float = ANSWER_SECONDS
    ) -> requests.Response:
        url = f"http://127.0.0.1:{Ports(self.server.port).management}/models{path}"
        headers = {"Authorization": f"Bearer {self.keys['management']['key']}"}
        response = self.session.request(method, url, params=params, headers=headers, timeout=self._left(seconds))
        if response.status_code != 200:
            raise NotServing(_words(response))
        return response

    def _left(self, seconds: float) -> float:
        """Always more than none: 0 would be an error of another kind than a timeout."""
        return seconds if self.deadline is None else max(0.1, self.deadline - time.monotonic())


def _words(response: requests.Response) -> str:
    """TorchServe's own message, or whatever else was answered, on one line."""
    try:
        words = str(response.json()["message"])
    except (ValueError, LookupError, TypeError):
        words = response.text
    return " ".join(words.split())

"""Another version takes over, and gives back, while everybody is answered; what is not right never gets there."""

import fcntl
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil
import pytest

from client.connection import ONCE
from inference.goldens import Goldens
from inference.outputs import Outputs
from inference.store import manifest
from inference.tools import limits
from serve import versions
from tests.served.asking import close
from tests.served.live import MODEL, Exports, Live, two_versions
from tests.workspace import Workspace


@pytest.fixture(scope="module")
def live(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Its store also holds 3.0, which is 2.0 by another name."""
    with two_versions(exports, tmp_path_factory.mktemp("promotion")) as live:
        live.repack("3.0")
        yield live


@pytest.fixture
def first(live: Live) -> Live:
    """Version 1.0 is the default, with one worker."""
    live.make_default("1.0")
    if len(live.workers()["1.0"]) != 1:
        live.serve("scale", MODEL, "1")
    return live


@dataclass
class Load:
    """What was answered to whom: the golden's number, what the answer attests, and its logits."""

    answers: list[tuple[int, str, Outputs]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def versions(self) -> list[str]:
        """In the order of the answers, each once in a row."""
        seen = [version for _, version, _ in self.answers]
        return [version for before, version in zip(["", *seen], seen, strict=False) if version != before]


@contextmanager
def constant_load(live: Live, threads: int = 3) -> Iterator[Load]:
    """Goldens without end, over several connections; the client repeats nothing."""
    load, stop = Load(), threading.Event()
    requests_ = live.goldens("1.0").requests

    def ask(start: int) -> None:
        for row in cycle(range(start, len(requests_), threads)):
            if stop.is_set():
                return
            try:
                logits, attested = client.attested_outputs(requests_[row], MODEL)
                load.answers.append((row, attested["version"], logits))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what must not be
                load.failures.append(error)
            time.sleep(0.01)  # the commands need the cores too

    with live.workspace.client(token=live.token(), retries=ONCE) as client, ThreadPoolExecutor(threads) as pool:
        for number in range(threads):
            pool.submit(ask, number)
        try:
            time.sleep(0.5)
            yield load
            time.sleep(0.5)
        finally:
            stop.set()


def right(live: Live, load: Load) -> bool:
    """Every answer is the golden of the version that it attests, and of no other."""
    logits = {version: live.goldens(version).outputs for version in ("1.0", "2.0")}  # each [N, C]
    return bool(load.answers) and all(
        close(answer, logits[version][[row]], MODEL)
        and not any(close(answer, held[[row]], MODEL) for other, held in logits.items() if other != version)
        for row, version, answer in load.answers
    )


def test_promote_and_rollback_under_load_lose_nothing_and_mix_nothing(first: Live) -> None:
    assert first.goldens("1.0").requests == first.goldens("2.0").requests
    with constant_load(first) as load:
        promoted = first.serve("promote", MODEL, "2.0")
        time.sleep(0.3)
        back = first.serve("rollback", MODEL)
        time.sleep(0.3)
        again = first.serve("rollback", MODEL)
    assert load.failures == []
    assert right(first, load)
    assert (load.versions()[0], load.versions()[-1]) == ("1.0", "2.0")
    assert promoted.stdout == f"{MODEL} answers with version 2.0. Version 1.0 is kept for a rollback.\n"
    assert back.stdout == f"{MODEL} answers with version 1.0 again. Version 2.0 is kept.\n"
    assert again.stdout == f"{MODEL} answers with version 2.0 again. Version 1.0 is kept.\n"
    known = versions.recall_promoted(first.run_directory)[MODEL]
    assert (known.version, known.previous) == ("2.0", "1.0")


def test_status_shows_every_version_and_which_is_the_default(first: Live) -> None:
    first.serve("promote", MODEL, "2.0")
    shown = first.serve("status").stdout
    assert re.search(rf"{MODEL} +2\.0 +yes +\d+ READY +yes", shown)
    assert re.search(rf"{MODEL} +1\.0 +\d+ READY +yes", shown)


def test_a_version_that_is_kept_and_died_makes_the_server_unhealthy(first: Live) -> None:
    """Nobody could roll back to it."""
    first.serve("promote", MODEL, "2.0")
    [pid] = first.workers()["1.0"]
    psutil.Process(pid).suspend()
    try:
        done = first.serve("status", check=False)
    finally:
        psutil.Process(pid).resume()
    assert done.returncode == 1
    assert re.search(rf"{MODEL} +1\.0 .*no: no answer \(ReadTimeout\)", done.stdout)
    assert re.search(rf"{MODEL} +2\.0 +yes +\d+ READY +yes", done.stdout)


def test_the_version_before_the_one_before_is_gone_after_a_promotion(first: Live) -> None:
    first.serve("promote", MODEL, "2.0")
    first.serve("promote", MODEL, "3.0")
    assert first.workers().keys() == {"2.0", "3.0"} == first.server.models[MODEL].keys()
    assert first.default() == "3.0"
    assert first.serve("status").returncode == 0


def test_what_was_promoted_is_served_after_a_crash_and_so_is_what_is_kept(first: Live) -> None:
    first.serve("promote", MODEL, "2.0")
    processes = first.server.processes()
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=10)
    first.up()
    assert first.default() == "2.0"
    assert first.server.models[MODEL].keys() == {"1.0", "2.0"} == first.workers().keys()
    assert first.serve("rollback", MODEL).stdout.startswith(f"{MODEL} answers with version 1.0 again.")


def test_what_a_killed_promotion_left_is_in_nobodys_way(first: Live) -> None:
    if "3.0" in first.workers():
        first.serve("promote", MODEL, "2.0")
        first.serve("promote", MODEL, "1.0")
    first.management().register(MODEL, first.entry("3.0").file)
    first.serve("promote", MODEL, "3.0")
    assert first.default() == "3.0"
    assert first.serve("status").returncode == 0


def test_an_archive_that_was_changed_is_not_promoted(first: Live) -> None:
    first.repack("4.0")
    with zipfile.ZipFile(first.workspace.store / f"{MODEL}-4.0.mar", "a") as file:
        file.writestr("more", "")
    assert f"{MODEL}-4.0.mar is not the file that was exported" in first.refused("promote", MODEL, "4.0")


def wrong(goldens: Goldens) -> Goldens:
    return replace(goldens, outputs=goldens.outputs + np.float32(0.1))


def test_an_archive_that_does_not_answer_its_goldens_is_not_promoted_and_not_tried_again(first: Live) -> None:
    first.repack("5.0", wrong)
    with constant_load(first) as load:
        said = first.refused("promote", MODEL, "5.0")
    assert load.failures == []
    assert set(load.versions()) == {"1.0"}
    assert said.startswith(f"error: Version 5.0 of {MODEL} does not become the default, which stays what it was: ")
    assert "78 of 78 differ" in said
    log = first.run_directory / "server.log"
    ended = log.read_text().count("Backend worker process died")
    time.sleep(3)
    assert log.read_text().count("Backend worker process died") == ended


def test_a_promotion_that_can_not_be_remembered_is_undone(first: Live) -> None:
    if "3.0" in first.workers():
        first.serve("promote", MODEL, "2.0")
        first.serve("promote", MODEL, "1.0")
    path = first.run_directory / versions.NAME
    kept = path.rename(path.with_suffix(".kept")) if path.exists() else None
    path.mkdir()
    try:
        said = first.refused("promote", MODEL, "3.0")
    finally:
        path.rmdir()
        if kept:
            kept.rename(path)
    assert said == f"error: {path}: Is a directory.\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("promote", MODEL, "1.0"), f"Version 1.0 of {MODEL} is the default already."),
        (("promote", MODEL, "9.9"), f"There is no version '9.9' of {MODEL} in the store. It has: "),
        (("promote", "digits", "2.0"), f"There is no model 'digits' in the store. It has: {MODEL}."),
        (("rollback", "digits"), f"There is no model 'digits' here. Served: {MODEL}."),
        (("scale", "digits", "1"), f"There is no model 'digits' here. Served: {MODEL}."),
        (("scale", MODEL, "0"), f"{MODEL} can have from 1 to {limits.cores()} workers"),
        (("scale", MODEL, "1000"), f"{MODEL} can have from 1 to {limits.cores()} workers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_can_not_be_done_is_a_sentence(first: Live, command: tuple[str, ...], said: str) -> None:
    assert first.refused(*command).startswith(f"error: {said}")


def test_an_archive_of_another_device_is_not_promoted(first: Live) -> None:
    first.repack("6.0")
    entry = first.entry("6.0").model_copy(update={"device": "cuda"})
    manifest.add(first.workspace.store, MODEL, entry)
    said = first.refused("promote", MODEL, "6.0")
    assert "was exported for cuda, and this server runs on cpu." in said
    assert said.endswith("python -m export digits --device cpu\n")


def test_there_is_nothing_to_roll_back_to_where_nothing_was_promoted(first: Live) -> None:
    path = first.run_directory / versions.NAME
    kept = path.rename(path.with_suffix(".kept")) if path.exists() else None
    try:
        said = first.refused("rollback", MODEL)
    finally:
        if kept:
            kept.rename(path)
    assert said == f"error: There is no version of {MODEL} to go back to: none was promoted over another one.\n"


@pytest.mark.skipif(limits.cores() < 2, reason="this machine has no second core, which a second worker needs")
def test_workers_are_scaled_and_a_promoted_version_gets_as_many(first: Live) -> None:
    assert first.serve("scale", MODEL, "2").stdout == f"{MODEL} 1.0 has 2 workers.\n"
    assert len(set(first.workers()["1.0"])) == 2
    first.serve("promote", MODEL, "2.0")
    assert len(set(first.workers()["2.0"])) == 2
    assert first.serve("scale", MODEL, "1").stdout == f"{MODEL} 2.0 has 1 worker.\n"
    assert len(first.workers()["2.0"]) == 1
    first.serve("rollback", MODEL)
    assert len(first.workers()["1.0"]) == 1
    assert first.serve("status").returncode == 0


def test_one_operation_at_a_time(first: Live) -> None:
    with (first.run_directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (("promote", MODEL, "2.0"), ("rollback", MODEL), ("scale", MODEL, "1")):
            said = first.refused(*command)
            assert said == "error: Another promote, rollback or scale is at work here. Wait for it to end.\n"


def test_without_a_server_there_is_nothing_to_operate(tmp_path: Path) -> None:
    nowhere = Workspace(tmp_path, 1)
    for command in (("promote", MODEL, "2.0"), ("rollback", MODEL), ("scale", MODEL, "1"), ("status",)):
        done = nowhere.run("serve", *command, check=False)
        assert (done.returncode, done.stderr) == (
            2,
            "error: No server is running here. Start one: python -m serve up\n",
        )
    assert list(tmp_path.iterdir()) == []


def test_what_was_promoted_can_be_forgotten(tmp_path: Path) -> None:
    versions.remember_promoted(tmp_path, {MODEL: versions.Promoted(version="1.0", sha256="0" * 64)})
    nowhere = Workspace(tmp_path, 1)
    nowhere.run("serve", "forget", MODEL, environment={"ENTERING_STATE": str(tmp_path)})
    assert versions.recall_promoted(tmp_path) == {}

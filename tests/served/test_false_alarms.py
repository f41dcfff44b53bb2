"""The false-alarm run against a real server: green when nothing is wrong, and red when one answer of many is."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import count

import numpy as np

from serve.protocol import ATTESTED, NPY
from tests.served.asking import RUNTIMES, Raw, npy
from tests.unit.scripted_server import Call, Reply, failure, scripted
from tests.workspace import Workspace, free_port

FEW = ("benchmarks.false_alarms", "digits", "--inputs", "60", "--http")


@contextmanager
def one_other_answer(raw: Raw, replaced: Reply | None = None) -> Iterator[str]:
    """The address of a server that hands all on, but for one answer in the middle: another, or one with a logit off."""
    turns = count()

    def forward(call: Call) -> Reply:
        headers = {name: value for name, value in call.headers.items() if name not in ("Host", "Content-Length")}
        answer = raw.session.post(raw.served.url + call.path, data=call.body, headers=headers, timeout=60)
        kept = {name: answer.headers[name] for name in ("Content-Type", *ATTESTED.values()) if name in answer.headers}
        reply = Reply(answer.status_code, answer.content, kept)
        if kept.get("Content-Type") != NPY or next(turns) != 20:
            return reply
        return replaced or Reply(200, npy(_one_logit_off(answer.content)), kept)

    with scripted(forward) as server:
        yield server.url


def _one_logit_off(body: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.load(BytesIO(body))
    logits[0, 3] += 1e-3
    return logits


def through(served: Workspace, url: str) -> tuple[str, ...]:
    return (*FEW, "--url", url, "--management-url", served.management_url)


def test_random_inputs_in_random_company_raise_no_alarm(served: Workspace) -> None:
    done = served.run("benchmarks.false_alarms", "digits", "--inputs", "600", "--seed", "7", *served.urls)
    assert "digits: 600 of 600 random inputs, seed 7" in done.stdout
    for runtime in RUNTIMES:
        for hop in ("runtime", "http"):
            row = re.search(rf"digits-{runtime} +{hop} +(\S+) +(\S+) +(\S+) +(\S+) +0 +0 *$", done.stdout, re.MULTILINE)
            assert row, done.stdout
            requests, answers, accompanied, largest = (float(cell.replace(",", "")) for cell in row.groups())
            assert answers >= 600
            assert largest <= 1e-4
            assert hop == "runtime" or 642 == requests > accompanied > 0


def test_one_wrong_answer_among_many_is_an_alarm(served: Workspace, raw: Raw) -> None:
    with one_other_answer(raw) as url:
        done = served.run(*through(served, url), check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"1 of \d+ differ, worst .*, logit 3: ", done.stdout)


def test_one_failed_answer_is_not_asked_again(served: Workspace, raw: Raw) -> None:
    """A client would: a full queue is worth waiting for."""
    with one_other_answer(raw, failure(503)) as url:
        done = served.run(*through(served, url), check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "The server's own words." in done.stdout


def test_where_nothing_of_the_model_is_served_it_could_not_be_asked(served: Workspace) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = served.run(*FEW, "--url", nowhere, "--management-url", nowhere, check=False)
    assert done.returncode == 2
    assert "Nothing answers at" in done.stderr

"""The false-alarm run against a real server: green when nothing is wrong, and red when one answer of many is."""

import re
from itertools import count
from typing import Any

from tests.served.asking import RUNTIMES, Raw
from tests.served.verifying import Tampering, in_logits, is_npy, proxy
from tests.unit.scripted_server import BAD_TOKEN, Call, Reply, failure
from tests.workspace import Workspace, free_port

FEW = ("benchmarks.false_alarms", "digits", "--inputs", "60", "--http")
ONE, LATE = 20, 100  # of the answers that are logits: one in the middle of the first runtime's, one of a later one's
ALARM = r"digits-\w+, http: 1 of \d+ differ, worst input \d+, .*, logit 3: "


def at(turn: int, fault: Tampering, afterwards: Tampering = lambda _, reply, __: reply) -> Tampering:
    """A fault in one of the answers that are logits, and another in all of those from `LATE` on."""
    turns = count()

    def change(call: Call, reply: Reply, requests: int) -> Reply:
        number = next(turns) if is_npy(reply) else -1
        if number == turn:
            return fault(call, reply, requests)
        return afterwards(call, reply, requests) if number >= LATE else reply

    return change


@in_logits
def one_logit_off(logits: Any) -> Any:
    logits[0, 3] += 1e-3
    return logits


def through(served: Workspace, url: str) -> tuple[str, ...]:
    return (*FEW, "--url", url, "--management-url", served.management_url)


def test_random_inputs_in_random_company_raise_no_alarm(served: Workspace) -> None:
    done = served.run("benchmarks.false_alarms", "digits", "--inputs", "600", "--seed", "7", *served.urls)
    assert "digits: 600 of 600 random inputs, seed 7" in done.stdout
    for runtime in RUNTIMES:
        for hop in ("runtime", "http"):
            row = re.search(rf"digits-{runtime} +{hop} +(\S+) +(\S+) +(\S+) +\S+ +0 +0 *$", done.stdout, re.MULTILINE)
            assert row, done.stdout
            requests, answers, accompanied = (int(cell.replace(",", "")) for cell in row.groups())
            assert answers >= 600
            assert hop == "runtime" or 642 == requests > accompanied > 0


def test_one_wrong_answer_among_many_is_an_alarm(served: Workspace, raw: Raw) -> None:
    with proxy(raw, at(ONE, one_logit_off)) as url:
        done = served.run(*through(served, url), check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(ALARM, done.stdout)


def test_an_alarm_is_told_even_where_the_run_breaks_off(served: Workspace, raw: Raw) -> None:
    with proxy(raw, at(ONE, one_logit_off, afterwards=lambda *_: BAD_TOKEN)) as url:
        done = served.run(*through(served, url), check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "digits: 0 of 60 random inputs, seed 0" in done.stdout
    assert re.search(ALARM, done.stdout)
    assert "Token" in done.stderr


def test_one_failed_answer_is_not_asked_again(served: Workspace, raw: Raw) -> None:
    """A client would: a full queue is worth waiting for."""
    with proxy(raw, at(ONE, lambda *_: failure(503))) as url:
        done = served.run(*through(served, url), check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "The server's own words." in done.stdout


def test_where_nothing_of_the_model_is_served_it_could_not_be_asked(served: Workspace) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = served.run(*FEW, "--url", nowhere, "--management-url", nowhere, check=False)
    assert done.returncode == 2
    assert "Nothing answers at" in done.stderr

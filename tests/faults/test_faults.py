"""Each fault, put into the real chain, is named by `verify` at the hop where it comes in."""

import re

import pytest

from client.verify.verdict import LOOK_AT
from tests.faults.catalogue import Fault, representatives
from tests.faults.scene import Scene
from tests.faults.table import FAULTS

FIRST = representatives()
CASES = [pytest.param(one, id=one.name, marks=() if one in FIRST else pytest.mark.rest) for one in FAULTS]


@pytest.mark.timeout(600)  # a server of its own to start, and thousands of requests
@pytest.mark.parametrize("fault", CASES)
def test_a_fault_is_named_at_the_hop_where_it_comes_in(
    fault: Fault, set_scene: Scene, found: list[tuple[Fault, str]]
) -> None:
    fault.inject(set_scene)
    verified = set_scene.verified(fault.served, fault.hop)
    found.append((fault, verified.first_failing_hop if verified.code == 1 else f"none, exit code {verified.code}"))
    assert verified.code == 1, verified.out + verified.err
    assert verified.first_failing_hop == fault.hop
    assert verified.report
    (model,) = verified.report["models"]
    sentence = next(hop["sentence"] for hop in model["hops"] if not hop["ok"])
    assert re.search(rf"(^|\D){re.escape(fault.says)}", sentence)
    assert model["look_at"].startswith(LOOK_AT[fault.hop].partition("{")[0])
    assert model["look_at"] in verified.out

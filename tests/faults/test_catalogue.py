"""The catalogue as a whole: what it has to hold, and the docs page that is made of it."""

from unittest.mock import Mock

from tests.faults.catalogue import nothing, representatives
from tests.faults.table import FAULTS, FILES, PAGE, page
from tests.replacing import Replacement, replaced
from tests.served.verifying import HOPS
from tests.workspace import ROOT


def test_there_are_fourteen_groups_and_thirty_faults_at_least() -> None:
    assert len({fault.group for fault in FAULTS}) >= 14
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30


def test_every_file_adds_to_it_and_every_hop_is_named_by_some() -> None:
    assert {fault.inject.__module__ for fault in FAULTS} == {file.__name__ for file in FILES}
    assert {fault.hop for fault in FAULTS} == set(HOPS)


def test_each_group_and_each_hop_is_in_make_test() -> None:
    first = representatives()
    assert {fault.group for fault in first} == {fault.group for fault in FAULTS}
    assert {fault.hop for fault in first if fault.missing is nothing} == set(HOPS)
    assert len(first) <= len({fault.group for fault in FAULTS}) + len(HOPS)


def test_every_function_that_a_fault_replaces_is_there() -> None:
    """Told here in a second, and in full by the tests that put the faults in."""
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "inference").rglob("*.py")}

    def found(target: str, replacement: Replacement) -> None:
        assert replaced(files, target, replacement) != files

    scene = Mock(replace=lambda _, *there: found(*there))
    changed = [one for one in FAULTS if one.where.startswith("the archive's code")]
    for one in changed:
        one.inject(scene)
    assert len(changed) > 20


def test_the_docs_page_holds_the_catalogue_as_it_is() -> None:
    assert PAGE.read_text() == page(), "Write it anew: python -m tests.faults.table"


def test_the_readme_says_how_many_there_are() -> None:
    assert f"puts {len(FAULTS)} known faults into" in (ROOT / "README.md").read_text()

"""What the tolerances rest on is what was measured, and a row that allows much more than that does not get through."""

import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.calibration import evidence
from export.calibration.evidence import Evidence, Seen
from inference import parity

ROWS = tomllib.loads(parity.TABLE.read_text())["tolerance"]
HELD = evidence.read_all()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the table to change, with a copy of the evidence beside it."""
    copy = tmp_path / parity.TABLE.name
    shutil.copyfile(parity.TABLE, copy)
    shutil.copytree(evidence.FOLDER, tmp_path / "evidence")
    monkeypatch.setattr(parity, "TABLE", copy)
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "evidence")
    return copy


def change(table: Path, old: str, new: str) -> None:
    """In the first row that has it."""
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


def test_every_row_says_what_its_evidence_says_and_allows_at_most_the_margin() -> None:
    assert evidence.complaints() == []


def test_the_document_says_between_what_margins_the_rows_stand() -> None:
    document = Path(__file__).parents[2] / "docs" / "parity.md"
    margins = [row["atol"] / row["worst"] for row in ROWS]
    said = re.search(r"the rows stand at (\S+) to (\S+) times", document.read_text())
    assert said
    assert said.groups() == (f"{min(margins):.1f}", f"{max(margins):.1f}")


FOR_ALL = [row for row in ROWS if "model" not in row]


@pytest.mark.parametrize("row", FOR_ALL, ids=lambda row: f"{row['runtime']}-{row['device']}")
def test_the_rows_for_all_models_have_their_evidence(row: dict[str, Any]) -> None:
    assert evidence.worst_of(row, HELD) == row["worst"]


@pytest.mark.parametrize("one", HELD, ids=lambda one: f"{one.model}-{one.device}")
def test_evidence_is_of_every_size_and_number_of_threads(one: Evidence) -> None:
    assert one.path.name == f"{one.model}-{one.device}.json"
    assert (one.batch_sizes, one.threads) == ((1, 2, 3, 7, 32), (1, 2) if one.device == "cpu" else (1,))
    assert {seen.runtime for seen in one.seen} >= {"eager", "torchscript", "onnx", "aoti"}
    for seen in one.seen:
        assert seen.compared == one.seeds * one.inputs * len(seen.worst) * len(one.batch_sizes) * len(one.threads)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("atol = 1e-5", "atol = 1e-4", "eager in float32 on cpu about all models: atol is 0.0001, more than 10 times"),
        ("rtol = 1e-5", "rtol = 1e-3", "eager in float32 on cpu about all models: rtol is 0.001, more than 10 times"),
        ("atol = 3\n", "atol = 30\n", "onnx_int8 in int8 on cpu about photos: atol is 30, more than 10 times"),
        ("atol = 0.45", "atol = 4.5", "torchscript_bf16 in bfloat16 on cuda about photos: atol is 4.5, more than"),
        ("atol = 0.16", "atol = 1.6", "nvjpeg about photos: atol is 1.6, more than 10 times the worst seen, 0.039."),
        ("pixels = 28", "pixels = 128", "nvjpeg about photos: pixels is 128, more than 10 times the worst seen, 9."),
        (
            "enlarged = 72",
            "enlarged = 720",
            "nvjpeg about photos: enlarged is 720, more than 10 times the worst seen, 36",
        ),
    ],
)
def test_a_row_that_allows_too_much_is_complained_of(table: Path, old: str, new: str, complaint: str) -> None:
    change(table, old, new)
    (found,) = evidence.complaints()
    assert found.startswith(complaint)


def test_a_worst_that_nobody_measured_does_not_excuse_a_loose_limit(table: Path) -> None:
    (row,) = [row for row in ROWS if (row["runtime"], row["device"], row.get("model")) == ("eager", "cpu", None)]
    lines = table.read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.startswith("worst = "))
    lines[first] = "worst = 1e-3\n"
    table.write_text("".join(lines))
    change(table, "atol = 1e-5", "atol = 1e-2")
    (found,) = evidence.complaints()
    assert found == (
        f"eager in float32 on cpu about all models: worst is 0.001, and the evidence says {row['worst']:g}."
    )


def again(change: Callable[[Seen], Seen]) -> Evidence:
    """Digits' evidence of the CPU, changed in what was seen of each runtime."""
    (one,) = [one for one in HELD if (one.model, one.device) == ("digits", "cpu")]
    return one.model_copy(update={"seen": tuple(map(change, one.seen))})


def test_what_is_measured_anew_changes_the_worst_of_its_rows_and_nothing_else(table: Path) -> None:
    before = table.read_text()
    again(lambda seen: seen.model_copy(update={"worst": {"noise": 0.03125, "flat": 0.001}})).write()
    evidence.write_worst(evidence.read_all())
    after = table.read_text()
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 4  # the runtimes of digits on the CPU
    assert all(old.startswith("worst = ") and new == "worst = 0.032" for old, new in changed)


def test_written_again_the_table_stays_as_it_is_to_the_byte(table: Path) -> None:
    before = table.read_bytes()
    evidence.write_worst(evidence.read_all())
    assert table.read_bytes() == before


def test_a_row_for_all_models_has_the_worst_of_all_that_have_none_of_their_own(table: Path) -> None:
    """There is no other such model yet, so one is made of digits'."""
    larger = again(lambda seen: seen.model_copy(update={"worst": {"noise": 9e-6}}))
    larger.model_copy(update={"model": "sounds"}).write()
    evidence.write_worst(evidence.read_all())
    assert {row["worst"] for row in tomllib.loads(table.read_text())["tolerance"] if "model" not in row} >= {9e-6}
    assert parity.tolerance("photos", "onnx", "float32", "cpu").worst != 9e-6


@given(st.floats(1e-12, 1e6))
def test_what_is_rounded_up_covers_what_was_seen_by_less_than_a_tenth_more(worst: float) -> None:
    rounded = evidence.rounded_up(worst)
    assert worst <= rounded <= 1.1 * worst
    assert float(f"{rounded:.1e}") == rounded


def test_nothing_rounds_to_nothing() -> None:
    assert evidence.rounded_up(0.0) == 0.0

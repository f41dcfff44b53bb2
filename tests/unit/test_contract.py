"""The contract is one frozen value that survives JSON unchanged and refuses what makes no sense."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inference.contract import Contract
from inference.inputs.image import ImageInput
from inference.outputs.classes import ClassesOutput
from tests.contracts import classifier

DIGITS = classifier("digits", ImageInput(height=28, width=28, channels=1), "0123456789", (0.1307,), (0.3081,))

sides = st.integers(1, 4096)


@st.composite
def image_inputs(draw: st.DrawFn, channels: Literal[1, 3]) -> ImageInput:
    height, width, crop, fractions = draw(sides), draw(sides), draw(st.booleans()), st.floats(0, 1)
    return ImageInput(
        height=height,
        width=width,
        channels=channels,
        mean=tuple(draw(fractions) for _ in range(channels)),
        std=tuple(draw(st.floats(0, 1, exclude_min=True)) for _ in range(channels)),
        fit="crop" if crop else "pad",
        short_side=max(height, width) + draw(sides) if crop else None,
        max_pixels=draw(sides),
    )


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    channels: Literal[1, 3] = draw(st.sampled_from([1, 3]))
    labels = tuple(draw(st.lists(st.text(), min_size=2, max_size=20, unique=True)))
    return Contract(
        model=draw(st.from_regex(r"\A[a-z][a-z0-9_]{0,20}\Z")),
        inputs=(draw(image_inputs(channels)),),
        outputs=(ClassesOutput(labels=labels),),
        max_batch=draw(sides),
    )


def changed(**fields: Any) -> Contract:
    """The digits contract with some fields replaced, validated anew; `input__height` reaches into the input."""
    whole = DIGITS.model_dump()
    places = {"input": whole["inputs"][0], "output": whole["outputs"][0]}
    for name, value in fields.items():
        *path, last = name.split("__")
        (places[path[0]] if path else whole)[last] = value
    return Contract.model_validate(whole)


@given(contracts())
def test_json_gives_back_the_same_contract_and_the_same_bytes(contract: Contract) -> None:
    again = Contract.model_validate_json(contract.to_json())
    assert again == contract
    assert again.to_json() == contract.to_json()
    assert again.digest == contract.digest


def test_a_contract_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    path.write_text(DIGITS.to_json())
    assert Contract.read(path) == DIGITS


def test_a_contract_and_its_input_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DIGITS.model = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        DIGITS.input.height = 1  # type: ignore[attr-defined]


def test_the_digest_names_the_contract() -> None:
    assert len(DIGITS.digest) == 64
    assert DIGITS.digest == changed().digest


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"arch": "resnet18"},
        {"input__height": 32},
        {"input__width": 32},
        {"input__channels": 3, "input__mean": (0.1, 0.1, 0.1), "input__std": (0.3, 0.3, 0.3)},
        {"input__fit": "crop", "input__short_side": 32},
        {"input__min_side": 9},
        {"input__max_pixels": 1000},
        {"input__mean": (0.1308,)},
        {"input__std": (0.3082,)},
        {"output__labels": tuple("0123456798")},
        {"max_batch": 64},
    ],
    ids=str,
)
def test_the_digest_changes_with_every_field(fields: dict[str, Any]) -> None:
    assert changed(**fields).digest != DIGITS.digest


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"speed": 1}, "Extra inputs are not permitted"),
        ({"input__depth": 1}, "Extra inputs are not permitted"),
        ({"input__mean": (float("nan"),)}, "finite number"),
        ({"input__std": (float("inf"),)}, "finite number"),
        ({"input__std": (0.0,)}, "greater than 0"),
        ({"input__mean": (1.5,)}, "less than or equal to 1"),
        ({"input__mean": (0.1, 0.2)}, "mean and std need one value for each of the 1 channels"),
        ({"input__channels": 3}, "mean and std need one value for each of the 3 channels"),
        ({"input__channels": 2}, "1 or 3"),
        ({"input__height": 0}, "greater than 0"),
        ({"input__fit": "crop"}, "short_side belongs to the fit crop"),
        ({"input__short_side": 32}, "short_side belongs to the fit crop"),
        ({"input__fit": "crop", "input__short_side": 27}, "short_side must be at least height and width"),
        ({"output__labels": ("a", "b", "a")}, "labels must be distinct"),
        ({"output__labels": ("a",)}, "at least 2 items"),
        ({"input__kind": "smell"}, "There is no kind of input 'smell'. Choose one of: image."),
        ({"output__kind": "mood"}, "There is no kind of output 'mood'. Choose one of: classes."),
        ({"model": "Big Model"}, "should match pattern"),
        ({"model": "../up"}, "should match pattern"),
        ({"max_batch": 0}, "greater than 0"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        changed(**fields)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": "digits"}', DIGITS.to_json()[:-3]])
def test_a_damaged_file_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Contract.model_validate_json(text)


def test_nan_in_the_file_is_refused() -> None:
    whole = json.loads(DIGITS.to_json())
    whole["inputs"][0]["mean"] = [float("nan")]
    with pytest.raises(ValidationError, match="finite number"):
        Contract.model_validate_json(json.dumps(whole))


def test_a_contract_of_the_first_edition_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    path.write_text(
        '{"model": "digits", "input": {"kind": "image"}, "mean": [0.1], "std": [0.3], "labels": ["0", "1"]}'
    )
    with pytest.raises(ValueError, match=r"contract\.json holds no contract of this edition .* Train and export again"):
        Contract.read(path)

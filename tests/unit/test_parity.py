"""What counts as the same answer, and what is said of one that isn't."""

import math
import tomllib
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from inference import parity
from inference.goldens import Goldens
from inference.inputs import CPU
from inference.inputs.image import ImageInput, Pixels
from inference.outputs import Flip, Outputs
from inference.parity import Comparison, Tolerance
from inference.runtime import float32_names, runtime_names
from tests.contracts import classifier

CONTRACT = classifier("letters", ImageInput(height=2, width=2, channels=1), ("x", "y", "z"))
EXACT = Tolerance(0, 0, 0, "a test")
EAGER = [[0.0, 4.0, 1.0], [2.0, -8.0, 1.5], [3.0, 0.0, 5.0]]
MEASURED = tomllib.loads(parity.TABLE.read_text())["tolerance"]

finite = arrays.arrays(np.float32, (3, 3), elements=st.floats(-100, 100, width=32))


def goldens(logits: Any = EAGER, oracle: Any = None) -> Goldens:
    answers = np.array(logits, np.float32)
    names = tuple("abcdefgh"[: len(answers)])
    return Goldens(
        weights="w",
        contract=CONTRACT,
        names=names,
        requests=tuple(name.encode() for name in names),
        inputs=np.arange(4 * len(answers), dtype=np.uint8).reshape(-1, 2, 2, 1),
        outputs=answers,
        oracle=np.array(answers if oracle is None else oracle, np.float64),
    )


def changed(row: int, column: int, value: float) -> Outputs:
    logits = np.array(EAGER, np.float32)
    logits[row, column] = value
    return logits


@given(finite)
def test_an_answer_is_the_same_as_itself_with_no_tolerance_at_all(logits: Outputs) -> None:
    found = parity.compare(logits, goldens(logits), EXACT)
    assert (found.ok, found.max_abs, found.flips, found.sentence) == (True, 0, (), "")


@given(st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_nan_equals_nothing_not_even_nan(row: int, column: int, eager_too: bool) -> None:
    answered = changed(row, column, math.nan)
    reference = goldens(answered if eager_too else EAGER)
    found = parity.compare(answered, reference, Tolerance(1e9, 1e9, 0, "a test"))
    assert not found.ok
    assert found.max_abs is None
    assert found.sentence.startswith(f"1 of 3 differ, worst {'abc'[row]}, logit {column}: nan, eager")


@given(st.sampled_from([math.inf, -math.inf]))
def test_an_infinite_answer_is_wrong(value: float) -> None:
    found = parity.compare(changed(1, 2, value), goldens(), Tolerance(1e9, 1e9, 0, "a test"))
    assert (found.ok, found.max_abs, found.error_ratio) == (False, None, None)


@pytest.mark.parametrize(
    ("answered", "sentence"),
    [
        (np.array(EAGER, np.float64), "It is float64 [3, 3]; eager gives float32 [3, 3]."),
        (np.array(EAGER, np.float16), "It is float16 [3, 3]; eager gives float32 [3, 3]."),
        (np.array(EAGER, np.float32)[:2], "It is float32 [2, 3]; eager gives float32 [3, 3]."),
        (np.array(EAGER, np.float32)[:, :1], "It is float32 [3, 1]; eager gives float32 [3, 3]."),
        (np.array(EAGER, np.float32)[None], "It is float32 [1, 3, 3]; eager gives float32 [3, 3]."),
    ],
)
def test_another_shape_or_dtype_is_different_even_where_the_values_are_equal(answered: Any, sentence: str) -> None:
    found = parity.compare(answered, goldens(), Tolerance(1e9, 1e9, 0, "a test"))
    assert (found.ok, found.max_abs, found.compared, found.sentence) == (False, None, 3, sentence)


@pytest.mark.parametrize(
    ("limit", "inside", "outside"),
    [
        (Tolerance(0.5, 0, 0, ""), -8.5, -8.75),  # powers of two, so that float32 holds each of them exactly
        (Tolerance(0, 0.125, 0, ""), -9.0, -9.25),
        (Tolerance(0.5, 0.125, 0, ""), -9.5, -9.75),
        (Tolerance(0.5, 0.125, 0, ""), -6.5, -6.25),
    ],
)
def test_the_limit_is_atol_and_rtol_times_eager_and_belongs_to_the_same(
    limit: Tolerance, inside: float, outside: float
) -> None:
    assert parity.compare(changed(1, 1, inside), goldens(), limit).ok
    found = parity.compare(changed(1, 1, outside), goldens(), limit)
    assert not found.ok
    assert found.max_abs == abs(outside + 8)
    assert (found.atol, found.rtol) == (limit.atol, limit.rtol)


@given(finite, finite, st.floats(0, 10), st.floats(0, 1))
def test_the_verdict_is_the_formula_of_the_design(a: Outputs, b: Outputs, atol: float, rtol: float) -> None:
    found = parity.compare(a, goldens(b), Tolerance(atol, rtol, 0, "a test"))
    pairs = [(float(x), float(y)) for x, y in zip(a.flat, b.flat, strict=True)]
    assert found.max_abs == max(abs(x - y) for x, y in pairs)
    margins = [atol + rtol * abs(y) - abs(x - y) for x, y in pairs]
    if min(map(abs, margins)) > 1e-4:  # rtol · |b| is rounded to float32
        assert found.ok == (min(margins) > 0)
    assert found.ok == (found.sentence == "")


def test_the_sentence_counts_the_inputs_that_differ_and_names_the_worst() -> None:
    answered = changed(0, 0, 0.25)
    answered[2] += [0.5, 0.5, 2]
    found = parity.compare(answered, goldens(), Tolerance(0.1, 0, 0, ""))
    assert found.sentence == "2 of 3 differ, worst c, logit 2: 7, eager 5."


def test_the_worst_is_looked_for_among_those_over_their_limit() -> None:
    answered = changed(0, 0, 0.25)
    answered[1, 1] = -8.5  # farther off, and allowed to be
    found = parity.compare(answered, goldens(), Tolerance(0, 0.125, 0, ""))
    assert found.sentence == "1 of 3 differ, worst a, logit 0: 0.25, eager 0."
    assert found.max_abs == 0.5


def test_an_input_decided_otherwise_is_reported_with_how_sure_eager_was_even_within_tolerance() -> None:
    found = parity.compare(changed(1, 2, 2.25), goldens(), Tolerance(1, 0, 0, ""))
    assert found.ok
    assert found.flips == (Flip(golden="b", eager=0, answered=2, margin=0.5),)


def test_the_error_ratio_is_the_largest_error_against_float64_over_eagers_own() -> None:
    oracle = np.array(EAGER)
    oracle[0, 0] += 0.125
    assert parity.compare(np.array(EAGER, np.float32), goldens(oracle=oracle), EXACT).error_ratio == 1
    assert parity.compare(changed(2, 1, 0.5), goldens(oracle=oracle), EXACT).error_ratio == 4


def test_there_is_no_error_ratio_where_eager_makes_no_error() -> None:
    assert parity.compare(changed(2, 1, 0.5), goldens(), EXACT).error_ratio is None


def test_pixels_are_the_same_only_bit_by_bit() -> None:
    reference = goldens()
    assert parity.compare_inputs(reference.inputs.copy(), reference, [CPU] * 3).ok
    other = reference.inputs.copy()
    other[1, 0, 0, 0] = 255
    other[2, 1, 1, 0] += 1
    found = parity.compare_inputs(other, reference, [CPU] * 3)
    assert (found.ok, found.max_abs, found.compared) == (False, 251, 3)
    assert found.sentence == "2 inputs decode to other pixels, first b."


def test_pixels_of_another_shape_are_different() -> None:
    found = parity.compare_inputs(goldens().inputs[..., 0], goldens(), [CPU] * 3)
    assert not found.ok
    assert found.sentence == "It is uint8 [3, 2, 2]; eager gives uint8 [3, 2, 2, 1]."


@given(st.integers(1, 40), st.integers(0, 200))
def test_batches_cover_every_row_once_and_in_order(size: int, total: int) -> None:
    parts = [list(range(total)[part]) for part in parity.batches(size, total)]
    assert [row for part in parts for row in part] == list(range(total))
    assert all(len(part) == size for part in parts[:-1])
    assert all(part for part in parts)


@pytest.mark.parametrize(
    ("max_batch", "sizes"), [(32, [1, 2, 3, 7, 32]), (7, [1, 2, 3, 7]), (5, [1, 2, 3, 5]), (2, [1, 2]), (1, [1])]
)
def test_artifacts_are_compared_at_1_2_3_7_and_the_maximum_and_never_above_it(max_batch: int, sizes: list[int]) -> None:
    assert parity.batch_sizes(max_batch) == sizes


@given(st.integers(1, 5))
def test_goldens_are_run_in_batches_and_answered_in_order(size: int) -> None:
    seen = []

    def run(batch: Pixels) -> Outputs:
        seen.append(len(batch))
        logits: Outputs = batch[:, :, 0, 0].astype(np.float32)
        return logits

    reference = goldens()
    found = parity.run_goldens(run, reference, size)
    assert (found == reference.inputs[:, :, 0, 0]).all()
    assert sum(seen) == 3
    assert max(seen) == min(size, 3)


GREEN = Comparison(True, 3, 0.25, 1.0, (), 1, 0)
FLIP = Flip("a", 1, 2, 0.1)


def test_the_worst_of_several_is_red_when_one_is_and_keeps_its_words() -> None:
    red = replace(GREEN, ok=False, max_abs=2.0, error_ratio=None, flips=(FLIP,), sentence="a differs")
    found = parity.worst_of([GREEN, red, replace(GREEN, max_abs=0.5, error_ratio=7.0, flips=(FLIP,))])
    assert (found.ok, found.sentence) == (False, "a differs")
    assert (found.compared, found.max_abs, found.error_ratio) == (9, 2.0, 7.0)
    assert found.flips == (FLIP,)


def test_the_worst_of_green_ones_is_green_with_the_largest_figures() -> None:
    found = parity.worst_of([GREEN, replace(GREEN, max_abs=0.75, error_ratio=0.5)])
    assert (found.ok, found.sentence, found.max_abs, found.error_ratio) == (True, "", 0.75, 1.0)


def test_figures_that_none_has_stay_unknown() -> None:
    incomparable = replace(GREEN, ok=False, max_abs=None, error_ratio=None)
    found = parity.worst_of([incomparable, incomparable])
    assert (found.max_abs, found.error_ratio) == (None, None)


@pytest.mark.parametrize(
    "row",
    [
        ("digits", "tensorrt", "float32", "cpu"),
        ("digits", "onnx", "bfloat16", "cpu"),
        ("digits", "onnx", "float32", "quantum:0"),
        ("digits", "onnx_int8", "int8", "cpu"),
    ],
)
def test_a_row_that_was_never_measured_is_an_error(row: tuple[str, str, str, str]) -> None:
    with pytest.raises(ValueError, match=r"tolerances\.toml has no row for .* about digits\. Measure one and add it\."):
        parity.tolerance(*row)


@pytest.mark.parametrize("name", float32_names())
def test_every_runtime_has_its_own_row(name: str) -> None:
    row = next(row for row in MEASURED if (row["runtime"], row["device"], row.get("model")) == (name, "cpu", None))
    assert parity.tolerance("digits", name, "float32", "cpu").reason == row["reason"]


def own_row(**change: object) -> dict[str, object]:
    row = {
        "runtime": "onnx",
        "precision": "float32",
        "device": "cpu",
        "atol": 1,
        "rtol": 0,
        "worst": 0,
        "reason": "all",
    }
    return {**row, **change}


def test_a_row_of_the_models_own_goes_before_the_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [own_row(), own_row(model="photos", reason="own"), own_row(model="cats", reason="another's")]
    monkeypatch.setattr(tomllib, "loads", lambda _: {"tolerance": rows})
    found = [parity.tolerance(model, "onnx", "float32", "cpu").reason for model in ("photos", "digits")]
    assert found == ["own", "all"]


def test_a_row_of_another_models_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tomllib, "loads", lambda _: {"tolerance": [own_row(model="photos")]})
    assert parity.unmeasured("photos", "onnx", "cpu") is None
    assert "no row for onnx on cpu that is about digits" in str(parity.unmeasured("digits", "onnx", "cpu"))
    with pytest.raises(ValueError, match="about digits"):
        parity.tolerance("digits", "onnx", "float32", "cpu")


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    return row.get("model", "all"), row["runtime"], row["precision"], row["device"]


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: "-".join(key_of(row)))
def test_every_row_covers_the_worst_seen_with_a_reason(row: dict[str, Any]) -> None:
    assert 0 <= row["worst"] <= row["atol"]
    assert len(row["reason"].split()) >= 4
    own = {"model"} & row.keys()
    if row["precision"] != "float32":
        own = {"model", "accuracy_drop"}
        assert row["accuracy_drop"] == 0.005
    assert row.keys() == {"runtime", "precision", "device", "atol", "rtol", "worst", "reason"} | own


def test_no_two_rows_are_about_the_same() -> None:
    keys = [key_of(row) for row in MEASURED]
    assert len(set(keys)) == len(keys)


def test_a_runtime_that_was_not_measured_on_a_device_cannot_be_verified_there() -> None:
    assert parity.unmeasured("digits", "aoti", "cpu") is None
    assert parity.unmeasured("digits", "onnx", "cuda") is None
    assert parity.unmeasured("digits", "aoti", "xpu") == (
        "tolerances.toml has no row for aoti on xpu that is about digits, so that it can't be verified. "
        "Measure one and add it."
    )


def test_only_what_computes_as_training_did_is_exported_unasked() -> None:
    assert float32_names() == ["eager", "aoti", "onnx", "torchscript"]
    assert set(runtime_names()) - set(float32_names()) == {"aoti_bf16", "onnx_int8", "torchscript_bf16"}


def test_each_answer_has_the_slack_of_what_decoded_its_input() -> None:
    answered = changed(1, 2, 1.75)
    assert parity.compare(answered, goldens(), EXACT, np.array([0, 0.25, 0])).ok
    found = parity.compare(answered, goldens(), EXACT, np.array([0.25, 0, 0.25]))
    assert (found.ok, found.atol) == (False, 0.25)
    assert found.sentence.startswith("1 of 3 differ, worst b")


def test_only_what_another_decoder_gave_may_be_some_steps_off(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"model": "letters", "decoder": f"off by {steps}", "pixels": steps} for steps in (1, 2)]
    monkeypatch.setattr(tomllib, "loads", lambda _: {"decoding": rows})
    reference = goldens()
    other = reference.inputs.copy()
    other[1, 0, 0] += 2
    assert parity.compare_inputs(other, reference, [CPU, "off by 2", CPU]).ok
    assert not parity.compare_inputs(other, reference, [CPU, "off by 1", CPU]).ok
    assert not parity.compare_inputs(other, reference, ["off by 2", CPU, "off by 2"]).ok


def test_a_picture_that_is_scaled_up_has_a_limit_of_its_own() -> None:
    def picture(width: int, height: int) -> bytes:
        stream = BytesIO()
        Image.new("RGB", (width, height)).save(stream, "PNG")
        return stream.getvalue()

    requests, spec = (picture(8, 4), picture(3, 8), picture(3, 3)), ImageInput(height=4, width=4, channels=3)
    row, cpu = parity.decoding("photos", "nvjpeg"), parity.decoding("photos", "cpu")
    assert spec.allowed_steps(requests, [row, row, cpu]) == [row["pixels"], row["enlarged"], 0]


def test_a_decoder_has_a_row_for_each_model_that_it_was_measured_on() -> None:
    assert parity.decoding("digits", "cpu") == {"atol": 0}
    assert parity.slack("photos", ["cpu", "nvjpeg"]).tolist() == [0, parity.decoding("photos", "nvjpeg")["atol"]]
    with pytest.raises(ValueError, match="no row for decoding by nvjpeg that is about digits"):
        parity.slack("digits", ["nvjpeg"])


@pytest.mark.parametrize("row", tomllib.loads(parity.TABLE.read_text())["decoding"])
def test_every_row_of_a_decoder_covers_the_worst_seen_with_a_reason(row: dict[str, Any]) -> None:
    assert 0 <= row["worst_pixels"] <= row["pixels"] <= min(31, 4 * row["worst_pixels"])
    assert row["pixels"] <= row["worst_enlarged"] <= row["enlarged"] <= min(127, 4 * row["worst_enlarged"])
    assert 0 <= row["worst"] <= row["atol"]
    assert len(row["reason"].split()) >= 4
    assert row.keys() == {
        *("model", "decoder", "pixels", "worst_pixels", "enlarged", "worst_enlarged", "atol", "worst", "reason")
    }

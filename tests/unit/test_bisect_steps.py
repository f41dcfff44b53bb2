"""Which steps of two graphs are the same, and how far a layer may be off."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from export.diagnose.layers import Layers, compare_layers, same_steps
from export.diagnose.walks import Step, Walk, kind, walk_onnx
from inference.goldens import Goldens
from inference.inputs.image import ImageInput, Pixels
from inference.parity import Tolerance
from tests.contracts import classifier

Shape = tuple[int, ...]


def steps(*names: str, shape: Shape = (2, 3)) -> list[Step]:
    """A name that ends in "!" is a step with a constant."""
    return [Step(name.rstrip("!"), np.zeros(shape, np.float32), name.endswith("!")) for name in names]


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("_convolution", "conv2d", "Conv"), "convolution"),
        (("linear", "addmm", "Gemm", "MatMul"), "linear"),
        (("relu", "relu_", "Relu"), "relu"),
        (("batch_norm", "BatchNormalization"), "normalisation"),
        (("_to_copy", "to_copy_"), "to_copy"),
    ],
)
def test_an_operation_has_one_name_wherever_it_comes_from(names: tuple[str, ...], word: str) -> None:
    assert {kind(name) for name in names} == {word}


@given(st.lists(st.sampled_from("abc"), max_size=12), st.data())
def test_a_graph_that_lacks_some_steps_is_paired_as_far_as_it_goes(names: list[str], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    fewer = [name for name, keep in zip(names, kept, strict=True) if keep]
    pairs = same_steps(steps(*names), steps(*fewer))
    assert [j for _, j in pairs] == [*range(len(fewer))]
    assert [names[i] for i, _ in pairs] == fewer
    assert pairs == sorted(pairs)


def test_repeated_blocks_are_not_shifted_where_one_of_them_lacks_a_step() -> None:
    block = ["convolution!", "relu", "dropout"]
    fewer = block + ["convolution!", "relu"] + block * 4
    paired = [i for i, _ in same_steps(steps(*block * 6), steps(*fewer))]
    assert paired == [i for i in range(18) if i != 5]


def test_branches_in_another_order_are_not_taken_for_each_other() -> None:
    names = ("main", "shortcut", "sum")
    eager = [replace(step, layer=name) for step, name in zip(steps("linear!", "linear!", "add"), names, strict=True)]
    other = [eager[1], eager[0], eager[2]]
    pairs = same_steps(eager, other)
    assert (2, 2) in pairs
    assert len(pairs) == 2
    assert all(eager[i].layer == other[j].layer for i, j in pairs)


def test_steps_of_another_shape_are_no_pair() -> None:
    assert same_steps(steps("relu"), steps("relu", shape=(2, 4))) == []


@pytest.mark.parametrize("second", ["normalisation!", "add!"])
def test_what_was_folded_into_a_step_is_compared_with_it(second: str) -> None:
    first = "convolution!" if second == "normalisation!" else "linear!"
    eager, folded = steps(first, second, "relu"), steps(first, "relu")
    assert same_steps(eager, folded) == [(1, 0), (2, 1)]
    assert same_steps(eager, eager) == [(0, 0), (1, 1), (2, 2)]
    assert same_steps(folded, eager) == [(0, 1), (1, 2)]


def test_a_sum_of_two_results_is_folded_into_nothing() -> None:
    assert same_steps(steps("linear!", "add", "relu"), steps("linear!", "relu")) == [(0, 0), (2, 1)]


GOLDENS = Goldens(
    weights="w",
    contract=classifier("dots", ImageInput(height=1, width=1, channels=1), ("x", "y")),
    names=tuple("abcdef"),
    requests=(b"",) * 6,
    inputs=np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1),
    outputs=np.array([[2.0 + 1e-6] * 2] * 6, np.float32),
    oracle=np.full((6, 2), 2.0),
)
ROW = Tolerance(1e-5, 0, 0, "a test")
ULP = 2**-23


def constant(value: float, odd: float | None = None) -> Walk:
    """Six inputs → 2 but for the fifth's, which is `odd`, with `value` added."""

    def walk(pixels: Pixels) -> list[Step]:
        found = np.full((len(pixels), 2), 2.0 + value)
        if odd is not None:
            found[pixels[:, 0, 0, 0] == 4, 1] = odd
        return [Step("linear", found, True, "fc")]

    return walk


def compared(eager: Walk, artifact: Walk) -> Layers:
    return compare_layers(eager, constant(0), artifact, GOLDENS, ROW)


def test_a_layer_may_be_off_as_many_of_eagers_errors_as_the_row_grants_the_logits() -> None:
    """Of the logits' error, 1e-6, the row's 1e-5 are ten."""
    off = 3e-4
    assert compared(constant(off), constant(off + 9 * off)).first is None
    assert compared(constant(off), constant(off + 11 * off)).first == 0


def test_a_layer_that_eager_computes_exactly_may_be_off_some_units_in_the_last_place() -> None:
    assert compared(constant(0), constant(9 * ULP * 2)).first is None
    assert compared(constant(0), constant(11 * ULP * 2)).first == 0


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 3.0])
def test_the_worst_place_is_found_in_a_later_batch(odd: float) -> None:
    [layer] = compared(constant(0), constant(0, odd)).layers
    assert (layer.golden, layer.place, layer.shape) == (4, (1,), (6, 2))
    assert (layer.here, str(layer.there)) == (2.0, str(odd))


def test_a_graph_with_nothing_in_common_is_refused() -> None:
    with pytest.raises(ValueError, match="no step in common"):
        compared(constant(0), lambda _: steps("softmax"))


@pytest.mark.parametrize(("odd", "first"), [(-math.inf, None), (math.nan, 0)])
def test_infinity_is_the_same_as_itself_and_nan_is_not(odd: float, first: int | None) -> None:
    """Even where the oracle has it too."""
    walk = constant(0, odd)
    assert compare_layers(walk, walk, walk, GOLDENS, ROW).first == first


def test_infinity_is_not_the_same_as_a_number_where_eager_has_overflowed_and_float64_has_not() -> None:
    eager = constant(0, math.inf)
    assert compared(eager, eager).first is None
    assert compared(eager, constant(0, 2.0)).first == 0


def all_of(value: float) -> Walk:
    """Of one step, six times two numbers."""
    return lambda pixels: [Step("relu", np.full((len(pixels), 2), value), False, "act")]


def test_a_layer_that_is_all_zeros_is_the_same_as_itself_and_not_as_another() -> None:
    zeros = all_of(0.0)
    [layer] = compare_layers(zeros, zeros, zeros, GOLDENS, ROW).layers
    assert (layer.excess, layer.differs) == (0, False)
    assert compare_layers(zeros, zeros, all_of(1e-6), GOLDENS, ROW).first == 0


@pytest.mark.parametrize("theirs", [0.0, 1e-6])
def test_a_limit_of_nothing_is_kept_by_no_difference_alone(theirs: float) -> None:
    exact = Tolerance(0, 0, 0, "a test")
    [layer] = compare_layers(all_of(0.0), all_of(0.0), all_of(theirs), GOLDENS, exact).layers
    assert layer.excess == (math.inf if theirs else 0)
    assert layer.differs == bool(theirs)


def test_logits_that_are_all_zeros_grant_the_layers_something_all_the_same() -> None:
    dead = replace(GOLDENS, outputs=np.zeros((6, 2), np.float32), oracle=np.zeros((6, 2)))
    assert compare_layers(constant(0), constant(0), constant(9 * ULP), dead, ROW).first is None


@pytest.mark.parametrize(
    ("scopes", "layer"),
    [(None, "bias"), ("[]", "bias"), ("['add']", "bias"), ("['', 'add']", "bias"), ("['', 'head', 'add']", "head")],
)
def test_a_node_is_called_by_its_module_or_else_by_its_constant(tmp_path: Path, scopes: str | None, layer: str) -> None:
    """The exporter notes the modules from the outermost inwards, then the operation."""
    add = helper.make_node("Add", ["floats", "bias"], ["logits"])
    if scopes is not None:
        add.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT), add],
        "one step",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 1])],
        [helper.make_tensor("bias", TensorProto.FLOAT, [1], [0.5])],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "model.onnx")
    [step] = walk_onnx(tmp_path / "model.onnx", "cpu", 1)(np.zeros((2, 1), np.uint8))
    assert (step.operation, step.layer) == ("add", layer)

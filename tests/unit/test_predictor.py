"""The predictor, with no server and with a model so small that its answers can be told by hand."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from inference import runtime, weights
from inference.base import BadInput, OutOfMemory, out_of_memory
from inference.bundle import Bundle
from inference.contract import Contract
from inference.goldens import Goldens
from inference.inputs import CPU, Decoded
from inference.inputs.image import ImageInput, Pixels
from inference.messages import Answer, Request
from inference.outputs import Outputs
from inference.predictor import Predictor
from inference.protocol import ATTESTED, JSON, NPY, RETRY_AFTER
from inference.runtime import CannotRun, Loaded, joined
from inference.runtimes import onnx as onnx_runtime
from inference.torch_graph import check_outputs, recorded_sizes, runner
from models import digits
from tests.contracts import classifier

SPEC = ImageInput(height=8, width=8, channels=1)
LABELS = ("a", "b", "c", "d", "e", "f", "ü")
CONTRACT = classifier("letters", SPEC, LABELS, (0.5,), (0.5,), max_batch=4)
ATTESTATION = {field: f"the {field}" for field in ATTESTED if field != "batch_size"} | {
    "runtime": "eager",
    "decoder": CPU,
}
DECODER = CONTRACT.input.decoder(CPU, "cpu")


class First7:
    """A graph whose logits are an image's first seven pixels. `sizes` are the batches that it was given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, batch: Pixels) -> Outputs:
        self.sizes.append(len(batch))
        return batch.reshape(len(batch), -1)[:, :7].astype(np.float32)


@pytest.fixture
def graph() -> First7:
    return First7()


@pytest.fixture
def predictor(graph: First7) -> Predictor:
    return predicting(graph)


def predicting(run: Any) -> Predictor:
    return Predictor(Loaded(run, CONTRACT, "w" * 64, "a test", "cpu"), ATTESTATION, DECODER)


def always(row: Any) -> Predictor:
    """A predictor that answers `row` whatever it is asked."""
    return predicting(lambda batch: np.tile(np.array(row, np.float32), (len(batch), 1)))


def pixels(*first: int) -> Pixels:
    """uint8 [8, 8, 1] that begins with `first`."""
    return np.array([*first, *[0] * (64 - len(first))], np.uint8).reshape(8, 8, 1)


def png(*first: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels(*first).squeeze(-1)).save(stream, "PNG")
    return stream.getvalue()


def npy(array: Any) -> bytes:
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def strict(answer: Answer) -> Any:
    """The JSON of an answer, which must be JSON to the letter: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert answer.content_type == JSON
    return json.loads(answer.body, parse_constant=refuse)


def logits(answer: Answer) -> Outputs:
    assert (answer.status, answer.content_type) == (200, NPY)
    found: Outputs = np.load(BytesIO(answer.body), allow_pickle=False)
    return found


def test_an_image_is_answered_with_its_best_label_and_the_five_best(predictor: Predictor) -> None:
    [answer] = predictor.answer([Request(png(1, 2, 9, 3, 0, 0, 4))])
    found = strict(answer)
    assert answer.status == 200
    assert found.keys() == {"label", "score", "top"}
    assert [entry["label"] for entry in found["top"]] == ["c", "ü", "d", "b", "a"]
    assert {"label": found["label"], "score": found["score"]} == found["top"][0]
    shares = np.exp([9.0, 4, 3, 2, 1]) / np.exp([1.0, 2, 9, 3, 0, 0, 4]).sum()
    assert [entry["score"] for entry in found["top"]] == pytest.approx(shares, rel=1e-12)  # float64, a few roundings


def test_one_bad_request_gets_a_sentence_and_its_batch_mates_their_answers(predictor: Predictor, graph: First7) -> None:
    requests = [
        Request(png(9)),
        Request(b""),
        Request(png(0, 9), {"accept": NPY}),
        Request(b"text"),
        Request(png(0, 0, 9), {"x-top-k": "8"}),
        Request(b"", describe=True),
        Request(npy(np.stack([pixels(0, 0, 0, 9), pixels(5)])), {"content-type": NPY}),
        Request(png(1), {"accept": "text/html"}),
        Request(png(1), others=("size",)),
    ]
    answers = predictor.answer(requests)
    assert [answer.status for answer in answers] == [200, 400, 200, 400, 400, 200, 200, 400, 400]
    assert strict(answers[0])["label"] == "a"
    assert logits(answers[2]).tolist() == [[0, 9, 0, 0, 0, 0, 0]]
    assert [one["label"] for one in strict(answers[6])["predictions"]] == ["d", "a"]
    assert strict(answers[5]) == predictor.description
    assert graph.sizes == [4]
    for bad, words in [(1, "is empty"), (3, "not a PNG"), (4, "X-Top-K"), (7, "Accept"), (8, "came size")]:
        assert strict(answers[bad]).keys() == {"code", "type", "message"}
        assert strict(answers[bad])["code"] == 400
        assert words in strict(answers[bad])["message"]


def test_a_refusal_is_short_however_much_it_is_about(predictor: Predictor) -> None:
    """TorchServe ends a worker whose answer is above its limit, and control characters grow sixfold in JSON."""
    [answer] = predictor.answer([Request(png(1), others=("\x01" * 5_000_000, "size"))])
    assert answer.status == 400
    assert len(answer.body) < 1000


def test_bad_requests_alone_run_nothing(predictor: Predictor, graph: First7) -> None:
    assert [answer.status for answer in predictor.answer([Request(b""), Request(b"x")])] == [400, 400]
    assert graph.sizes == []


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_answers_keep_the_order_of_the_requests_in_any_batch(order: list[int]) -> None:
    bodies = [png(*[0] * index, 200) for index in range(7)]
    answers = predicting(First7()).answer([Request(bodies[index]) for index in order])
    assert [strict(answer)["label"] for answer in answers] == [LABELS[index] for index in order]


@pytest.mark.parametrize(
    ("rows", "ran", "attested"),
    [
        ([1], [1], ["1"]),
        ([1, 1, 1], [3], ["3", "3", "3"]),
        ([1] * 4, [4], ["4"] * 4),
        ([1] * 9, [4, 4, 1], [*["4"] * 8, "1"]),
        ([3, 3], [4, 2], ["4", "4"]),
        ([4, 2], [4, 2], ["4", "2"]),
        ([11, 1], [4, 4, 4], ["4", "4"]),
        ([9], [4, 4, 1], ["4"]),
        ([1, 3, 1, 1], [4, 2], ["4", "4", "2", "2"]),
    ],
)
def test_the_largest_batch_that_a_requests_rows_ran_in_is_attested(
    predictor: Predictor, graph: First7, rows: list[int], ran: list[int], attested: list[str]
) -> None:
    bodies = [npy(np.stack([pixels(index)] * count)) for index, count in enumerate(rows)]
    answers = predictor.answer([Request(body, {"content-type": NPY}) for body in bodies])
    assert graph.sizes == ran
    assert [answer.headers["X-Batch-Size"] for answer in answers] == attested


def test_refused_requests_do_not_count_in_the_batch(predictor: Predictor) -> None:
    good, bad = predictor.answer([Request(png(1)), Request(b"text")])
    assert good.headers["X-Batch-Size"] == "1"
    assert bad.headers == {}


def test_every_answer_attests_what_computed_it(predictor: Predictor) -> None:
    [answer] = predictor.answer([Request(png(1))])
    assert answer.headers == {ATTESTED[field]: value for field, value in ATTESTATION.items()} | {"X-Batch-Size": "1"}
    assert answer.headers.keys() == set(ATTESTED.values())


@pytest.mark.parametrize("count", [1, 2, 4, 11])
def test_an_array_is_answered_at_once_and_in_order(predictor: Predictor, count: int) -> None:
    rows = np.stack([pixels(index, 5, 3) for index in range(count)])
    [answer] = predictor.answer([Request(npy(rows), {"content-type": "Application/X-NPY; a=b", "accept": NPY})])
    assert logits(answer).tolist() == [[index, 5, 3, 0, 0, 0, 0] for index in range(count)]
    [answer] = predictor.answer([Request(npy(rows), {"content-type": NPY})])
    predictions = strict(answer)["predictions"]
    assert [one["label"] for one in predictions] == ["b" if index < 5 else "a" for index in range(count)]


def test_what_is_read_as_an_image_is_answered_as_one(predictor: Predictor) -> None:
    [answer] = predictor.answer([Request(png(9), {"content-type": f"image/png; not={NPY}"})])
    assert strict(answer)["label"] == "a"


def test_an_array_is_never_unpickled(predictor: Predictor) -> None:
    stream = BytesIO()
    np.save(stream, np.array([{}]), allow_pickle=True)
    [answer] = predictor.answer([Request(stream.getvalue(), {"content-type": NPY})])
    assert answer.status == 400
    assert "dtype object" in strict(answer)["message"]


@pytest.mark.parametrize(("sent", "given_back"), [("", 5), ("1", 1), ("5", 5), ("7", 7), ("007", 7)])
def test_top_k_is_how_many_labels_are_named(predictor: Predictor, sent: str, given_back: int) -> None:
    [answer] = predictor.answer([Request(png(3, 2, 1), {"x-top-k": sent})])
    assert len(strict(answer)["top"]) == given_back


@pytest.mark.parametrize(
    "sent", ["0", "8", "-1", "1.5", "all", "1e0", " 3", "3 ", "²", "٣", "0x3", "9" * 5000, "None", "1,2"]
)
def test_a_top_k_that_is_no_number_of_labels_is_refused_with_the_range(predictor: Predictor, sent: str) -> None:
    [answer] = predictor.answer([Request(png(1), {"x-top-k": sent})])
    assert answer.status == 400
    assert strict(answer)["message"].endswith("Send a whole number from 1 to 7.")
    assert len(answer.body) < 300


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json; charset=utf-8", JSON),
        ("text/html, application/json;q=0.9", JSON),
        (NPY, NPY),
        ("Application/X-NPY", NPY),
        (f"{JSON}, {NPY};q=1", NPY),
        (f"text/html,{NPY}", NPY),
    ],
)
def test_accept_chooses_between_json_and_the_lossless_logits(
    predictor: Predictor, accept: str, content_type: str
) -> None:
    [answer] = predictor.answer([Request(png(1), {"accept": accept})])
    assert (answer.status, answer.content_type) == (200, content_type)


@pytest.mark.parametrize("accept", ["text/html", "image/*", "application/xml", "application/x-npy2", "json"])
def test_an_accept_that_nothing_fits_is_refused_with_what_there_is(predictor: Predictor, accept: str) -> None:
    [answer] = predictor.answer([Request(png(1), {"accept": accept})])
    assert answer.status == 400
    assert strict(answer)["message"] == f"Accept is {accept!r}. Ask for application/json or application/x-npy."


@given(arrays.arrays(np.float32, 7, elements=st.floats(width=32)))
def test_the_logits_are_answered_to_the_bit_whatever_they_are(row: Outputs) -> None:
    [answer] = always(row).answer([Request(png(1), {"accept": NPY})])
    assert logits(answer).tobytes() == row.tobytes()
    assert logits(answer).dtype == np.float32


@given(arrays.arrays(np.float32, 7, elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_scores_are_a_distribution_in_falling_order_for_any_finite_logits(row: Outputs) -> None:
    [answer] = always(row).answer([Request(png(1), {"x-top-k": "7"})])
    scores = [entry["score"] for entry in strict(answer)["top"]]
    assert abs(sum(scores) - 1) < 1e-12  # seven roundings in float64
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0
    assert sorted(entry["label"] for entry in strict(answer)["top"]) == sorted(LABELS)
    assert strict(answer)["label"] == LABELS[int(row.argmax())]


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=3), st.integers(1, 7), st.booleans()), max_size=9))
def test_company_changes_no_byte_of_an_answer(asked: list[tuple[list[int], int, bool]]) -> None:
    """Arrays of one to four rows, as JSON or lossless."""
    requests = [
        Request(
            npy(np.stack([pixels(7, 5, first) for first in (3, *more)])),
            {"content-type": NPY, "accept": NPY if lossless else "", "x-top-k": str(top_k)},
        )
        for more, top_k, lossless in asked
    ]
    predictor = predicting(First7())
    alone = [predictor.answer([request])[0].body for request in requests]
    assert [answer.body for answer in predictor.answer(requests)] == alone


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_a_500_as_json_and_can_be_seen_as_npy(value: float) -> None:
    row = [1, 2, value, 0, 0, 0, 0]
    as_json, as_npy = always(row).answer([Request(png(1)), Request(png(1), {"accept": NPY})])
    assert as_json.status == 500
    assert strict(as_json)["type"] == "NotFinite"
    assert "Ask for npy" in strict(as_json)["message"]
    np.testing.assert_array_equal(logits(as_npy)[0], np.array(row, np.float32))


def test_a_value_that_is_not_finite_fails_only_the_request_that_it_belongs_to() -> None:
    def run(batch: Pixels) -> Outputs:
        found = First7()(batch)
        found[found == 66] = np.nan
        return found

    answers = predicting(run).answer([Request(png(1)), Request(png(66)), Request(png(0, 1))])
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert strict(answers[2])["label"] == "b"


@pytest.mark.parametrize("shape", [(1, 6), (2, 7), (7,), (1, 7, 1)])
def test_a_graph_that_breaks_the_contract_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"The graph gave float32 .*; the contract says float32 \(1, 7\)\."):
        predicting(lambda _: np.zeros(shape, np.float32)).answer([Request(png(1))])


def test_a_graph_that_gives_another_precision_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="The graph gave float64"):
        predicting(lambda batch: np.zeros((len(batch), 7))).answer([Request(png(1))])


def full_gpu(batch: Pixels) -> Outputs:
    """As torch fails on a GPU whose memory is full; there is none here, so what raises it is not real."""
    with out_of_memory():
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(batch)}.00 GiB.")


def test_too_much_for_the_gpus_memory_is_a_503_worth_asking_again_and_bad_input_stays_a_400() -> None:
    sent = [Request(png(1)), Request(b"text"), Request(png(2), {"accept": NPY}), Request(b"", describe=True)]
    answers = predicting(full_gpu).answer(sent)
    assert [answer.status for answer in answers] == [503, 400, 503, 200]
    for answer in (answers[0], answers[2]):
        assert answer.headers == {RETRY_AFTER: "1"}
        assert strict(answer)["type"] == "OutOfMemory"
        assert strict(answer)["message"].startswith("The GPU has no memory left for this batch. Ask again")


def test_the_next_batch_is_answered_after_one_that_was_too_much() -> None:
    graph = First7()
    predictor = predicting(lambda batch: full_gpu(batch) if len(batch) > 1 else graph(batch))
    assert [answer.status for answer in predictor.answer([Request(png(1)), Request(png(2))])] == [503, 503]
    assert [answer.status for answer in predictor.answer([Request(png(1))])] == [200]


def decoded_by(*found: Decoded | BadInput) -> Predictor:
    """A predictor that has found this in the bodies of its requests, whatever they are."""
    return Predictor(Loaded(First7(), CONTRACT, "w" * 64, "a test", "cpu"), ATTESTATION, lambda _: [*found])


def test_each_answer_attests_what_decoded_its_input_and_a_bad_one_does_not_shift_the_others() -> None:
    images = [np.full((1, 8, 8, 1), value, np.uint8) for value in (1, 2, 3)]
    predictor = decoded_by(
        Decoded(images[0], "nvjpeg"), BadInput("It is damaged."), Decoded(images[1]), Decoded(images[2], "nvjpeg")
    )
    answers = predictor.answer([Request(b"", {"accept": NPY})] * 4)
    assert [answer.status for answer in answers] == [200, 400, 200, 200]
    right = [answers[0], answers[2], answers[3]]
    assert [answer.headers["X-Decoder"] for answer in right] == ["nvjpeg", "cpu", "nvjpeg"]
    assert [np.load(BytesIO(answer.body))[0, 0] for answer in right] == [1, 2, 3]


def test_too_much_to_decode_at_once_is_a_503_too() -> None:
    def full(_: object) -> list[Decoded | BadInput | None]:
        raise OutOfMemory("CUDA out of memory.")

    predictor = Predictor(Loaded(First7(), CONTRACT, "w" * 64, "a test", "cpu"), ATTESTATION, full)
    assert [answer.status for answer in predictor.answer([Request(png(1)), Request(b"text")])] == [503, 503]


def test_pixels_of_the_gpu_and_of_the_cpu_are_joined_in_order() -> None:
    """The tensors lie on the CPU here, for want of a GPU."""
    read_only = np.frombuffer(bytes([1, 1]), np.uint8).reshape(1, 2)
    found = joined([torch.tensor([[0, 0]], dtype=torch.uint8), read_only, torch.tensor([[2, 2]], dtype=torch.uint8)])
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert isinstance(joined([read_only, read_only]), np.ndarray)


def test_a_gpu_that_decodes_no_golden_is_not_taken_for_one_that_does(graph: First7) -> None:
    asked = Predictor(
        Loaded(graph, CONTRACT, "w" * 64, "a test", "cpu"), {**ATTESTATION, "decoder": "nvjpeg-or-cpu"}, DECODER
    )
    with pytest.raises(RuntimeError, match=r"asks for the decoder nvjpeg-or-cpu, and it decoded no golden\."):
        asked.check(goldens())


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (32, [1, 2, 4, 8, 16, 32]), (5, [1, 2, 4, 5])]
)
def test_graphs_are_recorded_for_powers_of_two_up_to_the_largest_batch(largest: int, sizes: list[int]) -> None:
    assert recorded_sizes(largest) == sizes


@pytest.mark.parametrize("logits", [torch.zeros(2, 7, dtype=torch.bfloat16), torch.zeros(2, 1), torch.zeros(1, 7)])
def test_a_recorded_graph_that_breaks_the_contract_is_an_error(logits: torch.Tensor) -> None:
    check_outputs(torch.zeros(2, 7), 2, CONTRACT)
    with pytest.raises(CannotRun, match=r"the contract says torch\.float32 \(2, 7\)\."):
        check_outputs(logits, 2, CONTRACT)


def test_an_error_that_is_not_about_memory_is_not_taken_for_it() -> None:
    def graph(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        predicting(runner(graph, CONTRACT, "cpu")).answer([Request(png(1))])


def expanding(copies: int) -> onnxruntime.InferenceSession:
    """A graph that needs `copies` times its input."""
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    value, int64 = onnx.helper.make_tensor_value_info, onnx.TensorProto.INT64
    shape, axes = tensor("shape", int64, [5], [copies, 1, 8, 8, 1]), tensor("axes", int64, [4], [0, 2, 3, 4])
    nodes = [
        node("Cast", ["images"], ["floats"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["floats", "first"], ["one"]),
        node("Expand", ["one", "shape"], ["many"]),
        node("ReduceMax", ["many", "axes"], ["logits"], keepdims=0),
    ]
    inputs = [value("images", onnx.TensorProto.UINT8, ["batch", 8, 8, 1])]
    outputs = [value("logits", onnx.TensorProto.FLOAT, ["batch"])]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, [shape, axes, tensor("first", int64, [1], [0])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_onnx_runtimes_own_words_for_full_memory_are_known() -> None:
    """Really: no machine has 64 TiB. Its allocator says the same of every device."""
    batch = np.zeros((1, 8, 8, 1), np.uint8)
    onnx_runtime.runner(expanding(2), CONTRACT)(batch)
    with pytest.raises(OutOfMemory, match="Failed to allocate memory for requested buffer of size"):
        onnx_runtime.runner(expanding(1 << 38), CONTRACT)(batch)


def test_the_description_holds_the_attestation_and_the_whole_contract(predictor: Predictor) -> None:
    [answer] = predictor.answer([Request(b"", describe=True)])
    found = strict(answer)
    assert found["attestation"] == ATTESTATION
    assert Contract.model_validate(found["contract"]) == CONTRACT


def test_labels_of_any_alphabet_are_sent_as_they_are(predictor: Predictor) -> None:
    [answer] = predictor.answer([Request(png(0, 0, 0, 0, 0, 0, 9))])
    assert '"ü"'.encode() in answer.body


def goldens(**change: Any) -> Goldens:
    bodies = tuple(png(index, 7) for index in range(9))
    rows = np.stack([pixels(index, 7) for index in range(9)])
    right = Goldens(
        weights="w" * 64,
        contract=CONTRACT,
        names=tuple(f"golden {index}" for index in range(9)),
        requests=bodies,
        inputs=rows,
        outputs=First7()(rows),
        oracle=First7()(rows).astype(np.float64),
    )
    return replace(right, **change)


def test_goldens_that_are_answered_right_pass(predictor: Predictor, graph: First7) -> None:
    predictor.check(goldens())
    assert sum(graph.sizes) == 9


def test_goldens_answered_wrong_are_refused_with_the_worst_of_them(predictor: Predictor) -> None:
    other = goldens().outputs.copy()
    other[6, 1] += 0.001
    with pytest.raises(
        RuntimeError, match=r"answered wrongly: 1 of 9 differ, worst golden 6, logit 1: 7, eager 7\.001"
    ):
        predictor.check(goldens(outputs=other))


def test_goldens_of_other_weights_are_refused_even_where_their_answers_agree(predictor: Predictor) -> None:
    with pytest.raises(RuntimeError, match="answered by other weights"):
        predictor.check(goldens(weights="x" * 64))


def test_a_golden_that_is_refused_as_a_request_is_an_error_with_the_reason(predictor: Predictor) -> None:
    with pytest.raises(RuntimeError, match=r"A golden was refused: .*The body is not a PNG"):
        predictor.check(goldens(requests=(*goldens().requests[:8], b"text")))


def test_a_runtime_without_a_tolerance_is_not_checked_with_a_guess(graph: First7) -> None:
    predictor = Predictor(Loaded(graph, CONTRACT, "w" * 64, "a test", "tpu:0"), ATTESTATION, DECODER)
    with pytest.raises(ValueError, match="no row for eager in float32 on tpu"):
        predictor.check(goldens())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What an eager archive holds, of an untrained network."""
    contract = classifier("digits", digits.INPUT, digits.LABELS, (0.3,), (0.4,))
    torch.manual_seed(0)
    weights.write(tmp_path / "model.safetensors", digits.network(contract), contract)
    (tmp_path / "contract.json").write_text(contract.to_json())
    (tmp_path / "digits.py").write_bytes(Path(str(digits.__file__)).read_bytes())
    return tmp_path


BUNDLE = Bundle(
    name="digits-eager",
    version="2.0",
    runtime="eager",
    device="cpu",
    decoder="cpu",
    batch_size=32,
    model_file="digits.py",
)


def test_what_is_loaded_attests_itself(archive: Path) -> None:
    predictor = BUNDLE.load(archive, "cpu", 1)
    assert {
        "runtime": "eager",
        "provider": "torch",
        "device": "cpu",
        "precision": "float32",
        "tf32": "off",
    }.items() <= (predictor.attestation.items())
    assert (predictor.attestation["model"], predictor.attestation["version"]) == ("digits-eager", "2.0")
    assert predictor.attestation["contract"] == Contract.read(archive / "contract.json").digest
    assert predictor.attestation.keys() == ATTESTED.keys() - {"batch_size"}


@pytest.mark.parametrize(("device", "threads"), [("cpu", 16), ("cuda:0", 1)])
def test_beside_a_gpu_one_thread_is_enough(device: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    module = SimpleNamespace(load=lambda _, __, threads, ___: given.append(threads))
    monkeypatch.setattr(runtime, "runtime_module", lambda _: module)
    runtime.load_artifact("eager", Path("model"), device, 16, digits.network)
    assert given == [threads]


def test_an_artifact_with_another_contract_than_the_archives_is_not_loaded(archive: Path) -> None:
    contract = Contract.read(archive / "contract.json")
    other = contract.model_copy(update={"inputs": (contract.input.model_copy(update={"mean": (0.31,)}),)})
    (archive / "contract.json").write_text(other.to_json())
    with pytest.raises(RuntimeError, match=r"model\.safetensors and contract\.json hold different contracts"):
        BUNDLE.load(archive, "cpu", 1)

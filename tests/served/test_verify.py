"""The verifier against a real server: green when nothing is wrong, and the guilty hop's name when something is.

Faults over HTTP are put in by a proxy between the client and the server, those in process by changing an archive's code
or the verifier's own goldens.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.verify import http_hops
from inference.contract import Contract
from inference.goldens import Goldens
from inference.outputs.classes import ClassesOutput
from inference.protocol import NPY
from inference.tools.files import sha256
from tests.contracts import labels_of
from tests.replacing import Replacement
from tests.served.asking import RUNTIMES, Raw, npy
from tests.served.verifying import (
    BATCHED,
    FEW,
    HOPS,
    LOAD,
    OVER_HTTP,
    Tampering,
    Verifier,
    changed,
    in_header,
    in_json,
    in_logits,
    is_crowded,
    is_json,
    is_npy,
    only,
    proxy,
)
from tests.unit.scripted_server import Call, Reply, failure
from tests.workspace import Workspace, free_port


def test_all_hops_of_all_runtimes_are_the_same_as_eager(served: Workspace) -> None:
    done = served.run("client", "verify", *served.urls)
    report = json.loads((served.artifacts / "verify.json").read_bytes())
    assert report["ok"]
    assert {model["runtime"] for model in report["models"]} == set(RUNTIMES)
    for model in report["models"]:
        assert model["model"] == f"digits-{model['runtime']}"
        assert model["digest"] == sha256(served.artifacts / "weights.safetensors")
        assert (model["ok"], model["first_failing_hop"]) == (True, None)
        assert [hop["hop"] for hop in model["hops"]] == HOPS
        for hop in model["hops"]:
            assert hop["ok"]
            assert hop["compared"] >= 64
            assert hop["max_abs"] <= hop["atol"] + 20 * hop["rtol"]
            assert hop["flips"] == []
            assert (hop["error_ratio"] is None) == (hop["hop"] == "decode")
        assert f"{model['model']}: the same as eager" in done.stdout


# In process.


def test_other_pixels_are_found_at_decode(verifier: Verifier) -> None:
    def one_pixel(goldens: Goldens) -> Goldens:
        pixels = goldens.inputs.copy()
        pixels[3, 14, 14] ^= 1
        return replace(goldens, inputs=pixels)

    verifier.change_goldens(one_pixel)
    found = verifier.run("digits-eager", requests=FEW)
    assert found.first_failing_hop == "decode"
    assert "differs from eager, first at decode" in found.out


def test_a_server_that_nobody_can_manage_is_verified_with_all_that_the_store_has(verifier: Verifier) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    found = verifier.run("--http", "--management-url", nowhere, code=0)
    assert found.report
    assert {model["model"] for model in found.report["models"]} == {f"digits-{runtime}" for runtime in RUNTIMES}
    assert found.err == (
        f"Nothing answers at {nowhere}, to say which models are served, so all 4 of the store are taken to be.\n"
    )


def test_a_slow_model_is_asked_every_golden_once_and_then_no_more(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_hops, "HOP_SECONDS", 0.0)
    found = verifier.run("digits-onnx", "--http", code=0, requests=(400, 1000))
    assert found.report
    goldens = len(Goldens.read(verifier.goldens_path))
    hops = {hop["hop"]: hop["compared"] for hop in found.report["models"][0]["hops"]}
    assert (hops["http"], hops["http_load"]) == (2 * goldens, goldens)
    assert goldens < hops["http_batched"] < 2 * goldens  # some go as arrays, with others


def test_another_network_is_found_at_eager(verifier: Verifier) -> None:
    def one_logit(goldens: Goldens) -> Goldens:
        logits = goldens.outputs.copy()
        logits[3, 7] += 1e-3
        return replace(goldens, outputs=logits)

    verifier.change_goldens(one_logit)
    assert verifier.run("digits-eager", requests=FEW).first_failing_hop == "eager"


def nearest(original: Any, *given: Any) -> Any:
    from unittest.mock import patch

    from PIL import Image, ImageOps

    pad, way = ImageOps.pad, Image.Resampling.NEAREST
    with patch.object(ImageOps, "pad", lambda image, size, _, **named: pad(image, size, way, **named)):
        return original(*given)


def taken_for_empty(original: Any, self: Any, _body: Any, *given: Any) -> Any:
    return original(self, b"", *given)


def by_another_name(_original: Any, self: Any, batch: Any) -> Any:
    return self.walk(batch)


def by_another_attribute(original: Any, self: Any, requests: Any) -> Any:
    return [answer.text for answer in original(self, requests)]


def a_little_more(original: Any, self: Any, batch: Any) -> Any:
    import numpy as np

    return original(self, batch) * np.float32(1.0001)


def the_last_first(original: Any, self: Any, inputs: Any) -> Any:
    return original(self, inputs[::-1])


DECODE, RUNTIME = "inference.inputs.image:ImageInput.decode", "inference.runtime:Loaded.__call__"


@pytest.mark.parametrize(
    ("hop", "target", "replacement"),
    [
        ("decode", "inference.inputs.image.decode:fit", nearest),
        ("decode", DECODE, taken_for_empty),
        ("runtime", RUNTIME, by_another_name),
        ("handler", "inference.predictor:Predictor.answer", by_another_attribute),
        ("runtime", RUNTIME, a_little_more),
        ("handler", "inference.predictor:Predictor.predict", the_last_first),
    ],
)
def test_an_archive_that_computes_otherwise_is_red_at_the_first_hop_that_differs(
    verifier: Verifier, hop: str, target: str, replacement: Replacement
) -> None:
    """Its worker would refuse to start, and which hop is at fault would remain to be seen."""
    verifier.replace("digits-onnx", target, replacement)
    assert verifier.run("digits-onnx", last=hop).first_failing_hop == hop


def test_a_golden_that_is_refused_is_told_by_its_name(verifier: Verifier) -> None:
    verifier.replace("digits-onnx", DECODE, taken_for_empty)
    found = verifier.run("digits-onnx", requests=FEW)
    assert found.report
    sentences = {hop["hop"]: hop["sentence"] for hop in found.report["models"][0]["hops"]}
    assert sentences["decode"].startswith("png grey 8x8 is refused: The body is empty.")
    assert sentences["runtime"] == ""
    assert sentences["handler"].startswith("A golden was refused: ")


def test_an_archive_that_does_not_run_could_not_be_checked(verifier: Verifier) -> None:
    verifier.change_file("digits-onnx", "inference/predictor.py", lambda code: code + b"\nimport nowhere\n")
    found = verifier.run("digits-onnx", code=2)
    assert found.report is None
    assert "digits-onnx-1.0.mar does not run: ModuleNotFoundError: No module named 'nowhere'" in found.err


# Over HTTP.


def rounded(answer: Any) -> Any:
    top = [{**one, "score": round(one["score"], 3)} for one in answer["top"]]
    return {**answer, "score": top[0]["score"], "top": top}


def a_little_less(answer: Any) -> Any:
    top = [{**one, "score": one["score"] * (1 - 1e-7)} for one in answer["top"]]
    return {**answer, "score": top[0]["score"], "top": top}


def swapped(answer: Any) -> Any:
    """The best two of a single image's labels."""
    if len(answer.get("top", [])) < 2:
        return answer
    first, second, *rest = answer["top"]
    top = [{**first, "label": second["label"]}, {**second, "label": first["label"]}, *rest]
    return {**answer, "label": second["label"], "top": top}


def unlike_the_first_of_its_top(answer: Any) -> Any:
    return {**answer, "score": answer["top"][1]["score"]}


def cut(chosen: Callable[[Reply], bool], **options: Any) -> Tampering:
    return lambda _, reply, __: replace(reply, body=reply.body[:-9], **options) if chosen(reply) else reply


def refused_is_accepted(_: Call, reply: Reply, __: int) -> Reply:
    return Reply(200, npy(np.zeros((1, 10), np.float32)), {"Content-Type": NPY}) if reply.status == 400 else reply


def refused_is_fatal(_: Call, reply: Reply, __: int) -> Reply:
    return failure(500) if reply.status == 400 else reply


def arrays_are_reversed(call: Call, reply: Reply, _: int) -> Reply:
    return changed(reply, lambda logits: logits[::-1]) if call.headers["Content-Type"] == NPY else reply


def reversed_predictions(answer: Any) -> Any:
    return {"predictions": answer["predictions"][::-1]} if "predictions" in answer else answer


def always_five(call: Call, reply: Reply, _: int) -> Reply:
    """Where fewer labels were asked for, five come."""
    top = json.loads(reply.body).get("top", []) if is_json(reply) else []
    if int(call.headers.get("X-Top-K", "5")) >= 5 or not top:
        return reply
    five = top + [{"label": str(digit), "score": 0.0} for digit in range(5 - len(top))]
    return replace(reply, body=json.dumps({**top[0], "top": five}).encode())


def some_under_load(_: Call, reply: Reply, turn: int) -> Reply:
    """The hops before it send 78 goldens twice, then 100 of them and 15 bad requests."""
    return changed(reply, lambda logits: logits + np.float32(1e-3)) if turn >= 300 and turn % 20 == 0 else reply


FAULTS: dict[str, tuple[Tampering, str, str]] = {
    "scores in three digits": (in_json(rounded), "http", "The scores are not the softmax of the logits"),
    "two labels swapped": (in_json(swapped), "http", "The labels are ranked"),
    "another score": (in_json(unlike_the_first_of_its_top), "http", "that of the same label among the ranked"),
    "five labels only": (in_json(lambda answer: {**answer, "top": answer["top"][:5]}), "http", "It ranks 5 labels"),
    "a label twice": (
        in_json(lambda answer: {**answer, "top": [answer["top"][0]] * 10}),
        "http",
        "the labels are ['0'",
    ),
    "JSON cut short": (cut(is_json), "http", "The server's answer cannot be used"),
    "logits through float16": (in_logits(lambda x: x.astype(np.float16).astype(np.float32)), "http", "78 of 78 differ"),
    "logits as float64": (in_logits(lambda logits: logits.astype(np.float64)), "http", "float64 of shape"),
    "NaN": (in_logits(lambda logits: logits * np.float32("nan")), "http", "78 of 78 differ"),
    "labels in another order": (in_logits(lambda logits: np.roll(logits, 1, axis=1)), "http", "78 of 78 differ"),
    "nine logits": (
        in_logits(lambda logits: logits[:, :9]),
        "http",
        "The answer has rows of shape [9] instead of [10].",
    ),
    "npy cut short": (cut(is_npy), "http", "the npy file is not as long as its header says"),
    "broken off": (cut(is_npy, missing=9), "http", "broke off before its answer was whole"),
    "other weights": (in_header("weights", "0" * 64), "http", "attests weights '0000"),
    "another artifact": (in_header("artifact", "0" * 64), "http", "attests artifact '0000"),
    "another contract": (in_header("contract", "0" * 64), "http", "attests contract '0000"),
    "another model": (in_header("model", "digits-eager"), "http", "attests model 'digits-eager'"),
    "another runtime": (in_header("runtime", "eager"), "http", "attests runtime 'eager'"),
    "another version": (in_header("version", "0.9"), "http", "attests version '0.9' instead of '1.0'"),
    "another device": (in_header("device", "cuda:0"), "http", "attests device 'cuda:0' instead of 'cpu'"),
    "another provider": (in_header("provider", "X"), "http", "attests provider 'X' instead of 'CPUExecutionProvider'"),
    "another precision": (
        in_header("precision", "float16"),
        "http",
        "attests precision 'float16' instead of 'float32'",
    ),
    "TF32": (in_header("tf32", "on"), "http", "attests tf32 'on' instead of 'off'"),
    "JSON of other weights": (only(is_json, in_header("weights", "0" * 64)), "http", "78 of 156: "),
    "no attestation": (in_header("precision", None), "http", "The answer attests no X-Precision."),
    "bad requests accepted": (refused_is_accepted, "http_batched", "A bad request was taken for a good one."),
    "bad requests fail": (refused_is_fatal, "http_batched", "A bad request was answered"),
    "arrays reversed": (arrays_are_reversed, "http_batched", "differ, worst"),
    "batches rounded": (only(is_crowded, in_logits(np.round)), "http_batched", "differ, worst"),
    "labels of batches swapped": (only(is_crowded, in_json(swapped)), "http_batched", "The labels are ranked"),
    "JSON arrays reversed": (in_json(reversed_predictions), "http_batched", " of 100: "),
    "always five labels": (always_five, "http_batched", "It ranks 5 labels instead of"),
    "batches of another device": (only(is_crowded, in_header("device", "cuda:0")), "http_batched", "attests device"),
    "one answer in twenty": (some_under_load, "http_load", "differ, worst"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_over_http_is_found_at_the_hop_where_it_arises(raw: Raw, verifier: Verifier, name: str) -> None:
    fault, hop, sentence = FAULTS[name]
    with proxy(raw, fault) as url:
        found = verifier.run(
            "digits-onnx", "--http", url=url, requests=FEW if hop == "http" else (BATCHED, LOAD), last=hop
        )
    assert found.first_failing_hop == hop
    assert found.report
    assert sentence in next(one["sentence"] for one in found.report["models"][0]["hops"] if one["hop"] == hop)


def test_a_proxy_without_a_fault_is_green(raw: Raw, verifier: Verifier) -> None:
    with proxy(raw, lambda _, reply, __: reply) as url:
        found = verifier.run("digits-onnx", "--http", url=url, code=0)
    assert found.report
    assert [hop["hop"] for hop in found.report["models"][0]["hops"]] == OVER_HTTP


def test_a_server_of_other_weights_is_found_by_what_it_attests(verifier: Verifier) -> None:
    verifier.weights_path.unlink()
    verifier.change_goldens(lambda goldens: replace(goldens, weights="0" * 64))
    assert verifier.run("digits-onnx", "--http", requests=FEW).first_failing_hop == "http"


# What could not be checked.


def test_requests_that_never_share_a_batch_could_not_be_checked(raw: Raw, verifier: Verifier) -> None:
    def alone(call: Call, reply: Reply, turn: int) -> Reply:
        return reply if call.headers["Content-Type"] == NPY else in_header("batch_size", "1")(call, reply, turn)

    with proxy(raw, alone) as url:
        found = verifier.run("digits-onnx", "--http", url=url, code=2)
    assert found.err == (
        "error: digits-onnx: no two of 100 concurrent requests shared a batch. "
        "Where the server takes one at a time, say so: --unbatched\n"
    )
    assert found.report is None


def test_requests_that_are_served_one_at_a_time_need_no_company(raw: Raw, verifier: Verifier) -> None:
    def alone(call: Call, reply: Reply, turn: int) -> Reply:
        return reply if call.headers["Content-Type"] == NPY else in_header("batch_size", "1")(call, reply, turn)

    verifier.accept("digits-onnx", batch_size=1)
    with proxy(raw, alone) as url:
        verifier.run("digits-onnx", "--http", url=url, code=0)


def test_a_server_that_is_never_quiet_could_not_be_checked(raw: Raw, verifier: Verifier) -> None:
    with proxy(raw, in_header("batch_size", "2")) as url:
        found = verifier.run("digits-onnx", "--http", url=url, code=2)
    assert "digits-onnx: other requests are being answered, so that none is alone in its batch." in found.err
    assert found.report is None


def test_a_request_that_met_company_is_asked_again(raw: Raw, verifier: Verifier) -> None:
    def busy_at_first(call: Call, reply: Reply, turn: int) -> Reply:
        return in_header("batch_size", "2")(call, reply, turn) if turn < 3 or 90 < turn < 95 else reply

    with proxy(raw, busy_at_first) as url:
        assert verifier.run("digits-onnx", "--http", url=url, requests=(BATCHED, 10), code=0).report


def test_scores_made_in_company_are_not_held_against_logits_made_alone(raw: Raw, verifier: Verifier) -> None:
    """A sum over a larger batch may have other last bits, such as those of a health check that came into it."""

    def busy_at_first(call: Call, reply: Reply, turn: int) -> Reply:
        if not is_json(reply) or turn > 83:  # after 78 answers by logits
            return reply
        return in_header("batch_size", "2")(call, in_json(a_little_less)(call, reply, turn), turn)

    with proxy(raw, busy_at_first) as url:
        assert verifier.run("digits-eager", "--http", url=url, requests=(BATCHED, 10), code=0).report


def test_a_server_that_is_down_could_not_be_checked(verifier: Verifier) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    found = verifier.run("digits-onnx", "--http", url=nowhere, code=2)
    assert found.err == f"error: digits-onnx: Nothing answers at {nowhere}. Is the server running there?\n"
    assert found.report is None


@pytest.mark.parametrize("names", [[], ["digits-onnx"]])
def test_no_earlier_report_outlives_a_verify_that_could_not_check(verifier: Verifier, names: list[str]) -> None:
    verifier.report_path.write_text('{"ok": true}')
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert verifier.run(*names, "--http", "--management-url", nowhere, url=nowhere, code=2).report is None


def test_an_unforeseen_crash_is_not_taken_for_a_difference(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: http_hops.HttpHops) -> None:
        raise KeyError("nothing")

    monkeypatch.setattr(http_hops.HttpHops, "run", crash)
    found = verifier.run("digits-onnx", "--http", code=2)
    assert found.err.startswith("error: It broke down at ")
    assert found.err.endswith("(KeyError: 'nothing'). Nothing follows from this about the model.\n")


def test_an_unknown_model_could_not_be_checked(verifier: Verifier) -> None:
    found = verifier.run("digits-onyx", code=2)
    assert "There is no model 'digits-onyx' in the store. It has: digits-aoti, digits-eager, digits-onnx" in found.err


@pytest.mark.parametrize("body", [b"", b"no goldens", b"PK\3\4"])
def test_damaged_goldens_could_not_be_checked(verifier: Verifier, body: bytes) -> None:
    verifier.goldens_path.write_bytes(body)
    found = verifier.run("digits-onnx", "--http", code=2)
    assert found.err.startswith(f"error: {verifier.goldens_path} is damaged")


def test_a_changed_archive_could_not_be_checked(verifier: Verifier) -> None:
    path = verifier.store / "digits-onnx-1.0.mar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert f"{path} is not the file that was exported and verified" in verifier.run("digits-onnx", code=2).err


def test_weights_that_were_never_exported_could_not_be_checked(verifier: Verifier) -> None:
    verifier.weights_path.write_bytes(verifier.weights_path.read_bytes()[:-1] + b"x")
    for options in ([], ["--http"]):
        found = verifier.run("digits-onnx", *options, code=2)
        assert found.err == (
            "error: digits was trained anew since it was exported. "
            "Export again: python -m export digits --new-goldens\n"
        )


def test_a_contract_that_was_never_exported_could_not_be_checked(verifier: Verifier) -> None:
    path = verifier.artifacts / "digits" / "contract.json"
    contract = Contract.read(path)
    path.write_text(
        contract.model_copy(update={"outputs": (ClassesOutput(labels=labels_of(contract)[::-1]),)}).to_json()
    )
    assert "digits was trained anew since it was exported." in verifier.run("digits-onnx", "--http", code=2).err


def test_a_changed_eager_archive_leaves_no_runtime_checked(verifier: Verifier) -> None:
    path = verifier.store / "digits-eager-1.0.mar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert f"{path} is not the file that was exported and verified" in verifier.run("digits-onnx", code=2).err


def test_without_an_eager_archive_no_runtime_can_be_checked(verifier: Verifier) -> None:
    verifier.remove_from_manifest("digits-eager")
    assert verifier.run("digits-onnx", code=2).err == (
        "error: digits-onnx needs digits-eager; export it: python -m export digits --runtime eager\n"
    )


def test_an_archive_that_is_no_zip_could_not_be_checked(verifier: Verifier) -> None:
    (verifier.store / "digits-onnx-1.0.mar").write_bytes(b"no archive")
    verifier.accept("digits-onnx")
    assert "digits-onnx-1.0.mar is no archive" in verifier.run("digits-onnx", code=2).err


def without_a_refusal(original: Any) -> Any:
    return {name: value for name, value in original().items() if name != "refused"}


def test_an_archive_of_older_code_could_not_be_checked(verifier: Verifier) -> None:
    verifier.replace("digits-onnx", "inference.selfcheck:answers", without_a_refusal)
    assert "exported by another version of this project" in verifier.run("digits-onnx", code=2).err

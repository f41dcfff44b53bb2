"""What the verifier asks about where nobody says it, and what it lets an answer attest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.client import Client
from client.connection import Retries
from client.errors import ServerFailed, TimedOut, TokenRejected, Unreachable
from client.models import served_names
from client.verify.asker import Asked, Asker
from inference.goldens import Goldens
from inference.outputs.classes import ClassesOutput
from inference.protocol import ATTESTED
from inference.store.manifest import Archive, File, Manifest
from tests.unit.scripted_server import BAD_TOKEN, Call, Reply, answer, failure, npy, scripted
from tests.unit.test_client_retries import free_port
from tests.unit.test_contract import DIGITS
from tests.unit.test_manifest import EAGER, ONNX
from tests.unit.test_parity import goldens

A_FILE = File(sha256="f" * 64, bytes=1)
QUICK = Retries(busy=0.1, refused=0.05, first_delay=0.01)
MANIFEST = Manifest(archives={"digits-eager": EAGER, "digits-onnx": ONNX})
CONTRACT = DIGITS.model_copy(update={"outputs": (ClassesOutput(labels=("a", "b", "c")),)})


@pytest.fixture(autouse=True)
def _no_token_lies_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ENTERING_MANAGEMENT_TOKEN", "ENTERING_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_a_server_that_says_what_it_serves_is_taken_at_its_word(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        scripted([answer({"models": [{"modelName": "digits-onnx"}]})]) as server,
        Client(management_url=server.url, retries=QUICK) as client,
    ):
        assert served_names(client, MANIFEST) == ["digits-onnx"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("ping", [answer({"status": "Healthy"}), failure(500), failure(503)])
def test_where_nothing_can_say_what_is_served_it_is_all_of_the_store_and_that_is_said(
    ping: Reply, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with (
        scripted([ping]) as server,
        Client(server.url, nowhere, token="secret", management_token="other", retries=QUICK) as client,
    ):
        assert served_names(client, MANIFEST) == ["digits-eager", "digits-onnx"]
    assert {(call.path, call.token) for call in server.calls} == {("/ping", "secret")}
    sentence = f"Nothing answers at {nowhere}, to say which models are served, so all 2 of the store are taken to be.\n"
    assert capsys.readouterr() == ("", sentence)


def test_without_a_token_for_management_nobody_there_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        scripted([answer({"gateway": "up"})]) as server,
        scripted([answer({"models": [{"modelName": "somebody-elses"}]})]) as other,
        Client(server.url, other.url, token="secret", retries=QUICK) as client,
    ):
        assert served_names(client, MANIFEST) == ["digits-eager", "digits-onnx"]
        assert other.calls == []
    assert capsys.readouterr().err == (
        "There is a token for predictions and none for management, to say which models are served, "
        "so all 2 of the store are taken to be.\n"
    )


def test_a_server_that_is_down_is_found_before_anything_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with Client(nowhere, nowhere, retries=QUICK) as client, pytest.raises(Unreachable, match="Is the server running"):
        served_names(client, MANIFEST)
    assert capsys.readouterr() == ("", "")


def test_a_token_that_is_rejected_is_found_before_anything_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with (
        scripted([failure(401)]) as server,
        Client(server.url, nowhere, token="secret", retries=QUICK) as client,
        pytest.raises(TokenRejected),
    ):
        served_names(client, MANIFEST)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(BAD_TOKEN, TokenRejected), (failure(503), ServerFailed), (Reply(200, b"<html>"), ServerFailed)],
)
def test_a_server_that_does_not_say_what_it_serves_is_an_error(reply: Reply, kind: type[Exception]) -> None:
    with (
        scripted([reply]) as server,
        Client(management_url=server.url, retries=QUICK) as client,
        pytest.raises(kind),
    ):
        served_names(client, MANIFEST)


def test_a_server_that_is_too_slow_to_say_what_it_serves_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: Client) -> list[str]:
        raise TimedOut("It did not answer within 60 s.")

    monkeypatch.setattr(Client, "models", slow)
    with Client() as client, pytest.raises(TimedOut):
        served_names(client, MANIFEST)


def asked(
    verified_on: str, attested: str, tf32: str = "off", decoder: str = "cpu", archived: dict[str, Any] | None = None
) -> Asked:
    """What becomes of a right answer that attests a device, by an archive that was verified on another or the same."""
    reference: Goldens = replace(goldens(), contract=CONTRACT)
    files = {ONNX.artifact: A_FILE}
    archive: Archive = ONNX.model_copy(update={"device": verified_on, "files": files, **(archived or {})})

    def script(_: Call) -> Reply:
        headers = {ATTESTED[name]: value for name, value in asker.expected.items()}
        headers |= {ATTESTED["device"]: attested, ATTESTED["tf32"]: tf32, ATTESTED["batch_size"]: "1"}
        headers |= {ATTESTED["decoder"]: decoder}
        reply = npy(np.array(reference.outputs[[0]]))
        sent = {name: value for name, value in {**reply.headers, **headers}.items() if value}
        return Reply(reply.status, reply.body, sent)

    with scripted(script) as server, Client(server.url, token="secret") as client:
        asker = Asker(client, "digits-onnx", archive, reference)
        return asker.outputs(0)


@pytest.mark.parametrize(
    ("verified_on", "attested"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda", "cuda:1"), ("cuda:0", "cuda:1")]
)
def test_any_device_of_the_kind_that_was_verified_is_right(verified_on: str, attested: str) -> None:
    found = asked(verified_on, attested)
    assert found.problem == ""
    assert found.served["device"] == attested


@pytest.mark.parametrize(
    ("verified_on", "attested", "sentence"),
    [
        ("cpu", "cuda:0", "The answer attests device 'cuda:0' instead of 'cpu'."),
        ("cuda", "cpu", "The answer attests device 'cpu' instead of 'cuda'."),
        ("cuda", "cudax:0", "The answer attests device 'cudax:0' instead of 'cuda'."),
    ],
)
def test_a_device_of_another_kind_is_wrong(verified_on: str, attested: str, sentence: str) -> None:
    assert asked(verified_on, attested).problem == sentence


def test_a_decoder_that_the_archive_does_not_ask_for_is_wrong() -> None:
    sentence = "The answer attests decoder 'nvjpeg', and can be by cpu."
    assert asked("cuda", "cuda:0", decoder="nvjpeg").problem == sentence


@pytest.mark.parametrize("decoder", ["nvjpeg", "cpu"])
def test_with_nvjpeg_what_is_no_jpeg_may_be_decoded_on_the_cpu(decoder: str) -> None:
    archived = {"model": "photos", "decoder": "nvjpeg"}
    assert asked("cuda", "cuda:0", decoder=decoder, archived=archived).problem == ""


def test_only_the_device_may_have_a_number_behind_it() -> None:
    assert asked("cuda", "cuda:0", tf32="off:0").problem == "The answer attests tf32 'off:0' instead of 'off'."

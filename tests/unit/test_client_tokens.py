"""The client finds its tokens, finds them again when they change, and never shows one."""

import json
import logging
import subprocess
from pathlib import Path

import pytest

from client import Client
from client.connection import ONCE
from client.errors import TokenRejected
from tests.unit.scripted_server import BAD_TOKEN, Call, Reply, Script, answer, failure, one, scripted

MODEL = "digits-onnx"
NOT_LET_IN = failure(401, "Unauthorized", "The gateway's own sentence.")
REMOTE = "http://serving.example:8080"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokens = ("ENTERING_TOKEN", "ENTERING_MANAGEMENT_TOKEN", "ENTERING_KEY_FILE")
    for name in (*tokens, "ENTERING_URL", "ENTERING_MANAGEMENT_URL", "ENTERING_PORT"):
        monkeypatch.delenv(name, raising=False)


def write_keys(path: Path, inference: str, management: str = "management-key") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"inference": {"key": inference}, "management": {"key": management}}))
    return path


def guarded(token: str) -> Script:
    return lambda call: answer(one()) if call.token == token else BAD_TOKEN


def tokens_sent(client_token: str | None = None) -> list[str]:
    with scripted([answer(one())]) as server, Client(server.url, token=client_token, retries=ONCE) as client:
        client.predict(b"image", MODEL)
    return [call.token for call in server.calls]


def test_the_token_is_the_given_one_else_the_environments_else_the_key_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens_sent() == [""]
    write_keys(Path(".serve/key_file.json"), "local")
    assert tokens_sent() == ["local"]
    monkeypatch.setenv("ENTERING_KEY_FILE", str(write_keys(Path("elsewhere/keys.json"), "named")))
    assert tokens_sent() == ["named"]
    monkeypatch.setenv("ENTERING_TOKEN", "variable")
    assert tokens_sent() == ["variable"]
    assert tokens_sent("given") == ["given"]


def test_management_has_a_token_of_its_own() -> None:
    write_keys(Path(".serve/key_file.json"), "local", "manager")
    with scripted([answer({"models": []})]) as server, Client(management_url=server.url) as client:
        assert client.models() == []
    assert [call.token for call in server.calls] == ["manager"]


@pytest.mark.parametrize("rejected", [BAD_TOKEN, NOT_LET_IN], ids=["TorchServe", "gateway"])
def test_a_rejected_token_is_read_again_once(rejected: Reply) -> None:
    keys = write_keys(Path(".serve/key_file.json"), "old")

    def script(call: Call) -> Reply:
        write_keys(keys, "new")
        return answer(one()) if call.token == "new" else rejected

    with scripted(script) as server, Client(server.url) as client:
        client.predict(b"image", MODEL)
        client.predict(b"image", MODEL)
    assert [call.token for call in server.calls] == ["old", "new", "new"]


def test_a_token_that_stays_the_same_is_not_sent_again() -> None:
    write_keys(Path(".serve/key_file.json"), "old")
    words = r"Token Authorization failed\. Set ENTERING_TOKEN"
    with scripted([BAD_TOKEN]) as server, Client(server.url) as client, pytest.raises(TokenRejected, match=words):
        client.predict(b"image", MODEL)
    assert len(server.calls) == 1


def test_a_gateway_that_lets_nobody_in_is_named_with_its_words_and_what_to_set() -> None:
    write_keys(Path(".serve/key_file.json"), "old")
    words = r"The gateway's own sentence\. Set ENTERING_TOKEN, or let ENTERING_KEY_FILE name .* \(HTTP 401\)$"
    with scripted([NOT_LET_IN]) as server, Client(server.url) as client, pytest.raises(TokenRejected, match=words):
        client.predict(b"image", MODEL)
    assert len(server.calls) == 1


def gateway_keys(path: Path, **others: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"inference": {"key": "gateways"}, **others}))
    return path


@pytest.mark.parametrize("others", [{}, {"previous": {"key": "older"}}])
def test_a_gateways_key_file_opens_predictions_and_holds_nothing_for_management(others: dict[str, object]) -> None:
    gateway_keys(Path(".serve/key_file.json"), **others)
    with scripted([answer(one())]) as server, Client(server.url) as client:
        client.predict(b"image", MODEL)
    assert [call.token for call in server.calls] == ["gateways"]
    with (
        scripted([BAD_TOKEN]) as server,
        Client(management_url=server.url) as client,
        pytest.raises(TokenRejected, match="Set ENTERING_MANAGEMENT_TOKEN"),
    ):
        client.models()
    assert [call.token for call in server.calls] == [""]


@pytest.mark.parametrize("text", ["{}", '{"inference": {"key": "k"}, "management": {}}', "[]"])
def test_a_key_file_that_should_hold_a_key_for_management_is_named(text: str) -> None:
    write_keys(Path(".serve/key_file.json"), "k").write_text(text)
    with Client() as client, pytest.raises(ValueError, match=r"key_file\.json holds no management key"):
        client.models()


def test_new_tokens_that_are_rejected_too_are_an_error() -> None:
    keys = write_keys(Path(".serve/key_file.json"), "0")

    def script(call: Call) -> Reply:
        write_keys(keys, call.token + "0")
        return BAD_TOKEN

    with scripted(script) as server, Client(server.url) as client, pytest.raises(TokenRejected):
        client.predict(b"image", MODEL)
    assert [call.token for call in server.calls] == ["0", "00"]


def test_a_client_made_before_the_server_finds_the_key_file_later() -> None:
    with scripted(guarded("late")) as server, Client(server.url) as client:
        with pytest.raises(TokenRejected):
            client.predict(b"image", MODEL)
        write_keys(Path(".serve/key_file.json"), "late")
        client.predict(b"image", MODEL)
    assert [call.token for call in server.calls] == ["", "late"]


def test_the_local_key_file_is_for_local_servers_only() -> None:
    write_keys(Path(".serve/key_file.json"), "local")
    assert "key_file" in Client().curl("-", MODEL)
    assert "key_file" not in Client(REMOTE).curl("-", MODEL)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"inference": {}}', '{"inference": {"key": 1}}'])
def test_a_damaged_key_file_is_named(text: str) -> None:
    Path("keys.json").write_text(text)
    with pytest.MonkeyPatch.context() as patch, scripted([answer(one())]) as server:
        patch.setenv("ENTERING_KEY_FILE", "keys.json")
        with Client(server.url) as client, pytest.raises(ValueError, match=r"keys\.json holds no inference key"):
            client.predict(b"image", MODEL)


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "ümlaut"])
def test_a_token_that_no_header_can_carry_is_refused_unshown(token: str) -> None:
    with pytest.raises(ValueError, match="characters that no token has") as caught:
        Client(token=token)
    assert token not in str(caught.value)


def test_the_token_is_never_shown(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    write_keys(Path(".serve/key_file.json"), "SECRET")
    caplog.set_level(logging.DEBUG)
    with scripted([answer(one()), BAD_TOKEN]) as server, Client(server.url) as client:
        shown = [repr(client), repr(vars(client)), repr(client.predict(b"image", MODEL))]
        with pytest.raises(TokenRejected) as caught:
            client.predict(b"image", MODEL)
        shown += [str(caught.value), repr(caught.value), repr(vars(caught.value)), client.curl("-", MODEL)]
        monkeypatch.setenv("ENTERING_TOKEN", "SECRET")
        shown += [Client(server.url).curl("-", MODEL), Client(server.url, token="SECRET").curl("-", MODEL)]
    assert caplog.records, "urllib3 logs each request at DEBUG"
    assert "SECRET" not in "".join(shown) + caplog.text
    assert {call.token for call in server.calls} == {"SECRET"}


@pytest.mark.parametrize("source", ["file", "variable"])
def test_the_printed_curl_asks_what_the_client_asks(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("it's seven.png").write_bytes(b"\x89PNG and so on")
    if source == "file":
        write_keys(Path(".serve/key_file.json"), "SECRET")
    else:
        monkeypatch.setenv("ENTERING_TOKEN", "SECRET")
    with scripted([answer(one())]) as server, Client(server.url) as client:
        command = client.curl("it's seven.png", MODEL, top_k=3)
        printed = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
        client.predict("it's seven.png", MODEL, top_k=3)
    assert json.loads(printed) == one()
    by_curl, by_client = server.calls
    wanted = ("Authorization", "Content-Type", "Accept", "X-Top-K")
    assert by_curl.body == by_client.body
    assert [by_curl.headers[name] for name in wanted] == [by_client.headers[name] for name in wanted]
    assert by_curl.path == by_client.path

"""The gateway's tokens: kept, renewed, and read by the client from the file that holds them."""

from pathlib import Path

import pytest

from client.access import KEY_FILE_VARIABLE, TokenSource
from inference.tools.torchserve import KEY_FILE
from serve.access import Tokens


def test_tokens_are_made_once_and_kept(tmp_path: Path) -> None:
    first = Tokens.keep(tmp_path)
    assert Tokens.keep(tmp_path) == first
    assert first.valid() == [first.current]
    assert len(first.current) >= 43  # 256 bits


def test_two_services_have_different_tokens(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a", "b")]
    for place in places:
        place.mkdir()
    assert Tokens.keep(places[0]) != Tokens.keep(places[1])


def test_a_rotation_keeps_the_token_before_it_until_the_next(tmp_path: Path) -> None:
    first = Tokens.keep(tmp_path)
    second = first.rotated(tmp_path)
    third = second.rotated(tmp_path)
    assert second.valid() == [second.current, first.current]
    assert third.valid() == [third.current, second.current]
    assert len({first.current, second.current, third.current}) == 3
    assert Tokens.keep(tmp_path) == third


def test_the_key_file_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    Tokens.keep(tmp_path).rotated(tmp_path)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_the_client_takes_the_current_token_from_the_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / KEY_FILE))
    tokens = Tokens.keep(tmp_path)
    source = TokenSource("inference", "http://127.0.0.1:8080")
    assert source.current() == tokens.current
    assert source.renewed(tokens.current) is None
    assert source.renewed(tokens.rotated(tmp_path).valid()[1]) == Tokens.keep(tmp_path).current


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"inference": "x"}', '{"inference": {"key": ""}}', '{"inference": {"key": 1}}']
)
def test_a_damaged_key_file_is_a_sentence_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"key_file\.json is damaged\. Delete it: the next start makes new tokens\.$"):
        Tokens.keep(tmp_path)

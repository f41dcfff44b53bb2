"""How commands end."""

import errno
import signal
import sys

import pytest
import typer

from inference.base import OutOfMemory
from inference.tools.commands import CannotCheck, no_crash_is_a_difference, run


def end(error: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code of a command that ends with `error`."""
    app = typer.Typer()

    @app.command()
    def command() -> None:
        if error:
            raise error

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as exit_:
        run(app)
    return exit_.value.code


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("Train first."), "error: Train first.\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device.\n"),
        (PermissionError(errno.EACCES, "Permission denied", "artifacts"), "error: artifacts: Permission denied.\n"),
        (ConnectionError("refused by 127.0.0.1"), "error: refused by 127.0.0.1\n"),
        (OutOfMemory("CUDA out of memory."), "error: CUDA out of memory.\n"),
    ],
)
def test_a_mistake_of_the_users_is_one_sentence_and_exit_code_2(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(error, monkeypatch) == 2
    assert capsys.readouterr() == ("", sentence)


@pytest.mark.parametrize("error", [ValueError("Export first."), OSError("refused"), OutOfMemory("CUDA out of memory.")])
def test_what_has_a_sentence_keeps_it_where_a_crash_must_not_pass_for_a_difference(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, no_crash_is_a_difference():
        raise error
    assert raised.value is error


def test_what_nobody_foresaw_says_that_nothing_was_compared() -> None:
    told = r"test_training_commands\.py:\d+ \(KeyError: 'logits'\)\. Nothing follows"
    with pytest.raises(CannotCheck, match=told), no_crash_is_a_difference():
        raise KeyError("logits")


def test_success_is_exit_code_0(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end(None, monkeypatch) == 0


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end(KeyboardInterrupt(), monkeypatch) == 130


def test_ctrl_c_that_a_library_turns_into_an_error_of_its_own_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("could not be imported") from None

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as exit_:
        run(app)
    assert exit_.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        raise AssertionError("our own")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(AssertionError, match="our own"):
        run(app)

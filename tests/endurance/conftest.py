"""The one server that is put under load and fuzzed, and how its figures come to the terminal."""

from collections.abc import Callable, Iterator

import pytest

from tests.served.live import Exports, Live, two_versions


@pytest.fixture(scope="session")
def live(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with two_versions(exports, tmp_path_factory.mktemp("endurance")) as live:
        yield live


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Prints what was measured, whether or not pytest keeps what tests print."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def show(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text, flush=True)

    return show

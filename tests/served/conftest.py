"""What the tests over HTTP share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter

from tests.served.asking import Eager, Raw
from tests.served.verifying import Known, Verifier
from tests.workspace import Workspace


@pytest.fixture(scope="session")
def raw(served: Workspace) -> Iterator[Raw]:
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", HTTPAdapter(pool_maxsize=64))
        yield Raw(served, session)


@pytest.fixture(scope="session")
def eager(served: Workspace) -> Eager:
    return Eager.read(served.artifacts)


@pytest.fixture(scope="session")
def seven(served: Workspace) -> bytes:
    """A PNG of a held-out 7."""
    return (served.artifacts / "samples" / "seven.png").read_bytes()


@pytest.fixture
def verifier(served: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], known: Known) -> Verifier:
    return Verifier(served, tmp_path, capsys, known)

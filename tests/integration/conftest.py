"""What the tests of real artifacts share."""

from pathlib import Path

import pytest

from tests.workspace import Workspace


@pytest.fixture
def workspace(exported: Workspace, tmp_path: Path) -> Workspace:
    """To be changed."""
    return exported.copy_to(tmp_path / "workspace")

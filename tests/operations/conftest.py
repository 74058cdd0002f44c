"""A host with one copy in memory, and a folder with one of everything, backed up and restored once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.operations.judging import lab_in
from tests.repositories import Keys, Lab


@pytest.fixture
def lab(throwaway_keys: Keys, tmp_path: Path) -> Lab:
    """A host of this test's own."""
    return lab_in(throwaway_keys, tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty folder to back up."""
    path = tmp_path / "source"
    path.mkdir()
    return path

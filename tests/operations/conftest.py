"""A host with one copy in memory, and a folder with one of everything, backed up and restored once."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.sources.files import FileSource
from tests.operations.judging import lab_in, run
from tests.repositories import Keys, Lab, noise


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


@pytest.fixture
def two(throwaway_keys: Keys, source: Path, tmp_path: Path) -> Lab:
    """Two copies, of which `b` lacks the second and third snapshot."""
    lab = lab_in(throwaway_keys, tmp_path, "a", "b")
    for number in range(3):
        (source / f"file-{number}").write_bytes(noise(number, 20_000))
        run(lab, FileSource([source]), stores=lab.stores if number == 0 else {"a": lab.stores["a"]})
    return lab

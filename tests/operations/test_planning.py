"""A dry run tells what would be read, without reading."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from opskit.errors import SourceError
from opskit.operations.planning import plan
from opskit.sources.files import FileSource
from tests.operations.judging import run
from tests.repositories import REPOSITORY, SOURCE, Lab


def test_first_then_unchanged_then_changed(lab: Lab, source: Path) -> None:
    """All is new before the first backup, nothing after it, and one edit is one file."""
    for number in range(5):
        (source / f"f{number}").write_bytes(b"x" * 100)

    def planned() -> tuple[int, int, int, int]:
        found = plan(SOURCE, FileSource([source]), lab.state, REPOSITORY)
        return found.files, found.bytes, found.changed_files, found.changed_bytes

    assert planned() == (5, 500, 5, 500)
    run(lab, FileSource([source]))
    assert planned() == (5, 500, 0, 0)
    time.sleep(0.02)
    (source / "f3").write_bytes(b"y" * 70)
    os.unlink(source / "f0")
    assert planned() == (4, 370, 1, 70)


def test_without_any_repository(source: Path, tmp_path: Path) -> None:
    """A plan needs no repository; a source that is gone is an error all the same."""
    assert plan(SOURCE, FileSource([source]), tmp_path / "no-state", None).files == 0
    with pytest.raises(SourceError):
        plan(SOURCE, FileSource([source / "gone"]), tmp_path, None)

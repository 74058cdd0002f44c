"""Reserving the space of a large file, on file systems that can and cannot."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from opskit.operations.restoring.reserving import LARGE, give_size
from tests.stores.mounts import MEBIBYTE, mounted


@pytest.mark.parametrize(("kind", "can"), [("tmpfs", True), ("ext4", True), ("ext2", False)])
def test_a_file_gets_its_size(kind: str, can: bool, tmp_path: Path) -> None:
    """Any file gets its size on any file system; space is reserved for a large dense one, where that can be."""
    with mounted(kind, tmp_path, size=96 * MEBIBYTE) as place:
        for size, dense in ((0, True), (LARGE - 1, True), (LARGE, False), (LARGE, True)):
            with (place / f"{size}-{dense}").open("wb") as file:
                give_size(file.fileno(), size, dense=dense)
            found = (place / f"{size}-{dense}").stat()
            assert found.st_size == size
            assert (found.st_blocks * 512 >= LARGE) == (can and dense and size == LARGE)


def test_too_little_space_shows_at_once(tmp_path: Path) -> None:
    """A medium on which a large file has no room says so before a byte of it is written."""
    with mounted("tmpfs", tmp_path, size=8 * MEBIBYTE) as place, (place / "large").open("wb") as file:
        with pytest.raises(OSError) as caught:
            give_size(file.fileno(), LARGE, dense=True)
        assert caught.value.errno == errno.ENOSPC

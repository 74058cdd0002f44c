"""Large files: reserving their space, on file systems that can and cannot, and giving their memory back."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest

from opskit.operations.restore import RestoreOptions, restore
from opskit.operations.restoring.large import LARGE, give_size, release
from tests.repositories import Lab, noise, picture, restored_below
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


def test_what_is_on_the_medium_leaves_memory(tmp_path: Path) -> None:
    """Of a file that is released nothing stays in the page cache once it is written; its bytes are what they were."""
    content = noise(1, 3 * MEBIBYTE)
    with mounted("ext4", tmp_path, size=96 * MEBIBYTE) as place, (place / "large").open("w+b") as file:
        file.write(content)
        os.fsync(file.fileno())
        assert cached_bytes(place / "large") == len(content)
        release(file.fileno())
        assert cached_bytes(place / "large") == 0
        file.seek(0)
        assert file.read() == content


def test_a_pipe_cannot_be_released() -> None:
    """The advice is advice: what cannot take it is written all the same."""
    reader, writer = os.pipe()
    release(writer)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("compared_after", [False, True])
def test_a_restore_releases_large_files_alone(
    compared_after: bool, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece of a large file is released once it is written, unless all is read back; other files never are."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "large").write_bytes(noise(1, MEBIBYTE) * 32)
    (source / "medium").write_bytes(noise(2, 3 * MEBIBYTE))
    (source / "small").write_bytes(b"small")
    lab.backup(source)
    released = list[Path]()

    def note(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        released.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "posix_fadvise", note)
    (snapshot,) = lab.history().snapshots
    restore(lab.reader(snapshot), target, RestoreOptions(compared_after=compared_after))
    below = restored_below(target, source)
    assert set(released) == (set() if compared_after else {below / "large"})
    assert len(released) != 1
    assert picture(below) == picture(source)


def cached_bytes(path: Path) -> int:
    """How much of a file lies in the page cache, in whole pages: mincore(2) of a mapping that nobody has touched."""
    size, page = path.stat().st_size, mmap.PAGESIZE
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapping:
        is_there = (ctypes.c_ubyte * -(-size // page))()
        start = (ctypes.c_char * size).from_buffer(mapping)
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(start), ctypes.c_size_t(size), is_there)
        del start  # else the mapping cannot be closed
    assert not failed, os.strerror(ctypes.get_errno())
    return sum(each & 1 for each in is_there) * page

"""Whatever a folder holds and however it changes, each of its snapshots restores to what it was."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from opskit.repository.chunker import MIN_CHUNK
from opskit.sources.files import FileSource
from tests.operations.judging import assert_equal, is_root, lab_in, restored, run
from tests.repositories import Keys, restored_below

NAMES = [
    b"a", b"b", b"a-b", b"a.txt", b"B", b"latin-\xe9", b"\xff\xfe", "ünï".encode(), b"new\nline", b" blank ", b"-rf",
    b"back\\slash", b"%41", b"n" * 255,
]  # fmt: skip
SIZES = [0, 1, 511, 512, 513, 4096, 70_000, MIN_CHUNK - 1, MIN_CHUNK, MIN_CHUNK + 1, 1_400_000]
TIMES = [0, 1, -1, 10**9 - 1, 1_700_000_000_123_456_789, 2**31 * 10**9 + 5]
ATTRIBUTES = ["user.a", "user.b.c", "user.\u00fc"]

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
which = st.integers(0, 1000)
"""Chooses among the entries that are there, whatever their number."""

edits = st.one_of(
    st.tuples(st.just("write"), paths, st.sampled_from(SIZES), st.integers(0, 3)),
    st.tuples(st.just("write"), paths, st.sampled_from(SIZES), st.integers(0, 3)),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("symlink"), paths, paths),
    st.tuples(st.just("link"), paths, which),
    st.tuples(st.just("sparse"), paths, st.lists(st.integers(0, 400), min_size=1, max_size=4), st.integers(1, 9000)),
    st.tuples(st.just("fifo"), paths),
    st.tuples(st.just("overwrite"), which),
    st.tuples(st.just("resize"), which, st.sampled_from(SIZES)),
    st.tuples(st.just("attribute"), which, st.sampled_from(ATTRIBUTES), st.binary(max_size=40)),
    st.tuples(st.just("chmod"), which, st.integers(0, 0o7777)),
    st.tuples(st.just("utime"), which, st.sampled_from(TIMES)),
    st.tuples(st.just("chown"), which, st.integers(0, 70_000), st.integers(0, 70_000)),
    st.tuples(st.just("remove"), which),
    st.tuples(st.just("rename"), which, paths),
)


class Tree:
    """A folder under change; an edit that the file system refuses is no edit."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        os.mkdir(self.root)

    def apply(self, edit: tuple[Any, ...]) -> None:
        act: Callable[..., None] = getattr(self, f"_{edit[0]}")
        with suppress(OSError):
            act(*edit[1:])

    def _new(self, path: bytes) -> bytes:
        full = self.root + b"/" + path
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if os.path.lexists(full):
            raise FileExistsError
        return full

    def _entries(self, kind: Callable[[bytes], bool] = os.path.lexists) -> list[bytes]:
        found = [os.path.join(at, each) for at, dirs, files in os.walk(self.root) for each in (*dirs, *files)]
        return [each for each in sorted(found) if kind(each)]

    def _pick(self, number: int, kind: Callable[[bytes], bool] = os.path.lexists) -> bytes:
        entries = self._entries(kind)
        if not entries:
            raise FileNotFoundError
        return entries[number % len(entries)]

    def _write(self, path: bytes, size: int, seed: int) -> None:
        full = self.root + b"/" + path
        if not os.path.isfile(full) or os.path.islink(full):
            full = self._new(path)
        with open(full, "wb") as file:
            file.write(random.Random(seed).randbytes(size))

    def _mkdir(self, path: bytes) -> None:
        os.mkdir(self._new(path))

    def _symlink(self, path: bytes, target: bytes) -> None:
        os.symlink(target, self._new(path))

    def _link(self, path: bytes, number: int) -> None:
        source = self._pick(number, lambda each: not _is_folder(each))
        os.link(source, self._new(path), follow_symlinks=False)

    def _sparse(self, path: bytes, pages: list[int], end: int) -> None:
        with open(self._new(path), "wb") as file:
            for page in pages:
                file.seek(page * 4096)
                file.write(b"data between holes %d" % page)
            file.truncate(max(pages) * 4096 + end)

    def _fifo(self, path: bytes) -> None:
        os.mkfifo(self._new(path))

    def _overwrite(self, number: int) -> None:
        """Same size, same modification time: only the change time tells."""
        path = self._pick(number, _is_file)
        before = os.stat(path)
        with open(path, "r+b") as file:
            file.write(bytes(min(before.st_size, 5)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _resize(self, number: int, size: int) -> None:
        os.truncate(self._pick(number, _is_file), size)

    def _attribute(self, number: int, name: str, value: bytes) -> None:
        os.setxattr(self._pick(number, lambda each: _is_file(each) or _is_folder(each)), name, value)

    def _chmod(self, number: int, mode: int) -> None:
        path = self._pick(number, lambda each: not os.path.islink(each))
        os.chmod(path, mode if is_root() else mode | 0o700)

    def _utime(self, number: int, when: int) -> None:
        os.utime(self._pick(number), ns=(when, when), follow_symlinks=False)

    def _chown(self, number: int, uid: int, gid: int) -> None:
        os.chown(self._pick(number), uid, gid, follow_symlinks=False)

    def _remove(self, number: int) -> None:
        path = self._pick(number)
        if _is_folder(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def _rename(self, number: int, path: bytes) -> None:
        os.rename(self._pick(number), self._new(path))


def _is_file(path: bytes) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def _is_folder(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


# Without shrinking: an example takes a second, and a failing one is short enough to read.
@settings(max_examples=10, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(rounds=st.lists(st.lists(edits, min_size=1, max_size=14), min_size=2, max_size=3), force=st.booleans())
def test_every_snapshot_restores_to_what_was_there(
    throwaway_keys: Keys, rounds: list[list[tuple[Any, ...]]], force: bool
) -> None:
    """After each backup all snapshots, old and new, restore equal: judged by rsync and by the space files take."""
    folder = Path(tempfile.mkdtemp(prefix="opskit-trip-"))
    try:
        lab, tree = lab_in(throwaway_keys, folder), Tree(folder / "source")
        judged: list[tuple[Any, Path]] = []
        for number, round_edits in enumerate(rounds):
            for edit in round_edits:
                tree.apply(edit)
            result = run(lab, FileSource([folder / "source"]), force=force)
            assert not result.errors, result.errors
            place = folder / f"first-{number}"
            assert not restored(lab, result, place).problems
            now = restored_below(place, folder / "source")
            assert_equal(folder / "source", now)
            for older, reference in judged:
                again = folder / "again"
                assert not restored(lab, older, again).problems
                assert_equal(reference, restored_below(again, folder / "source"))
                shutil.rmtree(again)
            judged.append((result, now))
        assert all(report.is_good for report in lab.verify().values())
    finally:
        shutil.rmtree(folder)

"""Entries of folders and names that match."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import SnapshotNotFound
from opskit.operations.browse import entries, matcher
from tests.repositories import Keys, Lab, make_source, memory_store


@pytest.fixture
def tree(throwaway_keys: Keys, tmp_path: Path) -> tuple[Lab, Path]:
    """One snapshot of a folder with nearly everything in it."""
    (tmp_path / "source").mkdir()
    lab = Lab(throwaway_keys, tmp_path / "state", {"a": memory_store()}).create()
    lab.backup(make_source(tmp_path / "source"))
    return lab, tmp_path / "source"


def test_entries_are_those_of_the_folder(tree: tuple[Lab, Path]) -> None:
    """At every folder of the tree, one level gives what the system lists there, and `recursive` all below."""
    lab, source = tree
    reader = lab.reader(lab.history().snapshots[-1])
    for folder in (source, *(path for path in source.rglob("*") if path.is_dir())):
        top = bytes(folder).lstrip(b"/")
        assert {node.path for node in entries(reader, top)} == {bytes(path).lstrip(b"/") for path in folder.iterdir()}
        below = {bytes(path).lstrip(b"/") for path in folder.rglob("*")}
        assert {node.path for node in entries(reader, top, recursive=True)} == below
    assert [node.path for node in entries(reader, b"")] == [bytes(source).split(b"/")[1]]


def test_a_path_that_is_not_there(tree: tuple[Lab, Path]) -> None:
    """A missing path, one that only begins a name, and one below a file are not found; an empty folder is empty."""
    lab, source = tree
    reader = lab.reader(lab.history().snapshots[-1])
    top = bytes(source).lstrip(b"/")
    for path in (b"nowhere", top + b"/doc", top + b"/empty/x"):
        with pytest.raises(SnapshotNotFound):
            list(entries(reader, path))
    assert list(entries(reader, top + b"/nothing")) == []


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        (b"*.txt", b"srv/a.txt", True),
        (b"*.txt", b"srv/a.txt/b", False),
        (b"/srv/*.txt", b"srv/deep/a.txt", True),
        (b"srv/?.txt", b"srv/a.txt", True),
        (b"a", b"srv/a/b", False),
        (b"[!a]*", b"srv/a", True),  # by its whole path
        (b"*\xe9*", b"srv/caf\xe9", True),
        (b"two*lines", b"two\nlines", True),
        (b"A.TXT", b"a.txt", False),
    ],
)
def test_patterns(pattern: bytes, path: bytes, expected: bool) -> None:
    """Shell patterns over bytes, for the last name or the whole path."""
    assert matcher([pattern])(path) is expected


@given(st.binary(min_size=1).filter(lambda name: not set(name) & set(b"/*?[\0")))
def test_a_name_matches_itself(name: bytes) -> None:
    """Without special characters a pattern fits that name alone, whatever its bytes."""
    assert matcher([name])(b"srv/" + name)
    assert not matcher([name])(b"srv/" + name + b"x")

"""Differences of trees: the changes lead from one to the other, and they are what the system says changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import SnapshotNotFound
from opskit.operations.diff import Change, Summary, between, diff
from opskit.repository import tree
from opskit.repository.tree import Node
from tests.repositories import Keys, Lab, Picture, change_source, make_source, memory_store, picture

CHUNKS = [(bytes([number]) * 32, 10) for number in range(3)]
paths = st.lists(st.sampled_from([b"a", b"b", b"a b", b"a-b", b"a\xff", b"c"]), min_size=1, max_size=3).map(b"/".join)


@st.composite
def nodes(draw: st.DrawFn, path: bytes) -> Node:
    """An entry with few possible values, so that equal ones are common."""
    kind = draw(st.sampled_from(["file", "file", "dir", "symlink"]))
    node = Node(
        path, kind, draw(st.sampled_from([0o644, 0o755])), draw(st.integers(0, 1)), 0, mtime=draw(st.integers(0, 1))
    )
    if kind == "file":
        node.chunks = draw(st.lists(st.sampled_from(CHUNKS), max_size=2))
        node.size = 10 * len(node.chunks)
        node.hardlink = draw(st.sampled_from([None, None, "1", "2"]))
        node.xattrs = draw(st.permutations([(b"user.a", b"1"), (b"user.b", b"2")]))[: draw(st.integers(0, 2))]
        node.error = draw(st.sampled_from([None, None, "denied"]))
    elif kind == "symlink":
        node.target = draw(st.sampled_from([b"here", b"there"]))
    return node


@st.composite
def trees(draw: st.DrawFn) -> list[Node]:
    """Entries in tree order, each path once."""
    chosen = draw(st.sets(paths, max_size=8))
    return [draw(nodes(path)) for path in sorted(chosen, key=tree.order)]


def comparable(node: Node) -> Node:
    """The entry without what diff leaves out on purpose: which files are one, attributes' order, errors' words."""
    return replace(node, hardlink=node.hardlink and "some", xattrs=sorted(node.xattrs), error=node.error and "some")


def applied(old: list[Node], changes: list[Change]) -> dict[bytes, Node]:
    """A listing after the changes, by path; each must fit what is there."""
    listing = {node.path: node for node in old}
    for change in changes:
        assert listing.pop(change.path, None) == change.before
        if change.after is not None:
            listing[change.path] = change.after
    return listing


@given(trees())
def test_a_tree_does_not_differ_from_itself(one: list[Node]) -> None:
    """Equal trees give no change."""
    assert list(diff(iter(one), iter([replace(node) for node in one]))) == []


@given(trees(), trees())
def test_the_changes_lead_from_one_to_the_other(old: list[Node], new: list[Node]) -> None:
    """Applied to the first listing the changes give the second; unchanged entries stay as they were."""
    changes = list(diff(iter(old), iter(new)))
    found = {path: comparable(node) for path, node in applied(old, changes).items()}
    assert found == {node.path: comparable(node) for node in new}


@given(trees(), trees())
def test_changes_come_once_and_in_order(old: list[Node], new: list[Node]) -> None:
    """Every path is told at most once, in tree order, and the way back is the same one reversed."""
    changes = list(diff(iter(old), iter(new)))
    places = [tree.order(change.path) for change in changes]
    assert places == sorted(set(places))
    back = list(diff(iter(new), iter(old)))
    turned = {"added": "removed", "removed": "added"}
    assert [(turned.get(each.kind, each.kind), each.path, set(each.fields)) for each in changes] == [
        (each.kind, each.path, set(each.fields)) for each in back
    ]


@given(trees(), trees())
def test_no_more_than_one_entry_is_read_ahead(old: list[Node], new: list[Node]) -> None:
    """When a change is told, neither tree has been read beyond the entry after it: memory does not grow."""
    taken: list[list[Node]] = [[], []]

    def watched(listing: list[Node], side: int) -> Iterator[Node]:
        for node in listing:
            taken[side].append(node)
            yield node

    for change in diff(watched(old, 0), watched(new, 1)):
        for side in taken:
            assert sum(tree.order(node.path) > tree.order(change.path) for node in side) <= 1


@given(trees(), trees())
def test_the_summary_adds_up(old: list[Node], new: list[Node]) -> None:
    """Entries and bytes of the summary balance: before plus added minus removed is after."""
    summary = Summary()
    changes = [summary.add(each) for each in diff(iter(old), iter(new))]
    totals = summary.totals.values()
    assert sum(each.entries for each in totals) == len(changes)
    grown = sum(each.bytes_after - each.bytes_before for each in totals)
    assert grown == sum(node.size for node in new) - sum(node.size for node in old)


@pytest.mark.parametrize(
    ("change", "kind", "fields"),
    [
        ({"mode": 0o600}, "metadata", ("mode",)),
        ({"uid": 5}, "metadata", ("owner",)),
        ({"user": "x"}, "metadata", ("owner",)),
        ({"mtime": 7}, "metadata", ("mtime",)),
        ({"xattrs": [(b"user.a", b"")]}, "metadata", ("xattrs",)),
        ({"hardlink": "1"}, "metadata", ("hardlink",)),
        ({"chunks": CHUNKS[1:2], "mtime": 7}, "changed", ("content", "mtime")),
        ({"holes": [(0, 5)]}, "changed", ("content",)),
        ({"error": "denied", "chunks": []}, "changed", ("readable",)),
        ({"type": "symlink", "target": b"x", "chunks": []}, "changed", ("type",)),
        ({"type": "char", "device": (1, 3)}, "changed", ("type",)),
    ],
)
def test_each_field_is_told(change: dict[str, object], kind: str, fields: tuple[str, ...]) -> None:
    """What differs is named, and contents are told from metadata."""
    old = Node(b"x", "file", 0o644, 0, 0, mtime=1, size=10, chunks=CHUNKS[:1])
    (found,) = diff(iter([old]), iter([replace(old, **change)]))  # type: ignore[arg-type]
    assert (found.kind, found.fields) == (kind, fields)


@pytest.mark.parametrize(
    "change",
    [{"xattrs": [(b"user.b", b""), (b"user.a", b"")]}, {"hardlink": "2"}, {"error": "other words"}],
)
def test_what_says_nothing_about_a_file_is_no_difference(change: dict[str, object]) -> None:
    """The order of attributes, the number of a group of hard links and the words of an error change nothing."""
    xattrs = [(b"user.a", b""), (b"user.b", b"")]
    old = Node(b"x", "file", 0o644, 0, 0, hardlink="1", xattrs=xattrs, error="some words")
    assert list(diff(iter([old]), iter([replace(old, **change)]))) == []  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def changed(throwaway_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Path, Picture, Picture]:
    """Two snapshots of a folder with nearly everything in it, and what the system said of it each time."""
    folder = tmp_path_factory.mktemp("diff")
    (folder / "source").mkdir()
    lab = Lab(throwaway_keys, folder / "state", {"a": memory_store()}).create()
    source = make_source(folder / "source")
    first = picture(source)
    lab.backup(source)
    change_source(source)
    (source / "same.bin").chmod(0o600)
    second = picture(source)
    lab.backup(source)
    return lab, source, first, second


def test_real_snapshots_differ_as_the_folders_did(changed: tuple[Lab, Path, Picture, Picture]) -> None:
    """Added, removed and changed paths of two real snapshots are those the system shows, and no others."""
    lab, source, first, second = changed
    old, new = (lab.reader(each) for each in lab.history().snapshots)
    found = {each.path: each.kind for each in between(old, new)}
    top = bytes(source).lstrip(b"/") + b"/"
    expected = {}
    for path in first.keys() | second.keys():
        kind = None
        if path not in first or path not in second:
            kind = "added" if path not in first else "removed"
        elif first[path][1:3] != second[path][1:3]:
            kind = "changed"
        elif first[path][:4] != second[path][:4]:
            kind = "metadata"
        if kind is not None:
            expected[(top + path.encode("utf-8", "surrogateescape")).removesuffix(b"/.")] = kind
    assert found == expected and set(expected.values()) == {"added", "removed", "changed", "metadata"}


def test_a_path_limits_the_answer(changed: tuple[Lab, Path, Picture, Picture]) -> None:
    """Below a path only its changes are told; one that is in neither snapshot is not found, in one of them it is."""
    lab, source, _, _ = changed
    old, new = (lab.reader(each) for each in lab.history().snapshots)
    top = bytes(source).lstrip(b"/")
    everything = list(between(old, new))
    for below in (b"/docs", b"/docs/added.txt", b"/docs/note-05.txt", b"/large.bin", b"/empty"):
        wanted = [each for each in everything if each.path == top + below or each.path.startswith(top + below + b"/")]
        assert list(between(old, new, top + below)) == wanted
    with pytest.raises(SnapshotNotFound, match="neither snapshot has"):
        list(between(old, new, top + b"/doc"))

"""The walk: order, source paths, bad and changing trees, mounts, depth."""

from __future__ import annotations

import os
import resource
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import SourceError
from opskit.sources.base import KINDS, Entry, Problem
from opskit.sources.files import FileSource
from opskit.sources.files.folders import TO_PASS, FolderCursor
from tests.sources.walking import (
    content,
    entry_of,
    make,
    names,
    needs_root,
    open_descriptors,
    ordinary_user,
    remove,
    walk,
)
from tests.stores.mounts import mounted

NAME = st.binary(min_size=1, max_size=4).filter(lambda name: b"/" not in name and b"\0" not in name)
NASTY = st.sampled_from(
    [b"a", b"a-b", b"a.b", b"ab", b"a b", b"a\n", b"\xff", b"\xc3\xa9", b"\xee\x80\x80", b"-", b"~"]
)
PATHS = st.sets(st.lists(NASTY | NAME, min_size=1, max_size=4).map(tuple), min_size=1, max_size=12)


@given(paths=PATHS)
def test_entries_come_in_component_order(
    tmp_path_factory: pytest.TempPathFactory, paths: set[tuple[bytes, ...]]
) -> None:
    """Whatever the names, the walk lists every path once, sorted as tuples of its parts."""
    root = os.fsencode(tmp_path_factory.mktemp("order"))
    expected = set()
    for parts in paths - {(b".",), (b"..",)}:
        if b"." in parts or b".." in parts:
            continue
        os.makedirs(os.path.join(root, *parts), exist_ok=True)
        expected |= {parts[:depth] for depth in range(1, len(parts) + 1)}
    entries, problems = walk(FileSource([root]))
    assert problems == []
    assert [tuple(entry.path[len(root) :].split(b"/")) for entry in entries[1:]] == sorted(expected)


@given(steps=st.lists(st.lists(st.sampled_from("ab"), max_size=4), max_size=12), data=st.data())
def test_a_cursor_stands_where_it_was_sent(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[str]], data: st.DataObject
) -> None:
    """From any folder to any other, in, out, across and to an anchor above: the descriptor is that folder's."""
    root = tmp_path_factory.mktemp("cursor")
    anchors = [root, root / "a", root / "b/a"]
    for step in [*steps, ["b", "a"], ["a"]]:
        root.joinpath(*step).mkdir(parents=True, exist_ok=True)
    chosen = data.draw(st.sets(st.sampled_from(anchors), min_size=1)) | {root}
    cursor = FolderCursor([os.fsencode(each).strip(b"/") for each in chosen], TO_PASS)
    for step in steps:
        folder = root.joinpath(*step)
        assert os.path.samestat(os.fstat(cursor.descriptor(os.fsencode(folder).strip(b"/"))), folder.stat())
    cursor.close()


def test_source_paths_are_merged_and_parents_come_once(tmp_path: Path) -> None:
    """Nested, repeated and unsorted source paths give one sorted stream, each parent once and first."""
    make(tmp_path, "a/b/f", "a/c/f", "a-b/f", "a/b/sub/f")
    paths = [tmp_path / "a-b", tmp_path / "a/c", tmp_path / "a/b/sub", tmp_path / "a/b", f"{tmp_path}/a//b/../b/"]
    entries = [entry for entry in FileSource(paths).entries() if isinstance(entry, Entry)]
    top = len(os.fsencode(tmp_path))
    found = [(entry.path[top:], entry.is_parent) for entry in entries if len(entry.path) >= top]
    assert found == [
        (b"a", True), (b"a/b", False), (b"a/b/f", False), (b"a/b/sub", False), (b"a/b/sub/f", False),
        (b"a/c", False), (b"a/c/f", False), (b"a-b", False), (b"a-b/f", False),
    ]  # fmt: skip
    parents = [entry.path for entry in entries if entry.is_parent]
    assert len(parents) == len(set(parents)) == len(tmp_path.parts)
    assert all(first.path.split(b"/") < second.path.split(b"/") for first, second in pairwise(entries))


def test_a_file_is_a_source_path(tmp_path: Path) -> None:
    """A source path may be one file: it and its parents, not its neighbours."""
    make(tmp_path, "f", "g")
    entries, problems = walk(FileSource([tmp_path / "f"]))
    assert [entry.kind for entry in entries] == ["file"] and problems == []
    assert names(tmp_path) == ["f", "g"]


def test_a_symbolic_link_as_source_path_is_loud(tmp_path: Path) -> None:
    """A source path which is a link is recorded as a link, and says that its target is not backed up."""
    make(tmp_path, "real/f")
    (tmp_path / "link").symlink_to("real")
    source = FileSource([tmp_path / "link"])
    entries, problems = walk(source)
    assert [entry.kind for entry in entries] == ["symlink"]
    assert [(problem.kind, problem.path) for problem in problems] == [("skipped", entries[0].path)]
    assert source.metadata(entries[0]).target == b"real"


def test_links_above_a_source_path_are_followed(tmp_path: Path) -> None:
    """A path typed through a link is backed up under the name that was typed, its parents as folders."""
    make(tmp_path, "real/sub/f")
    (tmp_path / "link").symlink_to("real")
    source = FileSource([tmp_path / "link/sub"])
    entries = [entry for entry in source.entries() if isinstance(entry, Entry)]
    assert [entry.kind for entry in entries][-3:] == ["dir", "dir", "file"]
    assert entries[-1].path.endswith(b"/link/sub/f")
    opened = source.open(entries[-1])
    assert not isinstance(opened, Problem)
    opened.close()
    source.close()


def test_missing_source_paths_stop_everything(tmp_path: Path) -> None:
    """One missing path means that nothing is yielded, and all missing ones are named."""
    make(tmp_path, "a/f")
    source = FileSource([tmp_path / "a", tmp_path / "gone", tmp_path / "a/f/below"])
    with pytest.raises(SourceError) as caught:
        next(source.entries())
    assert f"{tmp_path}/gone" in str(caught.value) and caught.value.exit_code == 4 and caught.value.hint
    walk(FileSource([tmp_path / "a", tmp_path / "a/f/below"]))  # inside another path: merged away
    with pytest.raises(SourceError):
        next(FileSource([]).entries())


def test_a_folder_to_skip_is_recorded_empty(tmp_path: Path) -> None:
    """Folders named by device and inode appear without content; as a source path they are refused."""
    make(tmp_path, "a/f", "store/packs/x", "z")
    found = (tmp_path / "store").stat()
    skip = {(found.st_dev, found.st_ino)}
    assert names(tmp_path, skip=skip) == ["a", "a/f", "store", "z"]
    with pytest.raises(SourceError, match="opskit itself"):
        next(FileSource([tmp_path / "store"], skip=skip).entries())


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    """Links to themselves, upwards and to nowhere are entries, not folders to enter."""
    make(tmp_path, "d/f")
    for name, target in (("self", "self"), ("d/up", ".."), ("dangling", "/no/such")):
        (tmp_path / name).symlink_to(target)
    assert names(tmp_path) == ["d", "d/f", "d/up", "dangling", "self"]


def test_what_vanishes_during_the_walk_is_recorded(tmp_path: Path) -> None:
    """A file gone between listing and lstat is a Problem, and the walk goes on."""
    stream = FileSource([make(tmp_path, "a", "b", "c")]).entries()
    seen = []
    for item in stream:
        seen.append(item)
        if item.path.endswith(b"/a"):
            (tmp_path / "b").unlink()
    assert isinstance(seen[-2], Problem) and seen[-2].kind == "vanished"
    assert seen[-1].path.endswith(b"/c")


@pytest.mark.parametrize(
    ("replacement", "kind"),
    [
        ("link", "changed"),
        ("link to itself", "changed"),
        ("file", "changed"),
        ("folder", "changed"),
        ("nothing", "vanished"),
    ],
)
def test_a_folder_replaced_during_the_walk_is_not_entered(tmp_path: Path, replacement: str, kind: str) -> None:
    """A folder that becomes a link to elsewhere, or anything else, before it is opened leads nowhere."""
    root, secret = make(tmp_path / "root", "a/f", "b"), make(tmp_path / "secret", "treasure")
    items = []
    for item in FileSource([root]).entries():
        items.append(item)
        if isinstance(item, Entry) and item.path.endswith(b"/root/a"):
            (root / "a").rename(tmp_path / "away")
            if replacement == "link":
                (root / "a").symlink_to(secret)
            elif replacement == "link to itself":
                (root / "a").symlink_to(tmp_path / "away")
            elif replacement == "file":
                (root / "a").write_text("x")
            elif replacement == "folder":
                make(root, "a/planted")
    assert [item.path.rpartition(b"/")[2] for item in items[-3:]] == [b"a", b"a", b"b"]
    assert isinstance(items[-2], Problem) and items[-2].kind == kind


def test_a_parent_replaced_by_a_link_is_not_entered(tmp_path: Path) -> None:
    """Going on in a folder after its own subfolder does not look the path up again."""
    root, secret = make(tmp_path / "root", "a/x/f", "a/y"), make(tmp_path / "secret", "x/f", "y", "treasure")
    items = []
    for item in FileSource([root]).entries():
        items.append(item)
        if isinstance(item, Entry) and item.path.endswith(b"/x/f"):
            (root / "a").rename(tmp_path / "away")
            (root / "a").symlink_to(secret)
    assert items[-1].path.endswith(b"/root/a/y") and isinstance(items[-1], Entry)
    assert items[-1].stat.st_ino == (tmp_path / "away/y").stat().st_ino


def test_an_unreadable_folder_is_a_problem(tmp_path: Path) -> None:
    """A folder that may not be listed is recorded with a Problem after it, and its neighbours are complete."""
    with ordinary_user() as root:
        make(root, "a/f", "b/f", "c/f")
        (root / "a").chmod(0o300)
        (root / "b").chmod(0o600)
        items = [item for item in FileSource([root]).entries() if item.path.startswith(os.fsencode(root)[1:])]
        told = [(item.path.rpartition(b"/")[2], type(item).__name__) for item in items[1:]]
    a_told, b_told = [(b"a", "Entry"), (b"a", "Problem")], [(b"b", "Entry"), (b"f", "Problem")]
    assert told == [*a_told, *b_told, (b"c", "Entry"), (b"f", "Entry")]
    assert {item.kind for item in items if isinstance(item, Problem)} == {"unreadable"}
    assert "permission denied" in items[2].message  # type: ignore[union-attr]


@needs_root
def test_one_file_system_stops_at_mounts(tmp_path: Path) -> None:
    """With one_file_system a mount point is an empty folder; without, it is walked through."""
    make(tmp_path, "a", "z")
    with mounted("tmpfs", tmp_path) as place:
        make(place, "sub/f")
        assert names(tmp_path, one_file_system=True) == ["a", "mnt-tmpfs", "z"]
        assert names(tmp_path) == ["a", "mnt-tmpfs", "mnt-tmpfs/sub", "mnt-tmpfs/sub/f", "z"]
        assert names(place, one_file_system=True) == ["sub", "sub/f"]


@needs_root
def test_a_folder_mounted_over_during_the_walk_obeys(tmp_path: Path) -> None:
    """What an automounter mounts on opening is left out with one_file_system, walked without."""
    for one_file_system, expected in ((True, [b"mnt-tmpfs", b"z"]), (False, [b"mnt-tmpfs", b"f", b"z"])):
        root = make(tmp_path / str(one_file_system), "mnt-tmpfs/", "z")
        stream = FileSource([root], one_file_system=one_file_system).entries()
        found = [next(item for item in stream if item.path.endswith(b"/mnt-tmpfs"))]
        (root / "mnt-tmpfs").rmdir()
        with mounted("tmpfs", root) as place:
            make(place, "f")
            found += stream
        assert [item.path.rpartition(b"/")[2] for item in found] == expected
        assert all(isinstance(item, Entry) for item in found)


def deep_tree(root: Path, levels: int, *, at_each: bool) -> None:
    """A chain of folders with a file at the end, and one beside each folder where asked."""
    fd = os.open(root, os.O_DIRECTORY)
    for level in range(levels):
        if at_each:
            os.close(os.open("z-file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
        os.mkdir("dir", dir_fd=fd)
        below = os.open("dir", os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
        if level == levels - 1:
            os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    os.close(fd)


@pytest.mark.parametrize(
    ("levels", "at_each"), [(63, True), (64, True), (65, True), (66, True), (200, True), (1500, False)]
)
def test_depth_beyond_path_max_and_descriptors(tmp_path: Path, levels: int, at_each: bool) -> None:
    """A tree deeper than PATH_MAX and than the limit of descriptors is walked, read and described whole."""
    deep_tree(tmp_path, levels, at_each=at_each)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, limits[1]), limits[1]))
    try:
        source = FileSource([tmp_path])
        entries, problems = walk(source)
        files = [entry for entry in entries if entry.kind == "file"]
        assert problems == [] and len(files) == (levels if at_each else 0) + 1
        opened = source.open(next(entry for entry in files if entry.path.endswith(b"/bottom")))
        assert not isinstance(opened, Problem), opened
        opened.close()
        assert {source.metadata(entry).problem for entry in [*files, entries[-1]]} == {None}
        source.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        remove(tmp_path)


def test_deep_folders_with_equal_names_are_not_mixed_up(tmp_path: Path) -> None:
    """Jumping between two deep trees whose lower parts have the same names reads each one's own file."""
    for name in ("one", "two"):
        deep_tree(make(tmp_path, f"{name}/") / name, 70, at_each=False)
    source = FileSource([tmp_path])
    bottoms = [entry for entry in walk(source)[0] if entry.kind == "file"]
    assert len(bottoms) == 2
    for entry in [*bottoms, *bottoms]:
        assert content(source.open(entry)) == b""
    source.close()


def test_an_unknown_kind_of_file_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode that stands for nothing known, as damaged file systems show, is a Problem and stops nothing."""
    os.mkfifo(tmp_path / "b")
    monkeypatch.delitem(KINDS, 0o01)
    entries, problems = walk(FileSource([make(tmp_path, "a", "c")]))
    assert len(entries) == 3 and [(problem.kind, problem.path[-1:]) for problem in problems] == [("unreadable", b"b")]


def test_a_deep_folder_that_cannot_be_opened_again_is_a_problem(tmp_path: Path) -> None:
    """Where a deep parent is gone when the walk comes back to it, that is said, and the walk ends well."""
    deep_tree(tmp_path, 70, at_each=True)
    items = []
    for item in FileSource([tmp_path]).entries():
        items.append(item)
        if item.path.endswith(b"/bottom"):
            os.rename(b"/" + item.path.removesuffix(b"/dir" * 4 + b"/bottom"), tmp_path / "away")
    problems = [item for item in items if isinstance(item, Problem)]
    assert problems and {problem.kind for problem in problems} == {"vanished"}
    assert items[-1].path == os.fsencode(tmp_path)[1:] + b"/z-file"


def test_names_of_every_shape_are_walked(tmp_path: Path) -> None:
    """Names of 255 bytes, with newlines, with bytes that are no UTF-8 come through unchanged."""
    wanted = sorted([b"n" * 255, b"new\nline", b"\xff\xfe", b" lead", b"trail ", "é".encode(), b"\x01", b"\\", b"'\""])
    for name in wanted:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    entries, problems = walk(FileSource([tmp_path]))
    assert problems == [] and [entry.path.rpartition(b"/")[2] for entry in entries[1:]] == wanted


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """A walk that ends, one that is dropped half-way, and a closed source leave no descriptor behind."""
    make(tmp_path, "a/b/c/f", "d/f")
    before = open_descriptors()
    source = FileSource([tmp_path])
    walk(source)
    half = source.entries()
    next(item for item in half if item.path.endswith(b"/f"))
    half.close()  # type: ignore[attr-defined]
    opened = source.open(entry_of(source, tmp_path / "d/f"))
    assert not isinstance(opened, Problem)
    opened.close()
    opened.close()
    source.close()
    assert open_descriptors() == before


def test_the_root_folder_can_be_a_source_path() -> None:
    """The path "/" is walked from its first name on, without an entry or parents of its own."""
    stream = FileSource(["/"], one_file_system=True).entries()
    first = next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert first.path == sorted(os.listdir(b"/"))[0] and not (isinstance(first, Entry) and first.is_parent)


def test_a_source_can_be_walked_again(tmp_path: Path) -> None:
    """A second walk of the same source sees what changed since."""
    source = FileSource([make(tmp_path, "a/f", "b")])
    assert len(walk(source)[0]) == 4
    shutil.rmtree(tmp_path / "a")
    assert len(walk(source)[0]) == 2

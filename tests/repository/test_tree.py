"""Trees: entries survive, come in walk order, and cannot lead anywhere."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import tree
from opskit.repository.tree import MAX_CHUNKS_A_LINE, MAX_CUT, MIN_CUT, Node, Root, TreeChunk, TreeCutter

part = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
paths = st.lists(part, min_size=1, max_size=4).map(b"/".join)
ids = st.binary(min_size=32, max_size=32)
naturals = st.integers(0, 2**40)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    kind = draw(st.sampled_from(sorted(tree.TYPES - {"more"})))
    is_file = kind == "file"
    return Node(
        draw(paths), kind, draw(st.integers(0, 0o7777)),
        draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**32 - 1)),
        user=draw(st.none() | st.text(min_size=1)), group=draw(st.none() | st.text(min_size=1)),
        mtime=draw(st.none() | st.integers(-(2**63), 2**64 - 1)), size=draw(naturals) if is_file else 0,
        chunks=draw(st.lists(st.tuples(ids, st.integers(0, 2**23)), max_size=4)) if is_file else [],
        hardlink=draw(st.none() | st.just("fd00:1a")), target=draw(paths) if kind == "symlink" else None,
        device=(draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))) if kind in ("char", "block") else None,
        holes=draw(st.lists(st.tuples(naturals, naturals), max_size=3)) if is_file else [],
        xattrs=draw(st.lists(st.tuples(part, st.binary(max_size=30)), max_size=3)),
        error=draw(st.none() | st.text(min_size=1)),
    )  # fmt: skip


@given(nodes())
def test_entries_survive(node: Node) -> None:
    """A line read back is the entry that was written, names in any bytes."""
    line = tree.encode_line(node)
    assert line.endswith(b"\n") and b"\n" not in line[:-1]
    assert list(tree.decode_lines(line)) == [node]


def test_a_long_file_takes_several_lines() -> None:
    """Chunks beyond the first lines' go into lines of type "more", which join to the same list."""
    chunks = [(number.to_bytes(32, "big"), 5) for number in range(2 * MAX_CHUNKS_A_LINE + 1)]
    first, *more = tree.decode_lines(tree.encode_line(Node(b"f", "file", 0o600, 0, 0, chunks=chunks)))
    assert [each.type for each in more] == ["more", "more"] and all(each.path == b"f" for each in more)
    assert [*first.chunks, *(chunk for each in more for chunk in each.chunks)] == chunks


@given(st.lists(paths, unique=True))
def test_order_is_component_wise(some: list[bytes]) -> None:
    """Sorting by `order` is sorting by tuples of parts: a folder is followed by what is in it."""
    assert sorted(some, key=tree.order) == sorted(some, key=lambda path: path.split(b"/"))


@pytest.mark.parametrize(
    "path", [b"", b"/", b"/etc/passwd", b"a/", b"a//b", b".", b"..", b"../x", b"a/../b", b"a/..", b"./a", b"a\0b"]
)
def test_paths_that_lead_elsewhere(path: bytes) -> None:
    """Absolute, empty, "." and ".." paths and NUL are Damaged, in text and in base64."""
    with pytest.raises(Damaged):
        tree.check_path(path)
    with pytest.raises(Damaged):
        tree.decode_line(tree.encode_line(Node(path, "file", 0, 0, 0)))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "door"}, {"type": None}, {"mode": "x"}, {"uid": -1}, {"gid": 2**32}, {"mtime": 1.5}, {"mtime": "now"},
        {"size": -1}, {"chunks": [["ab", 1]]}, {"chunks": [["ab" * 32, -1]]}, {"chunks": 5}, {"holes": [[1]]},
        {"holes": [[-1, 1]]}, {"xattrs": [["!", "!"]]}, {"hardlink": 5}, {"user": []}, {"error": {}}, {"device": [1]},
    ],
)  # fmt: skip
def test_malformed_entries(change: dict[str, object]) -> None:
    """Whatever a writer cannot have made is Damaged."""
    value = {"path": "a", "type": "file", "mode": 0o600, "uid": 0, "gid": 0, "size": 0, "chunks": [], **change}
    with pytest.raises(Damaged):
        tree.decode_line(encoding.encode(value))


def entries(count: int) -> list[tuple[bytes, bytes]]:
    return [(path, tree.encode_line(Node(path, "file", 0, 0, 0))) for path in (b"d/%06d" % n for n in range(count))]


def pieces(some: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    cutter = TreeCutter()
    return [piece for path, line in some for piece in cutter.add(path, line)] + list(cutter.rest())


def test_a_tree_is_cut_into_pieces_that_stay() -> None:
    """Pieces join to the tree, keep their bounds and first paths, and one edit changes one or two of them."""
    some = entries(20_000)
    before = pieces(some)
    assert b"".join(piece for _, piece in before) == b"".join(line for _, line in some)
    assert all(MIN_CUT <= len(piece) <= MAX_CUT + 200 for _, piece in before[:-1])
    assert all(next(tree.decode_lines(piece)).path == first for first, piece in before)
    for edited in (some[:7000] + entries(1) + some[7000:], some[:9000] + some[9001:]):
        assert len({piece for _, piece in pieces(edited)} - {piece for _, piece in before}) <= 2


def test_a_huge_file_does_not_make_a_huge_piece() -> None:
    """The lines of a file with half a million chunks are spread over several pieces."""
    node = Node(b"huge", "file", 0, 0, 0, chunks=[(bytes(32), 1)] * 60_000)
    assert max(len(piece) for _, piece in pieces([(b"huge", tree.encode_line(node))])) <= MAX_CUT + 400_000


@given(st.lists(st.tuples(ids, naturals, st.none() | ids.map(bytes.hex), paths), max_size=5), st.text(), st.text())
def test_roots_survive(some: list[tuple[bytes, int, str | None, bytes]], config: str, keys: str) -> None:
    """A root read back is the root that was written."""
    root = Root([TreeChunk(*each) for each in some], [(b"p\xff", "cannot be read")], config, keys)
    assert tree.decode_root(tree.encode_root(root)) == root


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b'{"packs":[],"chunks":[{"id":"x"}],"problems":[],"config":"","keys":""}']
)
def test_malformed_roots(data: bytes) -> None:
    """A malformed root is Damaged."""
    with pytest.raises(Damaged):
        tree.decode_root(data)


@given(
    st.text('aä/ \n"', min_size=1, max_size=30).filter(lambda path: path.strip("/") == path and "//" not in path),
    st.binary(min_size=32, max_size=32),
    st.integers(1, 10**6),
    st.sampled_from(["root", "jürgen"]),
)
def test_the_quick_way_writes_the_same_line(
    tmp_path_factory: pytest.TempPathFactory, path: str, chunk_id: bytes, size: int, user: str
) -> None:
    """An ordinary file's line is byte for byte what the general way writes."""
    file = tmp_path_factory.mktemp("plain") / "file"
    file.touch()
    os.truncate(file, size)
    status = file.stat()
    node = Node(
        path.encode(), "file", status.st_mode & 0o7777, status.st_uid, status.st_gid, user, "users", status.st_mtime_ns,
        size, [(chunk_id, size)],
    )  # fmt: skip
    assert tree.plain_line(path, status, user, "users", chunk_id) == tree.encode_line(node)

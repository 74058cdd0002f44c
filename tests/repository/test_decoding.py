"""The quick decoder of tree pieces against the thorough one."""

from __future__ import annotations

import pytest

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import decoding, tree
from opskit.repository.tree import LATEST, Node

FILE = encoding.decode(
    tree.encode_line(Node(b"a/b", "file", 0o644, 1, 2, "u", "g", 3, 4, [(b"\x01" * 32, 4)])).rstrip(b"\n")
)
FOLDER = encoding.decode(tree.encode_line(Node(b"a", "dir", 0o755, 1, 2, "u", "g", 3)).rstrip(b"\n"))

PATHS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/..",
    "../a",
    "a/./b",
    ".a",
    "a/.b",
    "a/..b",
    "a\0b",
    "a.b/c..",
    5,
    None,
    ["a"],
    ["a", "b"],
    {},
]
VALUES = [
    None,
    True,
    -1,
    0,
    1.5,
    "x",
    [],
    {},
    2**32,
    2**62,
    2**64,
    -(2**63) - 1,
    0o10000,
    LATEST,
    "type",
    "dir",
    "more",
]
CHUNKS = [[], [["ab" * 32, 2**32]], [["AB" * 32, 1]], [["ab" * 31, 1]], [["a b" * 32, 1]], [[1, 2]], [["ab" * 32, "1"]]]
ALTERED = [
    {**entry, key: value}
    for entry in (FILE, FOLDER)
    for key, values in [("path", PATHS), ("chunks", CHUNKS), *((key, VALUES) for key in (*FILE, "hardlink", "error"))]
    for value in values
]

_BEGIN, _END = encoding.encode({**FOLDER, "path": "a},{b"}).split(b"},{")
_FIRST, _REST = encoding.encode(FOLDER).split(b",", 1)
SPANNING = [(_BEGIN + b"}", b"{" + _END), (_FIRST, _REST), (b'{"path":[{}', b"{}]}")]


def decoded(lines: bytes, decode: object) -> list[Node] | str:
    """The nodes, or what was wrong."""
    try:
        return list(decode(lines))  # type: ignore[operator]
    except Damaged as error:
        return str(error)


def test_ordinary_entries_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one chunk and folders are decoded without `decode_line`, to what it would have made of them."""
    piece = b"".join(encoding.encode(each) + b"\n" for each in (FOLDER, FILE, FILE))
    expected = list(tree.decode_lines(piece))
    monkeypatch.delattr(tree, "decode_line")
    assert list(decoding.nodes(piece)) == expected


def test_what_is_refused_is_the_same() -> None:
    """Whatever is altered in an ordinary entry is taken or refused as the thorough decoder does."""
    for value in ALTERED + [{k: v for k, v in FILE.items() if k != key} for key in FILE]:
        try:
            piece = encoding.encode(FOLDER) + b"\n" + encoding.encode(value) + b"\n"
        except TypeError:  # beyond what JSON integers hold
            continue
        assert decoded(piece, decoding.nodes) == decoded(piece, tree.decode_lines), value


def test_lines_that_are_no_entries() -> None:
    """Lines that are no JSON, or more or less than one object, are refused as the thorough decoder does."""
    good = encoding.encode(FILE)
    for bad in (b"{", b"1", b"[]", good + b"," + good, good[:-1], b'{"a":1},', good + good, b"[" + good, b"1],[2"):
        for piece in (bad + b"\n" + good + b"\n", good + b"\n" + bad + b"\n", b"[1\n2],3\n"):
            assert isinstance(decoded(piece, decoding.nodes), str)
            assert isinstance(decoded(piece, tree.decode_lines), str)
    for halves in SPANNING:  # two lines for two entries, of which one reaches over a line's end
        piece = b"\n".join([good + b"," + good, *halves, b""])
        assert isinstance(decoded(piece, decoding.nodes), str)
        assert isinstance(decoded(piece, tree.decode_lines), str)
    assert list(decoding.nodes(b"")) == [] == list(decoding.nodes(b"\n"))

"""The entries of one snapshot by path: found one at a time, without reading the whole tree.

The root of a tree names the first path of each piece, so a path is found by bisection and costs one piece; a folder's
listing skips what lies below its folders in the same way. A few decoded pieces are kept: memory does not grow with the
number of entries. Calls from several threads are safe. What is damaged raises; nothing is guessed.

It deliberately reads no file's content.
"""

from __future__ import annotations

import re
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import decoding, tree
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node

HELD_PIECES = 48
"""Decoded pieces that are kept: each about 0.7 MB."""
_FOLDER_MODE = 0o755
_HARDLINK = re.compile(rb'"hardlink":("(?:[^"\\]|\\.)*")')
"""In a line of a tree, which has no white space; inside a name each quote would follow a backslash."""


class _Piece(NamedTuple):
    """A decoded piece: the nodes that begin in it, their sort keys, and the chunks that end an earlier one's."""

    keys: list[bytes]
    nodes: list[Node]
    rest: list[tree.Chunk]


class TreeFinder:
    """Finds entries of the snapshot that a reader has opened."""

    def __init__(self, reader: SnapshotReader, held: int = HELD_PIECES) -> None:
        self._reader, self._limit = reader, held
        self._chunks = reader.root().chunks
        self._firsts = [tree.order(chunk.first) for chunk in self._chunks]
        self._held: OrderedDict[int, _Piece] = OrderedDict()
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self._links: array[int] | None = None

    def find(self, path: bytes) -> Node | None:
        """The entry at a path; None where there is none. A huge file's chunks are cut short: see `whole`."""
        key = tree.order(path)
        for number in self._candidates(key):
            piece = self._piece(number)
            at = bisect_left(piece.keys, key)
            if at < len(piece.keys) and piece.keys[at] == key:
                return piece.nodes[at]
        below = self._first_from(key + b"\0")
        return _folder(path) if below is not None and below.path.startswith(path + b"/") else None

    def whole(self, node: Node) -> Node:
        """A file's entry with all of its chunks: those of a huge one go on in further pieces."""
        key = tree.order(node.path)
        start, end = bisect_left(self._firsts, key), bisect_right(self._firsts, key)
        rest = [chunk for number in range(start, end) for chunk in self._piece(number).rest]
        return replace(node, chunks=[*node.chunks, *rest]) if rest else node

    def children(self, folder: bytes) -> Iterator[Node]:
        """What is directly in a folder ("" for the top), in order."""
        prefix = folder + b"/" if folder else b""
        key = tree.order(prefix)
        while (node := self._first_from(key)) is not None and node.path.startswith(prefix):
            name, deeper, _ = node.path[len(prefix) :].partition(b"/")
            yield _folder(prefix + name) if deeper else node
            # NUL, which stands for the slash, comes before all others: so this is behind all that is below
            key = tree.order(prefix + name) + b"\x01"

    def links(self, group: str) -> int:
        """How many entries of the snapshot are this one inode. The first question reads the tree, undecoded, once."""
        with self._counting:
            if self._links is None:
                self._links = self._count_links()
        number = _number(encoding.encode(group))
        return bisect_right(self._links, number) - bisect_left(self._links, number)

    def rest(self) -> None:
        """Give back the memory of pieces read so far."""
        with self._lock:
            self._held.clear()
            self._reader.forget_tree()

    def _count_links(self) -> array[int]:
        found = array("Q")
        for chunk in self._chunks:
            with self._lock:
                lines = self._reader.tree_piece(chunk)
            found.extend(_number(match[1]) for match in _HARDLINK.finditer(lines))
        return array("Q", sorted(found))

    def _first_from(self, key: bytes) -> Node | None:
        """The first entry whose sort key is not below this one."""
        for number in range(max(bisect_left(self._firsts, key) - 1, 0), len(self._chunks)):
            piece = self._piece(number)
            at = bisect_left(piece.keys, key)
            if at < len(piece.keys):
                return piece.nodes[at]
        return None

    def _candidates(self, key: bytes) -> Iterator[int]:
        """The pieces in which an entry can begin: one that its path is the first of may only go on with it."""
        at = bisect_left(self._firsts, key)
        if at < len(self._firsts) and self._firsts[at] == key:
            yield at
        if at:
            yield at - 1

    def _piece(self, number: int) -> _Piece:
        with self._lock:
            piece = self._held.get(number)
            if piece is None:
                piece = self._held[number] = _decoded(self._reader.tree_piece(self._chunks[number]))
                while len(self._held) > self._limit:
                    self._held.popitem(last=False)
            else:
                self._held.move_to_end(number)
            return piece


def _decoded(lines: bytes) -> _Piece:
    nodes: list[Node] = []
    rest: list[tree.Chunk] = []
    for node in decoding.nodes(lines):
        if node.type == "more":
            if nodes and nodes[-1].path != node.path:
                raise Damaged("a tree continues an entry that it does not have")
            (nodes[-1].chunks if nodes else rest).extend(node.chunks)
        else:
            nodes.append(node)
    return _Piece([tree.order(node.path) for node in nodes], nodes, rest)


def _folder(path: bytes) -> Node:
    """A folder that the tree has no entry of, but entries below."""
    return Node(path, "dir", _FOLDER_MODE, 0, 0)


def _number(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")

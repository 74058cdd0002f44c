"""One file of a snapshot, opened: any bytes of it, by offset and length.

Invariant: what is given out is the file's content or nothing at all; holes are zeros. An entry whose chunks and holes
do not add up to its size is refused when it is opened.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator

from opskit.errors import Damaged
from opskit.repository.tree import Chunk, Node
from opskit.sources.base import printable

Fetch = Callable[[bytes], memoryview]
"""Gives the content of a chunk, compared with its id; raises Damaged, StoreError."""


class OpenFile:
    """Reads a file's content as it is asked for; for several threads where `fetch` is."""

    def __init__(self, node: Node, fetch: Fetch) -> None:
        if node.error is not None:
            raise Damaged(f"{printable(node.path)}: its content was not backed up: {node.error}")
        if sum(length for _, length in node.chunks) + sum(length for _, length in node.holes) != node.size:
            raise Damaged(f"{printable(node.path)}: its pieces do not add up to its size")
        self._fetch, self._size, self._chunks = fetch, node.size, node.chunks
        self._starts, self._lengths, self._numbers, self._inside = array("Q"), array("Q"), array("Q"), array("Q")
        for start, length, number, inside in _segments(node.chunks, node.holes):
            self._starts.append(start)
            self._lengths.append(length)
            self._numbers.append(number)
            self._inside.append(inside)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on, fewer than `length` only at the end; raises Damaged, StoreError."""
        end = min(offset + length, self._size)
        if offset >= end:
            return b""
        filled = bytearray(end - offset)
        at = max(bisect_right(self._starts, offset) - 1, 0)
        while at < len(self._starts) and self._starts[at] < end:
            first = max(self._starts[at], offset)
            count = min(self._starts[at] + self._lengths[at], end) - first
            if count > 0:
                inside = self._inside[at] + first - self._starts[at]
                filled[first - offset : first - offset + count] = self._content(at)[inside : inside + count]
            at += 1
        return bytes(filled)

    def _content(self, at: int) -> memoryview:
        chunk_id, length = self._chunks[self._numbers[at]]
        content = self._fetch(chunk_id)
        if len(content) != length:
            raise Damaged(f"chunk {chunk_id.hex()[:16]} has {len(content)} bytes, expected {length}")
        return content


def _segments(chunks: list[Chunk], holes: list[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """(position in the file, length, number of the chunk, position in it) of all that is no hole, in order."""
    ahead = iter(sorted(holes))
    hole = next(ahead, None)
    position = 0
    for number, (_, length) in enumerate(chunks):
        done = 0
        while done < length:
            while hole is not None and hole[0] <= position:
                position = max(position, hole[0] + hole[1])
                hole = next(ahead, None)
            count = length - done if hole is None else min(length - done, hole[0] - position)
            yield position, count, number, done
            position += count
            done += count

"""The pieces of files: where in a file the content of each of its chunks belongs, holes left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from opskit.repository.tree import Node


class Want(NamedTuple):
    """A piece of a file: chunk id, its position and length in bytes, the file's number and entry.

    `whole` means that this chunk is all of the file's content.
    """

    chunk_id: bytes
    position: int
    length: int
    file: int
    node: Node
    whole: bool


def pieces(node: Node) -> Iterator[tuple[bytes, int, int]]:
    """(chunk id, position in the file, length) of a file's chunks, which lie between its holes."""
    holes = iter(sorted(node.holes))
    hole = next(holes, None)
    position = 0
    for chunk_id, length in node.chunks:
        # a chunk may span several data regions: it is then written in pieces by the target
        while hole is not None and hole[0] == position:
            position += hole[1]
            hole = next(holes, None)
        yield chunk_id, position, length
        rest = length
        while hole is not None and hole[0] < position + rest:
            rest -= hole[0] - position
            position = hole[0] + hole[1]
            hole = next(holes, None)
        position += rest


def spans(node: Node, position: int, length: int) -> Iterator[tuple[int, int]]:
    """(position, length) of the parts of a chunk that starts at `position`, cut where holes lie between."""
    for offset, size in sorted(node.holes):
        if offset + size <= position or length == 0:
            continue
        if offset >= position + length:
            break
        if offset > position:
            yield position, offset - position
            length -= offset - position
        position = offset + size
    if length:
        yield position, length

"""Which entries of a snapshot a restore of a part writes, and the folders above them.

Folders above what is wanted come too, marked: they may have to be made, and then are to be as they were.
Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate

from opskit.errors import Damaged
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node, Root


def with_parents(reader: SnapshotReader, below: bytes, wanted: Callable[[Node], bool]) -> Iterator[tuple[Node, bool]]:
    """(entry, whether it is wanted itself) in tree order; unwanted ones are folders above the next wanted one."""
    root = reader.root()
    above: list[Node] | None = None
    for node in reader.nodes(root, below):
        if above is None:
            above = list(_above(reader, root, below))
        while above and not node.path.startswith(above[-1].path + b"/"):
            above.pop()
        if wanted(node):
            if above:
                yield from ((parent, False) for parent in above)
                above.clear()
            yield node, True
        elif node.type == "dir":
            above.append(node)


def _above(reader: SnapshotReader, root: Root, below: bytes) -> Iterator[Node]:
    """The folders above a path, from the top, as far as the tree has them."""
    names = below.split(b"/")[:-1]
    for path in accumulate(names, lambda parent, name: parent + b"/" + name):
        node = None
        with suppress(Damaged):  # what is wanted may be whole all the same; the reader has noted the damage
            node = next(reader.nodes(root, path), None)
        if node is not None and node.path == path and node.type == "dir":
            yield node

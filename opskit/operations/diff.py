"""Diff: what differs between two trees, in one pass over both.

Invariants: both come in tree order (`repository.tree.order`), and no more than one entry of each is held, so memory
does not grow with the trees. Each path that differs gives one change, in tree order; equal trees give none. Contents
are compared by their chunk ids, so nothing but the trees is read. It deliberately finds no renames: that would need
everything that was removed to be remembered. Of hard links it compares whether a file has several names, not which:
the groups are numbered anew wherever a file system gives other inode numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from opskit.errors import SnapshotNotFound
from opskit.repository import tree
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node
from opskit.sources.base import printable

Kind = Literal["added", "removed", "changed", "metadata"]
KINDS: tuple[Kind, ...] = ("added", "removed", "changed", "metadata")


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. `changed` means what it contains or points to; "metadata" everything else, and that alone.

    `fields` name what differs of an entry that both have: type, content, target, device, readable; mode, owner, mtime,
    xattrs, hardlink.
    """

    kind: Kind
    path: bytes
    before: Node | None
    after: Node | None
    fields: tuple[str, ...] = ()


@dataclass(slots=True)
class Total:
    """Changes of one kind, and the file sizes they are about, before and after."""

    entries: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(slots=True)
class Summary:
    """Adds changes up."""

    totals: dict[Kind, Total] = field(default_factory=lambda: {kind: Total() for kind in KINDS})

    def add(self, change: Change) -> Change:
        """Count a change, and hand it on."""
        total = self.totals[change.kind]
        total.entries += 1
        total.bytes_before += change.before.size if change.before else 0
        total.bytes_after += change.after.size if change.after else 0
        return change


def between(before: SnapshotReader, after: SnapshotReader, below: bytes = b"") -> Iterator[Change]:
    """The changes from one snapshot to another, at and below a path if given.

    Raises SnapshotNotFound when neither has that path.
    """
    old, new = (reader.nodes(reader.root(), below) for reader in (before, after))
    first = [next(old, None), next(new, None)]
    if below and first == [None, None]:
        raise SnapshotNotFound(
            f"neither snapshot has {printable(below)}",
            hint="opskit find shows where a name is, opskit ls lists folders",
        )
    return diff(chain(filter(None, first[:1]), old), chain(filter(None, first[1:]), new))


def diff(before: Iterator[Node], after: Iterator[Node]) -> Iterator[Change]:
    """The changes that lead from one tree to another."""
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and tree.order(old.path) < tree.order(new.path)):
            assert old is not None
            yield Change("removed", old.path, old, None)
            old = next(before, None)
        elif old is None or tree.order(new.path) < tree.order(old.path):
            yield Change("added", new.path, None, new)
            new = next(after, None)
        else:
            change = compare(old, new)
            if change is not None:
                yield change
            old, new = next(before, None), next(after, None)


def compare(old: Node, new: Node) -> Change | None:
    """How two entries of one path differ; None when they do not."""
    if old == new:
        return None
    content, metadata = tuple(_content(old, new)), tuple(_metadata(old, new))
    if not content and not metadata:
        return None
    return Change("changed" if content else "metadata", new.path, old, new, content + metadata)


def _content(old: Node, new: Node) -> Iterator[str]:
    if old.type != new.type:
        yield "type"
        return
    if (old.error is None) != (new.error is None):
        yield "readable"
    elif (old.size, old.chunks, old.holes) != (new.size, new.chunks, new.holes):
        yield "content"
    if old.target != new.target:
        yield "target"
    if old.device != new.device:
        yield "device"


def _metadata(old: Node, new: Node) -> Iterator[str]:
    if old.mode != new.mode:
        yield "mode"
    if (old.uid, old.gid, old.user, old.group) != (new.uid, new.gid, new.user, new.group):
        yield "owner"
    if old.mtime != new.mtime:
        yield "mtime"
    if sorted(old.xattrs) != sorted(new.xattrs):
        yield "xattrs"
    if (old.hardlink is None) != (new.hardlink is None):
        yield "hardlink"

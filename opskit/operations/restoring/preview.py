"""What a restore over files that are there would do to each entry, found out without writing anything.

The judgement whether a file is the same is the restore's own (`Target.same_file`); here it looks through a target that
makes no folder. What cannot be foreseen is left out: space, permissions, and whether every pack can be read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from opskit.operations.restoring.entries import with_parents
from opskit.operations.restoring.place import check_target, unusable
from opskit.operations.restoring.target import Owners, Target
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node

Effect = Literal["new", "replaced", "mended", "unchanged", "blocked", "skipped"]
"""`mended`: owner, mode, attributes or time alone. `blocked`: it would fail. `skipped`: a socket, never restored."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    "file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK,
}  # fmt: skip


class Foreseen(NamedTuple):
    """An entry, what would become of it, and for `blocked` why."""

    node: Node
    effect: Effect
    reason: str = ""


def preview(
    reader: SnapshotReader,
    target: Path,
    below: bytes,
    wanted: Callable[[Node], bool],
    *,
    always: bool,
    owner_by_name: bool,
) -> Iterator[Foreseen]:
    """Each entry that is wanted, in tree order; `always` replaces files that look the same too.

    Raises UsageError or StoreRefused for a target that cannot be used.
    """
    check_target(target, empty=False)
    entries = (node for node, is_wanted in with_parents(reader, below, wanted) if is_wanted)
    try:
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield from (Foreseen(node, "skipped" if node.type == "socket" else "new") for node in entries)
        return
    except OSError as error:
        raise unusable(target, error) from error
    looking = _Looking(root, Owners(by_name=owner_by_name), replace=True)
    try:
        yield from map(_Foresight(looking, always=always).of, entries)
    finally:
        looking.close()
        os.close(root)


class _Looking(Target):
    """A target that only looks: what is not there is absent, and no folder is made on the way."""

    _near: tuple[bytes, int] | None = None

    def folder(self, path: bytes) -> int:
        """A descriptor of a folder that is there, open until the next one is asked for; raises OSError."""
        if not path:
            return self._root
        if self._near is None or self._near[0] != path:
            self._leave()
            self._near = path, self._walk(path)
        return self._near[1]

    def _walk(self, path: bytes) -> int:
        descriptor = os.dup(self._root)
        for name in path.split(b"/"):
            try:
                below = os.open(name, _FOLDER, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def existing(self, path: bytes) -> os.stat_result | None:
        """What lies at a path now (not followed), or None; raises OSError where something else is in the way."""
        try:
            return super().existing(path)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Close the folder held open, and the root."""
        self._leave()
        super().close()

    def _leave(self) -> None:
        if self._near is not None:
            os.close(self._near[1])
        self._near = None

    def is_dressed(self, node: Node, found: os.stat_result) -> bool:
        """Whether what was found has the owner, mode, time and attributes of an entry of its type already."""
        folder, name = self._place(node.path)
        # Only root can give files away, so nobody else's restore changes an owner.
        is_owned = not self._is_root or self._owners.ids(node) == (found.st_uid, found.st_gid)
        is_moded = node.type == "symlink" or stat.S_IMODE(found.st_mode) == node.mode
        is_timed = node.mtime in (None, found.st_mtime_ns)
        attributes = all(_attribute(folder, name, key) == value for key, value in node.xattrs)
        return is_owned and is_moded and is_timed and attributes

    def leads_to(self, node: Node) -> bytes:
        """Where the symbolic link at an entry's path leads."""
        folder, name = self._place(node.path)
        return os.readlink(name, dir_fd=folder)


def _attribute(folder: int, name: bytes, key: bytes) -> bytes | None:
    try:
        return os.getxattr(b"/proc/self/fd/%d/%s" % (folder, name), key, follow_symlinks=False)
    except OSError:
        return None


class _Foresight:
    def __init__(self, target: _Looking, *, always: bool) -> None:
        self._target, self._always = target, always
        self._first_of: dict[str, tuple[bytes, Effect]] = {}

    def of(self, node: Node) -> Foreseen:
        """What would become of one entry."""
        if node.type == "socket":
            return Foreseen(node, "skipped")
        foreseen = self._foreseen(node)
        if node.hardlink is None:
            return foreseen
        first, effect = self._first_of.setdefault(node.hardlink, (node.path, foreseen.effect))
        if effect == "blocked" and first != node.path:
            return Foreseen(node, "blocked", "the first name of the same file is blocked")
        return foreseen

    def _foreseen(self, node: Node) -> Foreseen:
        if node.error is not None:
            return Foreseen(node, "blocked", f"its content was not backed up: {node.error}")
        try:
            found = self._target.existing(node.path)
            if found is not None and stat.S_ISDIR(found.st_mode) != (node.type == "dir"):
                return Foreseen(node, "blocked", "a folder is there" if node.type != "dir" else "it is no folder there")
            effect: Effect = "new" if found is None else self._over(node, found)
        except OSError as error:
            return Foreseen(node, "blocked", (error.strerror or "error").lower())
        return Foreseen(node, effect)

    def _over(self, node: Node, found: os.stat_result) -> Effect:
        """What happens to something that is there, and no folder where the entry is none."""
        first = self._first_of.get(node.hardlink or "")
        if first is not None:
            return self._over_link(found, *first)
        if node.type == "file" and (self._always or self._target.same_file(node) is None):
            return "replaced"
        if stat.S_IFMT(found.st_mode) != _KINDS[node.type] or not self._leads_alike(node, found):
            return "replaced"
        is_left = node.type == "dir" and node.mtime is None  # above a source path: none of the snapshot's business
        return "unchanged" if is_left or self._target.is_dressed(node, found) else "mended"

    def _over_link(self, found: os.stat_result, first: bytes, effect: Effect) -> Effect:
        there = self._target.existing(first)
        is_kept = effect in ("unchanged", "mended") and there is not None and os.path.samestat(there, found)
        return "unchanged" if is_kept else "replaced"

    def _leads_alike(self, node: Node, found: os.stat_result) -> bool:
        if node.type == "symlink":
            return self._target.leads_to(node) == node.target
        return node.type not in ("char", "block") or found.st_rdev == os.makedev(*(node.device or (0, 0)))

"""What a mounted folder shows: one snapshot, or all of them by source and time.

Invariants: nothing changes while it is shown; inode numbers are those of the snapshot's own hard links and stay the
same; a snapshot is opened when somebody looks into it, not before. Calls from several threads are safe.

It knows nothing of FUSE.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple, Protocol

from opskit.errors import (
    Damaged,
    ObjectNotFound,
    ObjectUnreadable,
    OpskitError,
    SnapshotNotFound,
    StoreError,
    UsageError,
)
from opskit.operations.mounting.file import OpenFile
from opskit.operations.mounting.packs import OpenPacks
from opskit.operations.mounting.places import Places
from opskit.operations.mounting.tree import TreeFinder
from opskit.repository.manifest import Snapshot
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node
from opskit.sources.base import printable

_OPEN_SNAPSHOTS = 8
_AWAKE = 2
"""Open snapshots whose trees may take memory at once: two are what somebody compares."""
_FOLDER_MODE = 0o555
_FOR_GOOD = (ObjectNotFound, ObjectUnreadable)
_SECOND = 1_000_000_000


class Entry(NamedTuple):
    """A node as it is shown: inode number and number of links."""

    node: Node
    inode: int
    links: int = 1


class View(Protocol):
    """A tree of entries, by paths without a leading slash ("" for the top)."""

    def find(self, path: bytes) -> Entry | None:
        """The entry at a path."""

    def children(self, path: bytes) -> Iterator[tuple[bytes, Entry]]:
        """Names and entries in a folder; their number of links is not told."""

    def open(self, path: bytes) -> OpenFile:
        """The content of a file; raises SnapshotNotFound, UsageError where there is none."""

    def size(self) -> int:
        """Bytes of all files, where that is known."""


class SnapshotView:
    """One snapshot, from a folder of it down. Raises SnapshotNotFound, UsageError where there is no such folder."""

    def __init__(self, snapshot: Snapshot, reader: SnapshotReader, packs: OpenPacks, top: bytes = b"") -> None:
        self._snapshot, self._reader, self._packs = snapshot, reader, packs
        self._tree = TreeFinder(reader)
        self._top = top + b"/" if top else b""
        self._places: Places | None = None
        self._locating = threading.Lock()
        self._default_time = int(snapshot.manifest.started.timestamp()) * _SECOND
        found = self._tree.find(top) if top else None
        if top and found is None:
            raise SnapshotNotFound(f"the snapshot has no {printable(top)}", hint="opskit ls goes down by folder")
        if found is not None and found.type != "dir":
            raise UsageError(f"{printable(top)} is no folder", hint="opskit restore --stdout gives one file")

    def find(self, path: bytes) -> Entry | None:
        node = self._node(path)
        if node is None:
            return None
        return self._entry(node, 1 if node.hardlink is None else self._tree.links(node.hardlink))

    def children(self, path: bytes) -> Iterator[tuple[bytes, Entry]]:
        for node in self._tree.children((self._top + path).rstrip(b"/")):
            yield node.path.rpartition(b"/")[2], self._entry(node)

    def open(self, path: bytes) -> OpenFile:
        node = self._node(path)
        if node is None:
            raise SnapshotNotFound(f"the snapshot has no {printable(path)}")
        if node.type != "file":
            raise UsageError(f"{printable(path)} is no file")
        return OpenFile(self._tree.whole(node), self._chunk)

    def size(self) -> int:
        return self._snapshot.manifest.bytes

    def rest(self) -> None:
        """Give back the memory in which the tree was read."""
        self._tree.rest()

    def _node(self, path: bytes) -> Node | None:
        where = (self._top + path).rstrip(b"/")
        return self._tree.find(where) if where else Node(b"", "dir", _FOLDER_MODE, os.getuid(), os.getgid())

    def _entry(self, node: Node, links: int = 1) -> Entry:
        if node.mtime is None:
            node.mtime = self._default_time
        which = b"p" + node.path if node.hardlink is None else b"h" + node.hardlink.encode()
        return Entry(node, _inode(self._snapshot.id, which), links)

    def _was_cut_off(self) -> bool:
        """Whether a copy could not be reached at some time: then what was not found may be there after all."""
        lost = list(self._reader.damage.values())
        return any(isinstance(each, StoreError) and not isinstance(each, _FOR_GOOD) for each in lost)

    def _chunk(self, chunk_id: bytes) -> memoryview:
        """A chunk from whichever pack holds it intact."""
        with self._locating:
            places = self._places
            if places is None or (self._was_cut_off() and not any(places.packs_of(chunk_id))):
                places = self._places = Places(self._reader.indexed_packs())
        failure: OpskitError = Damaged(f"no readable pack holds chunk {chunk_id.hex()[:16]}")
        for name in places.packs_of(chunk_id):
            try:
                return self._packs.chunk(self._reader, name, chunk_id, places.following)
            except (Damaged, StoreError) as error:
                failure = error
        raise failure


class RepositoryView:
    """All snapshots that are not forgotten: SOURCE/TIME-ID, and SOURCE/latest. `open_snapshot` unlocks one."""

    def __init__(
        self,
        snapshots: Sequence[Snapshot],
        forgotten: Collection[str],
        open_snapshot: Callable[[Snapshot], SnapshotReader],
        packs: OpenPacks,
    ) -> None:
        self._open_snapshot, self._packs = open_snapshot, packs
        self._folders = _by_source([each for each in snapshots if each.id not in forgotten])
        self._views: OrderedDict[str, SnapshotView] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many snapshots are shown."""
        return sum(len(each) for each in self._folders.values())

    def newest(self) -> Snapshot | None:
        """The snapshot made last."""
        shown = [snapshot for each in self._folders.values() for snapshot in each.values()]
        return max(shown, key=lambda each: each.manifest.started, default=None)

    def find(self, path: bytes) -> Entry | None:
        parts = path.split(b"/", 2) if path else []
        if len(parts) < 2:
            time = max((_time(each) for each in self._all(parts)), default=0)
            return _virtual(path, "dir", time) if not parts or parts[0] in self._folders else None
        if parts[1] == b"latest" and len(parts) == 2 and parts[0] in self._folders:
            return self._latest(parts[0])
        snapshot = self._folders.get(parts[0], {}).get(parts[1])
        if snapshot is None:
            return None
        if len(parts) == 2:
            return _virtual(path, "dir", _time(snapshot))
        return self._view(snapshot).find(parts[2])

    def children(self, path: bytes) -> Iterator[tuple[bytes, Entry]]:
        parts = path.split(b"/", 2) if path else []
        if not parts:
            for name, snapshots in self._folders.items():
                yield name, _virtual(name, "dir", max(map(_time, snapshots.values())))
        elif len(parts) == 1:
            for name, snapshot in self._folders[parts[0]].items():
                yield name, _virtual(parts[0] + b"/" + name, "dir", _time(snapshot))
            yield b"latest", self._latest(parts[0])
        else:
            yield from self._view(self._folders[parts[0]][parts[1]]).children(b"/".join(parts[2:]))

    def open(self, path: bytes) -> OpenFile:
        parts = path.split(b"/", 2)
        if len(parts) < 3:
            raise UsageError(f"{printable(path)} is no file")
        return self._view(self._folders[parts[0]][parts[1]]).open(parts[2])

    def size(self) -> int:
        return 0

    def look_into(self, snapshot: Snapshot) -> None:
        """Open a snapshot now: who has no key that fits hears it here."""
        self._view(snapshot)

    def _all(self, parts: Sequence[bytes]) -> Iterator[Snapshot]:
        for name, snapshots in self._folders.items():
            if not parts or name == parts[0]:
                yield from snapshots.values()

    def _latest(self, source: bytes) -> Entry:
        name, snapshot = list(self._folders[source].items())[-1]
        return _virtual(source + b"/latest", "symlink", _time(snapshot), target=name)

    def _view(self, snapshot: Snapshot) -> SnapshotView:
        with self._lock:
            view = self._views.get(snapshot.id)
            if view is None:
                view = SnapshotView(snapshot, self._open_snapshot(snapshot), self._packs)
                self._views[snapshot.id] = view
                while len(self._views) > _OPEN_SNAPSHOTS:
                    self._views.popitem(last=False)
            elif next(reversed(self._views)) == snapshot.id:
                return view
            self._views.move_to_end(snapshot.id)
            for each in list(self._views.values())[:-_AWAKE]:
                each.rest()
            return view


def _by_source(snapshots: Sequence[Snapshot]) -> dict[bytes, dict[bytes, Snapshot]]:
    """Folder of a source → folder of a snapshot → the snapshot, oldest first."""
    hosts: dict[str, set[str]] = {}
    for each in snapshots:
        hosts.setdefault(each.manifest.source, set()).add(each.manifest.host)
    found: dict[bytes, dict[bytes, Snapshot]] = {}
    for each in sorted(snapshots, key=lambda each: (each.manifest.source, each.manifest.host, each.manifest.sequence)):
        source = each.manifest.source
        folder = source if len(hosts[source]) == 1 else f"{source}@{each.manifest.host}"
        held, name = found.setdefault(folder.encode(), {}), f"{each.manifest.started:%Y-%m-%dT%H-%M-%SZ}-{each.id[:8]}"
        held[(name if name.encode() not in held else f"{name}{each.id[8:]}").encode()] = each
    return found


def _time(snapshot: Snapshot) -> int:
    return int(snapshot.manifest.started.timestamp()) * _SECOND


def _virtual(path: bytes, kind: str, time: int, target: bytes | None = None) -> Entry:
    """An entry that no snapshot has: it belongs to who looks."""
    mode = 0o777 if kind == "symlink" else _FOLDER_MODE
    node = Node(path, kind, mode, os.getuid(), os.getgid(), mtime=time, target=target)
    return Entry(node, _inode("", b"v" + path))


def _inode(snapshot: str, which: bytes) -> int:
    """A number that stays the same; FUSE wants the first few for itself."""
    digest = blake2b(which, digest_size=8, key=snapshot.encode()[:64]).digest()
    return int.from_bytes(digest, "big") >> 1 | 1 << 16

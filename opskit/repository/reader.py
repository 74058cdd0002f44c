"""Reads a snapshot: run keys, root, tree and packs, from whichever copy holds each object intact.

Invariants: the chain of trust runs from the signed manifest (pack names) over the root and tree to chunk
ids; each pack is compared with its name before gpg sees it, each chunk with its id before it is used. A
damaged object is noted in `damage` and fetched from the next copy; only what no copy holds is an error.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from opskit import gpg
from opskit.errors import Damaged, Forged, NoKey, ObjectNotFound, OpskitError, StoreError
from opskit.repository import decoding, names, pack, tree
from opskit.repository import index as indexes
from opskit.repository.copy import Copy
from opskit.repository.index import IndexedPack
from opskit.repository.locating import packs_of
from opskit.repository.manifest import Manifest, Run
from opskit.repository.pack import Unpacker
from opskit.repository.tree import Node, Root, TreeChunk
from opskit.repository.unlocking import Decrypt, unlock
from opskit.stores.base import at_once

_TREE_CACHE_BYTES = 64 * 1024 * 1024
Read = TypeVar("Read")


class SnapshotReader:
    """Reads one snapshot; `get_pack` may be called from several threads."""

    def __init__(self, manifest: Manifest, copies: Sequence[Copy], decrypt: Decrypt, trusted: Path) -> None:
        self.manifest = manifest
        self._trusted = trusted
        self._copies = copies
        self.damage: dict[str, OpskitError] = {}
        self._lock = threading.Lock()
        heirs = dict.fromkeys(copy.key_object(run.key) for copy in copies for run in manifest.runs)
        self._keys = unlock(manifest, self._get, decrypt, self._key_objects(), heirs)
        self.pack_runs = {digest: run.id for run in manifest.runs for digest in packs_of(run, self._get)}
        self._tars: OrderedDict[str, tuple[memoryview, dict[bytes, memoryview]]] = OrderedDict()
        self._tar_bytes = 0

    def _key_objects(self) -> dict[str, int]:
        """Those at hand, with their sizes."""
        objects = (each for copy in self._copies for each in copy.objects.items())
        return {name: size for name, size in objects if name.startswith("keys/")}

    def _get(self, name: str) -> bytes:
        """An object from the first copy that holds it intact; notes each copy's damage."""
        return self._from_first(name, lambda copy: copy.get(name))

    def _from_first(self, name: str, read: Callable[[Copy], Read]) -> Read:
        failure: OpskitError = ObjectNotFound(f"no reachable copy has {name}")
        for copy in self._copies:
            if name not in copy.objects:
                continue
            try:
                return read(copy)
            except (Damaged, StoreError) as error:
                failure = error
                with self._lock:
                    self.damage[f"{copy.destination}: {name}"] = error
        raise failure

    @property
    def at_once(self) -> int:
        """How many objects should be fetched at once: more than one where each takes its time to come."""
        return max((at_once(copy.store) for copy in self._copies[:1]), default=1)

    def get_pack(self, digest: str, unpacker: Unpacker | None = None) -> memoryview:
        """The tar inside a pack, in the unpacker's memory or its own; raises Damaged, StoreError."""
        name, opener = self._named(digest), unpacker or Unpacker()
        self._from_first(name, lambda copy: copy.get_into(name, opener.room))
        return opener.open_room(self._keys[self.pack_runs[digest]])

    def fetch_pack(self, digest: str) -> bytes:
        """A pack as it is stored, for `open_pack`; raises Damaged, StoreError."""
        return self._get(self._named(digest))

    def _named(self, digest: str) -> str:
        if digest not in self.pack_runs:
            raise Damaged(f"pack {digest[:16]} is not among those the manifest names")
        return names.pack(digest)

    def open_pack(self, digest: str, data: bytes, unpacker: Unpacker) -> memoryview:
        """The tar inside a pack that was fetched, in the unpacker's memory; raises Damaged."""
        return unpacker.open(data, self._keys[self.pack_runs[digest]])

    def root(self) -> Root:
        """The root of the tree."""
        manifest = self.manifest
        root = tree.decode_root(pack.member(self._tree_pack(manifest.tree_pack)[0], manifest.tree_member))
        chunks = [chunk if chunk.pack else chunk._replace(pack=manifest.tree_pack) for chunk in root.chunks]
        return replace(root, chunks=chunks)

    def nodes(self, root: Root, below: bytes = b"") -> Iterator[Node]:
        """Entries in tree order; only those at and below a path, if given. "more" lines are merged in."""
        return (
            (node for node in self._merged(root, below) if _is_below(node.path, below)) if below else self._merged(root)
        )

    def _merged(self, root: Root, below: bytes = b"") -> Iterator[Node]:
        """The entries of the tree chunks that can hold a path and what is below it, each once."""
        held: Node | None = None
        for chunk in _chunks_for(root.chunks, below):
            for node in decoding.nodes(self.tree_piece(chunk)):
                if node.type == "more":
                    if held is None and below:
                        continue  # the end of an entry before those asked for
                    if held is None or held.path != node.path:
                        raise Damaged("a tree continues an entry that it does not have")
                    held.chunks += node.chunks
                    continue
                if held is not None:
                    yield held
                held = node
        if held is not None:
            yield held

    def tree_piece(self, chunk: TreeChunk) -> bytes:
        """The lines of one piece of the tree, compared with their id; for one thread at a time. Raises Damaged."""
        digest = chunk.pack or self.manifest.tree_pack
        content = self._tree_pack(digest)[1].get(chunk.chunk_id)
        if content is None:
            raise Damaged(f"pack {digest[:16]} lacks a part of the tree")
        pack.check_chunk(chunk.chunk_id, content)
        return bytes(content)

    def _tree_pack(self, digest: str) -> tuple[memoryview, dict[bytes, memoryview]]:
        """A pack's tar and its members; the packs used last are kept."""
        if digest not in self._tars:
            tar = self.get_pack(digest)
            self._tars[digest] = tar, dict(pack.members(tar))
            self._tar_bytes += len(tar)
            while self._tar_bytes > _TREE_CACHE_BYTES and len(self._tars) > 1:
                self._tar_bytes -= len(self._tars.popitem(last=False)[1][0])
        self._tars.move_to_end(digest)
        return self._tars[digest]

    def forget_tree(self) -> None:
        """Give back the memory in which the tree was read, when no more is to be read of it."""
        self._tars.clear()
        self._tar_bytes = 0

    def index_bytes(self) -> int:
        """How large the index objects are, which is a little more than what they say takes in memory."""
        digests = {names.index(digest) for run in self.manifest.runs for digest in run.indexes}
        return sum(max((copy.objects.get(name, 0) for copy in self._copies), default=0) for name in digests)

    def indexed_packs(self) -> Iterator[IndexedPack]:
        """What the index objects say of this snapshot's packs; packs without a readable index are opened instead."""
        described: set[str] = set()
        for run in self.manifest.runs:
            for digest in run.indexes:
                for described_pack in self._index(run, digest):
                    if described_pack.pack in self.pack_runs and described_pack.pack not in described:
                        described.add(described_pack.pack)
                        yield described_pack
        for digest in self.pack_runs.keys() - described:
            yield from self._scan(digest)

    def _index(self, run: Run, digest: str) -> Sequence[IndexedPack]:
        """An index object opened with its run's key; nothing when it cannot be read or believed."""
        try:
            signed = gpg.open_signed(self._get(names.index(digest)), self._keys[run.id], self._trusted)
            return indexes.decode(signed.payload, repository=self.manifest.repository).packs
        except (Forged, StoreError, NoKey):
            return ()

    def _scan(self, digest: str) -> Iterator[IndexedPack]:
        try:
            tar = self.get_pack(digest)
            ids = b"".join(chunk_id for chunk_id, _ in pack.members(tar))
        except (Damaged, StoreError) as error:
            with self._lock:
                self.damage.setdefault(names.pack(digest), error)
            return
        yield IndexedPack(digest, self.pack_runs[digest], "", 0, len(tar), ids)


def _chunks_for(chunks: Sequence[TreeChunk], below: bytes) -> Sequence[TreeChunk]:
    """The tree chunks that can hold a path or what is below it: by the first path of each."""
    if not below:
        return chunks
    start, end = tree.order(below), tree.order(below) + b"\0\xff"
    first = max((number for number, chunk in enumerate(chunks) if tree.order(chunk.first) < start), default=0)
    wanted = [chunk for chunk in chunks[first:] if tree.order(chunk.first) < end]
    return wanted


def _is_below(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top + b"/")

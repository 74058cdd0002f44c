"""Bring a lost host back from one copy and a recovery-key file.

What comes back: the config of the newest snapshot, the public keys, the repository id, the knowledge of what
is stored, the heads. What cannot come back is the host's private key: it gets a new one, which is added to the signers
beside the old one. So what only the old key opened, or what names it, is stored anew while the recovery key is at
hand: index objects, and the root of each source's newest tree. After that the first backup of a source in which
nothing changed uploads nothing but its manifest, and the new host's cache can be rebuilt as the old one's could.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opskit import gpg
from opskit.errors import Damaged, Forged, NoKey, SnapshotNotFound, StoreError, UsageError
from opskit.log import logger
from opskit.operations.reading import Reading
from opskit.operations.session import Session
from opskit.operations.storing import Storing, digest_of
from opskit.repository import index as indexes
from opskit.repository import lasttree, names
from opskit.repository.cache import Cache
from opskit.repository.copy import Copy
from opskit.repository.heads import Heads
from opskit.repository.history import History
from opskit.repository.manifest import Manifest, Snapshot
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Root
from opskit.repository.unlocking import Decrypt, unlock
from opskit.sources.base import Problem

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What the newest snapshot of a host says: its config (JSON) and public keys (armored)."""

    host: str
    config: str
    keys: str
    snapshots: Sequence[Snapshot]


def find_host(history: History, copies: Sequence[Copy], decrypt: Decrypt, trusted: Path, host: str | None) -> Found:
    """Read the newest snapshot of a host (of the only one, if none is named); raises UsageError, SnapshotNotFound."""
    hosts = sorted({each.manifest.host for each in history.snapshots})
    if not hosts:
        raise SnapshotNotFound("the copy holds no snapshot that can be believed; there is nothing to bring back")
    if host is None and len(hosts) > 1:
        raise UsageError(f"several hosts back up there: {', '.join(hosts)}", hint="say which with --host")
    chosen = host or hosts[0]
    snapshots = [each for each in history.snapshots if each.manifest.host == chosen]
    if not snapshots:
        raise UsageError(f"no snapshot of a host {chosen!r}; there are {', '.join(hosts)}")
    newest = max(snapshots, key=lambda each: (each.manifest.started, each.manifest.sequence))
    root = SnapshotReader(newest.manifest, copies, decrypt, trusted).root()
    if not root.config:
        raise SnapshotNotFound(f"snapshot {newest.id[:8]} carries no config")
    return Found(chosen, root.config, root.keys, snapshots)


def learn(
    cache: Cache, heads: Heads, copies: Sequence[Copy], snapshots: Sequence[Snapshot], decrypt: Decrypt, trusted: Path
) -> int:
    """Fill a new host's cache from the index objects of these snapshots, newest first; returns packs learnt."""
    seen: set[str] = set()
    learnt = 0
    get = _getter(copies)
    listed = (each for copy in copies for each in copy.objects.items())
    key_objects = {name: size for name, size in listed if name.startswith("keys/")}
    for snapshot in reversed(snapshots):
        wanted = [run for run in snapshot.manifest.runs if set(run.indexes) - seen]
        if wanted:
            keys = unlock(snapshot.manifest, get, decrypt, key_objects)
            for run in wanted:
                for digest in sorted(set(run.indexes) - seen):
                    seen.add(digest)
                    learnt += _learn_index(cache, get(names.index(digest)), digest, keys[run.id], snapshot, trusted)
        for copy in copies:
            if snapshot.name in copy.objects:
                heads.acknowledge(copy.id, snapshot)
    heads.save()
    return learnt


def _learn_index(cache: Cache, data: bytes, digest: str, run_key: bytes, snapshot: Snapshot, trusted: Path) -> int:
    try:
        payload = gpg.open_signed(data, run_key, trusted).payload
        index = indexes.decode(payload, repository=snapshot.manifest.repository)
    except (Damaged, Forged, NoKey):
        return 0  # its chunks are stored once more; nothing is lost
    cache.adopt_index(digest, index)
    return len(index.packs)


def make_ready(
    session: Session, snapshots: Sequence[Snapshot], read_root: Callable[[Manifest], Root], *,
    config: str, keys: str, workers: int,
) -> None:  # fmt: skip
    """Store index objects that the new host's key opens, and roots with its config and public keys.

    A source whose newest tree cannot be read is left to its next backup. Raises NoKey where no recipient is valid,
    CacheError, and the copies' errors when none works any more.
    """
    newest = {each.manifest.source: each for each in sorted(snapshots, key=lambda each: each.manifest.sequence)}
    remembered = {}
    with Storing(session, workers) as storing:
        for source, snapshot in newest.items():
            reading = _reading_of(snapshot.manifest, read_root, storing.writer.find)
            if reading is not None:
                pack, member = storing.store_root(reading, config, keys)
                remembered[source] = {"root": digest_of(reading, config, keys), "pack": pack, "member": member}
        storing.finish()
    for source, about in remembered.items():  # once the copies have it
        generation = session.cache.new_generation(source)
        lasttree.Writer(session.last_tree(source)).finish(about | {"generation": generation})


def _reading_of(
    manifest: Manifest, read_root: Callable[[Manifest], Root], find: Callable[[bytes], int | None]
) -> Reading | None:
    """A tree as if it had been read from its source just now, where all of it is there."""
    try:
        root = read_root(manifest)
    except (Damaged, NoKey, StoreError) as error:
        log.warning("root not stored anew", source=manifest.source, reason=str(error))
        return None
    reading = Reading(problems=[Problem(path, message, "unreadable") for path, message in root.problems])
    for chunk in root.chunks:
        number = find(chunk.chunk_id)
        if number is None:
            return None
        reading.chunks.append((chunk.chunk_id, chunk.length, number, chunk.first))
    return reading


def _getter(copies: Sequence[Copy]) -> Callable[[str], bytes]:
    def get(name: str) -> bytes:
        for copy in copies:
            if name in copy.objects:
                return copy.get(name)
        raise StoreError(f"no reachable copy has {name}")

    return get

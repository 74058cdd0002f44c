"""What one invocation stores at every reachable copy: a run's key object, its packs, the index objects for them.

Invariants: the run key is made when there is something to store, is in memory alone, and ends with this object. Packs
and index objects are noted in the cache before they are put. Manifests, and when a copy may have one, are the
business of `backup`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence

from opskit import encoding
from opskit.errors import Damaged, Forged, NoKey, StoreError
from opskit.log import logger
from opskit.operations.keyobjects import readers_of, seal
from opskit.operations.reading import Reading, root_of
from opskit.operations.session import Session
from opskit.repository import index, names, sealed_keys, tree
from opskit.repository.fanout import Fanout
from opskit.repository.index import Index, IndexedPack
from opskit.repository.locating import indexes_needed
from opskit.repository.writer import ChunkWriter, OpenRun

log = logger(__name__)

SMALL_INDEX, MANY_SMALL_INDEXES = 1024 * 1024, 16
"""Bytes below which an index object counts, and how many such objects a snapshot may need."""


class Storing:
    """At most one run, however many sources; a context manager. Raises NoKey where nobody could read it.

    `rejected` tells which recipients cannot be encrypted to, and why.
    """

    def __init__(self, session: Session, workers: int) -> None:
        self._session, self._host = session, session.host
        self._note_deleted()
        self._readers = readers_of(session.host.identity, session.host.now().timestamp())
        self.rejected = self._readers.rejected
        self.recipients = self._readers.recipients
        self._fanout = Fanout(session.copies)
        self.writer = ChunkWriter(
            session.cache, session.live, self._fanout,
            start_run=self._start_run, write_index=self._write_index, workers=workers,
        )  # fmt: skip

    def __enter__(self) -> Storing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.writer.close()
        self._fanout.__exit__(kind, *error)

    def _note_deleted(self) -> None:
        """Learn which of this host's recipients another host has sealed: nothing more is encrypted to them."""
        session, identity = self._session, self._host.identity
        found = sealed_keys.load(
            session.copies, identity.verify,
            maintainers=identity.maintainers, repository=self._host.repository, cache=session.cache,
        )  # fmt: skip
        sealed_keys.note_deleted(self._host.state, identity.recipients, found)

    def put(self, name: str, data: bytes) -> None:
        """Queue an object for every working copy; raises every copy's failure when none works."""
        self._session.cache.add_size(name, len(data))
        self._fanout.put(name, data)

    def wait(self) -> None:
        """Return when everything queued is stored, or its copy has failed; raises when none works."""
        self._fanout.wait()

    def store_root(self, reading: Reading, config: str, keys: str) -> tuple[int, int]:
        """Store the root of a tree; returns (pack number, member number)."""
        return self.writer.store_root(lambda name_of: tree.encode_root(root_of(reading, config, keys, name_of)))

    def finish(self) -> None:
        """Flush packs, then index objects for them and for all that lack one; return when the copies have all."""
        self.writer.finish(self._session.unindexed)
        self._session.unindexed = []

    def merge_indexes(self, packs: Collection[int]) -> None:
        """Describe these packs in few index objects: small ones are merged into one when they are many.

        For runs that store something; a restore opens each index object that a manifest names.
        """
        session = self._session
        needed = indexes_needed(session.cache, packs, session.present(), session.marks.succession)
        small = [each for each in needed if self._size(names.index(each[0])) < SMALL_INDEX]
        if len(small) <= MANY_SMALL_INDEXES:
            return
        wanted = {session.live[number].name: number for each in small for number in needed[each]}
        described = {}
        for name, _ in small:
            described.update({each.pack: each for each in self._packs_in(name) if each.pack in wanted})
        if described:
            self._put_index(self.writer.run, list(described.values()), [wanted[name] for name in described])
            self._fanout.wait()

    def _size(self, name: str) -> int:
        return max((copy.objects.get(name, 0) for copy in self._session.copies), default=0)

    def _packs_in(self, digest: str) -> Sequence[IndexedPack]:
        """What an index object of this host says; nothing where it cannot be read, and then it stays in use."""
        session = self._session
        try:
            opened = self._host.identity.keyring.decrypt(session.get(names.index(digest)))
            if opened.signer not in self._host.identity.signers:
                return ()
            return index.decode(opened.payload, repository=self._host.repository).packs
        except (Damaged, Forged, NoKey, StoreError) as error:
            log.info("index not merged", index=digest, reason=str(error))
            return ()

    def _start_run(self) -> OpenRun:
        run = OpenRun(os.urandom(16).hex(), os.urandom(32).hex().encode())
        message = seal(self._host.identity, {run.id: run.key.decode()}, self._readers)
        run.key_object = names.sha256(message)
        run.row = self._session.cache.add_run(run.id, run.key_object)
        self.put(names.key(run.key_object), message)
        log.debug("run started", run=run.id, key_object=run.key_object, recipients=len(self._readers.recipients))
        return run

    def _write_index(self, run: OpenRun, packs: list[int]) -> None:
        """Describe packs in an index object, noted in the cache before it is put."""
        session, cache = self._session, self._session.cache
        runs = cache.runs()
        described = []
        for number in packs:
            row, ids = session.live[number], cache.unindexed_ids(number)
            if ids is not None:
                packed_by = runs[row.run]
                described.append(IndexedPack(row.name, packed_by.id, packed_by.key, row.stored, row.content, ids))
        self._put_index(run, described, packs)
        self._fanout.wait()
        cache.forget_unindexed(packs)

    def _put_index(self, run: OpenRun, described: Sequence[IndexedPack], packs: Sequence[int]) -> None:
        identity = self._host.identity
        payload = index.encode(self._host.repository, Index(run.id, run.key_object, described))
        data = identity.keyring.sign_and_encrypt(
            payload, signer=identity.host_key, recipient=identity.host_key, run_key=run.key
        )
        digest = names.sha256(data)
        self._session.cache.add_index(digest, run.row, packs)
        self.put(names.index(digest), data)
        log.debug("index stored", index=digest, packs=len(packs), bytes=len(data))


def digest_of(reading: Reading, config: str, keys: str) -> str:
    """What a root depends on, in terms of this cache's pack numbers."""
    chunks = [(chunk_id.hex(), number) for chunk_id, _, number, _ in reading.chunks]
    problems = [(problem.path.hex(), problem.message) for problem in reading.problems]
    return hashlib.sha256(encoding.encode([chunks, problems, config, keys])).hexdigest()

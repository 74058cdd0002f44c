"""Index objects: which chunk lies in which pack.

Payload: one line of JSON that lists packs with their run, key object and number of chunks; then the
chunk ids of all these packs, 32 bytes each, in member order. Binary, because for many tiny files ids
are the whole size of a repository. An index object may cover packs of several runs: a run adopts
packs that an interrupted one left without an index. Merging index objects is commutative and
idempotent. Recovery needs none of them: the packs' own member names say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository.manifest import check_digest

_ID = 32


class IndexedPack(NamedTuple):
    """A pack as an index describes it: names of pack and key object, run id, sizes in bytes, chunk ids joined."""

    pack: str
    run: str
    key: str
    stored: int
    content: int
    ids: bytes

    def chunk_ids(self) -> Iterator[bytes]:
        """The ids in member order."""
        return (self.ids[start : start + _ID] for start in range(0, len(self.ids), _ID))


class Index(NamedTuple):
    """An index object's payload: the run that wrote it (its key opens the object), and the packs."""

    run: str
    key: str
    packs: Sequence[IndexedPack]


def encode(repository: str, index: Index) -> bytes:
    """The payload of an index object."""
    packs = index.packs
    head = encoding.encode(
        {
            "format": 1,
            "repository": repository,
            "run": index.run,
            "key": index.key,
            "packs": [
                {
                    "pack": pack.pack,
                    "run": pack.run,
                    "key": pack.key,
                    "stored": pack.stored,
                    "content": pack.content,
                    "chunks": len(pack.ids) // _ID,
                }
                for pack in packs
            ],
        }
    )
    return head + b"\n" + b"".join(pack.ids for pack in packs)


def decode(payload: bytes, *, repository: str) -> Index:
    """Parse a payload; raises Damaged when it is malformed or of another repository."""
    head, _, ids = payload.partition(b"\n")
    value = encoding.decode_object(head, what="index object")
    if value.get("repository") != repository:
        raise Damaged(f"index object of repository {value.get('repository')!r}, expected {repository!r}")
    try:
        run, key = str(value["run"]), check_digest(value["key"])
        packs, position = [], 0
        for entry in value["packs"]:
            end = position + _ID * int(entry["chunks"])
            packs.append(
                IndexedPack(
                    check_digest(entry["pack"]),
                    str(entry["run"]),
                    check_digest(entry["key"]),
                    int(entry["stored"]),
                    int(entry["content"]),
                    ids[position:end],
                )
            )
            position = end
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"malformed index object: {error}") from error
    if position != len(ids):
        raise Damaged(f"index object promises {position} bytes of ids, holds {len(ids)}")
    return Index(run, key, packs)

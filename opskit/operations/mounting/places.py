"""Where the chunks of a snapshot lie: from a chunk id to the packs that hold it, eight bytes a chunk.

An id is kept by 48 of its bits: rarely a pack is named that does not hold the chunk after all, and whoever opens it
sees that.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from opskit.repository.index import IndexedPack

_PACK_BITS = 24
_PACKS = (1 << _PACK_BITS) - 1


class Places:
    """The places of all chunks in some packs; `following` is the order in which the packs were written."""

    def __init__(self, packs: Iterable[IndexedPack]) -> None:
        self._names: list[str] = []
        found = [array("Q") for _ in range(256)]
        last_of: dict[str, str] = {}
        self.following: dict[str, str] = {}
        for number, each in enumerate(packs):
            self._names.append(each.pack)
            if each.run in last_of:
                self.following[last_of[each.run]] = each.pack
            last_of[each.run] = each.pack
            for chunk_id in each.chunk_ids():
                found[chunk_id[0]].append(_key(chunk_id) | number)
        self._found = [array("Q", sorted(each)) for each in found]

    def packs_of(self, chunk_id: bytes) -> Iterator[str]:
        """The packs that seem to hold a chunk."""
        bucket, key = self._found[chunk_id[0]], _key(chunk_id)
        for at in range(bisect_left(bucket, key), len(bucket)):
            if bucket[at] & ~_PACKS != key:
                return
            yield self._names[bucket[at] & _PACKS]


def _key(chunk_id: bytes) -> int:
    return int.from_bytes(chunk_id[1:6], "big") << _PACK_BITS

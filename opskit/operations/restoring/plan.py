"""The plan of a restore: which pack holds which piece of which file.

Up to IN_MEMORY pieces it is lists in memory; of more, it keeps all but the latest in a file (module `stored`),
so that memory does not grow with the number of files. Packs come out in an order that reads each exactly once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from opskit.operations.restoring.pieces import Want, pieces
from opskit.operations.restoring.stored import StoredPlan
from opskit.repository.index import IndexedPack
from opskit.repository.tree import Node

IN_MEMORY = 75_000
"""Pieces held in memory: about half a kilobyte each."""
_BATCH = 10_000


class Plan:
    """Collect files, then chunks' places, then walk pack by pack."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._wants: list[Want] = []
        self._limit = in_memory
        self._count = 0
        self._stored: StoredPlan | None = None
        self._by_pack: dict[str, list[Want]] = {}
        self._unlocated: list[Want] = []

    def close(self) -> None:
        """Drop the plan."""
        if self._stored is not None:
            self._stored.close()

    def add(self, node: Node, *, whole: bool) -> int:
        """Plan a file, whose entry loses its chunks to the plan; returns its number."""
        number = self._count
        self._count += 1
        if whole:
            ((chunk_id, length),) = node.chunks
            self._wants.append(Want(chunk_id, 0, length, number, node, True))
        else:
            self._wants += [Want(*piece, number, node, False) for piece in pieces(node)]
        node.chunks.clear()
        if len(self._wants) >= self._limit:
            self._store()
        return number

    def _store(self) -> None:
        if self._stored is None:
            self._stored = StoredPlan()
            self._limit = _BATCH
        self._stored.add(self._wants)
        self._wants = []

    def first_packs(self, packs: Iterable[IndexedPack], count: int) -> list[str]:
        """At most `count` packs that hold the first pieces planned and still in memory."""
        found: list[str] = []
        held: set[bytes] = set()
        for want in self._wants:
            if want.chunk_id not in held:
                pack = next((each for each in packs if each.ids.find(want.chunk_id) >= 0), None)
                if pack is None or pack.pack in found or len(found) == count:
                    break
                held.update(pack.chunk_ids())
                found.append(pack.pack)
        return found

    def locate(self, packs: Iterable[IndexedPack]) -> None:
        """Take in where chunks lie; of several places the first is used."""
        if self._stored is not None:
            self._store()
            self._stored.locate(packs)
            return
        places = dict.fromkeys((want.chunk_id for want in self._wants), "")
        for pack in packs:
            self._by_pack[pack.pack] = []
            for chunk_id in pack.chunk_ids():
                if places.get(chunk_id) == "":
                    places[chunk_id] = pack.pack
        for want in self._wants:
            place = places[want.chunk_id]
            (self._by_pack[place] if place else self._unlocated).append(want)
        self._wants = []

    def by_pack(self, without: Collection[str] = ()) -> Iterator[tuple[str, list[Want]]]:
        """(pack, wanted pieces) for each pack needed and not in `without`."""
        if self._stored is not None:
            yield from self._stored.by_pack(without)
        for name in [name for name, wants in self._by_pack.items() if wants and name not in without]:
            yield name, self._by_pack.pop(name)

    def wants(self, name: str) -> list[Want]:
        """The wanted pieces of one pack."""
        return self._stored.wants(name) if self._stored is not None else self._by_pack.pop(name, [])

    def unlocated(self) -> list[Want]:
        """Pieces no readable pack holds."""
        return self._stored.unlocated() if self._stored is not None else self._unlocated

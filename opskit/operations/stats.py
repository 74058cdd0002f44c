"""Stats: what fills each copy, and how much of it the snapshots need; no key, and no object but pack lists is read.

Invariants: sizes are those of the listing. Live is what some believed snapshot of some reachable copy needs, and
everything that is no data (manifests, marks, evidence, the recovery kit); dead is the rest: what runs that were killed
left, what only forgotten snapshots needed, quarantine, strangers. So live + dead is the whole copy, and an absent copy
may still need what looks dead here: deleting by these numbers is wrong. It deliberately changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from opskit.errors import Damaged, StoreError
from opskit.repository import names
from opskit.repository.copy import Copy, get_from
from opskit.repository.history import History
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot

DATA = ("packs", "index", "keys", "packlists")
KINDS = (*DATA, "snapshots", "marks", "evidence", "kit", "quarantine", "other")
_ALWAYS_LIVE = frozenset({"marks", "evidence", "kit"})


@dataclass(slots=True)
class Amount:
    """A number of objects and their bytes."""

    objects: int = 0
    total_bytes: int = 0

    def add(self, size: int) -> None:
        """Count one object more."""
        self.objects += 1
        self.total_bytes += size


@dataclass(slots=True)
class SourceStats:
    """The snapshots of one source at one copy; `logical_bytes` is the sum of their file sizes."""

    snapshots: int = 0
    logical_bytes: int = 0


@dataclass(slots=True)
class CopyStats:
    """What one copy holds. `runs` counts those whose data its snapshots need."""

    kinds: dict[str, Amount] = field(default_factory=lambda: {kind: Amount() for kind in KINDS})
    live: Amount = field(default_factory=Amount)
    dead: Amount = field(default_factory=Amount)
    runs: int = 0
    sources: dict[str, SourceStats] = field(default_factory=dict)
    unread_lists: int = 0
    """Pack lists that no copy at hand has intact: the packs they name may be counted as dead."""

    @property
    def total(self) -> Amount:
        """Everything that is there."""
        return Amount(self.live.objects + self.dead.objects, self.live.total_bytes + self.dead.total_bytes)

    @property
    def snapshots(self) -> int:
        """Snapshots of all sources."""
        return sum(each.snapshots for each in self.sources.values())

    @property
    def logical_bytes(self) -> int:
        """What all its snapshots would take if each were restored."""
        return sum(each.logical_bytes for each in self.sources.values())

    @property
    def ratio(self) -> float | None:
        """Logical bytes for each live byte stored; None where nothing is stored."""
        return self.logical_bytes / self.live.total_bytes if self.snapshots and self.live.total_bytes else None


def stats(copies: Sequence[Copy], history: History, forgotten: Collection[str] = ()) -> dict[str, CopyStats]:
    """The numbers of each copy, by destination; `forgotten` are ids of snapshots that need nothing any more."""
    snapshots = [each for each in history.snapshots if each.id not in forgotten]
    needed, unread = _needed(copies, snapshots)
    found = {copy.destination: _of_objects(copy, needed) for copy in copies}
    runs: dict[str, set[str]] = {copy.destination: set() for copy in copies}
    for snapshot in snapshots:
        for destination in history.holders[snapshot.name]:
            source = found[destination].sources.setdefault(snapshot.manifest.source, SourceStats())
            source.snapshots += 1
            source.logical_bytes += snapshot.manifest.bytes
            runs[destination].update(run.id for run in snapshot.manifest.runs)
    for destination, each in found.items():
        each.runs, each.unread_lists = len(runs[destination]), unread
    return found


def kind_of(name: str) -> str:
    """Which of KINDS an object is."""
    if name in names.FIXED:
        return "kit"
    kind = name.partition("/")[0]
    if kind == "quarantine":
        return kind
    return kind if kind in KINDS and names.digest_in(name) else "other"


def _of_objects(copy: Copy, needed: Collection[str]) -> CopyStats:
    found = CopyStats()
    for name, size in copy.objects.items():
        kind = kind_of(name)
        found.kinds[kind].add(size)
        is_live = name in needed or kind in _ALWAYS_LIVE
        (found.live if is_live else found.dead).add(size)
    return found


def _needed(copies: Sequence[Copy], snapshots: Sequence[Snapshot]) -> tuple[set[str], int]:
    """The names of all objects that snapshots need, their manifests included, and how many pack lists were not read."""
    lists: dict[str, bytes] = {}
    unread: set[str] = set()

    def get(name: str) -> bytes:
        if name not in lists:
            try:
                lists[name] = get_from(copies, name)
            except (StoreError, Damaged):
                lists[name] = b""
                unread.add(name)
        return lists[name]

    needed: set[str] = set()
    for snapshot in snapshots:
        needed.add(snapshot.name)
        needed.update(objects_of(snapshot.manifest, get, copies[0].key_object if copies else names.key))
        needed.update(copy.key_object(run.key) for copy in copies[1:] for run in snapshot.manifest.runs)
    return needed, len(unread)


def as_json(found: Mapping[str, CopyStats]) -> dict[str, object]:
    """The numbers as plain values, by destination."""
    return {name: _copy_json(each) for name, each in found.items()}


def _copy_json(found: CopyStats) -> dict[str, object]:
    return {
        "objects": found.total.objects,
        "bytes": found.total.total_bytes,
        "kinds": {
            kind: {"objects": amount.objects, "bytes": amount.total_bytes} for kind, amount in found.kinds.items()
        },
        "packs": found.kinds["packs"].objects,
        "runs": found.runs,
        "live_bytes": found.live.total_bytes,
        "dead_bytes": found.dead.total_bytes,
        "dead_objects": found.dead.objects,
        "snapshots": found.snapshots,
        "logical_bytes": found.logical_bytes,
        "ratio": None if found.ratio is None else round(found.ratio, 3),
        "sources": {
            name: {"snapshots": each.snapshots, "logical_bytes": each.logical_bytes}
            for name, each in sorted(found.sources.items())
        },
    }

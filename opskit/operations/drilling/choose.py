"""Which snapshot is drilled from which copy: rotation over source and copy, then a seeded choice of the snapshot.

Invariants: pure, and repeatable by anybody: the same snapshots, earlier drills and seed give the same choice, in
whatever order they come. Of all pairs of source and copy the one that was never drilled, or longest ago, comes first,
whatever came of that drill, and one that was begun here and gave no evidence (no room, no key) has had its turn as
well: so each pair has its turn, and one that fails does not keep the others waiting. Among
equals, and among the snapshots of the window, the least SHA-256 of "SEED:NAME" wins (rendezvous hashing, Thaler and
Ravishankar 1998): `printf SEED:ID | sha256sum` repeats it, and one snapshot more or less changes no other's chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from opskit.errors import SnapshotNotFound
from opskit.repository.evidence import Drilled
from opskit.repository.manifest import Snapshot

CLOCKS_APART = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Pair:
    """One chain at one copy. `snapshots` are those that the copy shows, in order; `last` the latest drill of it.

    `begun` is when this host last began one.
    """

    origin: str
    source: str
    destination: str
    copy: str
    snapshots: Sequence[Snapshot]
    last: Drilled | None = None
    last_good: Drilled | None = None
    begun: datetime | None = None

    @property
    def name(self) -> str:
        """What tells it from all others, wherever the copy is."""
        return f"{self.origin}/{self.source}/{self.copy or self.destination}"

    @property
    def turn(self) -> float:
        """When it last had its turn, in seconds since the epoch; 0 for never."""
        times = [self.last.ended if self.last else None, self.begun]
        return max((each.timestamp() for each in times if each is not None), default=0.0)

    @property
    def newest(self) -> Snapshot:
        """The newest snapshot that the copy shows."""
        return self.snapshots[-1]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is drilled. `candidates` snapshots could have been chosen; `how` as in `Drill.chosen`."""

    pair: Pair
    snapshot: Snapshot
    how: str
    seed: int
    candidates: int


def pairs(
    snapshots: Sequence[Snapshot],
    holders: Mapping[str, Collection[str]],
    copies: Mapping[str, str],
    drills: Iterable[Drilled],
    now: datetime,
    begun: Mapping[str, datetime] = MappingProxyType({}),
) -> list[Pair]:
    """Every chain at every copy that shows a snapshot of it.

    `snapshots` are those that are not forgotten, in the order of their sequence; `holders` the destinations by
    snapshot name, `copies` the copy ids by destination, `begun` when drills of a pair were begun here, by its name.
    What is dated in the future counts for nothing.
    """
    past = [each for each in drills if each.ended <= now + CLOCKS_APART]
    found: list[Pair] = []
    chains: dict[tuple[str, str], list[Snapshot]] = {}
    for each in snapshots:
        chains.setdefault((each.manifest.host, each.manifest.source), []).append(each)
    for (origin, source), chain in sorted(chains.items()):
        for destination, copy in copies.items():
            shown = [each for each in chain if destination in holders.get(each.name, ())]
            if shown:
                own = [each for each in past if each.drill.copy == copy and each.drill.chain == (origin, source)]
                good = [each for each in own if each.drill.passed]
                pair = Pair(origin, source, destination, copy, shown, _latest(own), _latest(good))
                began = begun.get(pair.name)
                found.append(replace(pair, begun=began) if began and began <= now + CLOCKS_APART else pair)
    return found


def _latest(drills: Sequence[Drilled]) -> Drilled | None:
    return max(drills, key=lambda each: (each.ended, each.name), default=None)


def choose_pair(candidates: Sequence[Pair], seed: int) -> Pair:
    """The pair whose turn it is; raises SnapshotNotFound where there is none."""
    if not candidates:
        raise SnapshotNotFound("there is no snapshot to drill", hint="opskit snapshots lists what copies hold")

    return min(candidates, key=lambda pair: (pair.turn, lot(seed, pair.name)))


def choose_snapshot(pair: Pair, seed: int, now: datetime, window: timedelta) -> Choice:
    """A seeded snapshot among those that were made within the window; the newest where none was."""
    recent = [each for each in pair.snapshots if each.manifest.started >= now - window] or [pair.newest]
    chosen = min(recent, key=lambda each: lot(seed, each.id))
    return Choice(pair, chosen, "seeded", seed, len(recent))


def lot(seed: int, name: str) -> bytes:
    """What decides: the least lot wins."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()

"""What each copy holds of one source, seen in listings, signed manifests and this host's memory; no object is read.

Invariants: a snapshot counts as held only where its manifest was believed and everything it names directly is listed;
snapshots that were forgotten are neither held nor lacked. A head that a copy acknowledged and lacks is "rolled back",
one that only others acknowledged makes it "behind". What an absent copy is said to hold is memory, and marked so by
its state. Damage inside objects is known from the last verify alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from opskit.errors import OpskitError, RepositoryNotFound
from opskit.operations.verified import Verified
from opskit.repository import names
from opskit.repository.believing import Rejected
from opskit.repository.chains import Gap, chains_of, gaps_in, is_fork
from opskit.repository.copy import Copy
from opskit.repository.evidence import Drilled
from opskit.repository.heads import Head, Heads
from opskit.repository.history import History
from opskit.repository.manifest import Snapshot
from opskit.repository.verification import Verification

State = Literal["current", "behind", "absent", "empty", "rolled back", "forked", "damaged"]


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination: name, medium and offsite as declared, `place` as seen. `is_removable`: it must be mounted.

    `seen_at`: what its server told of where it is; "" where it told nothing.
    `wants_lock`: the config asks for an object lock there. `locked_until`: until when what the newest snapshots need
    was seen to be locked; None where it was not, whatever the config says. `lock_held`: whether a locked object could
    not be deleted when that was tried; None: nobody tried.
    """

    name: str
    medium: str = "disk"
    offsite: bool = False
    place: str = ""
    seen_at: str = ""
    is_removable: bool = False
    wants_lock: bool = False
    locked_until: datetime | None = None
    lock_held: bool | None = None

    @property
    def is_locked(self) -> bool:
        """Whether a lock was seen at the endpoint, and not seen to be broken."""
        return self.locked_until is not None and self.lock_held is not False


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One snapshot in its chain."""

    sequence: int
    time: datetime
    id: str
    unreadable: int = 0
    """Files that the run could not read."""


@dataclass(frozen=True, slots=True)
class CopyState:
    """What one copy holds of one source.

    `snapshots` counts those it shows, whole or not; `newest` is the newest of them that the reachable copies together
    still have whole, for an absent copy the last that it acknowledged. `lacks` are snapshots that it has not, or not
    whole, oldest first; `objects_missing` counts objects that the snapshots it shows need, `objects_lost` those of them
    that are at no reachable copy.
    `newest_verified` is the newest snapshot that the last verify found whole. `error` says why a copy is absent.
    """

    destination: Destination
    state: State
    copy_id: str | None = None
    snapshots: int = 0
    oldest: datetime | None = None
    newest: Point | None = None
    holds_newest: bool = False
    lacks: tuple[Point, ...] = ()
    lost: Point | None = None
    """The head that it acknowledged and holds no more."""
    objects_missing: int = 0
    objects_lost: int = 0
    untrusted: int = 0
    """Manifests there that were not believed."""
    verified: Verification | None = None
    newest_verified: Point | None = None
    error: OpskitError | None = None
    drilled: Drilled | None = None
    """The latest drill of this source from this copy that passed."""
    failed_drill: Drilled | None = None
    """The latest drill that failed, where no later one settles that."""

    @property
    def counts(self) -> bool:
        """Whether it is a copy to rely on: there, whole, and with the newest snapshot."""
        return self.state in ("current", "behind") and self.holds_newest

    @property
    def is_offline(self) -> bool:
        """Whether nobody can reach it now because it is not plugged in."""
        return self.state == "absent" and self.destination.is_removable


@dataclass(slots=True)
class Seen:
    """Everything that was seen of one repository in one look."""

    copies: Sequence[Copy]
    absent: Mapping[str, OpskitError]
    history: History
    heads: Heads | None = None
    verified: Verified | None = None
    forgotten: frozenset[str] = frozenset()
    forgotten_numbers: Mapping[tuple[str, str], Collection[int]] = field(default_factory=dict)
    torn: frozenset[tuple[str, str]] = frozenset()
    """(destination, object) of what is listed, but not whole."""
    notes: list[str] = field(default_factory=list)
    """What this host's state could not tell."""
    locked: Mapping[str, datetime] = field(default_factory=dict)
    """Until when the newest snapshots were seen to be locked, by destination."""
    places: Mapping[str, str] = field(default_factory=dict)
    """What servers told of where they are, by destination."""
    drills: Sequence[Drilled] = ()
    """What evidence tells of restore drills, oldest first; none that is dated in the future."""
    rejected_evidence: Sequence[Rejected] = ()


@dataclass(frozen=True, slots=True)
class _Chain:
    """One source of one host: its snapshots in order, those among them that share a number, the newest known."""

    source: str
    host: str
    snapshots: Sequence[Snapshot]
    forked: frozenset[str]
    newest: Point | None


def states_of(seen: Seen, source: str, host: str, destinations: Sequence[Destination]) -> list[CopyState]:
    """The state of every destination for one source of one host, in the order given."""
    snapshots = [each for each in seen.history.of(source, host) if each.id not in seen.forgotten]
    chain = _Chain(source, host, snapshots, _forked(snapshots), _newest(seen, snapshots, source, host))
    copies = {copy.destination: copy for copy in seen.copies}
    return [
        _present(seen, copies[each.name], each, chain) if each.name in copies else _absent(seen, each, chain)
        for each in destinations
    ]


def point_of(snapshot: Snapshot) -> Point:
    """A snapshot's place in its chain."""
    manifest = snapshot.manifest
    return Point(manifest.sequence, manifest.started, snapshot.id, manifest.unreadable)


def gaps_of(seen: Seen, source: str, host: str) -> list[Gap]:
    """Snapshots of a source of one host that were removed: no copy has them, a later one is there, no mark says so.

    Those that a copy may hold which is not at hand (disks in turn at one mount point) are not meant.
    """
    chain = chains_of(seen.history.of(source, host)).get((host, source), {})
    here = {copy.id for copy in seen.copies}
    away = seen.heads.newest(host, source, without=here) if seen.heads else None
    gaps = gaps_in(chain, seen.forgotten, seen.forgotten_numbers.get((host, source), ()))
    return [gap for gap in gaps if away is None or away.sequence < gap.first]


def _forked(snapshots: Sequence[Snapshot]) -> frozenset[str]:
    twins = (each for chain in chains_of(snapshots).values() for each in chain.values())
    return frozenset(each.name for same in twins if is_fork(same) for each in same)


def _newest(seen: Seen, snapshots: Sequence[Snapshot], source: str, host: str) -> Point | None:
    """The newest snapshot known at all: shown by a copy, or acknowledged by one that does not show it now."""
    found = [point_of(each) for each in snapshots]
    head = _point_of_head(seen.heads.newest(host, source)) if seen.heads else None
    if head is not None and head.id not in seen.forgotten:
        found.append(head)
    return max(found, key=lambda each: each.sequence, default=None)


def _present(seen: Seen, copy: Copy, destination: Destination, chain: _Chain) -> CopyState:
    shown = [each for each in chain.snapshots if copy.destination in seen.history.holders[each.name]]
    missing = {each.name: _objects_missing(each, copy) for each in shown}
    held = {each.id: point_of(each) for each in shown if not missing[each.name]}
    lacks = [point_of(each) for each in chain.snapshots if each.id not in held]
    newest = chain.newest
    if newest is not None and newest.id not in {*held, *(each.id for each in lacks)}:
        lacks.append(newest)
    verified = seen.verified.get(copy.id) if seen.verified else None
    newest_verified = _newest_verified(verified, chain)
    lost, objects_missing = _lost(seen, copy, chain), {name for each in missing.values() for name in each}
    objects_lost = {name for name in objects_missing if not any(name in each.objects for each in seen.copies)}
    drilled, failed = _drilled(seen, copy.id, chain)
    restorable = [point_of(each) for each in shown if objects_lost.isdisjoint(missing[each.name])]
    state: State = "current"
    if any(each.name in chain.forked for each in shown):
        state = "forked"
    elif lost is not None:
        state = "rolled back"
    elif objects_missing or (verified is not None and not verified.is_good):
        state = "damaged"
    elif not held:
        state = "empty"
    elif lacks:
        state = "behind"
    return CopyState(
        destination,
        state,
        copy.id or None,
        snapshots=sum(each.name in copy.objects for each in shown),
        oldest=min((each.time for each in held.values()), default=None),
        newest=max(restorable, default=None),
        holds_newest=newest is not None and newest.id in held,
        lacks=tuple(lacks),
        lost=lost,
        objects_missing=len(objects_missing),
        objects_lost=len(objects_lost),
        untrusted=sum(where == copy.destination for where, _, _ in seen.history.rejected),
        verified=verified,
        newest_verified=newest_verified if newest_verified and newest_verified.id in held else None,
        drilled=drilled,
        failed_drill=failed,
    )


def _objects_missing(snapshot: Snapshot, copy: Copy) -> list[str]:
    return [
        name for name in (snapshot.name, *snapshot.manifest.object_names(copy.key_object)) if name not in copy.objects
    ]


def _lost(seen: Seen, copy: Copy, chain: _Chain) -> Point | None:
    """The head that the copy acknowledged, if it is gone and was not forgotten."""
    head = seen.heads.get(copy.id, chain.host, chain.source) if seen.heads else None
    point = _point_of_head(head)
    is_gone = head is not None and head.name not in copy.objects and (copy.destination, head.name) not in seen.torn
    return point if point is not None and is_gone and point.id not in seen.forgotten else None


def _absent(seen: Seen, destination: Destination, chain: _Chain) -> CopyState:
    """What was last known of a copy that cannot be opened."""
    copy_id = seen.verified.copy_at(destination.name) if seen.verified else None
    head = seen.heads.get(copy_id, chain.host, chain.source) if seen.heads and copy_id else None
    verified = seen.verified.get(copy_id) if seen.verified else None
    error = seen.absent.get(destination.name)
    drilled, failed = _drilled(seen, copy_id, chain)
    return CopyState(
        destination,
        "empty" if isinstance(error, RepositoryNotFound) else "absent",
        copy_id,
        newest=_point_of_head(head),
        verified=verified,
        newest_verified=_newest_verified(verified, chain),
        error=error,
        drilled=drilled,
        failed_drill=failed,
    )


def _drilled(seen: Seen, copy_id: str | None, chain: _Chain) -> tuple[Drilled | None, Drilled | None]:
    """The latest drill of a chain from a copy that passed, and the latest that did not, unless a later one settles it.

    A sample settles no drill of everything: it left out what failed, for all that is known.
    """
    own = [each for each in seen.drills if copy_id and each.drill.copy == copy_id]
    own = [each for each in own if each.drill.chain == (chain.host, chain.source)]
    passed = [each for each in own if each.drill.passed]
    failed: Drilled | None = None
    for each in own:
        if not each.drill.passed:
            failed = each
        elif failed is not None and (each.drill.is_whole or failed.drill.sample):
            failed = None
    return passed[-1] if passed else None, failed


def _newest_verified(verified: Verification | None, chain: _Chain) -> Point | None:
    name = verified.newest.get(f"{chain.host}/{chain.source}") if verified else None
    if name is None:
        return None
    known = {each.name: each for each in chain.snapshots}
    return point_of(known[name]) if name in known else _point_of_head(Head(0, name))


def _point_of_head(head: Head | None) -> Point | None:
    """The snapshot that a head names; its name carries its time. None where it is no name that opskit gives."""
    digest = names.digest_in(head.name) if head else None
    if head is None or digest is None:
        return None
    try:
        time = datetime.strptime(head.name.partition("/")[2][:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return Point(head.sequence, time, digest)

"""Forget: say by a maintainer's mark which snapshots nobody needs any more.

Invariants: nothing is deleted here; `prune` does that, after the grace, and until then a release takes it back. In each
chain the newest complete snapshot that a copy at hand holds whole is kept, and so is the newest whole one that stands
for a complete one (`retention.settled`); where none is whole, all are kept. Held
snapshots are kept, and of each chain the newest that a drill restored well. Judged are snapshots that were seen: one
that only an absent copy has is not forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from opskit.errors import Damaged, SnapshotNotFound, StoreError, UsageError
from opskit.operations.sync import lacking
from opskit.operations.unread import MOST_REMEMBERED
from opskit.repository import names, retention
from opskit.repository.chains import chains_of
from opskit.repository.copy import Copy, get_from
from opskit.repository.evidence import Drilled
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import FORGET, HOLD, RELEASE, Mark, Marks
from opskit.repository.retention import Judged, Rules


@dataclass(frozen=True, slots=True)
class JudgedChain:
    """The snapshots of one host and source, and why each is kept."""

    host: str
    source: str
    judged: Sequence[Judged]

    @property
    def forgotten(self) -> list[Snapshot]:
        """Those that no reason keeps."""
        return [each.snapshot for each in self.judged if not each.reasons]

    @property
    def stand_in(self) -> Snapshot | None:
        """The newest of those that stand for complete ones, where no complete one is newer."""
        newest = next((each.snapshot for each in reversed(self.judged) if each.is_settled), None)
        return newest if newest is not None and not newest.manifest.complete else None

    @property
    def all_kept_since(self) -> datetime | None:
        """Since when all are kept, if that is long: none was complete, and each lacked what had been there lately."""
        if not self.judged:
            return None
        enough = (each.snapshot for each in reversed(self.judged) if each.is_settled)
        since = next(enough, self.judged[0].snapshot).manifest.started
        is_long = self.judged[-1].snapshot.manifest.started - since > 2 * retention.PATIENCE
        return since if is_long else None

    @property
    def lacks_too_many(self) -> int | None:
        """How many files the newest lacks where those are too many to remember since when; else None."""
        newest = self.judged[-1].snapshot.manifest if self.judged else None
        if newest is None or newest.unreadable_since != newest.started:
            return None
        return newest.unreadable if newest.unreadable > MOST_REMEMBERED else None


def judge_chains(
    copies: Sequence[Copy],
    snapshots: Sequence[Snapshot],
    marks: Marks,
    rules: Rules,
    *,
    now: datetime,
    proved: Mapping[str, str] | None = None,
) -> list[JudgedChain]:
    """Judge every chain by the rules, the holds, and what drills proved (reasons by snapshot id)."""
    forgotten, protected = marks.forgotten(), {**(proved or {}), **_held(marks, now)}
    found = []
    for (host, source), chain in chains_of(each for each in snapshots if each.id not in forgotten).items():
        members = [each for twins in chain.values() for each in twins]
        more = protected | _whole(copies, members)
        found.append(JudgedChain(host, source, retention.judge(members, rules, now=now, protected=more)))
    return found


def proved_by(drills: Iterable[Drilled], snapshots: Iterable[Snapshot]) -> dict[str, str]:
    """Of each chain the newest snapshot that a drill restored wholly and well, with the reason to keep it."""
    good = {each.drill.snapshot: each for each in drills if each.drill.is_whole}
    newest: dict[tuple[str, str], Snapshot] = {}
    for each in snapshots:
        chain = each.manifest.host, each.manifest.source
        if each.id in good and (chain not in newest or newest[chain].manifest.sequence < each.manifest.sequence):
            newest[chain] = each
    return {each.id: f"restored well in a drill on {good[each.id].ended:%Y-%m-%d}" for each in newest.values()}


def require_forgettable(
    copies: Sequence[Copy],
    snapshots: Sequence[Snapshot],
    marks: Marks,
    chosen: Sequence[Snapshot],
    *,
    now: datetime,
    proved: Mapping[str, str],
) -> None:
    """Raise UsageError where one of the chosen is held, or what a drill proved (reasons by snapshot id), or no complete
    and whole snapshot would be left beside them."""
    for each in chosen:
        if each.id in proved:
            raise UsageError(
                f"snapshot {each.id[:8]} is the last of {each.manifest.source} that was {proved[each.id]}",
                hint=f"opskit drill run {each.manifest.source} proves another first; --even-if-drilled forgets it",
            )
    held = _held(marks, now)
    for each in chosen:
        if each.id in held:
            raise UsageError(
                f"snapshot {each.id[:8]} is {held[each.id]}", hint=f"opskit hold {each.id[:8]} --release lifts the hold"
            )
    going = {each.id for each in chosen} | marks.forgotten()
    for (host, source), chain in chains_of(snapshots).items():
        members = [each for twins in chain.values() for each in twins]
        staying = [each for each in members if each.id not in going]
        enough = retention.settled(members)
        if len(staying) < len(members) and not _newest_whole(copies, (each for each in staying if each.id in enough)):
            raise UsageError(
                f"{source} of {host} would be left without a complete snapshot that a copy at hand holds whole",
                hint="make a new backup first, or bring in the destination that has one",
            )


def require_holds(marks: Marks) -> None:
    """Raise Damaged where a mark that may hold snapshots is listed, and no copy has it whole."""
    settled = {found.name for found in marks.marks}
    for destination, name, reason in marks.rejected:
        is_damaged = isinstance(reason, Damaged | StoreError)
        if is_damaged and name not in settled and names.kind_of_mark(name) == HOLD:
            raise Damaged(
                f"{destination}: {name} cannot be read, and may hold snapshots: {reason}",
                hint="bring in a destination that has it whole, then: opskit heal",
            )


def forget_mark(repository: str, host: str, now: datetime, snapshots: Sequence[Snapshot], reason: str) -> Mark:
    """The mark that forgets these snapshots."""
    places = {each.id: (each.manifest.host, each.manifest.source, each.manifest.sequence) for each in snapshots}
    return Mark(FORGET, repository, host, now.replace(microsecond=0), list(places), reason=reason, places=places)


def remember_mark(repository: str, host: str, now: datetime, marks: Marks, snapshots: Collection[Snapshot]) -> Mark:
    """The mark that takes back that these snapshots are forgotten; raises SnapshotNotFound where one is not."""
    by = marks.forgotten_by()
    for each in snapshots:
        if each.id not in by:
            raise SnapshotNotFound(f"snapshot {each.id[:8]} is not forgotten")
    lifts = sorted({marked.id for each in snapshots for marked in by[each.id]})
    ids = [each.id for each in snapshots]
    return Mark(RELEASE, repository, host, now.replace(microsecond=0), ids, lifts=lifts)


def _held(marks: Marks, now: datetime) -> dict[str, str]:
    reasons = {}
    for snapshot, found in marks.holds(now).items():
        mark = found[0].mark
        until = f" until {mark.until:%Y-%m-%d}" if mark.until else ""
        reasons[snapshot] = f"held{until}" + (f": {mark.reason}" if mark.reason else "")
    return reasons


def _whole(copies: Sequence[Copy], chain: Sequence[Snapshot]) -> dict[str, str]:
    """What must stay because a copy has it whole; everything, where no complete snapshot is whole."""
    enough = retention.settled(chain)
    newest = _newest_whole(copies, [each for each in chain if each.id in enough])
    if newest is None:
        return {each.id: "no complete snapshot is whole at the copies at hand" for each in chain}
    found = {}
    if any(each.id in enough and _is_newer(each, newest) for each in chain):  # else the rules keep it anyway
        found[newest.id] = "newest that counts as complete and is whole"
    complete = [each for each in chain if each.manifest.complete]
    best = newest if newest in complete else _newest_whole(copies, complete)
    if best is not None and any(_is_newer(each, best) for each in complete):
        found[best.id] = "newest complete that is whole"
    return found


def _is_newer(one: Snapshot, other: Snapshot) -> bool:
    return one.manifest.sequence > other.manifest.sequence


def _newest_whole(copies: Sequence[Copy], candidates: Iterable[Snapshot]) -> Snapshot | None:
    for snapshot in sorted(candidates, key=lambda each: each.manifest.sequence, reverse=True):
        if any(is_whole(copy, snapshot, lambda name: get_from(copies, name)) for copy in copies):
            return snapshot
    return None


def is_whole(copy: Copy, snapshot: Snapshot, get: Callable[[str], bytes]) -> bool:
    """Whether a copy lists all that a snapshot needs; a pack list that nobody has whole means no."""
    try:
        return snapshot.name in copy.objects and not lacking(copy, snapshot, get)
    except (Damaged, StoreError):
        return False

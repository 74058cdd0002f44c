"""What may go, when and where: pure rules over listings, snapshots and marks.

Two phases. An object that no snapshot needs is **condemned** by a mark; from then on backups treat it as absent. When
the mark has been at a copy for the grace, the object may be **deleted** there, unless a snapshot needs it by then: it
is **pardoned** by another mark. A forgotten snapshot's manifest goes when the mark that forgets it has been at the copy
for the grace; until then a release takes everything back, for whatever it needs stays as long.

Invariants, at each copy for itself:
- Nothing that a snapshot needs is deleted, nor what a manifest that stays there names, forgotten or not.
- The last good snapshot of a source stays, forgotten or not.
- A mark's age is the lesser of its own and that of the object at that copy, by the store's clock.
- Nothing younger than the grace is condemned: a backup that is under way has put it there.
- Only objects named by their content are touched; marks, evidence, the kit and strangers' files never are.
- Wrong bytes in quarantine go when they have been there for `ASIDE`, and only where the copy has all that any snapshot
  needs: as long as something is lost there, they may be what is left of it.
- A key object that was superseded goes where the mark and what stands in for it are; nothing else makes a key object
  go while a needed run's key is under no name that manifests and marks tell.
- Manifests go first, newest first, then what they needed: a crash leaves objects that nobody refers to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from opskit.repository import names
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import Marked, Marks
from opskit.stores.base import ObjectInfo

ASIDE = timedelta(days=90)
"""How long wrong bytes are kept in quarantine."""

_KEYS = "keys/"
_DATA = ("index/", "packlists/", "packs/", "keys/")
"""Kinds of objects that only snapshots need, in the order of deletion."""

Listing = Mapping[str, ObjectInfo]


@dataclass(slots=True)
class Where:
    """One copy's part: what goes now, in order, with sizes; what waits for its mark to come of age, and until when.

    `last` are forgotten snapshots that stay until the copy has another good one of their source; `marks` are the names
    of the marks by which something goes, `heirs` of the key objects in whose favour others go: both must be whole.
    `aside` is what lies in quarantine, with sizes, what goes of it included.
    """

    delete: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    next_due: datetime | None = None
    last: list[Snapshot] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    aside: dict[str, int] = field(default_factory=dict)
    heirs: set[str] = field(default_factory=set)

    @property
    def delete_bytes(self) -> int:
        """The bytes that go."""
        return sum(self.delete.values())

    @property
    def waiting_bytes(self) -> int:
        """The bytes that wait."""
        return sum(self.waiting.values())


@dataclass(slots=True)
class Plan:
    """What to condemn, the condemned to pardon with the marks that name them, and what goes where.

    `young` are objects that no snapshot needs either, but which are too young to be condemned.
    """

    condemn: list[str] = field(default_factory=list)
    condemn_bytes: int = 0
    young: int = 0
    young_bytes: int = 0
    pardon: dict[str, list[Marked]] = field(default_factory=dict)
    where: dict[str, Where] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known: a fresh listing of each copy by destination, and what the snapshots need.

    `needed` are names that snapshots which are not forgotten need; `forgotten` are the forgotten ones with what each
    needs; `last` are the names of those of them that must stay, by destination.
    """

    listings: Mapping[str, Listing]
    needed: Collection[str]
    forgotten: Sequence[tuple[Snapshot, Collection[str]]]
    marks: Marks
    last: Mapping[str, Collection[str]] = field(default_factory=dict)
    hints: Collection[str] = ()
    """The key objects (digests) that the snapshots at hand which are not forgotten hint at."""


def plan(facts: Facts, *, now: datetime, grace: timedelta) -> Plan:
    """Judge every object of every copy."""
    condemned = facts.marks.condemned_by()
    is_clear = _are_keys_clear(facts, {name for listing in facts.listings.values() for name in listing})
    made = Plan(pardon={name: marks for name, marks in sorted(condemned.items()) if name in facts.needed})
    old, young = _unneeded(facts, condemned, now, grace, is_clear)
    made.condemn, made.condemn_bytes = sorted(old), sum(old.values())
    made.young, made.young_bytes = len(young), sum(young.values())
    for destination in facts.listings:
        made.where[destination] = _at(facts, destination, condemned, now, grace, is_clear)
    return made


def _are_keys_clear(facts: Facts, listed: Collection[str]) -> bool:
    """Whether each run that is needed has a key object among those listed, by a name that manifests or marks tell.

    Where one has not, some other key object may hold its key, and the mark that says so be lost: then all of them stay.
    """
    after = facts.marks.succession
    return all(any(names.key(each) in listed for each in (hint, *after.heirs(hint))) for hint in facts.hints)


def _unneeded(
    facts: Facts, condemned: Collection[str], now: datetime, grace: timedelta, is_clear: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Objects that no snapshot needs, with the bytes they take in all: those old wherever they are, and the others."""
    found: dict[str, int] = {}
    young: set[str] = set()
    for listing in facts.listings.values():
        for name, info in listing.items():
            if not _is_data(name) or name in facts.needed or name in condemned:
                continue
            if name.startswith(_KEYS) and not is_clear:
                continue
            if now.timestamp() - info.modified < grace.total_seconds():
                young.add(name)
            found[name] = found.get(name, 0) + info.size
    return (
        {name: size for name, size in found.items() if name not in young},
        {name: size for name, size in found.items() if name in young},
    )


def _at(
    facts: Facts,
    destination: str,
    condemned: Mapping[str, Sequence[Marked]],
    now: datetime,
    grace: timedelta,
    is_clear: bool,
) -> Where:
    found, listing, last = Where(), facts.listings[destination], facts.last.get(destination, ())
    by = facts.marks.forgotten_by()
    staying: set[str] = set()
    for snapshot, needs in sorted(facts.forgotten, key=lambda each: each[0].manifest.sequence, reverse=True):
        if snapshot.name in last:
            found.last.append(snapshot)
            found.waiting[snapshot.name] = listing[snapshot.name].size
            staying.update(needs)
        elif snapshot.name in listing and not _settle(found, listing, snapshot.name, by[snapshot.id], now, grace):
            staying.update(needs)
    due = (name for name in condemned if name in listing and name not in facts.needed)
    for name in _in_order(due):
        if name in staying or (name.startswith(_KEYS) and not is_clear):
            found.waiting[name] = listing[name].size
        else:
            _settle(found, listing, name, condemned[name], now, grace)
    _note_superseded(found, listing, facts.marks)
    _clear_quarantine(found, facts, listing, now)
    return found


def _clear_quarantine(found: Where, facts: Facts, listing: Listing, now: datetime) -> None:
    found.aside = {name: info.size for name, info in listing.items() if names.is_quarantined(name)}
    old = [name for name in found.aside if now.timestamp() - listing[name].modified >= ASIDE.total_seconds()]
    data = (name for name in facts.needed if not name.startswith(_KEYS))
    if old and all(name in listing for name in data) and _are_keys_clear(facts, listing):
        found.delete.update((name, found.aside[name]) for name in sorted(old))


def _note_superseded(found: Where, listing: Listing, marks: Marks) -> None:
    """Key objects that go because another one stands in for them here: marks and heir are there, so without a grace."""
    succession, condemned = marks.succession, marks.condemned_by()
    superseding = [each.name for each in marks.superseding()]
    if not all(name in listing for name in superseding):  # a step of a succession would be left out
        return
    for name in list(listing):
        digest = names.digest_in(name) or "" if name.startswith(_KEYS) else ""
        ends = map(names.key, succession.ends(digest))
        heir = next((each for each in ends if each in listing and each not in condemned), None)
        if heir is not None:
            found.delete[name] = listing[name].size
            found.marks.update(superseding)
            found.heirs.add(heir)


def _settle(
    found: Where, listing: Listing, name: str, marks: Iterable[Marked], now: datetime, grace: timedelta
) -> bool:
    """Note an object as going or waiting; whether it goes."""
    since, mark = min(((_since(mark, listing), mark.name) for mark in marks if mark.name in listing), default=(now, ""))
    due = since + grace
    if due <= now:
        found.marks.add(mark)
        found.delete[name] = listing[name].size
        return True
    found.waiting[name] = listing[name].size
    found.next_due = min(due, found.next_due or due)
    return False


def _since(mark: Marked, listing: Listing) -> datetime:
    """From when on a mark counts at a copy: it was made, and was there."""
    stored = datetime.fromtimestamp(listing[mark.name].modified, mark.mark.created.tzinfo)
    return max(mark.mark.created, stored)


def _is_data(name: str) -> bool:
    return name.startswith(_DATA) and names.digest_in(name) is not None


def _in_order(due: Iterable[str]) -> Iterator[str]:
    by_kind: dict[str, list[str]] = {kind: [] for kind in _DATA}
    for name in due:
        kind = next((each for each in _DATA if name.startswith(each)), None)
        if kind is not None:
            by_kind[kind].append(name)
    for kind in _DATA:
        yield from sorted(by_kind[kind])

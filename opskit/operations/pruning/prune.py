"""Carries a prune out: condemns, pardons and deletes what a plan says, and looks again when time has passed.

Invariants: a listing, manifest or mark that cannot be had ends the work before anything is deleted. Deletions follow a
look that is no older than `LOOK_IS_GOOD_FOR`, by a clock that goes on while the machine sleeps; after that everything
is looked at anew. Marks are at a copy, whole, before what they condemn can be deleted there. Where one copy's clock is
not this host's, no copy loses anything: this host's may be the wrong one, and a local folder has no other. Any other
failure of one copy stops nothing elsewhere. What is held stays, though a mark forgets it.

One host should prune a repository at a time: a second one's pardon may come after the first one's look. Then a snapshot
that a copy was given in between can lack an object there, which `heal` brings from where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from opskit.errors import ClocksApart, Damaged, ObjectNotFound, OpskitError, StoreError, StoreRefused
from opskit.log import logger
from opskit.operations.marking import publish
from opskit.operations.pruning.needs import last_at, needed_by, require_believed
from opskit.operations.pruning.plan import Facts, Listing, Plan, Where, plan
from opskit.repository import names
from opskit.repository.copy import Copy, get_from
from opskit.repository.history import History
from opskit.repository.identity import Identity
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import CONDEMN, MAX_OBJECTS, RELEASE, Mark, Marks
from opskit.repository.retention import CLOCK_TOLERANCE
from opskit.stores.base import Swept, sweepable

log = logger(__name__)

LOOK_IS_GOOD_FOR = 3600.0
"""Seconds after which everything is listed anew before the next deletion."""

UNFINISHED = timedelta(days=1)
"""Age at which what a put left under an unfinished name is nobody's any more: none stalls longer than minutes. Where a
machine slept that long in the middle of one, that put fails, for its file cannot be given a name."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is at the copies now, and what this host remembers of snapshots that no copy at hand shows."""

    copies: Sequence[Copy]
    history: History
    marks: Marks
    remembered: Sequence[Snapshot] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """The grace, and at most how many bytes are deleted at each copy (None: as many as may be)."""

    grace: timedelta
    most_bytes: int | None = None


@dataclass(slots=True)
class Deleted:
    """What was deleted at one copy.

    `locked` counts objects that the store keeps from being deleted for now; `is_capped` tells that the limit of bytes
    left the rest for another time; `failure` why the work ended there.
    """

    objects: int = 0
    total_bytes: int = 0
    locked: int = 0
    is_capped: bool = False
    failure: OpskitError | None = None


@dataclass(slots=True)
class Pruned:
    """The last plan, and what came of it at each destination."""

    plan: Plan = field(default_factory=Plan)
    deleted: dict[str, Deleted] = field(default_factory=dict)
    unmarked: dict[str, OpskitError] = field(default_factory=dict)
    """Destinations that did not take a mark, with reasons."""
    swept: dict[str, Swept] = field(default_factory=dict)
    """What killed puts had left at each destination that knows such files."""

    @property
    def objects(self) -> int:
        """How many objects were deleted in all."""
        return sum(each.objects for each in self.deleted.values())


def prune(
    look: Callable[[], Look],
    identity: Identity,
    limits: Limits,
    *,
    repository: str,
    host: str,
    now: Callable[[], datetime],
    boottime: Callable[[], float],
    dry_run: bool = False,
) -> Pruned:
    """Prune the copies that `look` shows, until nothing more is due.

    `boottime` gives seconds of a clock that counts sleep. Raises Forged, Damaged, StoreError where it cannot be found
    out what is needed, and NoKey where this host's key is not a maintainer's.
    """
    result, fruitless = Pruned(), 0
    while True:
        begun, before = boottime(), result.objects
        pruning = _Pruning(look(), identity, limits, Author(repository, host, now), now(), result)
        pruning.judge()
        if dry_run:
            pruning.sweep(dry_run=True)
            return result
        pruning.mark()
        if pruning.delete(lambda begun=begun: boottime() - begun < LOOK_IS_GOOD_FOR):  # type: ignore[misc]
            pruning.sweep()
            return result
        fruitless = 0 if result.objects > before else fruitless + 1
        if fruitless > 1:
            raise StoreError(
                f"looking at the copies takes longer than a look is good for ({LOOK_IS_GOOD_FOR / 3600:.0f} h)",
                hint="nothing more was deleted; what makes the destinations so slow?",
            )
        log.info("the copies are listed anew: the last look is too old to delete by")


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes marks, for which repository, by which clock."""

    repository: str
    host: str
    now: Callable[[], datetime]

    def mark(self, kind: str, objects: Sequence[str], lifts: Sequence[str] = ()) -> Mark:
        """A mark about objects."""
        return Mark(
            kind, self.repository, self.host, self.now().replace(microsecond=0), reason="prune",
            lifts=sorted(lifts), objects=objects,
        )  # fmt: skip


class _Pruning:
    """One round, by one look."""

    def __init__(
        self, look: Look, identity: Identity, limits: Limits, author: Author, at: datetime, result: Pruned
    ) -> None:
        self._look, self._identity, self._limits = look, identity, limits
        self._author, self._at, self._result = author, at, result

    def judge(self) -> None:
        """List everything and make the plan."""
        look = self._look
        require_believed(look.history, look.marks)
        forgotten = look.marks.forgotten() - look.marks.holds(self._at).keys()
        kept = [each for each in look.history.snapshots if each.id not in forgotten]
        away = [each for each in look.remembered if each.id not in forgotten]
        going = [each for each in look.history.snapshots if each.id in forgotten]
        after = look.marks.succession
        facts = Facts(
            {copy.destination: _listed(copy) for copy in look.copies},
            needed_by(look.copies, kept, after) | needed_by(look.copies, away, after, lenient=True),
            [(each, needed_by(look.copies, [each], after, lenient=True)) for each in going],
            look.marks,
            {copy.destination: last_at(copy, look.copies, look.history.snapshots, forgotten) for copy in look.copies},
            {run.key for each in kept for run in each.manifest.runs},
        )
        _require_past(facts.listings, self._at)
        self._result.plan = plan(facts, now=self._at, grace=self._limits.grace)

    def mark(self) -> None:
        """Bring every mark to every copy, pardon, condemn."""
        for copy in self._look.copies:
            self._bring_marks(copy)
        made = self._result.plan
        pardoned = list(made.pardon)
        for start in range(0, len(pardoned), MAX_OBJECTS):
            some = pardoned[start : start + MAX_OBJECTS]
            lifts = {marked.id for name in some for marked in made.pardon[name]}
            self._publish(self._author.mark(RELEASE, some, sorted(lifts)))
        for start in range(0, len(made.condemn), MAX_OBJECTS):
            self._publish(self._author.mark(CONDEMN, made.condemn[start : start + MAX_OBJECTS]))

    def _bring_marks(self, copy: Copy) -> None:
        heirs = [names.key(digest) for digest in self._look.marks.succession.all_ends()]
        here = [name for name in heirs if any(name in each.objects for each in self._look.copies)]
        try:
            for name in (*here, *(marked.name for marked in self._look.marks.marks)):  # no mark before what it tells of
                if name not in copy.objects:
                    copy.put(name, get_from(self._look.copies, name))
        except (Damaged, StoreError) as error:
            self._result.unmarked[copy.destination] = error

    def _publish(self, mark: Mark) -> None:
        _, failures = publish(self._identity, self._look.copies, mark)
        self._result.unmarked.update(failures)

    def delete(self, is_good: Callable[[], bool]) -> bool:
        """Delete at each copy what is due; False where the look became too old before the end."""
        ended, apart = True, self._clocks_apart()
        for copy in self._look.copies:
            found = self._result.deleted.setdefault(copy.destination, Deleted())
            where = self._result.plan.where[copy.destination]
            if not where.delete or found.failure is not None:
                continue
            try:
                if apart is not None:
                    raise apart
                for name in sorted(where.marks | where.heirs):
                    copy.get(name)  # what is rotten here was perhaps never read by those who back up here
                ended = self._delete_at(copy, where, found, is_good) and ended
            except OpskitError as error:
                found.failure = error
        return ended

    def _clocks_apart(self) -> ClocksApart | None:
        """Why no age can be trusted, if something is due anywhere. A copy that cannot tell the time loses nothing."""
        if not any(where.delete for where in self._result.plan.where.values()):
            return None
        apart = None
        for copy in self._look.copies:
            try:
                _require_same_clock(copy, self._author.now())
            except ClocksApart as error:
                apart = error
            except OpskitError as error:
                self._result.deleted.setdefault(copy.destination, Deleted()).failure = error
        return apart

    def _delete_at(self, copy: Copy, where: Where, found: Deleted, is_good: Callable[[], bool]) -> bool:
        refused: StoreRefused | None = None
        for name, size in where.delete.items():
            if self._limits.most_bytes is not None and found.total_bytes + size > self._limits.most_bytes:
                found.is_capped = True
                return True
            if not is_good():
                return False
            try:
                copy.store.delete(name)
            except ObjectNotFound:
                continue  # somebody else was quicker
            except StoreRefused as error:
                refused, found.locked = error, found.locked + 1
                if name.startswith("snapshots/"):
                    raise  # what it needs must stay as long as it does
                continue
            found.objects, found.total_bytes = found.objects + 1, found.total_bytes + size
        if refused is not None and not found.objects:
            raise refused
        return True

    def sweep(self, *, dry_run: bool = False) -> None:
        """Remove what killed puts left, or count it. Where something is old, the store is asked for the time first."""
        for copy in self._look.copies:
            failed = self._result.deleted.get(copy.destination)
            store = sweepable(copy.store)
            if store is None or (failed and failed.failure):
                continue
            now = self._author.now()
            try:
                found = store.sweep(now=now.timestamp(), older_than=UNFINISHED.total_seconds(), dry_run=True)
                if found.files and not dry_run:
                    _require_same_clock(copy, now)
                    # All that was counted is gone then; a sweep that was repeated counts the last try alone.
                    store.sweep(now=now.timestamp(), older_than=UNFINISHED.total_seconds())
                self._result.swept[copy.destination] = found
            except OpskitError as error:
                self._result.deleted.setdefault(copy.destination, Deleted()).failure = error


def _listed(copy: Copy) -> Listing:
    return {info.name: info for info in copy.store.list()}


def _require_same_clock(copy: Copy, now: datetime) -> None:
    """Raise ClocksApart where the store's clock and this host's are apart: no age could be trusted."""
    probe = f"opskit asks for the time: {now.isoformat()}".encode()
    name = names.quarantine(names.sha256(probe))
    copy.store.put(name, probe, replace=True)
    try:
        modified = next((info.modified for info in copy.store.list("quarantine") if info.name == name), None)
    finally:
        copy.store.delete(name)
    if modified is None or abs(modified - now.timestamp()) > CLOCK_TOLERANCE.total_seconds():
        said = "nothing" if modified is None else f"{datetime.fromtimestamp(modified, now.tzinfo):%Y-%m-%d %H:%M:%S}"
        raise ClocksApart(
            f"{copy.destination}: its clock and this host's are apart: expected {now:%Y-%m-%d %H:%M:%S}, got {said}",
            hint="nothing was deleted anywhere: set the clock that is wrong",
        )


def _require_past(listings: Mapping[str, Listing], now: datetime) -> None:
    """Raise ClocksApart where something came to a copy in the future: a clock is behind, or was ahead.

    A mark that was made by a clock that is behind would be old as soon as the clock is set.
    """
    for destination, listing in listings.items():
        for info in listing.values():
            if info.modified > (now + CLOCK_TOLERANCE).timestamp() and names.digest_in(info.name) is not None:
                stored = datetime.fromtimestamp(info.modified, now.tzinfo)
                raise ClocksApart(
                    f"{destination}: {info.name} was stored at {stored:%Y-%m-%d %H:%M:%S}, and it is "
                    f"{now:%Y-%m-%d %H:%M:%S}: expected a time in the past",
                    hint="set this host's clock if it is behind; in a folder, touch what has a wrong time of change",
                )

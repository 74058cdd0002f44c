"""Which packs of a copy have their turn in a run of `verify`, and the noting of what became of them.

The order within a budget: what was damaged when it was last read, or has another size now (outside of any budget, as
are all objects that are no packs); then what would become too old by `every` unless it is read now, the oldest first;
then what was never read, the oldest first, so that a new snapshot is read back soon; then what was read longest ago. So
new packs go first as long as nothing else suffers, and with a budget that is too small it is fair: nothing is passed
over for good.

Invariant: with a share of B % every pack is read for the first time within ceil(100 / B) runs of its coming, whatever
comes and goes meanwhile: a share is of the most that lay there in that many runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from opskit.errors import OpskitError
from opskit.operations.verifying.budget import Budget
from opskit.operations.verifying.coverage import coverage_of
from opskit.operations.verifying.ledger import Entry, Ledger, Run
from opskit.repository import names
from opskit.repository.verification import Coverage

AT_ONCE = 8
"""Packs that are noted together: so many a killed run may have to read again."""
PACE_OF = 8
"""The pace is that of so many runs."""


class Shares:
    """Time for several copies one after another: each gets an equal part of what is left, so none waits in vain.

    `clock` gives seconds; `seconds` None is no limit.
    """

    def __init__(self, seconds: float | None, copies: int, clock: Callable[[], float]) -> None:
        self._clock, self._left = clock, copies
        self._end = None if seconds is None else clock() + seconds

    def next(self) -> Callable[[], bool]:
        """Begin the next copy's part; tells whether it is over."""
        if self._end is None:
            return lambda: False
        now = self._clock()
        until = now + (self._end - now) / max(self._left, 1)
        self._left -= 1
        return lambda: self._clock() >= until


class Turn:
    """One run at one copy. `key` is the copy's id in the ledger; "" (no id, no ledger) remembers nothing.

    `objects` are names and sizes as listed. `begun` (seconds since the epoch) is before the first object is read;
    `every` in how many seconds all is to be read. Raises OpskitError where the ledger cannot be used.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        key: str,
        objects: Mapping[str, int],
        begun: int,
        every: int,
        budget: Budget | None = None,
    ) -> None:
        self._ledger, self._key = ledger if key else None, key
        self.budget = budget
        # One that was cut to nothing counts as a byte, so that it has its turn too.
        self._sizes = {each: max(size, 1) for name, size in objects.items() if (each := _pack(name)) is not None}
        self.total = sum(self._sizes.values())
        self._past = self._ledger.runs(key, begun) if self._ledger else []
        self._run = Run(begun, self.total, 0)
        self.known_bad = 0
        """How many packs were known as damaged: each of them is read now, or is there no more."""
        self._entries = self._begin()
        self._unnoted: dict[bytes, Entry] = {}
        self.failure: OpskitError | None = None
        """What kept the ledger from being written; the run goes on without it."""
        # With what others left there; but bytes that were set aside as wrong prove nothing.
        self._small = sorted(name for name in objects if _pack(name) is None and not names.is_quarantined(name))
        self._bad = sorted(each for each, entry in self._entries.items() if entry.is_bad)
        order = _in_order(self._entries, begun, self._patience(every)) if budget else sorted(self._sizes)
        self._chosen = list(self._within(order))

    def _begin(self) -> dict[bytes, Entry]:
        """What the ledger knows of what is listed; the rest came there after the run before this one began."""
        if self._ledger is None:
            return {digest: Entry(0, size=size) for digest, size in self._sizes.items()}
        known = self._ledger.entries(self._key, self._run.begun)
        self.known_bad = sum(entry.is_bad for entry in known.values())
        came = min(self._past[-1].begun, self._run.begun) if self._past else 0
        new = [
            (digest, Entry(came, is_bad=digest in known, size=size))  # one that was replaced is looked at now
            for digest, size in self._sizes.items()
            if digest not in known or known[digest].size != size
        ]
        gone = known.keys() - self._sizes.keys()
        self._ledger.begin(self._key, self._run, new, gone)
        for digest in gone:
            del known[digest]
        known.update(new)
        return known

    @property
    def names(self) -> list[str]:
        """Everything that is to be read, in order; the first `must` of them though the time be over."""
        if self.budget is None:
            return sorted([*self._small, *map(_name, self._sizes)])
        return self.rest([_name(each) for each in self._chosen])

    def rest(self, packs: Iterable[str]) -> list[str]:
        """What is read beside packs for which a store gave its word: the small objects, the damaged, and these."""
        return [*self._small, *map(_name, self._bad), *packs]

    @property
    def must(self) -> int:
        """How many objects are read though the time be over: the small ones, and one pack, so that all get on."""
        return len(self._small) + len(self._bad) + 1

    @property
    def planned_bytes(self) -> int:
        """The bytes of packs that a budget leaves to be read; with a time for a budget all of them."""
        return sum(self._sizes[each] for each in {*self._bad, *self._chosen})

    @property
    def to_ask(self) -> list[str]:
        """The packs for which a store may give its word: with a budget those that it leaves out, else all."""
        left = self._sizes.keys() - set(self._bad)
        return sorted(map(_name, left - set(self._chosen) if self.budget else left))

    def _within(self, order: Sequence[bytes]) -> Iterator[bytes]:
        """The packs within the budget, in order. A share is never fallen short of, a size not exceeded but by one."""
        taken, quota = 0, self._quota()
        is_share = self.budget is not None and self.budget.percent is not None
        for number, digest in enumerate(order):
            size = self._sizes[digest]
            if number and (taken >= quota if is_share else taken + size > quota):
                return
            taken += size
            yield digest

    def _quota(self) -> float:
        budget = self.budget
        if budget is None or budget.seconds is not None:
            return math.inf
        if budget.bytes is not None:
            return budget.bytes
        assert budget.percent is not None and budget.runs is not None
        recent = self._past[-budget.runs :]
        return max(self.total, *(run.total for run in recent), 0) * budget.percent / 100

    def _patience(self, every: int) -> float:
        """From what age on (seconds) a pack goes before new ones, so that it is read again in time."""
        runs = [*self._past[-PACE_OF:], self._run]
        if len(runs) < 2:
            return every
        interval = (runs[-1].begun - runs[0].begun) / (len(runs) - 1)
        needed = self.runs_needed()
        return max(every - (needed + 1) * interval, 0.0) if needed else every

    def runs_needed(self) -> int | None:
        """In how many runs like this one everything is read; None where that is not known yet."""
        quota = self._quota()
        if quota == math.inf:
            read = [run.read for run in self._past[-PACE_OF:] if run.read]
            quota = sum(read) / len(read) if read else 0
        return math.ceil(self.total / quota) if quota else None

    def note(self, name: str, *, is_good: bool) -> None:
        """Note that an object was read back now, whole, and whether its bytes were right."""
        if (key := _pack(name)) is None:
            return
        before = self._entries[key]
        if is_good:
            entry = before._replace(read=self._run.begun, is_bad=False)
        else:  # that it was good when it was read before stays true
            entry = Entry(max(before.seen, before.read), is_bad=True, size=before.size)
        self._run = self._run._replace(read=self._run.read + self._sizes[key])
        self._keep(key, entry)

    def vouch(self, names_: Iterable[str]) -> None:
        """Note packs for which the store gave its word."""
        for name in names_:
            if (key := _pack(name)) is not None:
                self._keep(key, self._entries[key]._replace(word=self._run.begun))

    def _keep(self, key: bytes, entry: Entry) -> None:
        self._entries[key] = self._unnoted[key] = entry
        if len(self._unnoted) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what was noted; a failure is kept in `failure`."""
        unnoted, self._unnoted = self._unnoted, {}
        if self._ledger is None or self.failure is not None:
            return
        try:
            self._ledger.note(self._key, self._run, unnoted)
        except OpskitError as error:
            self.failure = error

    def disown(self) -> None:
        """Let this run, of whose listing something was missing, tell nothing of when packs came; the last call."""
        self.flush()
        if self._ledger is not None and self.failure is None:
            try:
                self._ledger.forget(self._key, self._run)
            except OpskitError as error:
                self.failure = error
        self._ledger = None

    def unread(self) -> frozenset[str]:
        """The packs that were never read back and found good, as far as is known."""
        return frozenset(_name(each) for each, entry in self._entries.items() if not entry.read)

    def coverage(self, gone: Sequence[str] = ()) -> Coverage:
        """What is covered by now, without packs that were `gone` when they were to be read."""
        self.flush()
        lost = set(map(_pack, gone))
        found = coverage_of(
            ((size, self._entries[each]) for each, size in self._sizes.items() if each not in lost), self._run.begun
        )
        return replace(found, lap=self._lap(), budget=self.budget.text if self.budget else "")

    def _lap(self) -> int | None:
        """In how many seconds everything is read at the pace of the runs so far, which a budget bounds."""
        runs = [*self._past[-PACE_OF:], self._run]
        span, read = runs[-1].begun - runs[0].begun, sum(run.read for run in runs[:-1])
        if self.budget is None or not span or not read:
            return None
        return min(int(self.total * span / read), 2**40)


def _in_order(entries: Mapping[bytes, Entry], now: int, patience: float) -> list[bytes]:
    """The packs by their turn; those known as damaged are read in any case."""

    def rank(digest: bytes) -> tuple[int, int, bytes]:
        entry = entries[digest]
        age_from = entry.read or entry.seen
        lane = 0 if now - age_from > patience else 2 if entry.read else 1
        return lane, age_from, digest

    return sorted((each for each, entry in entries.items() if not entry.is_bad), key=rank)


def _pack(name: str) -> bytes | None:
    """The SHA-256 of a pack, by its name; None for anything else."""
    digest = names.digest_in(name) if names.is_pack(name) else None
    return bytes.fromhex(digest) if digest else None


def _name(digest: bytes) -> str:
    return names.pack(digest.hex())

"""Moving what is held under a secret, item by item: each by a command, each proved by another, none moved twice.

An item's move is noted before it begins and once its outcome is proved, both on the disk. What ended badly, took too
long or was interrupted may have moved all the same: the verify command is asked first, and only a plain "no" (exit 1)
lets an item be moved again; an answer that is none leaves it alone, as failed. Items are listed again until nothing new
comes twice in a row, for others may add to them meanwhile.

The journal is written by one thread, the programs run beside it: what one commit tells is the outcome of some items and
the beginning of the next ones. Memory does not grow with the number of items but for the text of one list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from opskit.errors import OpskitError, TargetError
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.commands import About, Programs
from opskit.secrets.rotation.journal import Journal, Part, PartState
from opskit.secrets.rotation.state import Fingerprints, Rotation

ITEM = "item"
_ADDRESS = "address"
_LISTED = 1000
"""Items that are added to the journal in one commit."""
_EMPTY_LISTS = 2
_ROUNDS = 1000
_NO = 1
"""The exit status by which the verify command says that an item has not moved."""
Which = Literal["old", "new"]
Mark = tuple[str, PartState, str | None, int]


@dataclass(frozen=True)
class Moves:
    """The commands of the config. `{item}`, `{old}`, `{new}`, `{old_address}`, `{new_address}` stand in arguments."""

    list: tuple[str, ...]
    """Writes the items under the old value, one a line."""
    move: tuple[str, ...]
    """Moves one; the old value is on its stdin."""
    verify: tuple[str, ...]
    """Exit 0: the item is under the new value. 1: it is not. Anything else: nobody knows."""
    address: tuple[str, ...] | None = None
    """Writes the address of the value on its stdin; run once for each value."""
    env: Mapping[str, Which] = field(default_factory=dict)
    """Variables of these programs that hold the old or the new value, for those that take it in no other way."""
    parallel: int = 1
    attempts: int = 3
    timeout: float = 600.0


@dataclass(frozen=True)
class Progress:
    """How far a migration is: items that moved, that failed, that are known."""

    done: int
    failed: int
    total: int


class Migration:
    """The items of one secret."""

    def __init__(
        self, moves: Moves, programs: Programs, journal: Journal, prints: Fingerprints, now: Callable[[], float],
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._moves, self._programs, self._journal, self._prints = moves, programs, journal, prints
        self._now, self._progress = now, progress
        self._counts = Counter[str]()

    def move(self, rotation: Rotation, old: Secret | None, new: Secret) -> str | None:
        """Move all; why not all have moved, or None. Raises TargetError where items cannot even be listed."""
        about = self._about(rotation, old, new)
        self._journal.requeue(rotation, ITEM)
        self._work(rotation, about, "running")  # of a run that was killed
        empty = 0
        for _ in range(_ROUNDS):
            listed = self._list(rotation, about)
            self._work(rotation, about, "todo")
            empty = 0 if listed else empty + 1
            failed = self._journal.counts(rotation, ITEM).get("failed", 0)
            if failed:
                return f"{failed:,} items failed; each with its reason: opskit rotate status {rotation.name} --items"
            if empty == _EMPTY_LISTS:
                return None
        return "items keep coming under the old value"

    def left(self, rotation: Rotation, old: Secret | None, new: Secret) -> int:
        """How many items are under the old value: listed, and not known to have moved, or moved back."""
        about = self._about(rotation, old, new)
        return sum(1 for each in self._listed(about) if not self._is_moved(rotation, about, each))

    def has_moved(self, rotation: Rotation) -> bool:
        """Whether an item may have moved."""
        counts = self._journal.counts(rotation, ITEM)
        if counts.get("done") or counts.get("running"):
            return True
        return any(each.attempts for each in self._journal.parts(rotation, ITEM, "failed"))

    # Lists and addresses

    def _about(self, rotation: Rotation, old: Secret | None, new: Secret) -> _Pair:
        secrets = (("new", new),) if old is None else (("old", old), ("new", new))
        words = {}
        for name, secret in secrets if self._moves.address else ():
            words[f"{name}_address"] = self._address(rotation, secret)
        return _Pair(words, secrets)

    def _address(self, rotation: Rotation, secret: Secret) -> str:
        """Of a value; noted, for a program may give another one each time, and items are verified by it."""
        kind = f"{_ADDRESS} {self._prints.of(secret)}"
        known = self._journal.parts(rotation, kind)
        if known:
            return known[0].id
        assert self._moves.address is not None
        answer = self._programs.run(self._moves.address, About(), stdin=secret, timeout=self._moves.timeout)
        lines = [line for each in answer.output.decode("utf-8", "replace").splitlines() if (line := each.strip())]
        if not answer.is_good or len(lines) != 1:
            raise TargetError(f"expected an address, which is one line, got {len(lines)}: {answer}")
        self._journal.list_parts(rotation, kind, lines, self._now())
        return lines[0]

    def _list(self, rotation: Rotation, about: _Pair) -> int:
        """Add what is listed; tells how many are to be moved by it."""
        found, listed = 0, self._listed(about)
        while some := list(islice(listed, _LISTED)):
            found += self._journal.list_parts(rotation, ITEM, some, self._now())
        return found

    def _listed(self, about: _Pair) -> Iterator[str]:
        return self._programs.lines(self._moves.list, about.of(), timeout=self._moves.timeout)

    def _is_moved(self, rotation: Rotation, about: _Pair, item: str) -> bool:
        part = self._journal.part(rotation, ITEM, item)
        return part is not None and part.state == "done" and self._verified(item, about) is True

    # The work

    def _work(self, rotation: Rotation, about: _Pair, state: Literal["todo", "running"]) -> None:
        """Move all that are in a state; those that run were interrupted, and are probed first."""
        counts = self._journal.counts(rotation, ITEM)
        self._counts = Counter(done=counts.get("done", 0), failed=counts.get("failed", 0), total=sum(counts.values()))
        with ThreadPoolExecutor(self._moves.parallel) as pool:
            running: dict[Future[Mark], str] = {}
            try:
                while begun := self._begin(rotation, state, set(running.values())):
                    for part in begun:
                        running[pool.submit(self._one, part, about, state == "running")] = part.id
                    self._end(rotation, running)
            finally:  # also where somebody asks to stop: what runs is waited for, and noted
                while running:
                    self._end(rotation, running)

    def _begin(self, rotation: Rotation, state: Literal["todo", "running"], busy: set[str]) -> list[Part]:
        """The next ones, noted as running and tried: an attempt that is never heard of again counts."""
        next_ones = self._journal.parts(rotation, ITEM, state, limit=self._moves.parallel + len(busy))
        found = [each for each in next_ones if each.id not in busy][: self._moves.parallel - len(busy)]
        self._journal.mark(rotation, ITEM, [(each.id, "running", None, 1) for each in found], self._now())
        return found

    def _end(self, rotation: Rotation, running: dict[Future[Mark], str]) -> None:
        """Wait for one at least, and note what came of it."""
        ended = wait(running, return_when=FIRST_COMPLETED).done
        marks = [each.result() for each in ended]
        self._journal.mark(rotation, ITEM, marks, self._now())
        for each in ended:
            del running[each]
        for _, state, _, _ in marks:
            self._counts[state] += 1
        self._progress(Progress(self._counts["done"], self._counts["failed"], self._counts["total"]))

    def _one(self, part: Part, about: _Pair, was_interrupted: bool) -> Mark:
        """Move one item, as often as it takes and may take. Raises nothing: the outcome is told."""
        state: PartState = "todo"
        note, tries = None, 0
        try:
            if was_interrupted:
                state, note = self._proved(part.id, about, "it was interrupted")
            while state == "todo" and tries < self._moves.attempts:
                answer = self._programs.run(
                    self._moves.move, about.of(part.id), stdin=about.old, env=about.env(self._moves.env),
                    timeout=self._moves.timeout,
                )  # fmt: skip
                tries += 1  # not before: what could not be started has moved nothing
                said = "its command ended well, but it has not moved" if answer.is_good else str(answer)
                state, note = self._proved(part.id, about, said)
            return part.id, "failed" if state == "todo" else state, note, tries - 1  # the first was counted
        except OpskitError as error:
            return part.id, "failed", str(error), tries - 1

    def _proved(self, item: str, about: _Pair, said: str) -> tuple[PartState, str | None]:
        """What the verify command proves: it has moved; it has to be moved, as it has not; or nobody knows."""
        has_moved = self._verified(item, about)
        if has_moved is None:
            return "failed", f"nobody knows whether it moved, so it is left alone; {said}"
        return ("done", None) if has_moved else ("todo", said)

    def _verified(self, item: str, about: _Pair) -> bool | None:
        answer = self._programs.run(
            self._moves.verify, about.of(item), stdin=about.new, env=about.env(self._moves.env),
            timeout=self._moves.timeout,
        )  # fmt: skip
        return {0: True, _NO: False}.get(-1 if answer.status is None else answer.status)


@dataclass(frozen=True)
class _Pair:
    """The two values, and their addresses."""

    words: Mapping[str, str]
    secrets: tuple[tuple[str, Secret], ...]

    @property
    def old(self) -> Secret | None:
        return dict(self.secrets).get("old")

    @property
    def new(self) -> Secret | None:
        return dict(self.secrets).get("new")

    def of(self, item: str | None = None) -> About:
        """What stands for placeholders, for one item."""
        return About(self.words if item is None else {**self.words, "item": item}, self.secrets)

    def env(self, wanted: Mapping[str, Which]) -> dict[str, Secret]:
        """Variables with their values."""
        known = dict(self.secrets)
        return {name: known[which] for name, which in wanted.items() if which in known}

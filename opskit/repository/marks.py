"""Marks: signed, unencrypted JSON by which maintainers say what becomes of snapshots.

Invariants:
- Only a maintainer's signature makes a mark; a signer of snapshots alone cannot forget or hold any.
- Marks are objects like all others: write-once, named by their own SHA-256, copied from copy to copy. What is taken
  back is taken back by another mark, which names it: no clock decides which of two counts.
- Marks go before snapshots wherever objects are copied, so that nothing which was forgotten comes back.

Kinds: `hold` keeps snapshots from retention (until a time, or for good); `release` lifts holds; `forget` drops
snapshots. A kind that a newer opskit made is believed and copied, and means nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from opskit import encoding
from opskit.errors import Damaged, Forged, StoreError
from opskit.repository import names
from opskit.repository.believing import Judge, Rejected, Verify, listed
from opskit.repository.cache import Cache
from opskit.repository.copy import Copy
from opskit.repository.manifest import check_digest, check_label, time_of, time_text

HOLD, RELEASE, FORGET = "hold", "release", "forget"


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark. `snapshots` are full snapshot ids; `lifts` are the ids of marks that a release takes back."""

    kind: str
    repository: str
    host: str
    created: datetime
    snapshots: Sequence[str] = ()
    until: datetime | None = None
    reason: str = ""
    lifts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Marked:
    """A believed mark with the name and id it is stored under, and who signed it."""

    name: str
    id: str
    signer: str
    mark: Mark


@dataclass(slots=True)
class Marks:
    """All marks that copies show; `rejected` as in History."""

    marks: list[Marked] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def forgotten(self) -> frozenset[str]:
        """The ids of snapshots that were forgotten."""
        return frozenset(each for found in self._of(FORGET) for each in found.mark.snapshots)

    def unreadable(self) -> list[Rejected]:
        """Marks that copies list and none has whole, and that may forget snapshots: a mark's name tells its kind."""
        settled = {found.name for found in self.marks}
        return [
            (destination, name, reason)
            for destination, name, reason in self.rejected
            if name not in settled
            and isinstance(reason, Damaged | StoreError)
            and names.kind_of_mark(name) not in (HOLD, RELEASE)
        ]

    def holds(self, now: datetime) -> dict[str, list[Marked]]:
        """The holds that count at a time, by snapshot id."""
        lifted = {each for found in self._of(RELEASE) for each in found.mark.lifts}
        held: dict[str, list[Marked]] = {}
        for found in self._of(HOLD):
            if found.id not in lifted and (found.mark.until is None or found.mark.until > now):
                for snapshot in found.mark.snapshots:
                    held.setdefault(snapshot, []).append(found)
        return held

    def _of(self, kind: str) -> Iterable[Marked]:
        return (found for found in self.marks if found.mark.kind == kind)


def load_marks(
    copies: Sequence[Copy],
    verify: Verify,
    *,
    maintainers: Iterable[str],
    repository: str,
    cache: Cache | None = None,
    torn: Iterable[Rejected] = (),
) -> Marks:
    """Read and verify the marks of all copies; `torn` is what was taken out of their listings as not whole."""
    marks = Marks(rejected=[each for each in torn if each[1].startswith("marks/")])
    judge = Judge(verify, frozenset(maintainers), repository, "maintainers", cache)
    for name, holders in listed(copies, lambda each: each.startswith("marks/")).items():
        marked = judge.believed(name, holders, partial(_marked, judge), marks.rejected)
        if marked is not None:
            marks.marks.append(marked)
    marks.marks.sort(key=lambda each: (each.mark.created, each.name))
    return marks


def _marked(judge: Judge, name: str, digest: str, signer: str, payload: bytes) -> Marked:
    mark = decode(payload)
    judge.require_repository("a mark", mark.repository)
    if name != names.mark(mark.created, mark.kind, digest):
        raise Forged(f"a mark of kind {mark.kind} of {mark.created:%Y-%m-%d %H:%M:%S} stored under another name")
    return Marked(name, digest, signer, mark)


def encode(mark: Mark) -> bytes:
    """Canonical JSON of a mark."""
    return encoding.encode(
        {
            "format": 1,
            "kind": "mark",
            "mark": mark.kind,
            "repository": mark.repository,
            "host": mark.host,
            "created": time_text(mark.created),
            "snapshots": sorted(mark.snapshots),
            "until": None if mark.until is None else time_text(mark.until),
            "reason": mark.reason,
            "lifts": sorted(mark.lifts),
        }
    )


def decode(payload: bytes) -> Mark:
    """Parse a mark's payload; raises Damaged. The signature was checked before."""
    value = encoding.decode_object(payload, what="mark")
    if value.get("format") != 1 or value.get("kind") != "mark":
        raise Damaged(f"expected a mark of format 1, got format {value.get('format')!r} kind {value.get('kind')!r}")
    try:
        until = value["until"]
        return Mark(
            kind=check_label(value["mark"]),
            repository=str(value["repository"]),
            host=check_label(value["host"]),
            created=time_of(value["created"]),
            snapshots=[check_digest(each) for each in value["snapshots"]],
            until=None if until is None else time_of(until),
            reason=str(value["reason"]),
            lifts=[check_digest(each) for each in value["lifts"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"malformed mark: {error}") from error

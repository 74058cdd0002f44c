"""Marks: signed, unencrypted JSON by which maintainers say what becomes of snapshots.

Invariants:
- Only a maintainer's signature makes a mark; a signer of snapshots alone cannot forget or hold any.
- Marks are objects like all others: write-once, named by their own SHA-256, copied from copy to copy. What is taken
  back is taken back by another mark, which names it: no clock decides which of two counts.
- Marks go before snapshots wherever objects are copied, so that nothing which was forgotten comes back.

Kinds: `hold` keeps snapshots from retention (until a time, or for good); `forget` drops snapshots; `condemn` names
objects that no snapshot needs and that may be deleted once the mark is old enough; `release` takes marks back, wholly
or for the snapshots and objects it names; `supersede` says that the run keys of some key objects lie in others now. The
last counts only with a recipient's consent (module `consent`), and nothing takes it back: the old objects may be gone.
A kind that a newer opskit made is believed and copied, and means nothing here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from opskit import encoding
from opskit.errors import Damaged, Forged, StoreError
from opskit.repository import names
from opskit.repository.believing import Judge, Rejected, Verify, listed
from opskit.repository.cache import Cache
from opskit.repository.consent import Agreed, Supersedes, as_value, nobody_agrees, require_consent, words
from opskit.repository.copy import Copy
from opskit.repository.manifest import check_digest, check_label, time_of, time_text
from opskit.repository.succession import Succession

HOLD, RELEASE, FORGET, CONDEMN, SUPERSEDE = "hold", "release", "forget", "condemn", "supersede"
MAX_OBJECTS = 50_000
"""Names of objects in one mark: 5 MB."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark. `snapshots` are full snapshot ids, `objects` names.

    `lifts` are the ids of marks that a release takes back: only for the snapshots and objects that it names, if any.
    """

    kind: str
    repository: str
    host: str
    created: datetime
    snapshots: Sequence[str] = ()
    until: datetime | None = None
    reason: str = ""
    lifts: Sequence[str] = ()
    objects: Sequence[str] = ()
    places: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    """Of a `forget`: host, source and number of each snapshot by its id; so what else is gone from a chain shows."""
    supersedes: Supersedes = field(default_factory=dict)
    consents: Sequence[bytes] = ()
    """Of a `supersede`: what recipients signed, as they signed it."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A believed mark with the name and id it is stored under, and who signed it."""

    name: str
    id: str
    signer: str
    mark: Mark


@dataclass(slots=True)
class Marks:
    """All marks that copies show; `rejected` as in History; `succession` is what the supersede marks say."""

    marks: list[Marked] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    succession: Succession = field(default_factory=Succession)

    def forgotten(self) -> frozenset[str]:
        """The ids of snapshots that were forgotten."""
        return frozenset(self.forgotten_by())

    def forgotten_numbers(self) -> dict[tuple[str, str], set[int]]:
        """The numbers of the forgotten snapshots, by (host, source), as far as marks tell them."""
        numbers: dict[tuple[str, str], set[int]] = {}
        for snapshot, marks in self.forgotten_by().items():
            for each in marks:
                if snapshot in each.mark.places:
                    host, source, number = each.mark.places[snapshot]
                    numbers.setdefault((host, source), set()).add(number)
        return numbers

    def forgotten_by(self) -> dict[str, list[Marked]]:
        """The marks that forget each snapshot, by its id."""
        return self._said_by(FORGET, lambda mark: mark.snapshots)

    def condemned_by(self) -> dict[str, list[Marked]]:
        """The marks that condemn each object, by its name."""
        return self._said_by(CONDEMN, lambda mark: mark.objects)

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
        held = self._said_by(HOLD, lambda mark: mark.snapshots)
        counting = {
            snapshot: [found for found in marks if found.mark.until is None or found.mark.until > now]
            for snapshot, marks in held.items()
        }
        return {snapshot: marks for snapshot, marks in counting.items() if marks}

    def superseding(self) -> list[Marked]:
        """The marks by which key objects are superseded, oldest first. Unlike others they cannot be taken back."""
        return list(self._of(SUPERSEDE))

    def _said_by(self, kind: str, named: Callable[[Mark], Sequence[str]]) -> dict[str, list[Marked]]:
        """What marks of a kind name and no release took back, with those marks."""
        releases: dict[str, list[Mark]] = {}
        for found in self._of(RELEASE):
            for lifted in found.mark.lifts:
                releases.setdefault(lifted, []).append(found.mark)
        said: dict[str, list[Marked]] = {}
        for found in self._of(kind):
            for name in _standing(named(found.mark), releases.get(found.id, ())):
                said.setdefault(name, []).append(found)
        return said

    def _of(self, kind: str) -> Iterable[Marked]:
        return (found for found in self.marks if found.mark.kind == kind)


def _standing(named: Sequence[str], releases: Sequence[Mark]) -> Iterator[str]:
    """What is left of a mark after its releases."""
    if any(not (release.snapshots or release.objects) for release in releases):
        return
    lifted = {name for release in releases for name in (*release.snapshots, *release.objects)}
    yield from (name for name in named if name not in lifted)


def load_marks(
    copies: Sequence[Copy],
    verify: Verify,
    *,
    maintainers: Iterable[str],
    repository: str,
    agreed: Agreed = nobody_agrees,
    cache: Cache | None = None,
    torn: Iterable[Rejected] = (),
) -> Marks:
    """Read and verify the marks of all copies; `torn` is what was taken out of their listings as not whole.

    `agreed` judges consents. Each copy is told which key objects stand in for others: its `succession`.
    """
    marks = Marks(rejected=[each for each in torn if each[1].startswith("marks/")])
    judge = Judge(verify, frozenset(maintainers), repository, "maintainers", cache)
    for name, holders in listed(copies, lambda each: each.startswith("marks/")).items():
        marked = judge.believed(name, holders, partial(_marked, judge, agreed), marks.rejected)
        if marked is not None:
            marks.marks.append(marked)
    marks.marks.sort(key=lambda each: (each.mark.created, each.name))
    _follow(marks, copies)
    return marks


def _follow(marks: Marks, copies: Sequence[Copy]) -> None:
    """Put the supersede marks together and tell the copies. One that would lead back to itself is not believed."""
    marks.succession = Succession(lambda name: any(name in copy.objects for copy in copies))
    for marked in marks.superseding():
        if not marks.succession.add(marked.mark.supersedes):
            marks.marks.remove(marked)
            reason = Forged("key objects that supersede one another in a circle: none of them would be needed")
            marks.rejected += [
                (copy.destination, marked.name, reason) for copy in copies if marked.name in copy.objects
            ]
    for copy in copies:
        copy.succession = marks.succession


def _marked(judge: Judge, agreed: Agreed, name: str, digest: str, signer: str, payload: bytes) -> Marked:
    mark = decode(payload)
    judge.require_repository("a mark", mark.repository)
    if name != names.mark(mark.created, mark.kind, digest):
        raise Forged(f"a mark of kind {mark.kind} of {mark.created:%Y-%m-%d %H:%M:%S} stored under another name")
    if mark.kind == SUPERSEDE:
        require_consent(mark.consents, words(mark.repository, mark.created, mark.supersedes), agreed)
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
            **({"objects": sorted(mark.objects)} if mark.objects else {}),
            **({"places": {key: list(each) for key, each in mark.places.items()}} if mark.places else {}),
            **({"supersedes": as_value(mark.supersedes)} if mark.supersedes else {}),
            **({"consents": [base64.b64encode(each).decode() for each in mark.consents]} if mark.consents else {}),
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
            objects=[_check_object(each) for each in value.get("objects", ())],
            places={check_digest(key): _place(*each) for key, each in value.get("places", {}).items()},
            supersedes=_supersedes(value.get("supersedes", {})),
            consents=[base64.b64decode(each, validate=True) for each in value.get("consents", ())],
        )
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Damaged(f"malformed mark: {error}") from error


def _supersedes(value: Mapping[str, Sequence[str]]) -> Supersedes:
    """New key object → old ones, of which each is named once: it has all its run keys in one place."""
    found = {check_digest(new): [check_digest(old) for old in olds] for new, olds in value.items()}
    named = [old for olds in found.values() for old in olds]
    if len(set(named)) != len(named):
        raise ValueError("expected each superseded object once, got one twice")
    return found


def _place(host: object, source: object, number: object) -> tuple[str, str, int]:
    if not isinstance(number, int):
        raise ValueError(f"expected the number of a snapshot, got {str(number)[:80]!r}")
    return check_label(host), check_label(source), number


def _check_object(name: object) -> str:
    """The name itself if it is that of an object named by its content, else ValueError."""
    if not isinstance(name, str) or names.digest_in(name) is None:
        raise ValueError(f"expected the name of an object, got {str(name)[:80]!r}")
    return name

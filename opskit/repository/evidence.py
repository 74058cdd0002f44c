"""Evidence: signed, unencrypted JSON by which a host tells what it found out about copies. Today: restore
drills, and what was read back.

Invariants:
- Only a signer's signature makes evidence; it proves that the holder of that key said so, and when by its clock.
- Like all objects it is write-once and named by its own SHA-256; `sync` copies it, and no prune deletes it.
- It stands in the clear at every copy, so no file name, no content hash and no output of a program is in it: numbers,
  labels, times, ids and the seed alone. Which files failed stays on the host that drilled.
- A copy is meant by its copy id, not by its destination's name: another disk at that place was never drilled.

A kind that a newer opskit made is believed and copied, and means nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from opskit import encoding
from opskit.errors import Damaged, Forged
from opskit.repository import names
from opskit.repository.believing import Judge, Rejected, Verify, listed
from opskit.repository.cache import Cache
from opskit.repository.copy import ID, Copy
from opskit.repository.manifest import check_digest, check_label, time_of, time_text
from opskit.repository.verification import Verification, verification_in, verification_value

DRILL, VERIFICATION = "drill", "verification"
Value = TypeVar("Value")

MAX_TEXT = 500
"""Characters of one text."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a drill looked at: how many of how many were as they should be; `note` is for people."""

    name: str
    passed: int
    total: int
    note: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing failed."""
        return self.passed == self.total


_OF_CONTENT = frozenset({"verify.each", "verify.all", "dumps", "queries", "sqlite"})
"""Checks of what was backed up: where only these fail, the copy gave back what it was given."""


@dataclass(frozen=True, slots=True)
class Drill:
    """What one restore drill came to.

    `source` of `origin` (a host) was restored from the copy `copy`, then at `destination`, as it was at `taken`.
    `chosen` is "seeded", "latest" or "named"; with `seed` and what lay there anybody can repeat the choice. `sample`
    is "" when everything was restored. `files` and `bytes` were restored, of `planned_files` and `planned_bytes`.
    `restore_ms` is the recovery time measured, from opening the copy to the last file read back (by recover.py: made)
    and the last dump loaded; `load_ms` of it were spent on loading dumps into a database server (0 in evidence of
    versions that loaded none).
    `recovery_seconds` is the age of the newest snapshot that this copy had to give (the recovery point). Objectives are
    in seconds, None where none is set. `milliseconds` belong to the whole second in which it ended (`created`), so that
    two drills in it keep their order. `elsewhere` tells of a failed drill what other copies had of what failed here.
    """

    source: str
    origin: str
    destination: str
    copy: str
    snapshot: str
    taken: datetime
    chosen: str
    seed: int
    candidates: int
    method: str
    sample: str
    passed: bool
    files: int
    bytes: int
    planned_files: int
    planned_bytes: int
    restore_ms: int
    check_ms: int
    recovery_seconds: int
    objective_restore: int | None
    objective_recovery: int | None
    checks: Sequence[Check]
    elsewhere: Mapping[str, str]
    writer: str
    milliseconds: int = 0
    load_ms: int = 0

    @property
    def chain(self) -> tuple[str, str]:
        """Host and source of the snapshot."""
        return self.origin, self.source

    @property
    def is_whole(self) -> bool:
        """Whether all of the snapshot was restored and was right."""
        return self.passed and not self.sample

    @property
    def is_content_at_fault(self) -> bool:
        """Whether everything came back as it was backed up, and a check of what that is worth failed."""
        failed = {each.name for each in self.checks if not each.is_good}
        return bool(failed) and failed <= _OF_CONTENT

    @property
    def missed(self) -> list[str]:
        """The objectives that were not met; of a sample the time says nothing."""
        late = self.objective_restore is not None and self.restore_ms > self.objective_restore * 1000
        old = self.objective_recovery is not None and self.recovery_seconds > self.objective_recovery
        return [*(["RTO"] if late and not self.sample else []), *(["RPO"] if old else [])]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece of evidence; `host` made it at `created`.

    `drill` or `verifications` (by copy id) is what it says; neither of a kind unknown here.
    """

    kind: str
    repository: str
    host: str
    created: datetime
    drill: Drill | None = None
    verifications: Mapping[str, Verification] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """Believed evidence with the name and id that it is stored under, and who signed it."""

    name: str
    id: str
    signer: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Drilled:
    """A drill with where its evidence lies and when and by which host it was made."""

    name: str
    id: str
    host: str
    ended: datetime
    drill: Drill


@dataclass(slots=True)
class Ledger:
    """All evidence that copies show, oldest first; `rejected` as in History."""

    kept: list[Kept] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def drills(self) -> list[Drilled]:
        """The drills, oldest first."""
        found = [
            Drilled(each.name, each.id, each.evidence.host, ended_at(each.evidence), each.evidence.drill)
            for each in self.kept
            if each.evidence.drill is not None
        ]
        return sorted(found, key=lambda each: (each.ended, each.name))

    def verifications(self, before: datetime) -> dict[tuple[str, str], Verification]:
        """What each host said last of each copy, by (host, copy id); nothing that is dated later than `before`."""
        said = [
            (each.evidence.host, copy, found)
            for each in self.kept
            for copy, found in each.evidence.verifications.items()
            if found.ended <= before
        ]
        # Of two in one second the one that knows more: the last one stays.
        said.sort(key=lambda each: (each[2].ended, each[2].known_since is not None, each[2].known_since or before))
        return {(host, copy): found for host, copy, found in said}


def load_evidence(
    copies: Sequence[Copy],
    verify: Verify,
    *,
    signers: Iterable[str],
    repository: str,
    cache: Cache | None = None,
) -> Ledger:
    """Read and verify the evidence of all copies."""
    ledger = Ledger()
    judge = Judge(verify, frozenset(signers), repository, cache=cache)
    for name, holders in listed(copies, lambda each: each.startswith("evidence/")).items():
        kept = judge.believed(name, holders, partial(_kept, judge), ledger.rejected)
        if kept is not None:
            ledger.kept.append(kept)
    ledger.kept.sort(key=lambda each: (each.evidence.created, each.name))
    return ledger


def ended_at(evidence: Evidence) -> datetime:
    """When a drill ended, to the millisecond."""
    return evidence.created + timedelta(milliseconds=evidence.drill.milliseconds if evidence.drill else 0)


def _kept(judge: Judge, name: str, digest: str, signer: str, payload: bytes) -> Kept:
    evidence = decode(payload)
    judge.require_repository("evidence", evidence.repository)
    if name != names.evidence(evidence.created, evidence.kind, digest):
        raise Forged(f"evidence of a {evidence.kind} at {evidence.created:%Y-%m-%d %H:%M:%S} stored under another name")
    return Kept(name, digest, signer, evidence)


def encode(evidence: Evidence) -> bytes:
    """Canonical JSON of evidence of a kind that is known here."""
    said: dict[str, object] = {
        "copies": {copy: verification_value(each) for copy, each in evidence.verifications.items()}
    }
    if evidence.kind == DRILL:
        assert evidence.drill is not None
        said = drill_value(evidence.drill)
    return encoding.encode(
        {
            "format": 1,
            "kind": "evidence",
            "evidence": evidence.kind,
            "repository": evidence.repository,
            "host": evidence.host,
            "created": time_text(evidence.created),
            evidence.kind: said,
        }
    )


def drill_value(drill: Drill) -> dict[str, Any]:
    """A drill as values of JSON."""
    value = {name: getattr(drill, name) for name in Drill.__dataclass_fields__}
    checks = [[each.name, each.passed, each.total, each.note] for each in drill.checks]
    return value | {"taken": time_text(drill.taken), "checks": checks, "elsewhere": dict(drill.elsewhere)}


def decode(payload: bytes) -> Evidence:
    """Parse the payload of evidence; raises Damaged. The signature was checked before."""
    value = encoding.decode_object(payload, what="evidence")
    if value.get("format") != 1 or value.get("kind") != "evidence":
        raise Damaged(f"expected evidence of format 1, got format {value.get('format')!r} kind {value.get('kind')!r}")
    try:
        kind = check_label(value["evidence"])
        return Evidence(
            kind,
            str(value["repository"]),
            check_label(value["host"]),
            time_of(value["created"]),
            drill_of(value["drill"]) if kind == DRILL else None,
            _verifications(value["verification"]["copies"]) if kind == VERIFICATION else {},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"malformed evidence: {error}") from error


def _verifications(value: Mapping[str, Any]) -> dict[str, Verification]:
    if not all(ID.fullmatch(copy) for copy in value):
        raise ValueError("expected copy ids")
    return {copy: verification_in(each) for copy, each in value.items()}


def drill_of(value: Mapping[str, Any]) -> Drill:
    """The drill that `drill_value` wrote; raises KeyError, TypeError or ValueError for anything else."""
    label, number, text = _reader(check_label, value), _reader(_number, value), _reader(_text, value)
    return Drill(
        source=label("source"),
        origin=label("origin"),
        destination=label("destination"),
        copy=text("copy"),
        snapshot=check_digest(value["snapshot"]),
        taken=time_of(value["taken"]),
        chosen=label("chosen"),
        seed=number("seed"),
        candidates=number("candidates"),
        method=label("method"),
        sample=text("sample"),
        passed=_truth(value["passed"]),
        files=number("files"),
        bytes=number("bytes"),
        planned_files=number("planned_files"),
        planned_bytes=number("planned_bytes"),
        restore_ms=number("restore_ms"),
        check_ms=number("check_ms"),
        recovery_seconds=number("recovery_seconds"),
        objective_restore=_optional_number(value["objective_restore"]),
        objective_recovery=_optional_number(value["objective_recovery"]),
        checks=[
            Check(_text(name), _number(passed), _number(total), _text(note))
            for name, passed, total, note in value["checks"]
        ],
        elsewhere={check_label(name): _text(said) for name, said in value["elsewhere"].items()},
        writer=text("writer"),
        milliseconds=number("milliseconds") % 1000,
        load_ms=_number(value.get("load_ms", 0)),
    )


def _reader(read: Callable[[Any], Value], value: Mapping[str, Any]) -> Callable[[str], Value]:
    return lambda name: read(value[name])


def _optional_number(value: object) -> int | None:
    return None if value is None else _number(value)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"expected a number, got {str(value)[:80]!r}")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {str(value)[:80]!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"expected a text of at most {MAX_TEXT} characters, got {str(value)[:80]!r}")
    return value

"""Judging a log: is it one unbroken chain from its first record to its last?

Every line must be a canonical record that names the one before it by number and SHA-256; every torn region must be told
of by the `audit.recovered` behind it; segments must be regular files, numbered without gaps, opened and sealed.
Reads each segment once, with bounded memory.

What it cannot see without a record kept elsewhere: records cut off at the end, a last record that was changed within
the grammar, and a log that was rewritten as a whole (docs/audit.md).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from opskit.audit.record import OPEN, RECOVERED, SEAL, Fields, Head, Link, genesis, link_of, parse
from opskit.audit.segments import Line, Segment, lines, lock_file, log_folder, segments
from opskit.errors import AuditLogNotFound, Damaged

_OPEN, _SEAL, _RECOVERED = OPEN.encode(), SEAL.encode(), RECOVERED.encode()
_FRAME = (_OPEN, _SEAL)
MAX_TOLD = 1000
"""Findings, warnings and unfinished operations that are listed; all are counted."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and where."""

    file: str
    line: int
    message: str


@dataclass(frozen=True)
class Unfinished:
    """A start without an outcome: the operation runs still, or its process was killed."""

    seq: int
    ts: str
    op: str
    target: str
    login: str
    run: str


@dataclass
class Report:
    """What is known of a log; `head` is what to note elsewhere, for it pins everything before it."""

    log_id: str = ""
    segments: int = 0
    records: int = 0
    recovered: int = 0
    """Torn regions that a record tells of, adopted ones included."""
    first: str = ""
    last: str = ""
    head: Head | None = None
    torn_bytes: int = 0
    """Behind the last record, and not told of by a record yet."""
    findings: list[Finding] = field(default_factory=list)
    findings_count: int = 0
    warnings: list[Finding] = field(default_factory=list)
    warnings_count: int = 0
    unfinished: list[Unfinished] = field(default_factory=list)
    unfinished_count: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the chain is unbroken, as far as it has been written."""
        return self.findings_count == 0

    @property
    def is_settled(self) -> bool:
        """Whether it is whole and ends as a log does that no writer was cut off from: what exit code 0 stands for."""
        is_open = self.head is not None and self.head.op != SEAL
        return self.is_whole and is_open and self.torn_bytes == 0


def verify(folder: Path) -> Report:
    """Judge the log below `folder`. Raises AuditLogNotFound where there is none, or AuditError."""
    judge = _Judge()
    try:
        listed = segments(folder)
    except AuditLogNotFound:
        if not os.path.lexists(lock_file(folder)) or os.path.lexists(log_folder(folder)):
            raise
        return judge.without_folder()
    expected = 1
    for segment in listed:
        judge.begin(segment, expected)
        judge.read(segment)
        judge.end(segment, is_last=segment is listed[-1])
        expected = segment.number + 1
    return judge.conclude()


@dataclass
class _Region:
    """Consecutive lines that are no records, as the bytes that they are."""

    line: int
    reason: str
    offset: int
    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.digest.update(data)

    def told_by(self, record: Fields) -> bool:
        told = record["d"]
        return bool(
            record["op"] == RECOVERED
            and told.get("kind") == "torn"
            and told.get("bytes") == self.size
            and told.get("sha256") == self.digest.hexdigest()
        )


def _unfinished(line: bytes) -> Unfinished:
    record = parse(line)
    login = record["actor"]["login"]
    return Unfinished(record["seq"], record["ts"], record["op"], record["tgt"], login, record["run"])


class _Judge:
    """The state of a walk through the log."""

    def __init__(self) -> None:
        self.report = Report()
        self._file = ""
        self._seq = 0
        self._sha256 = b""
        self._op = b""
        self._ts = b""
        self._before = b""
        """The hash that the last record names: of the one before it."""
        self._region: _Region | None = None
        self._awaits_open = False
        self._begun: dict[tuple[bytes, bytes, bytes], bytes] = {}
        self._begun_again: list[bytes] = []

    def without_folder(self) -> Report:
        """A lock is made after the folder of the segments, so that this one was removed."""
        self._file = "log"
        self._object(0, "missing: there is a lock, so a log was here")
        return self.report

    def begin(self, segment: Segment, expected: int) -> None:
        """Go over to a segment."""
        self._file = segment.path.name
        self._awaits_open = True
        self.report.segments += 1
        if segment.number != expected:
            which = f"segment {expected}" if segment.number == expected + 1 else f"segments from {expected}"
            self._object(1, f"{which} missing: expected number {expected}, got {segment.number}")

    def read(self, segment: Segment) -> None:
        """Judge the lines of a segment."""
        if not segment.is_file:
            self._object(0, "expected a regular file, got something else")
            return
        continued = False
        for line in lines(segment):
            if line.ended and not continued:
                try:
                    link = link_of(line.data)
                except Damaged as error:
                    self._junk(line, str(error), continued=False)
                else:
                    self._record(link, line)
            else:
                reason = "a line longer than any record" if continued or len(line.data) > 0 else ""
                self._junk(line, reason, continued=continued)
                continued = not line.ended

    def end(self, segment: Segment, *, is_last: bool) -> None:
        """Leave a segment: all but the last one are sealed, and nothing is behind a seal; none is empty."""
        if self._region is not None:
            if is_last:
                self._torn_tail(self._region, segment)
            else:
                self._uncovered(self._region)
            self._region = None
        if not is_last and (self._op != _SEAL or self._awaits_open):
            self._object(0, f"expected {SEAL} as the last record, for another segment follows")
        elif is_last and self._op == _SEAL and not self._awaits_open:
            self._warn(0, "sealed, and no segment follows: its writer was killed just then, or the segment is gone")
        elif is_last and segment.is_file and segment.size == 0:
            self._warn(0, "empty: its writer was killed before the first record, or the file was emptied")

    def conclude(self) -> Report:
        """What was found out about the whole log."""
        report = self.report
        report.head = Head(self._seq, self._sha256.decode(), self._op.decode()) if report.records else None
        report.last = self._ts.decode()
        unfinished = [*self._begun.values(), *self._begun_again]
        report.unfinished_count = len(unfinished)
        report.unfinished = sorted(map(_unfinished, unfinished[:MAX_TOLD]), key=lambda each: each.seq)
        return report

    def _junk(self, line: Line, reason: str, *, continued: bool) -> None:
        if self._region is None:
            self._region = _Region(line.number, reason, line.offset)
        elif not continued:
            self._region.add(b"\n")
        self._region.add(line.data)

    def _record(self, link: Link, line: Line) -> None:
        report = self.report
        recovers = (self._region is not None or link.op == _RECOVERED) and self._recovery(line)
        if link.prev != self._sha256 or link.seq != self._seq + 1 or self._op == _SEAL:
            self._broken(link, line, recovers)
        if self._awaits_open or link.op in _FRAME:
            self._frame(link.op, line)
        if link.out == b"start":
            self._begin_operation(link, line)
        else:
            self._begun.pop((link.run, link.op, link.target), None)
        if link.ts < self._ts:
            self._warn(line.number, f"the clock went back, from {self._ts.decode()} to {link.ts.decode()}")
        report.records += 1
        self._before, self._seq, self._op, self._ts = link.prev, link.seq, link.op, link.ts
        self._sha256 = hashlib.sha256(line.data).hexdigest().encode()

    def _recovery(self, line: Line) -> bool:
        """Judge what is, or should be, told of a torn region; whether the record tells of the one before it."""
        region, self._region = self._region, None
        record = parse(line.data)
        if region is None:
            self._adoption(record, line.number)
        elif region.told_by(record):
            self.report.recovered += 1
            return True
        else:
            self._uncovered(region)
        return False

    def _broken(self, link: Link, line: Line, recovers: bool) -> None:
        """Say how a record fails to follow the one before it; the first of a log follows none.

        Behind a seal stands nothing, unless to tell of what something wrote there before the next segment was made.
        """
        expected = self._sha256
        if self.report.records == 0:
            self.report.first = link.ts.decode()
            self.report.log_id = str(parse(line.data)["d"].get("log", ""))
            expected = genesis(self.report.log_id).encode()
        elif self._op == _SEAL and not self._awaits_open and not recovers:
            self._object(line.number, f"expected nothing behind {SEAL}, got a record")
        if link.seq != self._seq + 1:
            self._object(line.number, f"expected record {self._seq + 1:,}, got {link.seq:,}")
        if link.prev != expected:
            what = "the record before it was changed, or this one belongs elsewhere"
            found = f"expected prev {expected[:16].decode()}…, got {link.prev[:16].decode()}…"
            self._object(line.number, f"{found}: {what}")

    def _begin_operation(self, link: Link, line: Line) -> None:
        key = link.run, link.op, link.target
        if key in self._begun:  # two of one kind at a time
            self._begun_again.append(self._begun[key])
        self._begun[key] = line.data

    def _frame(self, op: bytes, line: Line) -> None:
        """Judge what begins and ends a segment; a torn beginning may be told of first."""
        number, told = int(self._file[:10]), parse(line.data)["d"]
        if op == _OPEN:
            if not self._awaits_open:
                self._object(line.number, f"{OPEN} in the middle of a segment")
            if told.get("segment") != number or told.get("log") != self.report.log_id:
                self._object(line.number, f"{OPEN} is of another log or segment: expected {number} of this log")
            self._awaits_open = False
        elif op == _SEAL and (told.get("segment") != number or told.get("bytes") != line.offset):
            self._object(line.number, f"{SEAL} is of another segment: expected {number} with {line.offset:,} bytes")
        elif self._awaits_open and op != _RECOVERED:
            self._object(line.number, f"expected {OPEN} as the first record of a segment, got {op.decode()}")
            self._awaits_open = False

    def _adoption(self, record: Fields, number: int) -> None:
        """A recovery without a torn region is of a record that lacked its LF: one of the two before."""
        told = record["d"]
        if told.get("kind") == "adopted" and str(told.get("sha256")).encode() in (self._sha256, self._before):
            self.report.recovered += 1
        else:
            self._object(number, f"{RECOVERED} tells of {told.get('bytes')} torn bytes that are not before it")

    def _uncovered(self, region: _Region) -> None:
        self._object(
            region.line, f"{region.size:,} bytes are no record, and no {RECOVERED} tells of them: {region.reason}"
        )

    def _torn_tail(self, region: _Region, segment: Segment) -> None:
        self.report.torn_bytes = segment.size - region.offset  # with an LF that may be the last of them
        self._warn(
            region.line,
            f"{self.report.torn_bytes:,} bytes at the end are no record: a writer was cut off, or something else wrote "
            "here; the next operation records it",
        )

    def _object(self, line: int, message: str) -> None:
        self.report.findings_count += 1
        if len(self.report.findings) < MAX_TOLD:
            self.report.findings.append(Finding(self._file, line, message))

    def _warn(self, line: int, message: str) -> None:
        self.report.warnings_count += 1
        if len(self.report.warnings) < MAX_TOLD:
            self.report.warnings.append(Finding(self._file, line, message))

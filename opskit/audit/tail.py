"""Where a segment ends: its last record, and what a writer that died left behind it.

A *torn region* is everything between the LF of the last record and the end of the file. It is never removed (a log may
be append-only for root too): the next writer ends it with an LF and says in an `audit.recovered` record how long it was
and what its SHA-256 is. A region that is a whole record but for its LF is *adopted*: with the LF it is that record.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from opskit.audit.record import MAX_LINE, Fields, Head, UnknownVersion, genesis, parse, sha256
from opskit.errors import Damaged

_FIRST_BLOCK = 2 * MAX_LINE


@dataclass(frozen=True)
class Tail:
    """The last record of a segment (None: it has none), and what lies behind it."""

    record: Fields | None
    sha256: str
    """Of the record's line."""
    torn: bytes

    @property
    def head(self) -> Head | None:
        """The record as the one that the next follows."""
        return None if self.record is None else Head(self.record["seq"], self.sha256, self.record["op"])


def read_tail(descriptor: int, size: int) -> Tail:
    """The end of a file of `size` bytes; raises UnknownVersion where a newer opskit wrote it, or OSError."""
    length = _FIRST_BLOCK
    while True:
        start = max(0, size - length)
        found = _search(_read(descriptor, start, size), is_whole=start == 0)
        if found is not None:
            return found
        length *= 4


def _read(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    while start < end and (part := os.pread(descriptor, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _search(data: bytes, *, is_whole: bool) -> Tail | None:
    """The tail within the last bytes of a file, or None if they do not reach back to a record."""
    end = data.rfind(b"\n")
    while end >= 0:
        begin = data.rfind(b"\n", 0, end)
        if begin < 0 and not is_whole:
            return None
        line = data[begin + 1 : end]
        record = _record(line)
        if record is not None:
            return Tail(record, sha256(line), data[end + 1 :])
        end = begin
    return Tail(None, "", data) if is_whole else None


def _record(line: bytes) -> Fields | None:
    try:
        return parse(line)
    except UnknownVersion:
        raise
    except Damaged:
        return None


def adopted(torn: bytes, head: Head | None) -> tuple[bytes, Fields] | None:
    """The line and record that a torn region ends in, if an LF is all that it lacks to go on after `head`."""
    line = torn.rpartition(b"\n")[2]
    try:
        record = parse(line)
    except Damaged:
        return None
    return (line, record) if follows(record, head) else None


def follows(record: Fields, head: Head | None) -> bool:
    """Whether the record is the one after `head`, or the first of a log."""
    if head is None:
        return bool(record["seq"] == 1 and record["prev"] == genesis(str(record["d"].get("log", ""))))
    return bool(record["seq"] == head.seq + 1 and record["prev"] == head.sha256)


def recovery(torn: bytes) -> Fields:
    """The details of the record that tells of a torn region."""
    return {"bytes": len(torn), "kind": "torn", "sha256": sha256(torn)}

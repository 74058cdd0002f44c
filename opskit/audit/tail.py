"""Where a segment ends: its last record, and what a writer that died left behind it.

A *torn region* is everything between the LF of the last record and the end of the file. It is never removed (a log may
be append-only for root too): the next writer ends it with an LF and says in an `audit.recovered` record how long it was
and what its SHA-256 is. A region that is a whole record but for its LF is *adopted*: with the LF it is that record.

Everything is read in blocks, and only the last bytes of a region are kept: whatever something else has written there,
it need not fit into memory.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from opskit.audit.record import MAX_LINE, Fields, Head, UnknownVersion, genesis, link_of, parse, sha256
from opskit.errors import Damaged

_FIRST_BLOCK = 2 * MAX_LINE
BLOCK = 1024 * 1024


class Torn(NamedTuple):
    """A torn region."""

    size: int
    sha256: str
    ending: bytes
    """Its last bytes, as many as show whether it ends in a record."""


class Span(NamedTuple):
    """Where a line lies in its file, without its LF."""

    begin: int
    end: int


class Tail(NamedTuple):
    """The last record of a segment and where it lies (None: it has none), and what is behind it."""

    head: Head | None
    span: Span | None
    torn: Torn | None


def read_tail(descriptor: int, size: int) -> Tail:
    """The end of a file of `size` bytes; raises UnknownVersion where a newer opskit wrote it, or OSError."""
    found = _last_record(descriptor, size)
    if found is None:
        return Tail(None, None, _torn(descriptor, 0, size))
    head, span = found
    return Tail(head, span, _torn(descriptor, span.end + 1, size))


def read_growth(descriptor: int, known: Span, size: int) -> tuple[Tail, str] | None:
    """What `read_tail` gives, and the hash of the line that lies where `known` did; raises as it does.

    At a third of the cost, for a file that others have written a few records to; None where it is anything else.
    """
    length = size - known.begin
    if not known.end - known.begin + 1 < length <= _FIRST_BLOCK:
        return None
    data = os.pread(descriptor, length, known.begin)
    if len(data) != length or not data.endswith(b"}\n"):
        return None
    begin = data.rfind(b"\n", 0, -1) + 1
    line = data[begin:-1]
    try:
        link = link_of(line)
    except UnknownVersion:
        raise
    except Damaged:
        return None
    span = Span(known.begin + begin, size - 1)
    return Tail(Head(link.seq, sha256(line), link.op.decode()), span, None), sha256(data[: known.end - known.begin])


def line_at(descriptor: int, span: Span) -> bytes:
    """The line that lies there now."""
    return _read(descriptor, span.begin, span.end)


def _last_record(descriptor: int, position: int) -> tuple[Head, Span] | None:
    """Search backwards for a line that is a record; as it ends in a brace, most of what is none is skipped unseen."""
    rest, step = b"", _FIRST_BLOCK
    while position > 0:
        start = max(0, position - step)
        data = _read(descriptor, start, position) + rest
        end = data.rfind(b"}\n") + 1
        while end > 0:
            begin = data.rfind(b"\n", 0, end) + 1
            if begin == 0 and start > 0:
                break
            line = data[begin:end]
            if (record := _record(line)) is not None:
                return Head(record["seq"], sha256(line), record["op"]), Span(start + begin, start + end)
            end = data.rfind(b"}\n", 0, begin) + 1
        rest = data[: data.find(b"\n") + 1]  # the end of a line that begins further back
        if len(rest) > MAX_LINE + 1:
            rest = b""
        position, step = start, BLOCK
    return None


def _torn(descriptor: int, begin: int, end: int) -> Torn | None:
    digest, ending, position = hashlib.sha256(), b"", begin
    while position < end and (block := os.pread(descriptor, min(BLOCK, end - position), position)):
        digest.update(block)
        ending = (ending + block)[-MAX_LINE - 1 :]
        position += len(block)
    return Torn(position - begin, digest.hexdigest(), ending) if position > begin else None


def _read(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    while start < end and (part := os.pread(descriptor, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _record(line: bytes) -> Fields | None:
    try:
        return parse(line)
    except UnknownVersion:
        raise
    except Damaged:
        return None


def adopted(torn: Torn, head: Head | None) -> tuple[bytes, Fields] | None:
    """The line and record that a torn region ends in, if an LF is all that it lacks to go on after `head`."""
    line = torn.ending.rpartition(b"\n")[2]
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


def recovery(torn: Torn) -> Fields:
    """The details of the record that tells of a torn region."""
    return {"bytes": torn.size, "kind": "torn", "sha256": torn.sha256}

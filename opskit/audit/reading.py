"""Reading the log for people: newest first or in order, what is unfinished, and what is new.

What is no record is passed over here: telling of it is the verifier's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from opskit.audit.record import Fields, parse
from opskit.audit.segments import Segment, last_lines, lines, segments, whole_lines
from opskit.errors import Damaged

Key = tuple[str, str, str]


class Entry(NamedTuple):
    """A record, and whether it is a `start` to which there is no outcome: the operation runs still, or was killed."""

    record: Fields
    is_unfinished: bool


class Place(NamedTuple):
    """Where reading goes on."""

    segment: int
    offset: int


def key_of(record: Fields) -> Key:
    """What a start and its outcome have in common."""
    return record["run"], record["op"], record["tgt"]


def records(listed: Iterable[Segment]) -> Iterator[Fields]:
    """All records in order. Raises AuditError."""
    for segment in listed:
        for line in lines(segment):
            if line.ended and (record := _parsed(line.data)) is not None:
                yield record


def entries(folder: Path) -> Iterator[Entry]:
    """Every record in order, each start judged; reads the log twice, and holds what is open at one time in memory.

    Raises AuditLogNotFound or AuditError.
    """
    listed = segments(folder)
    unfinished = _unfinished(records(listed))
    for record in records(listed):
        yield Entry(record, record["seq"] in unfinished)


def _unfinished(found: Iterable[Fields]) -> set[int]:
    """The numbers of start records without an outcome."""
    begun: dict[Key, list[int]] = {}
    for record in found:
        if record["out"] == "start":
            begun.setdefault(key_of(record), []).append(record["seq"])
        elif waiting := begun.get(key_of(record)):
            waiting.pop()
            if not waiting:
                del begun[key_of(record)]
    return {seq for waiting in begun.values() for seq in waiting}


def latest(folder: Path, count: int) -> tuple[list[Entry], Place]:
    """The last `count` outcomes and unfinished starts, the oldest first, and where later records will be.

    Raises AuditLogNotFound or AuditError.
    """
    listed = segments(folder)
    found = list(islice(_newest_first(listed), count))
    return found[::-1], Place(listed[-1].number, whole_lines(listed[-1]))


def _newest_first(listed: list[Segment]) -> Iterator[Entry]:
    ended: dict[Key, int] = {}
    for segment in reversed(listed):
        for line in last_lines(segment):
            if (record := _parsed(line)) is None:
                continue
            key = key_of(record)
            if record["out"] != "start":
                ended[key] = ended.get(key, 0) + 1
                yield Entry(record, False)
            elif ended.get(key):
                ended[key] -= 1
            else:
                yield Entry(record, True)


def since(folder: Path, place: Place) -> tuple[list[Fields], Place]:
    """The records from a place on, and the place behind them. Raises AuditLogNotFound or AuditError."""
    found = []
    for segment in segments(folder):
        if segment.number < place.segment:
            continue
        start = place.offset if segment.number == place.segment else 0
        place = Place(segment.number, start)
        for line in lines(segment, start):
            if line.ended:
                place = Place(segment.number, line.offset + len(line.data) + 1)
                if (record := _parsed(line.data)) is not None:
                    found.append(record)
    return found, place


def _parsed(line: bytes) -> Fields | None:
    try:
        return parse(line)
    except Damaged:
        return None

"""The files of an audit log, and how lines are read from them with bounded memory.

    FOLDER/lock                   what writers lock (flock); its content means nothing
    FOLDER/log/0000000001.jsonl   the segments, numbered without gaps; only the last one is written to

Readers take the lock for the moment in which they list the segments: what they then read are whole appends. A segment
is a regular file: nothing else is read, followed or waited for.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from opskit.audit.files import READER_PATIENCE, open_to_read, take_lock
from opskit.audit.record import MAX_LINE
from opskit.errors import AuditError, AuditLogNotFound

_NAME = re.compile(r"([0-9]{10})\.jsonl")
BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Segment:
    """A segment and how long it was when it was listed."""

    path: Path
    number: int
    size: int
    is_file: bool = True
    """Whether the name is that of a regular file, as it has to be."""


class Line(NamedTuple):
    """A piece of a segment up to an LF (`ended`), or to where the segment ends or a line is longer than any record."""

    data: bytes
    ended: bool
    offset: int
    number: int
    """Of the line in its segment, from 1."""


# At a fifth of the cost of `Line(...)`.
_line: Callable[[tuple[bytes, bool, int, int]], Line] = partial(tuple.__new__, Line)


def lock_file(folder: Path) -> Path:
    """What writers lock."""
    return folder / "lock"


def log_folder(folder: Path) -> Path:
    """Where the segments lie."""
    return folder / "log"


def path_of(folder: Path, number: int) -> Path:
    """The segment of that number."""
    return log_folder(folder) / f"{number:010}.jsonl"


def numbers(folder: Path) -> list[int]:
    """The numbers of the segments there are, in order. Raises FileNotFoundError before the first."""
    found = (_NAME.fullmatch(name) for name in os.listdir(log_folder(folder)))
    return sorted(int(match[1]) for match in found if match)


def segments(folder: Path, sleep: Callable[[float], None] = time.sleep) -> list[Segment]:
    """All segments as they are between two appends; raises AuditLogNotFound where there is none, or AuditError.

    `sleep` takes seconds, while a writer holds the lock.
    """
    try:
        with _locked(folder, sleep):
            listed = [_listed(path_of(folder, each), each) for each in numbers(folder)]
    except FileNotFoundError:
        listed = []
    except OSError as error:
        raise unreadable(folder, error) from error
    if not listed:
        raise AuditLogNotFound(
            f"{folder} holds no audit log yet", hint="the first operation that changes something begins it"
        )
    return listed


def _listed(path: Path, number: int) -> Segment:
    status = path.lstat()
    return Segment(path, number, status.st_size, stat.S_ISREG(status.st_mode))


def unreadable(path: Path, error: OSError) -> AuditError:
    """What to raise where a file of the log cannot be read."""
    reason = (error.strerror or "error").lower()
    return AuditError(f"the audit log cannot be read: {path}: {reason}", hint="run this as the user who owns state_dir")


@contextmanager
def _locked(folder: Path, sleep: Callable[[float], None]) -> Iterator[None]:
    """No writer at work, where there is a lock: a log copied elsewhere for inspection may have none."""
    try:
        descriptor = open_to_read(lock_file(folder))
    except FileNotFoundError:
        yield
        return
    try:
        take_lock(lock_file(folder), descriptor, shared=True, sleep=sleep, patience=READER_PATIENCE)
        yield
    finally:
        os.close(descriptor)


def lines(segment: Segment, start: int = 0) -> Iterator[Line]:
    """The lines of a segment from `start` (where a line begins) to the size it was listed with; raises AuditError."""
    try:
        with _opened(segment) as descriptor:
            yield from _lines(descriptor, start, segment.size)
    except OSError as error:
        raise unreadable(segment.path, error) from error


@contextmanager
def _opened(segment: Segment) -> Iterator[int]:
    if not segment.is_file:
        raise OSError(errno.EINVAL, "not a regular file")
    descriptor = open_to_read(segment.path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lines(descriptor: int, position: int, end: int) -> Iterator[Line]:
    number, offset, rest = 1, position, b""
    while block := os.pread(descriptor, min(BLOCK, end - position), position):
        position += len(block)
        *whole, rest = (rest + block).split(b"\n")
        for data in whole:
            yield _line((data, True, offset, number))
            offset += len(data) + 1
            number += 1
        if len(rest) > MAX_LINE:  # no record: given away in pieces, so that it need not fit into memory
            yield Line(rest, False, offset, number)
            offset += len(rest)
            rest = b""
    if rest:
        yield Line(rest, False, offset, number)


def last_lines(segment: Segment) -> Iterator[bytes]:
    """The lines of a segment that end in LF, from the last to the first; raises AuditError."""
    try:
        with _opened(segment) as descriptor:
            yield from _last_lines(descriptor, segment.size)
    except OSError as error:
        raise unreadable(segment.path, error) from error


def _last_lines(descriptor: int, position: int) -> Iterator[bytes]:
    rest, is_last = b"", True
    while position > 0:
        step = min(BLOCK, position)
        position -= step
        rest, *whole = (os.pread(descriptor, step, position) + rest).split(b"\n")
        if whole and is_last:
            whole.pop()  # behind the last LF: nothing, or what a writer left torn
            is_last = False
        yield from reversed(whole)
        if len(rest) > MAX_LINE:
            rest = rest[-MAX_LINE - 1 :]  # no record either way
    if not is_last:
        yield rest


def whole_lines(segment: Segment) -> int:
    """How many bytes of a segment are lines that end in LF; raises AuditError."""
    try:
        with _opened(segment) as descriptor:
            end = segment.size
            while end > 0:
                start = max(0, end - BLOCK)
                found = os.pread(descriptor, end - start, start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                end = start
    except OSError as error:
        raise unreadable(segment.path, error) from error
    return 0

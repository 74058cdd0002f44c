"""Small audit logs with a clock and ids of their own, so that each is the same wherever it is made."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opskit.audit.log import SEGMENT_SIZE, AuditLog
from opskit.audit.record import Actor, Fields
from opskit.audit.segments import path_of
from opskit.audit.verification import Report, verify
from opskit.encoding import encode

ACTOR = Actor(1000, 0, "anna", "cli")
BEGIN = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)


def ticking(step: timedelta = timedelta(seconds=1)) -> Callable[[], datetime]:
    """A clock that goes one step further each time it is looked at."""
    counter = itertools.count()
    return lambda: BEGIN + next(counter) * step


_later = ticking()


def open_log(
    folder: Path,
    *,
    segment_size: int = SEGMENT_SIZE,
    now: Callable[[], datetime] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> AuditLog:
    """The log at `folder`/audit."""
    return AuditLog(
        folder / "audit",
        host="h1",
        actor=ACTOR,
        now=now or _later,
        token=lambda count: os.urandom(count).hex(),
        segment_size=segment_size,
        sleep=sleep,
    )


def segment(folder: Path, number: int = 1) -> Path:
    """A segment of that log."""
    return path_of(folder / "audit", number)


def judged(folder: Path) -> Report:
    """What `verify` says of that log."""
    return verify(folder / "audit")


def make_log(folder: Path, records: int = 5) -> Path:
    """A log of so many records beside its `audit.open`; returns its only segment."""
    with open_log(folder) as log:
        for number in range(records):
            log.append("backup.create", "ok", target=f"data-{number}", run=f"run-{number}", details={"bytes": number})
    return segment(folder)


def line_of(record: Fields, seq: int, prev: str, ts: str) -> bytes:
    """The line of any fields, as somebody who knows the format would write it."""
    return encode({**record, "seq": seq, "prev": prev, "ts": ts})

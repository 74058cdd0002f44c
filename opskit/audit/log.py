"""Appending to the audit log: many processes and threads, a crash at any moment, nothing ever changed or cut off.

Protocol, for each append: lock (lock.py: threads and forked children exclude one another too, and no crash leaves it
locked); learn the last record; one `write` of whole lines to a file opened with O_APPEND; unlock; then fdatasync,
outside the lock, so that waiting writers share it; only then return. All records of a segment are in one file, so a
record is on the medium only if all before it are; before a new segment gets its first record, the old one is synced.

Invariants: no byte is ever changed, cut off or removed (it works on files with `chattr +a`); what a writer that died
left torn is kept and recorded; a failed fdatasync is final for this object, because the kernel may have dropped the
pages and would report success the next time; within a process the chain never goes back, so that whoever shortens or
rewrites the log under a running process leaves a break that `verify` sees. What is remembered of a file's end is
changed last, so that a signal at any point only leads to looking at the file again.

It deliberately does not judge the log (verification.py does): a log that was tampered with still takes records.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from opskit.audit.files import WRITER_PATIENCE, Name, close_all, make_folder, open_to_append, open_to_read, sync_folder
from opskit.audit.lock import Lock
from opskit.audit.record import (
    OPEN,
    RECOVERED,
    SEAL,
    Actor,
    Draft,
    Head,
    Outcome,
    UnknownVersion,
    draft,
    genesis,
    identity,
    line_of,
    parse,
    sha256,
    with_details,
)
from opskit.audit.segments import numbers, path_of
from opskit.audit.tail import Span, Tail, Torn, adopted, line_at, read_growth, read_tail, recovery
from opskit.encoding import decode
from opskit.errors import AuditError, Damaged

SEGMENT_SIZE = 64 * 1024 * 1024
_SYNC_HINT = "look at the medium of state_dir (smartctl, kernel log); what this command did is not recorded for certain"


@dataclass
class _Segment:
    """The segment that is written to, and how this process last saw its end; changed under the lock only."""

    number: int
    name: Name
    descriptor: int
    end: int = -1
    head: Head | None = None
    """Its last record, which goes before what the log knows as its head only if the log knows of a later one."""
    span: Span | None = None
    """Where that lies."""
    torn: Torn | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it ends in a record that others may follow."""
        return self.torn is None and self.head is not None and self.head.op != SEAL

    def look(self, end: int) -> tuple[Tail, bool]:
        """How it ends now, and whether the record that was seen as the last still stands where it stood."""
        if self.head is None or self.span is None:
            return read_tail(self.descriptor, end), True
        if (grown := read_growth(self.descriptor, self.span, end)) is not None:
            return grown[0], grown[1] == self.head.sha256
        return read_tail(self.descriptor, end), sha256(line_at(self.descriptor, self.span)) == self.head.sha256


class _Written(NamedTuple):
    descriptor: int
    offset: int
    data: bytes
    head: Head


class Attempt:
    """One append, for whoever has to know what became of it after a signal ended it."""

    def __init__(self) -> None:
        self.about_to: _Written | None = None

    @property
    def head(self) -> Head | None:
        """The record, if it was written: on the medium it may not be yet."""
        if (it := self.about_to) is None:
            return None
        return it.head if os.pread(it.descriptor, len(it.data), it.offset) == it.data else None

    @property
    def is_written(self) -> bool:
        """Whether that is known for certain; raises nothing, for there is an error already where this is asked."""
        try:
            return self.head is not None
        except Exception:
            return False


class AuditLog:
    """One log of one host, below `folder`; made with its first record.

    `now` gives the time in UTC; `token(n)` 2n random hexadecimal digits; `sleep` takes seconds. Holds files open until
    `close`; may be used by several threads, and after a fork by parent and child.
    """

    def __init__(
        self,
        folder: Path,
        *,
        host: str,
        actor: Actor,
        now: Callable[[], datetime],
        token: Callable[[int], str],
        segment_size: int = SEGMENT_SIZE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder = folder
        self._who = identity(actor, host)
        self.now = now
        self._timestamp = _Timestamp(now)
        self._lock = Lock(folder, sleep)
        self._token = token
        self._segment_size = segment_size
        self._segment: _Segment | None = None
        self._head: Head | None = None
        self._retired: list[int] = []
        self._failure: str | None = None

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; the next append opens them again. No append may be under way."""
        descriptors = [*self._retired, *([self._segment.descriptor] if self._segment else [])]
        self._retired, self._segment = [], None
        close_all(descriptors)
        self._lock.close()

    def new_run(self) -> str:
        """An id for a start and its outcome."""
        return self._token(8)

    def append(
        self,
        op: str,
        out: Outcome,
        *,
        target: str = "",
        run: str = "",
        details: Mapping[str, object] | None = None,
        patience: float = WRITER_PATIENCE,
        attempt: Attempt | None = None,
    ) -> Head:
        """Add a record and return it once it is on the medium; waits up to `patience` seconds for the lock.

        An `attempt` that a signal ended may be given again: what it wrote is synced then, and not written twice.
        Raises AuditError: nothing was recorded for certain. After a failed fdatasync every later call raises too.
        """
        if self._failure is not None:
            raise AuditError(f"the audit log failed before: {self._failure}", hint=_SYNC_HINT)
        attempt = attempt or Attempt()
        drafted = draft(self._who, op, out, target, run, details or {})
        try:
            if attempt.head is None:
                self._append_locked(drafted, attempt, patience)
        except UnknownVersion as error:
            raise AuditError(f"{self.folder}: {error}", hint="a newer opskit wrote this log: use that one") from error
        except OSError as error:
            raise self._unwritable(error) from error
        assert attempt.about_to is not None
        self._sync(attempt.about_to.descriptor)
        return attempt.about_to.head

    def _append_locked(self, drafted: Draft, attempt: Attempt, patience: float) -> None:
        try:
            self._lock.take(patience)
            self._append(drafted, attempt)
        finally:
            self._lock.release()

    def _append(self, drafted: Draft, attempt: Attempt) -> None:
        """Write what has to come before the record, and the record; under the lock."""
        segment = self._current()
        if segment.is_plain and segment.end < self._segment_size:
            self._write(segment, (drafted,), attempt)
            return
        before, after = self._recover(segment)
        if segment.head is not None and segment.head.op == SEAL and not before:
            segment = self._following(segment)
        elif segment.end >= self._segment_size and segment.head is not None:
            if before or after:
                self._write(segment, [*before, *after])
            self._write(segment, [self._own(SEAL, {"bytes": segment.end, "segment": segment.number})])
            before, after = [], []
            segment = self._following(segment)
        if segment.head is None:
            before.append(self._own(OPEN, {"log": self._log_id(segment), "segment": segment.number}))
        self._write(segment, [*before, *after, drafted], attempt)

    def _current(self) -> _Segment:
        """The newest segment, its end known."""
        segment = self._segment
        if segment is None or not self._refresh(segment) or (segment.head is not None and segment.head.op == SEAL):
            newest = max(self._numbers(), default=1)
            if segment is None or segment.number != newest or not self._refresh(segment):
                segment = self._open(newest)
                self._refresh(segment)
        return segment

    def _numbers(self) -> Sequence[int]:
        try:
            return numbers(self.folder)
        except FileNotFoundError:
            return ()

    def _open(self, number: int) -> _Segment:
        """Open a segment, made if it is not there; its name is on the medium afterwards, whoever made it.

        Nothing is written to one before it was synced when it was empty, so that any other one need not be.
        """
        path = path_of(self.folder, number)
        make_folder(path.parent, self.folder.parent)
        descriptor = open_to_append(path)
        try:
            name = Name(path, descriptor)
            if os.lseek(descriptor, 0, os.SEEK_END) == 0:
                self._sync(descriptor)
                for folder in (path.parent, self.folder, self.folder.parent):
                    sync_folder(folder)
        except BaseException:
            os.close(descriptor)
            raise
        before, self._segment = self._segment, _Segment(number, name, descriptor)
        if before is not None:
            self._retired.append(before.descriptor)  # closed at the end only: another thread may be about to sync it
        return self._segment

    def _refresh(self, segment: _Segment) -> bool:
        """Learn where the segment ends now; false if its name does not lead to the open file any more."""
        if not segment.name.leads_there():
            return False
        if (end := os.lseek(segment.descriptor, 0, os.SEEK_END)) != segment.end:
            tail, is_as_it_was = segment.look(end)
            if is_as_it_was:
                self._learn(tail.head or self._head_before(segment.number))
            segment.head, segment.span, segment.torn, segment.end = tail.head, tail.span, tail.torn, end
        return True

    def _learn(self, found: Head | None) -> None:
        """Take over the end of the chain as the files have it, unless this process knows of a later one."""
        if self._head is None or (found is not None and found.seq > self._head.seq):
            self._head = found

    def _head_before(self, number: int) -> Head | None:
        """The last record of the segment before: what the first one of this segment follows."""
        try:
            descriptor = open_to_read(path_of(self.folder, number - 1))
        except FileNotFoundError:
            return None
        try:
            return read_tail(descriptor, os.fstat(descriptor).st_size).head
        finally:
            os.close(descriptor)

    def _recover(self, segment: _Segment) -> tuple[list[Draft], list[Draft]]:
        """End a torn region with an LF; the records that tell of it, to be written before or after `audit.open`.

        The LF of a region that becomes a record is written at once; that of any other goes with the record.
        """
        torn = segment.torn
        if torn is None:
            return [], []
        whole = adopted(torn, self._head)
        if whole is None:
            return [self._own(RECOVERED, recovery(torn))], []
        line, record = whole
        written = _write_whole(segment.descriptor, b"\n")
        head, span = Head(record["seq"], sha256(line), record["op"]), Span(segment.end - len(line), segment.end)
        end = segment.end + written
        self._head, segment.head, segment.span, segment.torn, segment.end = head, head, span, None, end
        return [], [self._own(RECOVERED, {"bytes": len(line), "kind": "adopted", "sha256": sha256(line)})]

    def _following(self, segment: _Segment) -> _Segment:
        """The segment after one that was sealed, which is on the medium first."""
        self._sync(segment.descriptor)
        following = self._open(segment.number + 1)
        self._refresh(following)
        return following

    def _own(self, op: str, details: Mapping[str, object]) -> Draft:
        """A record that the log itself makes."""
        return draft(self._who, op, "ok", "", "", details)

    def _write(self, segment: _Segment, drafts: Sequence[Draft], attempt: Attempt | None = None) -> None:
        """Write records in one piece, at the end of the chain."""
        head = self._head
        if head is None:
            drafts, head = self._first(drafts)
        data, line = b"\n" if segment.torn else b"", b""
        for each in drafts:
            seq = head.seq + 1
            line = line_of(each, seq, head.sha256, self._timestamp())
            head = Head(seq, sha256(line), each.op)
            data += line + b"\n"
        if attempt is not None:
            attempt.about_to = _Written(segment.descriptor, segment.end, data, head)
        end = segment.end + _write_whole(segment.descriptor, data)
        span = Span(end - 1 - len(line), end - 1)
        # No call in between: head and span change together, whenever a signal comes.
        self._head, segment.head, segment.span, segment.torn, segment.end = head, head, span, None, end

    def _first(self, drafts: Sequence[Draft]) -> tuple[list[Draft], Head]:
        """The records that begin a log, the very first of which names it, whatever it is; and what that one follows."""
        log_id = decode(next(each for each in drafts if each.op == OPEN).details)["log"]
        return [with_details(drafts[0], {"log": log_id}), *drafts[1:]], Head(0, genesis(log_id), "")

    def _log_id(self, segment: _Segment) -> str:
        """The id that `audit.open` carries: a new one for a new log, else the one the segment before was opened with.

        Empty where that is not to be found any more: such a log does not verify, and takes records all the same.
        """
        if self._head is None:
            return self._token(16)
        try:
            descriptor = open_to_read(path_of(self.folder, segment.number - 1))
        except FileNotFoundError:
            return ""
        with open(descriptor, "rb") as file:
            beginning = file.read(1024 * 1024)
        for line in beginning.split(b"\n"):
            if line.startswith(b'{"actor":') and (found := _opened_log(line)):
                return found
        return ""

    def _sync(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            self._failure = (error.strerror or "error").lower()
            raise AuditError(f"the audit log cannot be synced: {self._failure}", hint=_SYNC_HINT) from error

    def _unwritable(self, error: OSError) -> AuditError:
        return AuditError(
            f"the audit log in {self.folder} cannot be written: {(error.strerror or 'error').lower()}",
            hint="free space in state_dir, or mend its owner and permissions, then run the command again",
        )


def _opened_log(line: bytes) -> str | None:
    try:
        record = parse(line)
    except Damaged:
        return None
    return str(record["d"].get("log", "")) if record["op"] == OPEN else None


def _write_whole(descriptor: int, data: bytes) -> int:
    """One write; raises OSError if not all of it went in, which the next writer finds as a torn region."""
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what a short write to a file means
    return written


class _Timestamp:
    """The time as records have it; what stays the same for a second is remembered."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._second, self._text = datetime.min.replace(tzinfo=UTC), ""

    def __call__(self) -> str:
        at = self._now()
        past = at - self._second
        if past.days or past.seconds:
            second = at.astimezone(UTC).replace(microsecond=0)
            self._second, self._text = second, second.replace(tzinfo=None).isoformat()
            past = at - second
        return f"{self._text}.{past.microseconds:06}Z"

"""One operation, one event: a `start` record before the act, and exactly one outcome record after it.

A process that is killed in between leaves the `start` alone, and that is what readers show as unfinished. Whatever ends
the body is recorded and goes on its way: errors, KeyboardInterrupt and SystemExit alike; also a KeyboardInterrupt that
arrives while one of the two is being written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from opskit.audit.files import READER_PATIENCE, WRITER_PATIENCE
from opskit.audit.log import Attempt, AuditLog
from opskit.audit.record import MAX_DEPTH, Outcome
from opskit.errors import AuditError, OpskitError

OnFailure = Literal["refuse", "warn"]
MAX_MESSAGE = 500


def _unchanged(text: str) -> str:
    return text


@dataclass
class Event:
    """What the body of an operation may say about its outcome; `ok` where it says nothing."""

    run: str
    """Shared by the start and the outcome, and by further operations that are given it."""
    out: Outcome = "ok"
    details: dict[str, object] = field(default_factory=dict)
    """Of the outcome record."""

    def note(self, **details: object) -> None:
        """Add details to the outcome record; never a secret."""
        self.details.update(details)

    def judge(self, exit_code: int, **details: object) -> None:
        """The operation ran to its end, and this is what it came to: a failure unless it is 0."""
        self.note(**details)
        if exit_code:
            self.fail(exit_code, "it ran to its end, and the answer is bad")

    def fail(self, exit_code: int, message: str) -> None:
        """The operation ran to its end, and the answer is bad."""
        self.out = "fail"
        self.note(exit=exit_code, message=message)

    def deny(self, message: str) -> None:
        """The operation was not permitted."""
        self.out = "denied"
        self.note(message=message)

    def skip(self, message: str) -> None:
        """There was nothing to do, or no need."""
        self.out = "skip"
        self.note(message=message)


@contextmanager
def operation(
    log: AuditLog,
    op: str,
    target: str = "",
    *,
    details: Mapping[str, object] | None = None,
    run: str | None = None,
    on_failure: OnFailure = "refuse",
    warn: Callable[[AuditError], None] = lambda _: None,
    redact: Callable[[str], str] = _unchanged,
) -> Iterator[Event]:
    """Run the body as an audited operation, for instance `backup` of the target `data`.

    `details` go into the start record, those of the Event into the outcome; every text passes `redact`.
    With `on_failure="refuse"` a start that cannot be recorded raises AuditError before the body runs, and an outcome
    that cannot, after it succeeded; with "warn" both are told to `warn` alone. An error of the body, an interruption
    included, is never replaced by one of the log: then the log's goes to `warn` too.
    """
    record = _Recording(log, op, redact(target), run or log.new_run(), redact, warn)
    event, start, end = Event(record.run), Attempt(), Attempt()
    began, ran, failed = log.now(), False, True
    try:
        record.write("start", details or {}, on_failure, start)
        ran = True
        yield event
        failed = False
    except BaseException as error:
        ran = ran or (not isinstance(error, AuditError) and start.is_written)
        _judge(event, error)
        raise
    finally:
        if ran:
            try:
                record.conclude(event, began, "warn" if failed else on_failure, end)
            except KeyboardInterrupt:  # what was written before it came is not written again
                record.conclude(event, began, "warn", end)
                raise


@dataclass(frozen=True)
class _Recording:
    """What the start and the outcome of an operation have in common."""

    log: AuditLog
    op: str
    target: str
    run: str
    redact: Callable[[str], str]
    warn: Callable[[AuditError], None]

    def conclude(self, event: Event, began: datetime, on_failure: OnFailure, attempt: Attempt) -> None:
        """Write the outcome."""
        details = {**event.details, "ms": _milliseconds(self.log.now() - began)}
        self.write(event.out, details, on_failure, attempt)

    def write(self, out: Outcome, details: Mapping[str, object], on_failure: OnFailure, attempt: Attempt) -> None:
        """Append a record, or what of the attempt is not written yet; its failure is raised, or told to `warn`."""
        try:
            self._append(out, details, WRITER_PATIENCE if on_failure == "refuse" else READER_PATIENCE, attempt)
        except Exception as error:  # also what nobody expects here: it must not take the place of the body's own error
            if on_failure == "refuse":
                raise
            self.warn(error if isinstance(error, AuditError) else AuditError(f"unexpected {error!r}"))

    def _append(self, out: Outcome, details: Mapping[str, object], patience: float, attempt: Attempt) -> None:
        told = {self.redact(key): _redacted(value, self.redact, MAX_DEPTH) for key, value in details.items()}
        if isinstance(message := told.get("message"), str):
            told["message"] = message[:MAX_MESSAGE]  # only now: half a secret is not found
        self.log.append(
            self.op, out, target=self.target, run=self.run, details=told, patience=patience, attempt=attempt
        )


def _redacted(value: object, redact: Callable[[str], str], depth: int) -> object:
    """The value without secrets, wherever in it they stand; text is made here of what has no type in a record."""
    if value is None or isinstance(value, int):
        return value
    if depth > 0 and isinstance(value, Mapping):
        return {redact(str(key)): _redacted(item, redact, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if depth > 0 and isinstance(value, list | tuple):
        return [_redacted(item, redact, depth - 1) for item in value]
    return redact(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def _judge(event: Event, error: BaseException) -> None:
    """The outcome that an exception means."""
    code = _exit_code(error)
    if code == 0:
        return
    event.out = "fail"
    event.note(error=type(error).__name__, exit=code)
    if message := str(error):
        event.note(message=message)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, OpskitError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    return 1


def _milliseconds(span: timedelta) -> int:
    return max(0, span // timedelta(milliseconds=1))

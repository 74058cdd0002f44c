"""One operation, one event: a `start` record before the act, and exactly one outcome record after it.

A process that is killed in between leaves the `start` alone, and that is what readers show as unfinished. Whatever ends
the body is recorded and goes on its way: errors, KeyboardInterrupt and SystemExit alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from opskit.audit.log import AuditLog
from opskit.audit.record import Outcome
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

    `details` go into the start record, those of the Event into the outcome; messages pass `redact`.
    With `on_failure="refuse"` a start that cannot be recorded raises AuditError before the body runs, and an outcome
    that cannot, after it succeeded; with "warn" both are told to `warn` alone. An error of the body is never replaced
    by one of the log: then the log's goes to `warn` too.
    """
    event = Event(run or log.new_run())
    begun = log.now()
    _record(log, op, "start", target, event.run, details or {}, on_failure, warn)
    failed = True
    try:
        yield event
        failed = False
    except BaseException as error:
        _judge(event, error)
        raise
    finally:
        outcome = {**event.details, "ms": _milliseconds(log.now() - begun)}
        if isinstance(message := outcome.get("message"), str):
            outcome["message"] = redact(message)[:MAX_MESSAGE]  # in this order: half a secret is not found
        _record(log, op, event.out, target, event.run, outcome, "warn" if failed else on_failure, warn)


def _record(
    log: AuditLog,
    op: str,
    out: Outcome,
    target: str,
    run: str,
    details: Mapping[str, object],
    on_failure: OnFailure,
    warn: Callable[[AuditError], None],
) -> None:
    try:
        log.append(op, out, target=target, run=run, details=details)
    except AuditError as error:
        if on_failure == "refuse":
            raise
        warn(error)


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

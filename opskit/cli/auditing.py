"""Puts what commands do into the audit log of this host: a start before the act, the outcome after it.

What changes something is refused where it cannot be recorded; what only reads goes on with a warning, for nobody
should be kept from a restore by a full disk. Without a config, or before a host has any state, there is no log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.audit.event import Event
    from opskit.config.model import Config


@contextmanager
def audited(
    context: Context, config: Config, op: str, target: str = "", *, changes: bool = True, **details: object
) -> Iterator[Event]:
    """Record an operation of this command; the body tells its outcome by `judged`, or by raising.

    Raises AuditError where `changes` is set and nothing can be recorded.
    """
    from opskit import log, wiring
    from opskit.audit.event import Event, operation
    from opskit.cli.render import printable
    from opskit.errors import AuditError

    if not changes and not config.state_dir.is_dir():
        yield Event("")
        return

    told: set[str] = set()

    def warn(error: AuditError) -> None:
        text = printable(str(error))
        if text not in told:  # the start and the outcome fail alike
            context.warning(f"this is not in the audit log: {text}")
        told.add(text)

    with (
        closing(wiring.audit_log(config)) as audit,
        operation(
            audit, op, printable(target),
            details=details, on_failure="refuse" if changes else "warn", warn=warn, redact=log.redact,
        ) as event,
    ):  # fmt: skip
        yield event


@contextmanager
def audited_reading(
    context: Context, repository: str | None, op: str, target: str = "", **details: object
) -> Iterator[Event]:
    """The same for what reads a copy; with `repository`, a copy named without any config, there is no log."""
    from opskit.audit.event import Event

    if repository is not None:
        yield Event("")
        return
    with audited(context, context.load_config(), op, target, changes=False, **details) as event:
        yield event


def judged(event: Event, code: int, **details: object) -> int:
    """Note what the operation came to; gives `code` back."""
    event.judge(code, **details)
    return code

"""What commands that copy objects between destinations share: the way in, the choice of copies, the progress line.

They write to repositories, so they exclude backups and one another on this host. No private key is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.audit.event import Event
    from opskit.cli.progress import Progress, ProgressSample
    from opskit.config.model import Config
    from opskit.repository.copy import Copy

OnlyOption = Annotated[
    list[str] | None, typer.Option("--destination", metavar="NAME", help="This destination only; repeatable.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be copied.")]


@contextmanager
def opened_for_copying(
    context: Context, op: str, targets: Sequence[str], *, may_be_none: bool = False
) -> Iterator[tuple[Config, Access, Event]]:
    """Open every destination of the config, while no other run of this host works on the repository.

    The operation `op` is recorded in the audit log; none for an empty name, as it changes nothing. Where no copy can be
    opened that is an error, unless there `may_be_none`.
    Raises ConfigError, RepositoryLocked, RepositoryNotFound, StoreError, AuditError.
    """
    from opskit import gpg

    config = context.load_config()
    gpg.begin_check()  # answered while the rest is imported
    from opskit import access, wiring
    from opskit.audit.event import Event
    from opskit.cli.auditing import audited
    from opskit.cli.render import printable
    from opskit.operations.lock import exclusive

    record = audited(context, config, op, " ".join(targets)) if op else nullcontext(Event(""))
    # In this order: a refusal is recorded too.
    with (
        record as event,
        exclusive(wiring.lock_file(config)),
        access.by_config(config, writable=True, may_be_none=may_be_none) as opened,
    ):
        for note in opened.notes:
            context.warning(printable(note))
        yield config, opened, event


def chosen(opened: Access, names: Sequence[str]) -> list[Copy]:
    """The copies of these destinations (all that could be opened, if none is named).

    Raises UsageError for a name that the config has not, and what kept a named one from being opened.
    """
    from opskit.errors import UsageError

    copies = {copy.destination: copy for copy in opened.copies}
    for name in names:
        if name in opened.absent:
            raise opened.absent[name]
        if name not in copies:
            known = ", ".join([*copies, *opened.absent])
            raise UsageError(f"no destination {name!r}; the config has {known}")
    return [copy for name, copy in copies.items() if not names or name in names]


@contextmanager
def counting(context: Context, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to tell the bytes of each object, and the progress line that shows their sum."""
    done = [0, 0]

    def sample() -> ProgressSample:
        from opskit.cli.progress import ProgressSample  # here: called only where a line is shown

        return ProgressSample(done[0], done[1], total or None)

    def tell(size: int) -> None:
        done[0], done[1] = done[0] + 1, done[1] + size

    line: Progress | None
    with context.progress(label, sample) as line:
        del line
        yield tell

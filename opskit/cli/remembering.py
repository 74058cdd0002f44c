"""Notes in this host's state what was read back of the copies, and what came of it; `opskit status` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.operations.verify import CopyReport


def remember(context: Context, opened: Access, reports: Mapping[str, CopyReport]) -> None:
    """Note in this host's state what was read and what came of it, for `opskit status`; a failure is told, no more."""
    from opskit.cli.reading import history_of
    from opskit.cli.render import printable
    from opskit.errors import OpskitError
    from opskit.operations import verified
    from opskit.wiring import now

    try:
        memory = verified.Verified(verified.place(context.load_config().state_dir, opened.repository))
        if memory.lost:
            context.warning(printable(memory.lost))
        history = history_of(opened)
        for copy in opened.copies:
            if copy.destination not in reports:
                continue
            found = verified.verification_of(copy, reports[copy.destination], history, now())
            memory.seen(copy.destination, copy.id)
            if found is not None:
                memory.record(copy.id, found)
        memory.save()
    except (OSError, OpskitError) as error:
        context.warning(printable(f"this verify cannot be remembered: {error}"))

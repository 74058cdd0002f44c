"""Ending threads whose work may never come back.

A request that hangs cannot be called off, and whoever pressed Ctrl-C has waited long enough: what does not end soon is
left behind, and ends with the process. That is safe, because stores show an object whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, Future, wait
from typing import Any

PATIENCE = 2.0
"""Seconds."""


def end(threads: Executor, under_way: Iterable[Future[Any]], error: BaseException | type[BaseException] | None) -> bool:
    """Begin nothing more, and wait for what is under way: after an interruption (`error`) for PATIENCE at most.

    Returns whether all has ended.
    """
    kind = error if isinstance(error, type) else type(error)
    if error is None or issubclass(kind, Exception):
        threads.shutdown(wait=True, cancel_futures=True)
        return True
    threads.shutdown(wait=False, cancel_futures=True)
    begun = [each for each in under_way if not each.cancelled()]
    return not wait(begun, timeout=PATIENCE).not_done

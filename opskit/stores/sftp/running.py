"""The one event loop behind all SFTP stores, in a thread of its own that is started when it is first needed.

Stores are called from several threads and block; asyncssh is asynchronous. It deliberately knows nothing of SFTP.
What asyncio and asyncssh log of connections that were thrown away is shown to nobody: whoever waited for the request
has the error, and may have made it good on a new connection.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_LAST_WORDS = 2.0
"""Seconds that closing connections may take when the program ends."""


class _Running:
    """A loop, its thread, and what is to be closed before they end."""

    def __init__(self) -> None:
        for name in ("asyncio", "asyncssh"):  # without a handler Python would show their warnings on stderr
            logging.getLogger(name).addHandler(logging.NullHandler())
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: None)  # of tasks of asyncssh that nobody waits for
        self._closing: list[Callable[[], Awaitable[None]]] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="sftp", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """The outcome of `coroutine`; one that is not waited for to its end (an interruption) is cancelled."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have `close` awaited when the program ends."""
        self._closing.append(close)

    def _end(self) -> None:
        async def close() -> None:
            await asyncio.gather(*(each() for each in self._closing), return_exceptions=True)

        with suppress(TimeoutError, CancelledError):  # whoever does not answer is not waited for
            self.run(close(), _LAST_WORDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_LAST_WORDS)


_lock = threading.Lock()
_running: _Running | None = None


def running() -> _Running:
    """The loop of this process; the first call starts it."""
    global _running
    with _lock:
        if _running is None:
            _running = _Running()
        return _running

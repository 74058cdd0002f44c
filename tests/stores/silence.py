"""Servers that take a connection and never say a word."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Silent:
    """A port of the loopback where the kernel makes connections and nobody answers."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.port = int(listener.getsockname()[1])

    def connections(self) -> int:
        """How many were made since this was asked last."""
        found = 0
        with suppress(BlockingIOError):
            while True:
                self._listener.accept()[0].close()
                found += 1
        return found


@contextmanager
def silent() -> Iterator[Silent]:
    """Such a port, for the block."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        yield Silent(listener)

"""Ports for servers that tests start."""

from __future__ import annotations

import socket
from contextlib import suppress
from random import SystemRandom


def free_port() -> int:
    """A port below those that Linux gives to whoever asks for any: nobody takes it before the server does."""
    while True:
        port = SystemRandom().randrange(20_000, 32_768)  # not of the generator that hypothesis seeds alike everywhere
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port

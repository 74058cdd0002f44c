"""Servers that are no servers: a silent one, one in between that hides that TLS is offered, and one that listens in."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CLIENT_SSL = 0x0800


@contextmanager
def silent() -> Iterator[int]:
    """A port of localhost that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@contextmanager
def without_tls(upstream: Path) -> Iterator[tuple[int, list[bytes]]]:
    """A port that passes on the greeting of a MariaDB, less its offer of TLS; and all that clients then send."""
    seen: list[bytes] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, socket.socket(socket.AF_UNIX) as server:
                    server.connect(str(upstream))
                    client.sendall(_less_tls(server.recv(4096)))
                    seen.append(client.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1]), seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def listening_in(upstream: Path) -> Iterator[tuple[int, list[bytes]]]:
    """A port that passes all on to a unix socket and back, for one client at a time; and all that clients sent."""
    seen: list[bytes] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, socket.socket(socket.AF_UNIX) as server, suppress(ConnectionError):
                    server.connect(str(upstream))
                    _pass_on(client, server, seen)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1]), seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _pass_on(client: socket.socket, server: socket.socket, seen: list[bytes]) -> None:
    while True:
        for ready in select.select([client, server], [], [])[0]:
            if not (data := ready.recv(65536)):
                return
            if ready is client:
                seen.append(data)
            (server if ready is client else client).sendall(data)


def _less_tls(greeting: bytes) -> bytes:
    """Source: MariaDB's documentation of its protocol, "initial handshake packet"."""
    place = greeting.index(b"\0", 5) + 1 + 4 + 8 + 1  # header and version; thread, salt, filler
    (abilities,) = struct.unpack_from("<H", greeting, place)
    return greeting[:place] + struct.pack("<H", abilities & ~_CLIENT_SSL) + greeting[place + 2 :]

"""A line of one's own: a TCP proxy that holds back the beginning of each HTTP request for some milliseconds.

It moves bytes in the kernel (splice), so that it costs the machine next to nothing, and understands just enough of
HTTP/1.1 to know where a request begins: where the client speaks after the server has. `100 Continue` is no answer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

PIECE = 1 << 20
STATUS_BYTES = 12
INTERIM = b"HTTP/1.1 100"


class _Line:
    """One connection: what the client says waits at the beginning of each request."""

    def __init__(self, client: socket.socket, server: socket.socket, delay: float) -> None:
        self._client, self._server, self._delay = client, server, delay
        self._is_answered = True

    def run(self) -> None:
        """Move bytes both ways until either side ends."""
        back = threading.Thread(target=self._move, args=(self._server, self._client, self._seen_answer), daemon=True)
        back.start()
        self._move(self._client, self._server, self._hold_request)
        back.join()

    def _hold_request(self, _: bytes) -> None:
        if self._is_answered:
            self._is_answered = False
            time.sleep(self._delay)

    def _seen_answer(self, begin: bytes) -> None:
        self._is_answered = not begin.startswith(INTERIM)

    def _move(self, source: socket.socket, target: socket.socket, before: Callable[[bytes], None]) -> None:
        reader, writer = os.pipe()
        try:
            with contextlib.suppress(OSError):
                while begin := source.recv(STATUS_BYTES, socket.MSG_PEEK):
                    before(begin)
                    count = os.splice(source.fileno(), writer, PIECE)
                    while count:
                        count -= os.splice(reader, target.fileno(), count)
        finally:
            os.close(reader)
            os.close(writer)
            for side in (source, target):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)


@contextmanager
def delayed(host: str, port: int, seconds: float) -> Iterator[int]:
    """A local port that leads to `host`:`port`, each request `seconds` later."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as listener:
        threading.Thread(target=_serve, args=(listener, host, port, seconds), daemon=True).start()
        yield int(listener.getsockname()[1])


def _serve(listener: socket.socket, host: str, port: int, seconds: float) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_carry, args=(client, host, port, seconds), daemon=True).start()


def _carry(client: socket.socket, host: str, port: int, seconds: float) -> None:
    with client, socket.create_connection((host, port)) as server:
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _Line(client, server, seconds).run()

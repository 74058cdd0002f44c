"""An HTTP proxy that does to chosen requests what networks and endpoints do, each time the same.

It stands between a store and a real endpoint and understands just enough of HTTP/1.1 to know where a request and an
answer end. Faults wait in `plan`; each request takes the first one that is meant for it, and passes where none is.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Fault:
    """What happens to one request; by default nothing.

    `method` and `path`: which request, by its method and a piece of its target. `request_bytes`: so many of its body
    are sent on, then the connection is reset. `is_lost`: it is carried out, and the answer lost. `answer_bytes`: so
    many of the answer's body are given, then the connection is `cut`: "reset", "closed", or "held" without more.
    `answer`: given instead of asking the endpoint. `flips`: the middle byte of the answer's body changes. `delay`:
    seconds before anything. `hangs`: no answer ever.
    """

    method: str = ""
    path: str = ""
    request_bytes: int | None = None
    is_lost: bool = False
    answer_bytes: int | None = None
    cut: str = "reset"
    answer: bytes | None = None
    flips: bool = False
    delay: float = 0.0
    hangs: bool = False


NO_FAULT = Fault()
EXPECT = b"Expect: 100-continue\r\n"


def answer(status: str, body: str = "", *headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", "Content-Type: application/xml", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def failure(status: str, code: str, *headers: str, more: str = "", message: str = "said the endpoint") -> bytes:
    """An error as S3 words it."""
    xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return answer(status, xml, *headers)


class _Message(NamedTuple):
    """A request or an answer: its first line, its head with all line ends, its body."""

    first: str
    head: bytes
    body: bytes


class _Ended(Exception):
    """One side has gone."""


@dataclass
class Proxy:
    """A proxy to a local port; `requests` are the first lines of all that came, in order."""

    upstream: int
    plan: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def connections(self) -> int:
        """How many were made to it."""
        return len(self._threads) - 1

    def close(self) -> None:
        """Stop, and wait for all threads."""
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.upstream)) as server:
            for side in (client, server):
                side.settimeout(0.05)  # how soon a closing proxy is noticed
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(_Ended, OSError):
                while True:
                    self._pass(client, server)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        """One request and its answer."""
        head, body = self._head(client)
        fault = self._next(head)
        if fault.delay:
            self._closing.wait(fault.delay)
        if fault.hangs:
            self._hold()
        is_polite = EXPECT in head
        if is_polite and fault.answer is None:
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not is_polite or fault.answer is None:
            body = self._body(client, head, body)
        if fault.answer is not None:
            client.sendall(fault.answer)
            return
        request = _Message(head.partition(b"\r\n")[0].decode(), head.replace(EXPECT, b""), body)
        sent = request.body if fault.request_bytes is None else request.body[: fault.request_bytes]
        server.sendall(request.head + sent)
        if fault.request_bytes is not None:
            self._cut(client, "reset")
        head, body = self._head(server)
        given = _Message("", head, body if request.first.startswith("HEAD") else self._body(server, head, body))
        if fault.is_lost:
            self._cut(client, "reset")
        changed = bytearray(given.body)
        if fault.flips and changed:
            changed[len(changed) // 2] ^= 0xFF
        client.sendall(given.head + bytes(changed[: fault.answer_bytes]))
        if fault.answer_bytes is not None:
            self._cut(client, fault.cut)

    def _next(self, head: bytes) -> Fault:
        first = head.partition(b"\r\n")[0].decode("latin-1")
        method, target, _ = first.split(" ", 2)
        with self._lock:
            self.requests.append(first)
            for index, fault in enumerate(self.plan):
                if fault.method in {"", method} and fault.path in target:
                    return self.plan.pop(index)
        return NO_FAULT

    def _head(self, side: socket.socket) -> tuple[bytes, bytes]:
        """The head of a message with all its line ends, and what came of its body with it."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._some(side)
        head, _, body = data.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n", body

    def _body(self, side: socket.socket, head: bytes, begun: bytes) -> bytes:
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(fields.get("content-length", 0))
        pieces, size = [begun], len(begun)
        while size < length:
            pieces.append(self._some(side))
            size += len(pieces[-1])
        return b"".join(pieces)

    def _some(self, side: socket.socket) -> bytes:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                data = side.recv(1 << 20)
                if not data:
                    break
                return data
        raise _Ended

    def _hold(self) -> None:
        self._closing.wait()
        raise _Ended

    def _cut(self, client: socket.socket, how: str) -> None:
        if how == "held":
            self._hold()
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Ended


@contextmanager
def proxied(upstream: int) -> Iterator[Proxy]:
    """A proxy that runs in the block."""
    proxy = Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()

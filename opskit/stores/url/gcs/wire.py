"""HTTP as it goes to Google: by urllib3, through the proxies of the environment, within time-outs.

Neither redirects nor retries: a token must not go to a server that was not named, and `stores.wrappers.retry` repeats.
A body goes out in pieces, for each write to the socket must be through within the time that a connection may take.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from opskit.stores.url.service import CONNECT_TIMEOUT, LibraryMissing

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_PIECE = 64 << 10
_CONNECTIONS = 16


class Body(NamedTuple):
    """What a request carries: bytes in a row that nobody has to copy into one."""

    parts: tuple[bytes, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def pieces(self) -> Iterator[memoryview]:
        """All of it, a piece at a time."""
        for part in self.parts:
            whole = memoryview(part)
            yield from (whole[at : at + _PIECE] for at in range(0, len(part), _PIECE))


class Wire:
    """Connections that are kept open, for all threads.

    `timeout` is in seconds, between two pieces of an answer; `first_timeout` holds until a server was heard of.
    """

    def __init__(self, timeout: float, first_timeout: float | None = None) -> None:
        self.timeout = timeout
        self._first_timeout = timeout if first_timeout is None else min(first_timeout, timeout)
        self._lock = threading.Lock()
        self._managers: dict[str | None, PoolManager] = {}
        self._heard: set[str] = set()

    @contextmanager
    def answered(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None, timeout: float | None = None
    ) -> Iterator[BaseHTTPResponse]:
        """The answer to a request, its body not yet read; what is left of it at the end is dropped.

        Raises what urllib3 raises where the line broke, LibraryMissing.
        """
        manager = self._manager(url)
        from urllib3 import Timeout

        server = urlsplit(url).netloc
        patience = self.timeout if server in self._heard else self._first_timeout
        patience = patience if timeout is None else min(timeout, patience)
        pieces: Any = None
        sent = {"Accept-Encoding": "identity", "User-Agent": "opskit", **headers}
        if body is not None:
            pieces, sent["Content-Length"] = body.pieces(), str(len(body))
        response = manager.request(
            method, url, body=pieces, headers=sent, redirect=False, retries=False, preload_content=False,
            timeout=Timeout(connect=min(CONNECT_TIMEOUT, patience), read=patience),
        )  # fmt: skip
        self._heard.add(server)
        try:
            yield response
        finally:
            response.close()  # one that was read to its end has given its connection back

    def _manager(self, url: str) -> PoolManager:
        try:
            import urllib3
        except ImportError:
            raise LibraryMissing("urllib3", "gcs") from None
        proxy = _proxy(url)
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = (
                    urllib3.ProxyManager(proxy, maxsize=_CONNECTIONS, proxy_headers=_proxy_login(proxy))
                    if proxy
                    else urllib3.PoolManager(maxsize=_CONNECTIONS)
                )
            return self._managers[proxy]


def is_silence(error: Exception) -> bool:
    """Whether nothing came for too long."""
    if isinstance(error, LibraryMissing):
        return False
    from urllib3.exceptions import NewConnectionError, TimeoutError

    # A connection that was refused counts as one that timed out, for urllib3.
    return isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError)


def _proxy(url: str) -> str | None:
    """What the environment (`https_proxy`, `no_proxy`) says of the way to an address."""
    split = urlsplit(url)
    found = getproxies().get(split.scheme)
    if not found or proxy_bypass(split.hostname or ""):
        return None
    return found if "://" in found else f"http://{found}"


def _proxy_login(proxy: str) -> dict[str, str]:
    """What opens a proxy whose address has a user and a password in it."""
    split = urlsplit(proxy)
    if not split.username:
        return {}
    account = f"{unquote(split.username)}:{unquote(split.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(account.encode()).decode()}"}

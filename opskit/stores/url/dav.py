"""WebDAV (RFC 4918) by webdav4 and httpx.

At many servers a PUT shows parts of a file while it goes on, and after it broke off. So bytes go to a hidden name,
their size is asked for, and a MOVE that must not overwrite (`Overwrite: F`) gives them theirs. Servers look and rename
in two steps: within a process one MOVE goes at a time; two hosts could meet on one name only by storing the same bytes.
A MOVE that replaces removes first what was there (RFC 4918, 9.9.3), so for a moment an object that `heal` replaces is
absent. Redirects are not followed: a password must not go to a server that was not named.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from opskit.stores.base import Swept, looks_before
from opskit.stores.url.folders import Entry, Folders
from opskit.stores.url.service import CONNECT_TIMEOUT, LibraryMissing, Refused

if TYPE_CHECKING:
    from ssl import SSLContext

    from webdav4.client import Client

_UNFINISHED = ".tmp"
_OURS = re.compile(r"[0-9]+-[0-9a-f]{16}")  # the names in it
_MOVED = {201, 204}
_DENIED, _ABSENT, _NOT_ALLOWED, _CONFLICT, _TAKEN = {401, 403}, 404, 405, 409, 412


class Dav(Folders):
    """A collection at `url`. `password` fetches the user's password; `ca_file` says whose certificates are believed.

    `timeout` is in seconds, between two pieces of an answer; `first_timeout` holds instead until anything was heard of
    the server. A connection may take as long as the lesser of it and CONNECT_TIMEOUT.
    """

    def __init__(
        self,
        url: str,
        user: str | None = None,
        password: Callable[[], str | None] = lambda: None,
        *,
        ca_file: str | None = None,
        timeout: float = 60.0,
        first_timeout: float | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._user, self._password = user, password
        self._ca_file, self._timeout = ca_file, timeout
        self._first_timeout = timeout if first_timeout is None else min(first_timeout, timeout)
        self._lock, self._naming = threading.Lock(), threading.Lock()
        self._opened: Client | None = None
        self._made: set[str] = set()

    def entries(self, path: str) -> list[Entry]:
        """See Folders."""
        with _standard():
            found = self._client().ls(path, detail=True, allow_listing_resource=False)
        return [_entry(each) for each in found if isinstance(each, dict)]

    def look(self, path: str) -> Entry:
        """See Folders."""
        with _standard():
            return _entry(self._client().info(path))

    def range(self, path: str, start: int, end: int) -> bytes:
        """See Folders."""
        with _standard():
            response = self._client().http.get(self._at(path), headers={"Range": f"bytes={start}-{end - 1}"})
            _judge(response)
            data: bytes = response.content
        # A server that ignores ranges gives all of it.
        return data[start:end] if response.status_code == 200 else data

    def create(self, path: str, data: bytes, *, may_replace: bool) -> None:
        """See Service."""
        with _standard():
            if not may_replace and self._is_there(path):
                raise FileExistsError(path)
            self._make(path.rpartition("/")[0])
            self._make(_UNFINISHED)
            unfinished = f"{_UNFINISHED}/{os.getpid()}-{os.urandom(8).hex()}"
            try:
                _judge(self._client().http.put(self._at(unfinished), content=data))
                self._require(unfinished, len(data))
                self._name(unfinished, path, len(data), may_replace=may_replace)
            except BaseException:
                with suppress(Exception):  # what was wrong first is what counts
                    self._client().http.delete(self._at(unfinished))
                raise

    def sweep(self, now: float, older_than: float, *, dry_run: bool) -> Swept:
        """See Service. A server that does not tell when a file was written keeps it."""
        found = Swept()
        try:
            entries = self.entries(_UNFINISHED)
        except FileNotFoundError:
            return found
        for entry in entries:
            if entry.is_folder or not _OURS.fullmatch(entry.leaf) or not 0 < entry.modified <= now - older_than:
                continue
            with suppress(FileNotFoundError):  # finished or removed meanwhile
                if not dry_run:
                    self.unlink(f"{_UNFINISHED}/{entry.leaf}")
                found = Swept(found.files + 1, found.total_bytes + entry.size)
        return found

    def unlink(self, path: str) -> None:
        """See Folders."""
        with _standard():
            _judge(self._client().http.delete(self._at(path)))

    def prepare(self) -> None:
        """Make the collection of the root, below one that is there; raises FileNotFoundError."""
        with _standard():
            self._make_one("")

    def shortcomings(self) -> list[str]:
        """See Service."""
        return [f"WebDAV cannot promise that no put replaces: {looks_before('moves')}"]

    def _require(self, path: str, size: int) -> None:
        stored = self._client().info(path).get("content_length")
        if int(stored or 0) != size:
            raise Refused(500, f"expected {size} bytes to be stored, got {stored}")

    def _name(self, unfinished: str, path: str, size: int, *, may_replace: bool) -> None:
        with self._naming:
            if not may_replace and self._is_there(path):  # there are servers that take no notice of Overwrite
                raise FileExistsError(path)
            headers = {"Destination": self._at(path), "Overwrite": "T" if may_replace else "F"}
            response = self._client().http.request("MOVE", self._at(unfinished), headers=headers)
            if response.status_code == _TAKEN:
                raise FileExistsError(path)
            _judge(response)
            if response.status_code not in _MOVED:  # "accepted", or the word of something in between
                self._require(path, size)

    def _is_there(self, path: str) -> bool:
        try:
            self.look(path)
        except FileNotFoundError:
            return False
        return True

    def _make(self, path: str) -> None:
        """Make the collection at `path` and those above it, below the root."""
        if not path or path in self._made:
            return
        self._make(path.rpartition("/")[0])
        self._make_one(path)
        self._made.add(path)

    def _make_one(self, path: str) -> None:
        response = self._client().http.request("MKCOL", self._at(path))
        if response.status_code == _CONFLICT:  # RFC 4918, 9.3.1: the collection above is absent
            raise FileNotFoundError(path)
        if response.status_code == _NOT_ALLOWED:  # it is there
            return
        if response.is_server_error and self._is_there(path):  # somebody else made it meanwhile: WsgiDAV stumbles
            return
        _judge(response)

    def _at(self, path: str) -> str:
        return f"{self._url}/{quote(path)}" if path else f"{self._url}/"

    def _client(self) -> Client:
        with self._lock:
            if self._opened is None:
                try:
                    import httpx
                    from webdav4.client import Client
                except ImportError:
                    raise LibraryMissing("webdav4", "webdav") from None
                password = self._password()
                self._opened = Client(
                    self._url,
                    auth=(self._user, password or "") if self._user else None,
                    retry=False,
                    timeout=httpx.Timeout(self._first_timeout, connect=min(CONNECT_TIMEOUT, self._first_timeout)),
                    event_hooks={"response": [self._hear]},
                    verify=_believed(self._ca_file) if self._url.startswith("https:") else False,
                    follow_redirects=False,
                )
                weakref.finalize(self, self._opened.http.close)
            return self._opened

    def _hear(self, _response: object) -> None:
        """The server has spoken: from now on it may take its time."""
        if not self.was_heard and self._opened is not None:
            self._opened.http.timeout = (min(CONNECT_TIMEOUT, self._timeout), *[self._timeout] * 3)
            self.was_heard = True


def _believed(ca_file: str | None) -> SSLContext:
    import ssl

    return ssl.create_default_context(cafile=ca_file)


def _judge(response: Any) -> None:
    """Raise what an answer that is no success means."""
    status = response.status_code
    if status == _ABSENT:
        raise FileNotFoundError(status)
    if not 200 <= status < 300 or status == 207:
        raise Refused(status, str(response.reason_phrase))


def _entry(found: dict[str, Any]) -> Entry:
    modified = found.get("modified")
    return Entry(
        str(found.get("name", "")).rstrip("/").rpartition("/")[2],
        found.get("type") == "directory",
        int(found.get("content_length") or 0),
        modified.timestamp() if modified is not None else 0.0,
    )


@contextmanager
def _standard() -> Iterator[None]:
    """Turn errors of webdav4 into standard ones."""
    try:
        from httpx import TimeoutException
        from webdav4.client import HTTPError, IsAResourceError, ResourceNotFound
    except ImportError:
        raise LibraryMissing("webdav4", "webdav") from None
    try:
        yield
    except TimeoutException as error:
        raise TimeoutError("no answer came in time") from error
    except ResourceNotFound as error:
        raise FileNotFoundError(error.path) from error
    except IsAResourceError as error:
        raise FileNotFoundError(error.path) from error
    except HTTPError as error:
        if error.status_code == _ABSENT:
            raise FileNotFoundError(_ABSENT) from error
        raise Refused(error.status_code, error.response.reason_phrase) from error
    except (ValueError, KeyError, SyntaxError) as error:  # SyntaxError is what XML that is none raises
        raise Refused(200, "an answer that is none of WebDAV") from error

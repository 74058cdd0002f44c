"""Google Cloud Storage: objects below a prefix of a bucket, by the JSON API.

Every object is one request (a multipart upload) with `ifGenerationMatch=0`, so that nobody replaces, and with its MD5,
which the service checks before anything is stored. Where an endpoint takes no notice of the condition (`probe` finds
out) a put looks first, one at a time for a name in this process. Listings are flat, in pages, and strongly consistent.
That an object is absent counts only when a listing says so as well: an answer without a body proves nothing, and a 404
of a download cannot tell a missing bucket from a missing object. Neither makes nor removes buckets.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlencode

from opskit.stores.base import PROBE, ObjectInfo
from opskit.stores.url.gcs import answers
from opskit.stores.url.gcs.answers import ABSENT, DENIED, NO_CONTENT, OK, OUT_OF_RANGE, PARTIAL
from opskit.stores.url.gcs.login import Login
from opskit.stores.url.gcs.wire import Body, Wire, is_silence
from opskit.stores.url.service import Honours, Refused, RootMissing, Service, Short, expect_size

_MOST = 64 << 20
"""Bytes of an answer that is no object."""
_FIRST, _OTHER = PROBE


class _Altered(Short):
    """Something was stored, and it is not what was sent."""


class Gcs(Service):
    """What is below `prefix` in `bucket`, at `address`. `key` fetches the JSON key of a service account.

    `conditional` says whether the endpoint honours `ifGenerationMatch`. `timeout` is in seconds, between two
    pieces of an answer; `first_timeout` holds instead until anything was heard. `page_size` is in objects.
    """

    root = "bucket"
    root_hint = "make the bucket, or correct its name; opskit never makes a bucket"

    def __init__(
        self,
        address: str,
        bucket: str,
        prefix: str = "",
        key: Callable[[], str | None] = lambda: None,
        *,
        storage_class: str | None = None,
        conditional: bool = True,
        timeout: float = 60.0,
        first_timeout: float | None = None,
        page_size: int = 1000,
    ) -> None:
        self._address, self._bucket = address.rstrip("/"), bucket
        self._folder = f"{prefix}/" if prefix else ""
        self._storage_class, self._conditional, self._page_size = storage_class, conditional, page_size
        self._wire = Wire(timeout, first_timeout)
        self._login = Login(self._wire, key, is_encrypted=address.startswith("https:"))
        self._busy: set[str] = set()
        self._freed = threading.Condition()

    def objects(self, prefix: str, at_once: int) -> Iterator[ObjectInfo]:
        """See Service."""
        for found in self._listed(self._folder + prefix):
            if not prefix or found.name == prefix or found.name.startswith(f"{prefix}/"):
                yield found

    def read(self, path: str, offset: int, length: int | None, check: Callable[[int], None]) -> bytes:
        """See Service."""
        if length == 0:
            return self._nothing_of(path)
        try:
            return self._read(path, offset, length, check)
        except (FileNotFoundError, Refused) as error:
            if not _is_absence(error):
                raise
            raise self._absence(path) from error

    def create(self, path: str, data: bytes, *, may_replace: bool) -> None:
        """See Service."""
        if may_replace:
            self._insert(path, data)
        elif self._conditional:
            self._insert_new(path, data)
        else:
            with self._alone(path):
                if self._look(path) is not None:
                    raise FileExistsError(path)
                self._insert_new(path, data)

    def remove(self, path: str) -> None:
        """See Service."""
        with self._asked("DELETE", self._object(path)) as answer:
            said = answer.read(_MOST)  # what is not read to its end costs the connection
        if answer.status == NO_CONTENT:
            return
        refused = answers.refusal(answer.status, said)
        if answer.status != OK and not _is_absence(refused):
            raise refused
        absence = self._absence(path)
        if answer.status != OK or not isinstance(absence, FileNotFoundError):
            raise absence from refused

    def probe(self) -> Honours:
        """See Service. The objects made for it have names that no listing of a store shows."""
        path = f".opskit-probe-{os.urandom(8).hex()}"
        try:
            self._insert(path, _FIRST, is_new=True)
            conditional = self._refuses(path, _OTHER, _OTHER)
            checksums = self._refuses(f"{path}.bytes", _FIRST, _OTHER)
        finally:
            for made in (path, f"{path}.bytes"):
                with suppress(Exception):  # credentials may be put-only
                    self.remove(made)
        return Honours(conditional, checksums)

    def _refuses(self, path: str, data: bytes, announced: bytes) -> bool:
        """Whether a put is refused that would replace, or whose bytes are not those that were announced."""
        try:
            self._insert(path, data, is_new=True, announced=announced)
        except _Altered:
            return False
        except (FileExistsError, Short):
            return True
        except Refused as error:
            if error.status != DENIED:
                raise
            return True  # these credentials replace nothing, whatever the condition does
        return False

    def _insert_new(self, path: str, data: bytes) -> None:
        try:
            self._insert(path, data, is_new=True)
        except Refused as error:
            # To credentials that may not delete, and so not replace, a name that is taken may be forbidden.
            if error.status == DENIED and self._is_there(path):
                raise FileExistsError(path) from error
            raise

    def _insert(self, path: str, data: bytes, *, is_new: bool = False, announced: bytes | None = None) -> None:
        md5 = _md5(data if announced is None else announced)
        about = {"name": self._folder + path, "contentType": "application/octet-stream", "md5Hash": md5}
        if self._storage_class is not None:
            about["storageClass"] = self._storage_class
        boundary = os.urandom(16).hex()
        query: dict[str, Any] = {"uploadType": "multipart", "fields": "kind,name,md5Hash"}
        if is_new:
            query["ifGenerationMatch"] = 0
        body = Body((_head(boundary, about), data, f"\r\n--{boundary}--\r\n".encode()))
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        with self._asked("POST", f"/upload/storage/v1/b/{self._bucket}/o", query, headers, body) as answer:
            stored = answers.resource(answer.status, answer.read(_MOST), "object")
        if stored.get("name") != about["name"] or stored.get("md5Hash", md5) != md5:
            raise _Altered(f"expected {about['name']} with the MD5 {md5} to be stored, got {stored}")

    def _read(self, path: str, offset: int, length: int | None, check: Callable[[int], None]) -> bytes:
        headers = {}
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        with self._asked("GET", self._object(path), {"alt": "media"}, headers) as answer:
            if answer.status not in (OK, PARTIAL):
                said = answer.read(_MOST)
                if answer.status != OUT_OF_RANGE:
                    raise answers.refusal(answer.status, said)
            else:
                found = answers.extent(answer.status, answer.headers, offset)
                if length is None or answer.status == OK:
                    check(found.size)
                end = found.size if length is None else min(found.size, offset + length)
                if found.end < end:
                    raise Short(f"expected bytes up to {end}, got them up to {found.end}")
                data = expect_size(answer.read(), max(0, found.end - found.start))
                # One that takes no notice of ranges gives all of it.
                return data[offset - found.start :][:length]
        return self._nothing_of(path)

    def _nothing_of(self, path: str) -> bytes:
        """No bytes of an object that is there; raises FileNotFoundError."""
        if self._look(path) is None:
            raise FileNotFoundError(path)
        return b""

    def _absence(self, path: str) -> Exception:
        """What it means that the service knows no such object."""
        if self._look(path) is None:
            return FileNotFoundError(path)
        return Short("the service lists an object, and says that there is none")

    def _look(self, path: str) -> ObjectInfo | None:
        """An object as it is listed, None where it is not; raises RootMissing."""
        return next((found for found in self._listed(self._folder + path) if found.name == path), None)

    def _is_there(self, path: str) -> bool:
        try:
            return self._look(path) is not None
        except Exception:  # the refusal that led here is what counts
            return False

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose keys begin so, by their names below the root."""
        query = {"prefix": prefix, "maxResults": self._page_size}
        query["fields"] = "kind,nextPageToken,items(name,size,timeCreated)"
        token = ""
        while True:
            page = self._page(query | ({"pageToken": token} if token else {}))
            for item in page.get("items") or []:
                found = answers.listed(item)
                if found.name.startswith(prefix):
                    yield found._replace(name=found.name[len(self._folder) :])
            last, token = token, page.get("nextPageToken") or ""
            if not token:
                return
            if token == last or not isinstance(token, str):
                raise Refused(OK, "a listing that does not go on")

    def _page(self, query: dict[str, Any]) -> dict[str, Any]:
        with self._asked("GET", f"/storage/v1/b/{self._bucket}/o", query) as answer:
            try:
                return answers.resource(answer.status, answer.read(_MOST), "objects")
            except FileNotFoundError as error:
                raise RootMissing(str(error)) from error

    def _object(self, path: str) -> str:
        return f"/storage/v1/b/{self._bucket}/o/{quote(self._folder + path, safe='')}"

    @contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        body: Body | None = None,
    ) -> Iterator[Any]:
        """The answer to a request, its body not yet read; raises TimeoutError where nothing comes for too long."""
        url = f"{self._address}{path}" + (f"?{urlencode(query)}" if query else "")
        shown = self._login.headers() | (headers or {})
        try:
            with self._wire.answered(method, url, shown, body) as answer:
                self.was_heard = True
                yield answer
        except Exception as error:
            if not is_silence(error):
                raise
            raise TimeoutError("no answer came in time") from error

    @contextmanager
    def _alone(self, path: str) -> Iterator[None]:
        """Nobody else in this process puts that name."""
        with self._freed:
            self._freed.wait_for(lambda: path not in self._busy)
            self._busy.add(path)
        try:
            yield
        finally:
            with self._freed:
                self._busy.remove(path)
                self._freed.notify_all()


def _is_absence(error: Exception) -> bool:
    """Whether an answer says that something is not there, in Google's words or in none."""
    return isinstance(error, FileNotFoundError) or (isinstance(error, Refused) and error.status == ABSENT)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _head(boundary: str, about: dict[str, str]) -> bytes:
    """What stands before the bytes in a multipart upload: what is said of the object."""
    return (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(about)}\r\n"
        f"--{boundary}\r\nContent-Type: {about['contentType']}\r\n\r\n"
    ).encode()

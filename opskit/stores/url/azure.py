"""Azure Blob Storage, by Microsoft's own azure-storage-blob.

Every object is one Put Blob, which shows all of it or nothing, with `If-None-Match: *`, so that nobody replaces, and
with its MD5, which the service checks. Listings are flat, in pages. An answer without `x-ms-version` is none of Azure's
and no empty listing either. The SDK's retries and redirects are off: `stores.wrappers.retry` repeats, and credentials
must not go to a server that was not named. Neither makes nor removes containers.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from opskit.stores.base import ObjectInfo
from opskit.stores.url.service import CONNECT_TIMEOUT, LibraryMissing, Refused, RootMissing, Service, Short, expect_size

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties, ContainerClient

_LARGEST_PUT = 1 << 31
"""Bytes that go in one request; Azure takes 5,000 MiB in one, and opskit makes no object of more than 1 GiB."""
_FIRST_GET = 64 << 20
_BAD, _DENIED, _ABSENT, _OUT_OF_RANGE = 400, 403, 404, 416
_NO_CONTAINER = "ContainerNotFound"
_TAKEN = {"BlobAlreadyExists", "ConditionNotMet"}
_LOCKED = {"BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold", "LeaseIdMissing", "SnapshotsPresent"}


class AzureSecrets(NamedTuple):
    """What opens the account: its key, or a shared access signature; neither: the SDK's usual chain."""

    account_key: str | None = None
    sas_token: str | None = None


class Azure(Service):
    """What is below `prefix` in a container of `account`, which is at `url`. `secrets` fetches what opens it.

    `timeout` is in seconds, between two pieces of an answer; `first_timeout` holds instead until anything was heard of
    the account. A connection may take as long as the lesser of it and CONNECT_TIMEOUT. `page_size` is in objects.
    """

    root = "container"
    root_hint = "make the container, or correct its name and account; opskit never makes a container"

    def __init__(
        self,
        url: str,
        account: str,
        container: str,
        prefix: str = "",
        secrets: Callable[[], AzureSecrets] = AzureSecrets,
        *,
        timeout: float = 60.0,
        first_timeout: float | None = None,
        page_size: int = 5000,
    ) -> None:
        self._url, self._account, self._container = url.rstrip("/"), account, container
        self._folder = f"{prefix}/" if prefix else ""
        self._secrets, self._timeout, self._page_size = secrets, timeout, page_size
        self._first_timeout = timeout if first_timeout is None else min(first_timeout, timeout)
        self._lock = threading.Lock()
        self._opened: ContainerClient | None = None

    def objects(self, prefix: str, at_once: int) -> Iterator[ObjectInfo]:
        """See Service."""
        below = self._folder + (f"{prefix}/" if prefix else "")
        with _standard():
            client = self._client()
            for blob in client.list_blobs(
                below, include=["metadata"], results_per_page=self._page_size, **self._limits()
            ):
                if not _is_folder(blob):
                    yield self._info(blob)
            if prefix:
                try:
                    there = client.get_blob_client(self._folder + prefix).get_blob_properties()
                except _not_found() as error:
                    if _code(error) == _NO_CONTAINER:
                        raise
                    return
                if not _is_folder(there):
                    yield self._info(there)

    def read(self, path: str, offset: int, length: int | None, check: Callable[[int], None]) -> bytes:
        """See Service."""
        with _standard():
            blob, limits = self._client().get_blob_client(self._folder + path), self._limits()
            if length == 0:
                blob.get_blob_properties(**limits)
                return b""
            whole = offset == 0 and length is None
            try:
                found = blob.download_blob(**limits) if whole else blob.download_blob(offset, length, **limits)
            except _refusal() as error:
                if error.status_code == _OUT_OF_RANGE:
                    return b""
                raise
            if length is None:
                check(offset + found.size)
            return expect_size(found.readall(), found.size)

    def create(self, path: str, data: bytes, *, may_replace: bool) -> None:
        """See Service."""

        def send_in_pieces(request: Any) -> None:
            # A body in one piece would have to be sent within the time that a connection may take.
            if data:  # nothing at all must keep its length of 0
                request.http_request.data = BytesIO(data)

        try:
            with _standard(creates=not may_replace):
                self._client().get_blob_client(self._folder + path).upload_blob(
                    data,
                    overwrite=may_replace,
                    validate_content=True,
                    raw_request_hook=send_in_pieces,
                    **self._limits(),
                )
        except Refused as error:
            # To credentials that may create but not write, a name that is taken is forbidden.
            if error.status == _DENIED and not may_replace and self._is_there(path):
                raise FileExistsError(path) from error
            raise

    def remove(self, path: str) -> None:
        """See Service."""
        with _standard():
            self._client().get_blob_client(self._folder + path).delete_blob(**self._limits())

    def _is_there(self, path: str) -> bool:
        try:
            self.read(path, 0, 0, lambda _size: None)
        except Exception:  # the refusal that led here is what counts
            return False
        return True

    def _info(self, blob: BlobProperties) -> ObjectInfo:
        modified = blob.last_modified
        return ObjectInfo(blob.name[len(self._folder) :], blob.size, modified.timestamp() if modified else 0.0)

    def _client(self) -> ContainerClient:
        with self._lock:
            if self._opened is None:
                try:
                    from azure.storage.blob import ContainerClient
                except ImportError:
                    raise LibraryMissing("azure-storage-blob", "azure") from None
                self._opened = ContainerClient(
                    self._url, self._container, self._credential(),
                    max_single_put_size=_LARGEST_PUT, max_single_get_size=_FIRST_GET,
                    retry_total=0, permit_redirects=False, raw_response_hook=self._hear,
                    connection_timeout=min(CONNECT_TIMEOUT, self._timeout), read_timeout=self._timeout,
                )  # fmt: skip
                weakref.finalize(self, self._opened.close)
            return self._opened

    def _hear(self, response: Any) -> None:
        self.was_heard = True
        _must_be_azure(response)

    def _limits(self) -> dict[str, Any]:
        """Of one request, where they differ from those of the client: as long as nothing was heard."""
        first = self._first_timeout
        return {} if self.was_heard else {"read_timeout": first, "connection_timeout": min(CONNECT_TIMEOUT, first)}

    def _credential(self) -> Any:
        account_key, sas_token = self._secrets()
        if account_key is not None:
            from azure.core.credentials import AzureNamedKeyCredential

            return AzureNamedKeyCredential(self._account, account_key.strip())
        if sas_token is not None:
            from azure.core.credentials import AzureSasCredential

            return AzureSasCredential(sas_token.strip().removeprefix("?"))
        if not self._url.startswith("https:"):
            raise PermissionError("neither an account_key nor a sas_token, and a login only goes by https")
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError:
            raise LibraryMissing("azure-identity", "azure") from None
        return DefaultAzureCredential()


def _is_folder(blob: BlobProperties) -> bool:
    """Accounts with a hierarchical namespace list their folders among the objects, with this mark."""
    return {name.lower(): value for name, value in (blob.metadata or {}).items()}.get("hdi_isfolder") == "true"


def _must_be_azure(response: Any) -> None:
    answer = response.http_response
    if "x-ms-version" not in answer.headers and "x-ms-request-id" not in answer.headers:
        answer.internal_response.close()  # whose body nobody will read
        raise Refused(answer.status_code, "an answer that is none of Azure's")


def _refusal() -> Any:
    from azure.core.exceptions import HttpResponseError

    return HttpResponseError


def _not_found() -> Any:
    from azure.core.exceptions import ResourceNotFoundError

    return ResourceNotFoundError


def _code(error: Any) -> str:
    """What Azure calls an error; "" where it said nothing."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


@contextmanager
def _standard(*, creates: bool = False) -> Iterator[None]:
    """Turn errors of the SDK into standard ones. `creates`: a name that is taken is what may be met."""
    try:
        from azure.core.exceptions import (
            ClientAuthenticationError,
            HttpResponseError,
            ServiceRequestTimeoutError,
            ServiceResponseTimeoutError,
        )
    except ImportError:
        raise LibraryMissing("azure-storage-blob", "azure") from None
    try:
        yield
    except (ServiceRequestTimeoutError, ServiceResponseTimeoutError) as error:
        raise TimeoutError("no answer came in time") from error
    except ClientAuthenticationError as error:
        raise Refused(error.status_code or 401, _said(error)) from error
    except HttpResponseError as error:
        raise _judged(error, creates) from error


def _judged(error: Any, creates: bool) -> Exception:
    code, status = _code(error), error.status_code or 0
    if status == _ABSENT:
        return RootMissing(code) if code == _NO_CONTAINER else FileNotFoundError(code)
    if creates and code in _TAKEN:
        return FileExistsError(code)
    if status < _BAD or (status == _BAD and "md5" in _said(error).lower()):  # an answer that was cut, other bytes
        return Short(_said(error))
    if code in _LOCKED:
        return PermissionError(_said(error))
    return Refused(status, _said(error))


def _said(error: Any) -> str:
    """The code and the first line: what follows may repeat what was signed."""
    lines = str(getattr(error, "message", "") or "").splitlines()
    return " ".join(each for each in (_code(error), lines[0] if lines else type(error).__name__) if each)

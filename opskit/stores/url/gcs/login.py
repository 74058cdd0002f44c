"""Whose requests they are: a token from the key of a service account, or what Google's own tools use.

google-auth makes tokens and renews them before they end. Neither a key nor a token is ever in a message. Where there
is no TLS, and no key is given, requests go out without a token: so emulators are used, and nothing can be learned.
A line that breaks or falls silent in a login is told as that: no key was refused.
"""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from opskit.stores.url.gcs.wire import Body, Wire, is_silence
from opskit.stores.url.service import LibraryMissing, Refused

_SCOPES = ["https://www.googleapis.com/auth/devstorage.read_write"]
_UNAVAILABLE = 503
_MOST = 1 << 20
"""Bytes of an answer that holds a token."""


class Login:
    """Tokens for one place. `key` fetches the JSON key of a service account, None: application default credentials."""

    def __init__(self, wire: Wire, key: Callable[[], str | None], *, is_encrypted: bool) -> None:
        self._wire, self._key, self._is_encrypted = wire, key, is_encrypted
        self._lock = threading.Lock()
        self._under_way: Future[dict[str, str]] | None = None
        self._credentials: Any = None
        self._is_open = False

    def headers(self) -> dict[str, str]:
        """What a request shows to be let in.

        Requests made side by side share one login, and its failure: another would take as long. Raises PermissionError,
        Refused, LibraryMissing, UnresolvedReference, TimeoutError, and what urllib3 raises where the line broke.
        """
        with self._lock:
            is_ours = self._under_way is None
            login = self._under_way = self._under_way or Future()
        if is_ours:
            try:
                login.set_result(self._shown())
            except BaseException as error:  # those that wait must hear of an interruption, too
                login.set_exception(error)
            finally:
                self._under_way = None
        return login.result()

    def _shown(self) -> dict[str, str]:
        if not self._is_open:
            self._credentials = self._opened()
            self._is_open = True
        shown: dict[str, str] = {}
        if self._credentials is not None:
            self._refresh()
            self._credentials.apply(shown)
        return shown

    def _opened(self) -> Any:
        key = self._key()
        if key is not None:
            return _service_account(key)
        return self._default() if self._is_encrypted else None

    def _default(self) -> Any:
        try:
            import google.auth
            from google.auth.exceptions import DefaultCredentialsError
        except ImportError:
            raise LibraryMissing("google-auth", "gcs") from None
        # Which project would pay for other services is nothing that storage needs to know.
        logging.getLogger("google.auth._default").setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings(action="ignore"):
                looked: Any = self._looked  # what it calls, of whatever class
                credentials, _project = google.auth.default(scopes=_SCOPES, request=looked)
        except DefaultCredentialsError as error:
            raise PermissionError(f"no credentials: {_first_line(error)}") from None
        return credentials

    def _refresh(self) -> None:
        from google.auth.exceptions import RefreshError

        if self._credentials.valid:
            return
        try:
            self._credentials.refresh(self._asked)
        except RefreshError as error:
            if error.retryable:
                raise Refused(_UNAVAILABLE, f"no login: {_first_line(error)}") from None
            raise PermissionError(f"no login: {_first_line(error)}") from None
        except TypeError:  # what it does with an answer that is no JSON
            raise Refused(200, "an answer that is none of Google's, to a login") from None

    def _asked(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **_more: object,
    ) -> _Answer:
        """What google-auth wants of HTTP (google.auth.transport.Request), but that a line that broke is told as that.

        As a TransportError google-auth would take it for a reason to try again, five times at the metadata server, and
        then for a refusal. Its own time-outs are meant for such tries.
        """
        return self._answered(method, url, headers, body, None)

    def _looked(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_more: object,
    ) -> _Answer:
        """The same where google-auth looks what there is: what does not answer soon is not there."""
        from google.auth import exceptions
        from urllib3.exceptions import HTTPError

        failures: Any = exceptions
        try:
            return self._answered(method, url, headers, body, timeout)
        except (HTTPError, TimeoutError) as error:
            raise failures.TransportError(type(error).__name__) from error

    def _answered(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: bytes | None, timeout: float | None
    ) -> _Answer:
        sent = None if body is None else Body((body,))
        try:
            with self._wire.answered(method, url, headers or {}, sent, timeout) as response:
                return _Answer(response.status, response.headers, response.read(_MOST))
        except Exception as error:
            if not is_silence(error):
                raise
            raise TimeoutError("no answer to a login came in time") from error


class _Answer:
    """An answer as google-auth reads it (google.auth.transport.Response)."""

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status, self.headers, self.data = status, headers, data


def _service_account(key: str) -> Any:
    try:
        from google.oauth2 import service_account
    except ImportError:
        raise LibraryMissing("google-auth", "gcs") from None
    try:
        credentials: Any = service_account.Credentials
        return credentials.from_service_account_info(json.loads(key), scopes=_SCOPES)
    except Exception:  # whatever it says may repeat the key
        raise PermissionError("something that is not the JSON key of a service account") from None


def _first_line(error: Exception) -> str:
    """What google-auth says: the first argument; the others repeat the whole answer."""
    lines = str(error.args[0] if error.args else "").splitlines()
    return lines[0][:200] if lines else type(error).__name__

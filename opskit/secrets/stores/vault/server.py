"""Asking Vault, by hvac, its one owner: log in, read a secret, write one if nobody else did meanwhile.

Invariants: the token goes to the host of VAULT_ADDR and to no other (no redirects, no proxies, no .netrc), after its
certificate was verified; it is in no message, nor is any text of the server, which might repeat what it was sent. What
was sent is not sent twice: only connections that failed are tried again. No connection is kept, so a process may fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import quote

from opskit.errors import SecretStoreError
from opskit.secrets.stores.vault.access import Access

_SECONDS = 10.0
"""How long a connection, and then each answer, is waited for."""
_CONNECTS = 1
"""How often a connection that failed is tried again."""
_CONFLICT = "check-and-set parameter did not match"

Data = dict[str, Any]
"""The keys and values of a secret."""
_Answer = TypeVar("_Answer")


class _Denied(SecretStoreError):
    """The token is not valid, or not for this."""


class Server:
    """One Vault, and the login to it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._token: str | None = None

    def read(self, mount: str, path: str, version: int | None) -> tuple[Data, int]:
        """The data of a secret and the version that they are of, of the latest by default.

        No data and the version where that one is deleted or destroyed; no data and 0 where there is no such secret.
        """

        def ask(client: Any) -> tuple[Data, int]:
            from hvac.exceptions import InvalidPath

            try:
                answer = client.secrets.kv.v2.read_secret_version(
                    path, version=version, mount_point=mount, raise_on_deleted_version=True
                )
            except InvalidPath as error:
                deleted = _version((error.json or {}).get("data"))
                if not deleted:
                    _require_version_2(client, mount)
                return {}, deleted
            return _found(answer, mount)

        return self._ask(f"read {mount}/{path}", ask)

    def write(self, mount: str, path: str, data: Data, version: int) -> bool:
        """Write all data of a secret, if its latest version is still this one (0: there is none); else False."""

        def ask(client: Any) -> bool:
            from hvac.exceptions import InvalidRequest

            try:
                answer = client.secrets.kv.v2.create_or_update_secret(path, data, cas=version, mount_point=mount)
            except InvalidRequest as error:
                if any(_CONFLICT in text for text in error.errors or ()):
                    return False
                raise
            if not _version({"metadata": _document(answer).get("data")}):
                raise ValueError("no version")
            return True

        return self._ask(f"write {mount}/{path}", ask)

    def _ask(self, deed: str, ask: Callable[[Any], _Answer]) -> _Answer:
        """Ask with the token at hand; where that one is refused by now, once more with a fresh one."""
        if self._token is not None:
            try:
                return self._asked(deed, self._token, ask)
            except _Denied:
                self._token = None
        self._token = self._logged_in() if self._access.has_role() else self._access.ready_token()
        return self._asked(deed, self._token, ask)

    def _logged_in(self) -> str:
        role_id, secret_id = self._access.role()

        def ask(client: Any) -> str:
            answer = client.auth.approle.login(role_id, secret_id, use_token=False)
            return str(_document(answer)["auth"]["client_token"])

        return self._asked("log in by AppRole", "", ask)

    def _asked(self, deed: str, token: str, ask: Callable[[Any], _Answer]) -> _Answer:
        hvac, url = _library(), self._access.url()
        self._access.headers_are_safe()
        with _told_apart(url, deed, self._access.ca_file):
            # Whatever is left out here, the library takes from this process's environment and home folder.
            client = hvac.Client(
                url=url,
                token=token,
                namespace=self._access.namespace,
                verify=self._access.ca_file or _system_authorities(),
                cert=(),
                timeout=(_SECONDS, _SECONDS),
                allow_redirects=False,
            )
            with client.session as session:
                session.trust_env = False
                for adapter in session.adapters.values():
                    # Retry-After is not for us: a server could make a backup wait for a day.
                    adapter.max_retries = adapter.max_retries.new(
                        total=_CONNECTS, connect=_CONNECTS, other=0, respect_retry_after_header=False
                    )
                return ask(client)


def _library() -> ModuleType:
    try:
        import hvac
    except ImportError:
        raise SecretStoreError(
            "secrets in vault need the Python package hvac, got none",
            hint="install it beside opskit: pip install 'opskit[vault]'",
        ) from None
    module: ModuleType = hvac
    return module


def _system_authorities() -> str | bool:
    """The certificates that this machine trusts, as for the vault program; where it has none, those of the library."""
    import ssl

    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def _found(answer: Any, mount: str) -> tuple[Data, int]:
    """What an answer says of a secret; version 1 of the engine answers too, and differently."""
    inner = _document(answer).get("data")
    version = _version(inner)
    data = inner.get("data") if isinstance(inner, dict) else None
    if not version or not isinstance(data, dict):
        raise _other_engine(mount)
    return data, version


def _document(answer: Any) -> dict[str, Any]:
    """An answer; raises ValueError for one that is no JSON object, which the library hands over as it came."""
    if not isinstance(answer, dict):
        raise ValueError("no JSON object")
    return answer


def _version(inner: Any) -> int:
    """The version that an answer is about, 0 for none."""
    metadata = inner.get("metadata") if isinstance(inner, dict) else None
    version = metadata.get("version") if isinstance(metadata, dict) else None
    return version if isinstance(version, int) else 0


def _require_version_2(client: Any, mount: str) -> None:
    """Raises SecretStoreError unless the mount is of KV version 2.

    Version 1 calls everything absent that version 2 would have, and would take what is then written for its own.
    """
    from hvac.exceptions import Forbidden, InvalidPath

    try:
        answer = client.adapter.get(f"/v1/sys/internal/ui/mounts/{quote(mount)}")
    except (Forbidden, InvalidPath):
        raise SecretStoreError(
            f"vault shows no secrets engine at {mount}: expected one of kind KV version 2",
            hint="vault secrets list shows where they are; ?mount=a/b names one that has a '/' in it",
        ) from None
    engine = _document(answer).get("data")
    options = engine.get("options") if isinstance(engine, dict) else None
    if not isinstance(engine, dict) or not isinstance(options, dict) or options.get("version") != "2":
        raise _other_engine(mount)
    if (found := str(engine.get("path")).strip("/")) != mount:
        raise SecretStoreError(
            f"{mount} lies in the secrets engine {found}: expected the whole path of an engine",
            hint=f"add ?mount={found}",
        )


def _other_engine(mount: str) -> SecretStoreError:
    return SecretStoreError(
        f"{mount} is no KV version 2 secrets engine: expected one, got another kind or version",
        hint=f"a vault administrator can convert version 1: vault kv enable-versioning {mount}",
    )


@contextmanager
def _told_apart(url: str, deed: str, ca_file: str | None) -> Iterator[None]:
    """Say what went wrong in our words: the causes carry the request with its token, and what the server wrote."""
    from hvac.exceptions import VaultError
    from requests.exceptions import RequestException

    try:
        yield
    except VaultError as error:
        raise _refusal(error, url, deed) from None
    except RequestException as error:
        raise _silence(error, url) from None
    except OSError:  # which a RequestException is too
        raise SecretStoreError(
            f"cannot {deed} at {url}: expected a readable certificate file, got {ca_file or 'none'}",
            hint="VAULT_CACERT names the file of the authority that signed vault's certificate",
        ) from None
    except (AttributeError, LookupError, TypeError, ValueError):
        raise SecretStoreError(
            f"cannot {deed} at {url}: expected an answer of vault, got something else",
            hint="a redirect is not followed: VAULT_ADDR must name the server itself",
        ) from None


def _refusal(error: Exception, url: str, deed: str) -> SecretStoreError:
    from hvac import exceptions as kinds

    start = f"cannot {deed} at {url}"
    if isinstance(error, kinds.Forbidden | kinds.Unauthorized):
        return _Denied(
            f"{start}: permission denied: the token has expired, or has no right to it",
            hint="vault token lookup shows it; log in anew, or have its policy extended",
        )
    if isinstance(error, kinds.VaultDown | kinds.VaultNotInitialized):
        return SecretStoreError(f"{start}: vault is sealed or not ready", hint="vault status; vault operator unseal")
    if isinstance(error, kinds.InvalidRequest | kinds.InvalidPath) and deed.startswith("log in"):
        return SecretStoreError(
            f"{start}: it does not take the role id and secret id",
            hint="have a new secret id written to the file that VAULT_SECRET_ID_FILE names",
        )
    if isinstance(error, kinds.RateLimitExceeded):
        return SecretStoreError(f"{start}: too many requests", hint="try again later")
    return SecretStoreError(f"{start}: vault answered with an error ({type(error).__name__})", hint="see vault's log")


def _silence(error: Exception, url: str) -> SecretStoreError:
    from requests import exceptions as kinds

    if isinstance(error, kinds.SSLError):
        return SecretStoreError(
            f"vault at {url} is not trusted: expected a certificate for that name by a known authority, got another",
            hint="VAULT_CACERT names the file of the authority that signed it",
        )
    if isinstance(error, kinds.Timeout):
        return SecretStoreError(f"vault at {url} does not answer: expected it within {_SECONDS:.0f} s")
    return SecretStoreError(
        f"vault at {url} cannot be reached, or broke off", hint="vault status; is VAULT_ADDR right?"
    )

"""The SSH connection to one server, and the SFTP sessions in it that requests share.

Invariants: the server's key is checked before anything else is said (`hostkeys`). Secrets are asked for when a
connection is made, handed to it, and kept nowhere. Each wait has an end. A connection on which anything hung or broke
is thrown away, and the next request makes a new one. No command is run at the server: the subsystem "sftp" is all that
is asked for, so an account that may do nothing else will do. No ssh_config is read: the destination says it all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from opskit.errors import ProgramMissing, StoreError, StoreRefused
from opskit.stores.sftp import hostkeys
from opskit.stores.sftp.failures import Lost, translated
from opskit.stores.sftp.place import SftpPlace
from opskit.stores.sftp.running import running

if TYPE_CHECKING:
    from asyncssh import SFTPClient, SSHClientConnection

T = TypeVar("T")

# AES-GCM takes two thirds of the time of asyncssh's first choice; what a server may lack of it comes after.
_CIPHERS = (
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr"
)
_KEEPALIVE, _KEEPALIVES = 15, 4  # seconds; silence that long and that often ends a connection


class Secrets(NamedTuple):
    """What opens the account: of each the value, or None."""

    password: str | None = None
    passphrase: str | None = None


class _Link:
    """A connection and its sessions: those idle, and how many there are and may be."""

    def __init__(self, connection: SSHClientConnection, most: int) -> None:
        self.connection = connection
        self.idle: list[SFTPClient] = []
        self.count, self.most = 0, most
        self.changed = asyncio.Condition()


class Connection:
    """The way to `place`. `secrets` fetches what opens the account, and may raise UnresolvedReference.

    `parallel` is how many requests may be under way at once; more wait. `connect_timeout` is for the whole way to an
    open account, `timeout` for one step of a request: an answer, or one more piece of a body; both in seconds.
    """

    def __init__(
        self,
        place: SftpPlace,
        secrets: Callable[[], Secrets] = Secrets,
        *,
        parallel: int = 3,
        connect_timeout: float = 20.0,
        timeout: float = 60.0,
    ) -> None:
        self.place = place
        self.parallel = parallel
        self.timeout = timeout
        self._secrets = secrets
        self._connect_timeout = connect_timeout
        self._link: _Link | None = None
        self._linking: asyncio.Lock | None = None
        self._was_connected = False
        self._failures, self._failure = 0, StoreError("")

    def run(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The outcome of `act`, awaited in the loop of all stores; any thread but that loop's may call."""
        try:
            import asyncssh  # noqa: F401  0.2 s, and an extra
        except ImportError:
            raise ProgramMissing(
                f"{self.place.location}: expected the Python package asyncssh, got none",
                hint="install it beside opskit: pip install 'opskit[sftp]'",
            ) from None
        return running().run(act())

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        if self._link is not None:
            running().run(self._close())

    def host_key(self) -> str:
        """The fingerprint of the key that the server of the present connection showed; "" without any."""
        key = self._link.connection.get_server_host_key() if self._link is not None else None
        return str(key.get_fingerprint()) if key is not None else ""

    async def within(self, awaitable: Awaitable[T]) -> T:
        """The outcome of one step; raises TimeoutError when it does not come in time."""
        return await asyncio.wait_for(awaitable, self.timeout)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[SFTPClient]:
        """A session for the block alone. What hangs or breaks in it ends the connection."""
        link = await self._linked()
        session = await self._taken(link)
        try:
            yield session
        except (Lost, OSError, EOFError, asyncio.CancelledError):
            self._drop(link)
            raise
        finally:
            async with link.changed:
                link.idle.append(session)
                link.changed.notify()

    async def _linked(self) -> _Link:
        if self._linking is None:
            self._linking = asyncio.Lock()
        failures = self._failures
        async with self._linking:
            if self._failures > failures:  # the attempt that was waited for failed: another would take as long
                raise _anew(self._failure)
            if self._link is None or self._link.connection.is_closed():
                try:
                    self._link = _Link(await self._connected(), self.parallel)
                except StoreError as error:
                    # Without its traceback, which holds whatever was to be sent.
                    self._failures, self._failure = self._failures + 1, _anew(error)
                    raise
                if not self._was_connected:
                    running().at_end(self._close)
                self._was_connected = True
            return self._link

    async def _taken(self, link: _Link) -> SFTPClient:
        """An idle session, or a new one; where the server allows no further ones, the next that is free."""
        import asyncssh

        while True:
            async with link.changed:
                await link.changed.wait_for(lambda: bool(link.idle) or link.count < link.most)
                if link.idle:
                    return link.idle.pop()
                link.count += 1
            try:
                with translated(self.place, "open"):
                    return await self.within(link.connection.start_sftp_client(path_errors="surrogateescape"))
            except StoreError as error:
                async with link.changed:
                    link.count -= 1
                    link.most = max(1, link.count)
                    link.changed.notify_all()
                    is_limit = isinstance(error.__cause__, asyncssh.ChannelOpenError) and link.count > 0
                if not is_limit:
                    self._drop(link)
                    raise

    def _drop(self, link: _Link) -> None:
        link.connection.abort()
        if self._link is link:
            self._link = None

    async def _close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.connection.close()
            with suppress(Exception):
                await link.connection.wait_closed()

    async def _connected(self) -> SSHClientConnection:
        """A new connection to an open account; raises StoreError and its kinds."""
        import asyncssh

        place, shown = self.place, list[str]()

        class Client(asyncssh.SSHClient):
            """Says no to every key that known_hosts does not, and remembers what was shown."""

            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                shown.append(f"{key.get_algorithm()} {key.get_fingerprint()}")
                return False

        known = hostkeys.believed(place)
        self._require_key()
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await asyncssh.connect(
                    place.host, place.port,
                    client_factory=Client, known_hosts=known, config=None, x509_trusted_certs=None,
                    gss_auth=False, gss_kex=False, encryption_algs=_CIPHERS, compression_algs=None,
                    keepalive_interval=_KEEPALIVE, keepalive_count_max=_KEEPALIVES,
                    **self._account(),
                )  # fmt: skip
        except asyncssh.HostKeyNotVerifiable as error:
            raise hostkeys.refusal(place, known, shown) from error
        except asyncssh.PermissionDenied as error:
            raise self._not_let_in(error) from error
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise StoreRefused(
                f"{place.location}: cannot use {place.identity_file or 'a key of ~/.ssh'}: {error}",
                hint="name a private key with identity_file:, and its passphrase, as a reference, with passphrase:",
            ) from error
        except (TimeoutError, OSError, asyncssh.Error) as error:
            raise self._unreached(error) from error

    def _account(self) -> dict[str, Any]:
        """Who logs in, and by what; a secret lives as long as the connection that got it."""
        secrets, place = self._secrets(), self.place
        found: dict[str, Any] = {}
        if place.user is not None:
            found["username"] = place.user
        if place.identity_file is not None:
            found |= {"client_keys": [str(place.identity_file)], "agent_path": None}
        if secrets.passphrase is not None:
            found["passphrase"] = secrets.passphrase
        if secrets.password is not None:
            found["password"] = secrets.password
            if place.identity_file is None:
                # Servers count refused keys: after a handful the password would not be heard any more.
                found |= {"client_keys": None, "agent_path": None}
        return found

    def _require_key(self) -> None:
        """Raise StoreRefused where the named private key cannot be read: that is no matter of the network."""
        path = self.place.identity_file
        if path is None:
            return
        try:
            path.open("rb").close()
        except OSError as error:
            raise StoreRefused(
                f"{self.place.location}: cannot read the private key {path}: {error.strerror or error}",
                hint="correct identity_file:, or let the user that runs opskit read that file; ssh-keygen makes one",
            ) from error

    def _not_let_in(self, error: Exception) -> StoreRefused:
        place = self.place
        offered = f"the key {place.identity_file}" if place.identity_file else "what was offered"
        return StoreRefused(
            f"{place.location}: the server does not let {place.user or 'this user'} in: it refused {offered}",
            hint="check user, and that the account's authorized_keys has the public key, or that the password is right",
        )

    def _unreached(self, error: Exception) -> StoreError:
        silent = f"no answer came within {self._connect_timeout:g} s"
        what = silent if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        # A server that was there a moment ago may be back in another.
        kind = Lost if self._was_connected else StoreError
        return kind(
            f"{self.place.location}: the server cannot be reached: {' '.join(what.split())}",
            hint="check host, port, the network and any firewall; what was stored will be reused",
        )


def _anew(error: StoreError) -> StoreError:
    """The same error without its traceback."""
    return type(error)(str(error), hint=error.hint)

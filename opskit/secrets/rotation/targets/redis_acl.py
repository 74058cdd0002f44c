"""Redis and Valkey, 6.0 or newer: passwords of one ACL user, who may have several; by redis-py, owned here.

The value is the plain password; servers are sent, and keep, its SHA-256 alone. The user is there before, enabled, and
keeps its rights: only hashes are added and removed. Users are not replicated, so each node has to be named, replicas
too; all are read before any is changed. What changed is kept with ACL SAVE, or CONFIG REWRITE (which writes down other
settings changed at run time as well). A node that could do neither would forget it at its next start, and is refused.

Invariants: over TCP a password is sent only after TLS showed a certificate for the node's name, unless the settings say
otherwise; every wait ends after TIMEOUT; no message holds what the library or the server wrote. Redis does not tell
which password a client used, so this target is no witness; clients that are connected stay so. `masterauth` of
replicas and `auth-pass` of Sentinels are not its business: they are consumers of such a password.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from opskit.errors import ConfigError, ProgramMissing, TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import TIMEOUT, password


@dataclass(frozen=True)
class Node:
    """Where one server listens."""

    host: str = "localhost"
    port: int = 6379
    socket: str | None = None
    """The path of a unix socket, in place of host and port."""
    tls: bool = True
    """Over TCP: whether to encrypt, and to verify the node's certificate; without, others can read passwords."""
    ca_file: str | None = None
    """Authorities that may have signed the certificate, beside those that this machine trusts."""

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"


@dataclass(frozen=True)
class RedisUserSettings:
    """What a rotation of a user's passwords has to know."""

    nodes: tuple[Node, ...]
    """All servers that the user's clients may come to, masters and replicas; a Sentinel has other commands."""
    user: str
    admin: str = "default"
    """Needs the commands acl, config|get, config|rewrite and info."""
    password: Callable[[], Secret] | None = None
    """The administrator's, resolved at each connection; None: the node asks for none."""
    may_forget: bool = False
    """Whether nodes that keep their users nowhere, in memory alone, are accepted."""


class RedisUser:
    """One user, on all nodes."""

    keeps_old = True

    def __init__(self, settings: RedisUserSettings) -> None:
        """Raises ConfigError where no node is named."""
        if not settings.nodes:
            raise ConfigError(f"the Redis user '{settings.user}' is nowhere: expected at least one node, got none")
        self._settings = settings

    def create(self, current: Secret | None, since: float) -> Secret:
        """A random password."""
        return password()

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Add its hash on each node that lacks it."""

        def wanted(node: _Administration) -> str | None:
            found = node.user(self._settings.user)
            if found is None:
                raise TargetRefused(
                    f"{node} has no user '{self._settings.user}'",
                    hint="make it once, with its rights, on every node: ACL SETUSER",
                )
            if "nopass" in found["flags"] or "on" not in found["flags"]:
                raise TargetRefused(
                    f"'{self._settings.user}' at {node} has no use for a password: "
                    f"expected flag on and not nopass, got {', '.join(found['flags'])}"
                )
            return None if _hash(secret) in found["passwords"] else f"#{_hash(secret)}"

        self._change(wanted)

    def verify(self, secret: Secret) -> bool:
        """By a login on every node; False where any of them refuses it, so of half an `apply` or `revoke` too."""
        return all([_accepts(node, self._settings.user, secret) for node in self._settings.nodes])  # none is left out

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Remove its hash on each node that has it; what is not `final` does so too, as `apply` adds it again."""
        if secret.reveal_bytes() == kept.reveal_bytes():
            raise TargetRefused(f"the password of '{self._settings.user}' cannot be revoked: it is the one to be kept")

        def wanted(node: _Administration) -> str | None:
            found = node.user(self._settings.user)
            if found is None or _hash(secret) not in found["passwords"]:
                return None
            if _hash(kept) not in found["passwords"]:
                raise TargetRefused(f"'{self._settings.user}' at {node} does not have the password that is to be kept")
            return f"!{_hash(secret)}"

        self._change(wanted)

    def _change(self, wanted: Callable[[_Administration], str | None]) -> None:
        """Change the user on each node in the way that `wanted` says of it; None: it is so already.

        Saved even then: a crash may have come in between. All nodes are asked before the first is changed.
        """
        with ExitStack() as stack:
            nodes = [stack.enter_context(_administration(each, self._settings)) for each in self._settings.nodes]
            changes = [(node, node.keeping(self._settings.may_forget), wanted(node)) for node in nodes]
            is_changed = False
            for node, keep, change in changes:
                try:
                    if change is not None:
                        # Not the library's acl_setuser: by default it turns the user off.
                        node.run(("ACL", "SETUSER", self._settings.user, change), "change the user")
                        is_changed = True
                    if keep:
                        node.run(keep, "save its users")
                except TargetRefused as error:
                    if is_changed:
                        raise TargetError(f"{error}; a change before that was made", hint=error.hint) from None
                    raise


class _Administration:
    """The administrator's connection to one node."""

    def __init__(self, client: Any, node: Node, admin: str) -> None:
        self._client, self._node, self._admin = client, node, admin

    def __str__(self) -> str:
        return str(self._node)

    def run(self, words: Sequence[str], deed: str) -> Any:
        """The answer to a command. Raises TargetRefused for an error that the node answers, else TargetError."""
        with _told_apart(self._node, self._admin, deed):
            return self._client.execute_command(*words)

    def user(self, name: str) -> Mapping[str, Sequence[str]] | None:
        """The `flags` and the `passwords`, as hashes, of a user; None where the node has none of that name."""
        found: Mapping[str, Sequence[str]] | None = self.run(("ACL GETUSER", name), "read the user")
        return found

    def keeping(self, may_forget: bool) -> tuple[str, ...]:
        """The command that keeps users over a restart; none where there is none and that is accepted."""
        if self.run(("CONFIG GET", "aclfile"), "read its settings").get("aclfile"):
            return ("ACL", "SAVE")
        if self.run(("INFO", "server"), "read its settings").get("config_file"):
            return ("CONFIG", "REWRITE")
        if not may_forget:
            raise TargetRefused(
                f"{self._node} keeps its users in memory alone, and would forget a new password when it starts anew",
                hint="give it an aclfile, or start it with a config file",
            )
        return ()


def _hash(secret: Secret) -> str:
    return hashlib.sha256(secret.reveal_bytes()).hexdigest()


@contextmanager
def _administration(node: Node, settings: RedisUserSettings) -> Iterator[_Administration]:
    its_password = settings.password() if settings.password else None
    with _told_apart(node, settings.admin, "log in"):
        client = _connected(node, settings.admin if its_password else None, its_password)
    with client:
        yield _Administration(client, node, settings.admin)


def _accepts(node: Node, user: str, secret: Secret) -> bool:
    try:
        with _told_apart(node, user, "log in"):
            _connected(node, user, secret).close()
    except _LoginRefused:
        return False
    return True


class _LoginRefused(TargetRefused):
    """No such user and password, or the user is off."""


def _connected(node: Node, user: str | None, its_password: Secret | None) -> Any:
    """A client that is logged in, and has sent nothing else."""
    redis = _library()
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis(
        host=node.host,
        port=node.port,
        unix_socket_path=node.socket,
        ssl=node.tls and not node.socket,
        ssl_ca_certs=node.ca_file,
        ssl_cert_reqs="required",
        ssl_check_hostname=True,
        username=user,
        password=its_password.reveal_bytes() if its_password else None,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # AUTH instead of HELLO, the same on all versions
        driver_info=None,
        decode_responses=True,
        single_connection_client=True,
    )


def _library() -> ModuleType:
    try:
        import redis
    except ImportError:
        raise ProgramMissing(
            "passwords of Redis and Valkey need the Python package redis, got none",
            hint="install it beside opskit: pip install 'opskit[redis]'",
        ) from None
    return redis


@contextmanager
def _told_apart(node: Node, user: str, deed: str) -> Iterator[None]:
    """Say what went wrong in our words: the library's errors can carry commands."""
    redis, start = _library().exceptions, f"'{user}' cannot {deed} at {node}"
    try:
        yield
    except redis.AuthenticationError:
        raise _LoginRefused(f"{start}: no such user and password, or the user is off") from None
    except redis.NoPermissionError:
        raise TargetRefused(
            f"{start}: it has no right to that",
            hint="the administrator needs the commands acl, config|get, config|rewrite and info",
        ) from None
    except redis.ResponseError:
        raise TargetRefused(f"{start}: the node answers with an error", hint="see the node's log") from None
    except redis.TimeoutError:
        raise TargetError(f"{start}: expected an answer within {TIMEOUT:.0f} s, got none") from None
    except (redis.RedisError, OSError) as error:
        raise TargetError(
            f"{start}: it cannot be reached, shows no trusted certificate, or broke off ({type(error).__name__})"
        ) from None

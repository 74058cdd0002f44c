"""Targets of every kind for stories of rotation: real servers, a value that each accepts, and a way to have it refuse.

Values begin and end with a mark of their own; between stand characters that get encoded, where the target takes such.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.targets import tls
from opskit.secrets.rotation.targets.ssh.target import public_of
from tests.cli.sentinels.stage import Stage
from tests.secrets.rotation import iam_server, postgresql_server, redis_nodes, sql_servers, ssh_server, tls_server

ODD = "'+/=%41&\"\\$(x)<ü> ✓"
PLAIN = "+/=%41&()<ü> ✓"
"""What a .env file keeps too."""
NAMES = ["app.example.org", "127.0.0.1"]


def marked(between: str = ODD) -> str:
    """A new secret that looks like nothing else."""
    return f"{secrets.token_hex(5)}{between}{secrets.token_hex(5)}"


@dataclass
class Target:
    """The entry of the config for it, the value that it accepts, and how it is made to refuse."""

    kind: str
    entry: dict[str, Any]
    first: bytes
    refuses: Callable[[], object]
    accepts: Callable[[], object]
    environ: dict[str, str] = field(default_factory=dict)


def since_now(path: Path) -> Callable[[], bytes]:
    """What a server writes to a log from here on."""
    size = path.stat().st_size
    return lambda: path.read_bytes()[size:]


class Admin:
    """An administrator's password in a file, which a wrong one can replace."""

    def __init__(self, stage: Stage, name: str, password: bytes, wrong: bytes) -> None:
        self.reference = stage.keep(f"{name}-admin", password)
        self._path, self._password, self._wrong = stage.machine.folder / f"{name}-admin", password, wrong
        stage.secrets.add(f"{name}-admin, a wrong one", wrong)

    def wrong(self) -> None:
        self._path.write_bytes(self._wrong)

    def right(self) -> None:
        self._path.write_bytes(self._password)


PROGRAM = """
import base64, hashlib, os, sys, urllib.parse
verb, folder = sys.argv[1:3]
value = sys.stdin.buffer.read()
name = os.path.join(folder, "accepted", hashlib.sha256(value).hexdigest())
if verb == "apply" and os.path.exists(os.path.join(folder, "refuses")):
    for each in (value, value.hex().encode(), base64.b64encode(b"x" + value), urllib.parse.quote(value).encode()):
        sys.stdout.buffer.write(each + b"\\n")
        sys.stderr.buffer.write(each + b"\\n")
    sys.stderr.write(repr(value))
    sys.exit(1)
if verb == "create":
    made = "".join(os.urandom(6).hex() + each + os.urandom(6).hex() for each in (os.environ["ODD"], "\\n"))
    sys.stdout.write(made)
    if os.path.exists(os.path.join(folder, "creates-badly")):
        open(os.path.join(folder, "creates-badly"), "w").write(made)
        sys.exit("cannot keep " + repr(made) + made)
elif verb == "apply":
    open(name, "w").close()
elif verb == "check":
    sys.exit(0 if os.path.exists(name) else 1)
elif os.path.exists(name):
    os.unlink(name)
"""


@contextmanager
def command(stage: Stage) -> Iterator[Target]:
    """Programs that make values of odd characters and two lines, and write what they are told when they refuse it."""
    folder = stage.machine.folder / "target"
    (folder / "accepted").mkdir(parents=True)
    (folder / "target.py").write_text(PROGRAM)
    first = f"{marked()}\n{marked()}".encode()
    (folder / "accepted" / hashlib.sha256(first).hexdigest()).touch()
    argv = {
        verb: [sys.executable, "-S", str(folder / "target.py"), verb, str(folder), "{old}"]
        for verb in ("create", "apply", "check", "disable", "delete")
    }
    refuses = folder / "refuses"
    yield Target("command", {**argv, "keeps_old": True}, first, refuses.touch, refuses.unlink, {"ODD": ODD})


@contextmanager
def postgresql(stage: Stage, count: int) -> Iterator[Target]:
    """One user, or two in turn."""
    server = postgresql_server.shared()
    stage.logs.append(since_now(server.server.socket / "log"))
    admin = Admin(stage, f"postgresql-{count}", postgresql_server.ADMIN_PASSWORD.reveal_bytes(), marked().encode())
    entry: dict[str, Any] = {"host": server.where.host, "admin": postgresql_server.ADMIN}
    entry["admin_password"] = admin.reference
    first = value = marked()
    if count == 1:
        entry["users"] = [server.role("LOGIN", Secret(first))]
    else:
        owner = entry["owner"] = server.role("NOLOGIN")
        options = (f"LOGIN IN ROLE {owner}", f"NOLOGIN IN ROLE {owner}")
        users = entry["users"] = [server.role(each, Secret(first)) for each in options]
        server.sql(*(f"ALTER ROLE {user} SET role = {owner}" for user in users))
        value = json.dumps({"username": users[0], "password": first})
    yield Target("postgresql", entry, value.encode(), admin.wrong, admin.right)


@contextmanager
def mariadb(stage: Stage) -> Iterator[Target]:
    """Two accounts in turn."""
    server, first = sql_servers.mariadb_server(), marked(PLAIN)
    users = [f"sent{secrets.token_hex(4)}_{each}" for each in "ab"]
    for user, password in zip(users, (first, marked()), strict=True):
        server.sql("CREATE USER %s@localhost IDENTIFIED BY %s", user, password)
    value = json.dumps({"username": users[0], "password": first}, ensure_ascii=False)
    yield _sql(stage, server, "mariadb", value, users=users)


@contextmanager
def mysql(stage: Stage) -> Iterator[Target]:
    """An account with two passwords."""
    server, first, user = sql_servers.mysql_server(), marked(PLAIN), f"sent{secrets.token_hex(4)}"
    server.sql("CREATE USER %s@localhost IDENTIFIED BY %s", user, first)
    yield _sql(stage, server, "mysql", first, user=user)


def _sql(stage: Stage, server: sql_servers.SqlServer, kind: str, value: str, **entry: Any) -> Target:
    stage.logs += [since_now(path) for path in server.log_files()]
    admin = Admin(stage, kind, sql_servers.ADMIN_PASSWORD.encode(), marked().encode())
    entry |= {"socket": str(server.socket), "admin": "rotator", "admin_password": admin.reference}
    return Target(kind, entry, value.encode(), admin.wrong, admin.right)


@contextmanager
def redis(stage: Stage) -> Iterator[Target]:
    """A user of two servers, which keep their users in different places."""
    with redis_nodes.redis_nodes("aclfile", "config") as nodes:
        first = marked()
        admin = Admin(stage, "redis", redis_nodes.ADMIN_PASSWORD.encode(), marked().encode())
        for node in nodes:
            node.run("ACL", "SETUSER", "app", "resetpass", f"#{redis_nodes.digest(first)}")
            stage.logs += [(node.folder / "log").read_bytes, node.config.read_bytes]
            stage.logs += [partial(_said, node, *words) for words in (("SLOWLOG", "GET", "1000"), ("ACL", "LOG"))]
        entry = {"nodes": [str(each.socket) for each in nodes], "user": "app", "admin": "rotator"}
        entry["admin_password"] = admin.reference
        yield Target("redis", entry, first.encode(), admin.wrong, admin.right)


def _said(node: redis_nodes.RedisNode, *words: str) -> bytes:
    return repr(node.run(*words)).encode()


@contextmanager
def aws_iam(stage: Stage) -> Iterator[Target]:
    """Access keys, which AWS makes."""
    with iam_server.aws() as iam:
        user = iam.user()
        first = iam.key(user)
        iam.age(first, 0.0, None)
        stage.logs.append(since_now(iam.requests))
        wrong = json.dumps({**json.loads(iam.admin.reveal()), "secret_access_key": marked("wrong")})
        admin = Admin(stage, "aws_iam", iam.admin.reveal_bytes(), wrong.encode())
        entry = {"user": user, "region": iam_server.REGION, "admin": admin.reference}
        environ = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{iam.port}"}
        yield Target("aws_iam", entry, first.reveal_bytes(), admin.wrong, admin.right, environ)


@contextmanager
def ssh(stage: Stage) -> Iterator[Target]:
    """Keys of an account at a real sshd."""
    if (reason := ssh_server.missing()) is not None:
        pytest.skip(reason)
    with ssh_server.account() as account:
        given = account.settings()
        stage.logs.append(lambda: account.log().encode())
        entry = {
            "authorized_keys": str(given.authorized_keys), "user": given.user, "host": given.host, "port": given.port,
            "known_hosts": str(given.known_hosts),
        }  # fmt: skip
        account.accepts(line := public_of(account.first))
        yield Target("ssh", entry, account.first.reveal_bytes(), account.accepts, partial(account.accepts, line))


@contextmanager
def tls_keys(stage: Stage) -> Iterator[Target]:
    """Keys with certificates of a small CA, which repeats the request when it refuses."""
    folder, refuses = stage.machine.folder / "tls", stage.machine.folder / "ca-refuses"
    folder.mkdir()
    stage.private.append(folder)
    script = f'test ! -e {refuses} || {{ cat >&2; exit 3; }}; exec "$@"'
    with tls_server.listening(folder) as server:
        here = (tls.Endpoint("127.0.0.1", server.port),)
        settings = tls.TlsSettings(folder, tuple(NAMES), tls_server.ca(), server.reload, here)
        target = tls.TlsKeys(settings, Programs({"PATH": os.environ["PATH"]}), time.time)
        first = target.create(None, 0.0)
        target.apply(first, None)
        entry = {
            "folder": str(folder), "names": NAMES, "endpoints": [f"127.0.0.1:{server.port}"],
            "ca": ["sh", "-c", script, "ca", *tls_server.ca()], "reload": list(server.reload),
        }  # fmt: skip
        yield Target("tls", entry, first.reveal_bytes(), refuses.touch, refuses.unlink)


@contextmanager
def backup_key(stage: Stage) -> Iterator[Target]:
    """The key of a recipient, whose copies go away."""
    machine, away = stage.machine, stage.machine.folder / "away"
    stage.private.append(machine.key)
    places = [(each, away / each.name) for each in (machine.a, machine.b)]
    away.mkdir()

    def refuses() -> None:
        for here, there in places:
            here.rename(there)

    def accepts() -> None:
        for here, there in places:
            there.rename(here)

    assert machine.run("backup").code == 0
    yield Target("backup_key", {}, machine.key.read_bytes(), refuses, accepts)


TARGETS: dict[str, Callable[[Stage], AbstractContextManager[Target]]] = {
    "command": command,
    "postgresql": partial(postgresql, count=1),
    "postgresql-alternating": partial(postgresql, count=2),
    "mariadb": mariadb,
    "mysql": mysql,
    "redis": redis,
    "aws_iam": aws_iam,
    "ssh": ssh,
    "tls": tls_keys,
    "backup_key": backup_key,
}
"""By the name of the rotation; each may call pytest.skip, naming what is missing."""

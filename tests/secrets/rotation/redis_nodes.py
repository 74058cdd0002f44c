"""Real Redis servers for tests of rotation, each in a folder of its own, on a socket; they end with the tests."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.targets.redis_acl import Node, RedisUserSettings

ADMIN_PASSWORD = "adm:in ä"
RIGHTS = "~app:* &* -@all +get"
WAIT_SECONDS = 20


def digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


class RedisNode:
    """A server with a user `app`, who has the password `first`, and an administrator with just the rights that count.

    `keeps` says where users are kept: "aclfile", "config" or "nowhere".
    """

    def __init__(self, folder: Path, keeps: str = "aclfile", *options: str) -> None:
        self.folder, self.keeps, self._options = folder, keeps, options
        self.socket, self.users, self.config = folder / "s", folder / "users.acl", folder / "redis.conf"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            f"user rotator on #{digest(ADMIN_PASSWORD)} -@all +acl +config|get +config|rewrite +info",
            f"user app on #{digest('first')} {RIGHTS}",
        ]
        if keeps == "aclfile":
            self.users.write_text("\n".join(["user default on nopass ~* &* +@all", *lines, ""]))
        settings = ["port 0", f"unixsocket {self.socket}", f"dir {folder}", 'save ""', "loglevel debug"]
        settings += [f"logfile {folder / 'log'}", "slowlog-log-slower-than 0", "slowlog-max-len 1000", *options]
        settings += [f"aclfile {self.users}"] if keeps == "aclfile" else lines
        self.config.write_text("\n".join([*settings, ""]))

    @property
    def node(self) -> Node:
        return Node(socket=str(self.socket))

    def start(self) -> None:
        words = ["setpriv", "--pdeathsig=KILL", "redis-server"]
        with self.config.open("rb") as text:  # of a config that comes by a pipe a server knows no file
            told = "-" if self.keeps == "nowhere" else str(self.config)
            self._process = subprocess.Popen([*words, told], stdin=text, stdout=subprocess.DEVNULL)
        end = time.monotonic() + WAIT_SECONDS
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def run(self, *words: str) -> Any:
        """The answer to a command of the tests' own administrator."""
        with redis.Redis(unix_socket_path=str(self.socket), decode_responses=True, protocol=2) as client:
            return client.execute_command(*words)

    def user(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run("ACL GETUSER", "app")
        return found

    def _answers(self) -> bool:
        try:
            return self.socket.exists() and bool(self.run("PING"))
        except redis.ConnectionError:
            return False


def settings(*nodes: RedisNode) -> RedisUserSettings:
    return RedisUserSettings(tuple(each.node for each in nodes), "app", "rotator", lambda: Secret(ADMIN_PASSWORD))


@contextmanager
def redis_nodes(*keeps: str, options: tuple[str, ...] = ()) -> Iterator[tuple[RedisNode, ...]]:
    """A server for each word, which says where it keeps its users."""
    for program in ("redis-server", "redis-cli", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} not installed")
    with ExitStack() as stack:
        made = []
        for word in keeps:  # below /tmp, as the path of a socket has at most 107 bytes
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ok-redis-", dir="/tmp")))
            made.append(RedisNode(folder, word, *options))
            stack.callback(made[-1].stop)
            made[-1].start()
        yield tuple(made)

"""A real sshd for tests: it gives a shell to whoever runs them, by a file of authorized keys that a test writes."""

from __future__ import annotations

import atexit
import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.targets.ssh import SshKeys, SshSettings
from opskit.secrets.rotation.targets.ssh.target import public_of
from tests.stores.sftp_server import SSHD, Server, Sshd, free_port, new_key


def missing() -> str | None:
    """Why no SSH server can be had here, or None."""
    return "no sshd here: apt-get install openssh-server" if SSHD is None else None


@dataclass(frozen=True)
class Account:
    """The account that the server opens by `file`."""

    sshd: Sshd
    file: Path
    first: Secret
    """A key that always is the first one of a test."""

    def settings(self, **options: Any) -> SshSettings:
        """Where the account is."""
        server = self.sshd.server
        given: dict[str, Any] = {
            "host": "127.0.0.1", "port": server.port, "known_hosts": server.known_hosts, "user": getpass.getuser(),
        }  # fmt: skip
        return SshSettings(self.file, **{**given, **options})

    def target(self, **options: Any) -> SshKeys:
        """That account's keys."""
        return SshKeys(self.settings(**options), Programs({"PATH": os.environ["PATH"]}))

    def accepts(self, *lines: str) -> None:
        """Have these lines in the file, and no others."""
        self.file.write_text("".join(f"{line}\n" for line in lines))
        self.file.chmod(0o600)

    def lines(self) -> list[str]:
        """The file."""
        return self.file.read_text().splitlines()

    def log(self) -> str:
        """What the server said so far."""
        return self.sshd.config.with_name("log").read_text(errors="replace")


@cache
def running() -> Account:
    """The account of this test session; its server is started when it is first asked for, and stopped at the end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(account())


@contextmanager
def account() -> Iterator[Account]:
    """An account with a server of its own."""
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    with TemporaryDirectory(prefix="opskit-ssh-") as temporary:
        home = Path(temporary)
        new_key(home / "host")
        first = Secret(new_key(home / "key").read_bytes())
        port = free_port()
        server = Server(home, port, home / "key", home / "known_hosts")
        algorithm, text = (home / "host.pub").read_text().split()[:2]
        server.known_hosts.write_text(f"[127.0.0.1]:{port} {algorithm} {text}\n")
        running = Sshd(server, _config(home, port))
        made = Account(running, home / "authorized_keys", first)
        made.accepts(public_of(first))
        try:
            running.start()
            yield made
        finally:
            running.stop()


def _config(home: Path, port: int) -> Path:
    path = home / "sshd_config"
    path.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized_keys\n"
        f"PidFile {home}/pid\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxStartups 100\nLogLevel VERBOSE\n"
        "KexAlgorithms curve25519-sha256\n"  # the usual one takes a tenth of a second
        f"SetEnv HOME={home}\n"  # nothing of whoever runs the tests is read there (.bashrc)
    )
    # From OpenSSH 9.8 on, many refusals in a row would have the server refuse everything for a while.
    patient = "PerSourcePenalties no"
    assert SSHD is not None
    if subprocess.run([SSHD, "-t", "-f", path, "-o", patient], capture_output=True, check=False).returncode == 0:
        path.write_text(f"{path.read_text()}{patient}\n")
    return path

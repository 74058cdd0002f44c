"""SFTP servers for tests: a real sshd of OpenSSH, run by whoever runs the tests, on a free port of the loopback.

It has host keys and authorized_keys of its own and offers the subsystem sftp alone. Beside it a small server made of
asyncssh, for what a real one cannot show here: a password that is right, and servers that lack OpenSSH's extensions.
Run as a program it is that server, and ends when its standard input does.
"""

from __future__ import annotations

import atexit
import getpass
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory
from typing import Any

from opskit.stores.sftp import Connection, Secrets, SftpPlace, SftpStore

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
PASSWORD = "hunter2-very-secret"


def missing() -> str | None:
    """Why no SFTP server can be had here, or None."""
    if SSHD is None:
        return "no sshd here: apt-get install openssh-server"
    try:
        import asyncssh  # noqa: F401
    except ImportError:
        return "no asyncssh here: pip install 'opskit[sftp]'"
    return None


@dataclass
class Server:
    """A running server whose files lie below `folder`; `key` opens it, `known_hosts` knows it."""

    folder: Path
    port: int
    key: Path
    known_hosts: Path
    made: list[Connection] = field(default_factory=list)

    def place(self, path: str | None = None, **options: Any) -> SftpPlace:
        """A place there: a new folder, unless a path is given."""
        given: dict[str, Any] = {
            "port": self.port, "user": getpass.getuser(), "identity_file": self.key, "known_hosts": self.known_hosts,
        }  # fmt: skip
        return SftpPlace("127.0.0.1", path or str(self.folder / uuid.uuid4().hex), **given | options)

    def connection(
        self, place: SftpPlace | None = None, secrets: Callable[[], Secrets] = Secrets, **options: Any
    ) -> Connection:
        """A way to it."""
        self.made.append(Connection(place or self.place(), secrets, **{"timeout": 20.0, **options}))
        return self.made[-1]

    def store(self, connection: Connection | None = None) -> SftpStore:
        """An empty store."""
        store = SftpStore(connection or self.connection())
        store.create()
        return store

    def url(self, name: str) -> str:
        """A location for the command line."""
        return f"sftp://{getpass.getuser()}@127.0.0.1:{self.port}{self.folder}/{name}"


def free_port() -> int:
    """A port below those that Linux gives to whoever asks for any: nobody takes it before sshd does, or in a pause."""
    while True:
        port = SystemRandom().randrange(20_000, 32_768)  # not of the generator that hypothesis seeds alike everywhere
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def new_key(path: Path) -> Path:
    """A new key pair, the public half beside it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path


def _config(folder: Path, port: int, more: str) -> Path:
    path = folder / "sshd_config"
    path.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxStartups 100\n"
        f"Subsystem sftp internal-sftp\nForceCommand internal-sftp\nAllowTcpForwarding no\nX11Forwarding no\n{more}\n"
    )
    return path


@dataclass
class Sshd:
    """A real sshd that can be stopped and started again."""

    server: Server
    config: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it answers."""
        assert SSHD is not None
        with self.config.with_name("log").open("ab") as log:
            command = [SSHD, "-D", "-e", "-f", str(self.config)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.server.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, self.config.with_name("log").read_text()
                time.sleep(0.05)
        raise AssertionError("sshd does not answer")

    def serving(self) -> list[int]:
        """The processes that serve its connections."""
        assert self.process is not None
        found, todo = [], [self.process.pid]
        while todo:
            parent = todo.pop()
            path = Path(f"/proc/{parent}/task/{parent}/children")
            below = [int(each) for each in path.read_text().split()] if path.exists() else []
            found += below
            todo += below
        return found

    def signal(self, number: int) -> None:
        """Send a signal to those processes."""
        for pid in self.serving():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        """Kill it and all that it serves, at once."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGSTOP)  # else it forks while those that it has are looked for
            self.signal(signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            self.process = None
            while _listens(self.server.port):  # for one that was just forked has that socket until it is gone
                time.sleep(0.01)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def sshd(more: str = "", folder: Path | None = None) -> Iterator[Sshd]:
    """A real server; `more` are further lines of its configuration, `folder` is where its files lie."""
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    with TemporaryDirectory(prefix="opskit-sshd-") as temporary:
        home = Path(temporary)
        new_key(home / "host")
        key = new_key(home / "key")
        port = free_port()
        files = folder or home / "files"
        files.mkdir(exist_ok=True)
        server = Server(files, port, key, home / "known_hosts")
        algorithm, text = (home / "host.pub").read_text().split()[:2]
        server.known_hosts.write_text(f"[127.0.0.1]:{port} {algorithm} {text}\n")
        running = Sshd(server, _config(home, port, more))
        try:
            running.start()
            yield running
        finally:
            for each in server.made:
                each.close()
            running.stop()


@cache
def running() -> Server:
    """The real server of this test session, started when it is first asked for and stopped at the end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(sshd()).server


@contextmanager
def plain(*options: str) -> Iterator[Server]:
    """A server with neither links nor fsync (`--poorest`: nor posix-rename), that takes a password too."""
    with TemporaryDirectory(prefix="opskit-sftp-") as temporary:
        home = Path(temporary)
        new_key(home / "host")
        key = new_key(home / "key")
        (home / "files").mkdir()
        command = [sys.executable, "-W", "ignore", __file__, str(home), *options]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            server = Server(home / "files", int(process.stdout.readline()), key, home / "known_hosts")
            algorithm, text = (home / "host.pub").read_text().split()[:2]
            server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {algorithm} {text}\n")
            try:
                yield server
            finally:
                for each in server.made:
                    each.close()
                process.stdin.close()
                process.terminate()


@cache
def running_plain() -> Server:
    """The poorer server of this test session."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(plain())


@contextmanager
def cut_after(upstream: int, sent: int) -> Iterator[int]:
    """A port that leads to the port `upstream`, where every connection is reset after `sent` bytes towards it."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def pass_on(client: socket.socket, server: socket.socket) -> None:
        left = sent
        with client, server:
            while left > 0:
                readable, _, _ = select.select([client, server], [], [], 10)
                for side, other in ((client, server), (server, client)):
                    if side in readable:
                        data = side.recv(min(65536, left) if side is client else 65536)
                        if not data:
                            return
                        left -= len(data) if side is client else 0
                        other.sendall(data)
            # Without the linger the kernel would say goodbye properly.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", upstream))
                threads.append(threading.Thread(target=_quietly, args=(pass_on, client, server)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join()


def _quietly(act: Callable[..., None], *arguments: Any) -> None:
    with suppress(OSError):
        act(*arguments)


async def serve(home: Path) -> None:
    """The program."""
    import asyncio

    import asyncssh

    class Poor(asyncssh.SFTPServer):
        """As SFTP version 3 has it: a rename refuses a taken name, and there is nothing beside."""

        def rename(self, oldpath: bytes, newpath: bytes) -> None:
            if os.path.lexists(self.map_path(newpath)):
                raise asyncssh.SFTPFailure("Failure")
            os.rename(self.map_path(oldpath), self.map_path(newpath))

        def _lacking(self, *_: Any) -> None:
            raise asyncssh.SFTPOpUnsupported("no such extension")

        link = fsync = statvfs = _lacking
        if "--poorest" in sys.argv:
            posix_rename = _lacking

    class Account(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return password == PASSWORD

    listener = await asyncssh.listen(
        "127.0.0.1", 0,
        server_factory=Account, sftp_factory=Poor, server_host_keys=[str(home / "host")],
        authorized_client_keys=str(home / "key.pub"),
    )  # fmt: skip
    sys.stdout.write(f"{listener.get_port()}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    import asyncio

    asyncio.run(serve(Path(sys.argv[1])))

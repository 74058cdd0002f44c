"""Dumps of a database server as a source: one file for each dump, each written by the server's own client program.

Invariants: which dumps there are is asked of the server before the first entry, so a server that is down, a wrong
password or an unknown database is known before anything is read; a dump counts as complete only when its program has
ended with status 0; what a program that ended well says on standard error is told.

A password is never an argument and never in the environment. It stands in a file in memory without a name (memfd,
mode 0600), which the program inherits as a descriptor and opens as /proc/self/fd/N: no folder ever holds it, nothing
is left behind however this process ends, and only the same user, or root, can look into it.

Every dump is a transaction of its own: two databases of one snapshot are not of the same instant.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from opskit.errors import SourceError
from opskit.sources.base import Entry, Metadata, OpenFile, Problem
from opskit.sources.output import GRACE_SECONDS, CommandOutput, cannot_start, virtual_entry, virtual_metadata, whole

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of a listing; a name has a few dozen."""
_NOEXEC_SEAL = 0x8
"""MFD_NOEXEC_SEAL, which kernels with vm.memfd_noexec=2 demand and those before 6.3 do not know."""


class Dump(NamedTuple):
    """One file of the snapshot, by its path there, and the command that writes it."""

    path: bytes
    argv: tuple[str, ...]


Ask = Callable[[Sequence[str]], bytes]
"""Runs a command with the credentials and gives all of its output; raises SourceError."""


class Client(Protocol):
    """What is particular to a kind of server."""

    def programs(self) -> Mapping[str, str]:
        """The programs that will be called, each with Debian's package that it is in; the first asks."""

    def dumps(self, ask: Ask, tell: Callable[[str], None]) -> list[Dump]:
        """What is to be dumped, in any order; raises SourceError where a database that was named is not there."""

    def credentials(self, password: bytes) -> bytes:
        """What the file says that passes the password; raises SourceError for one that cannot be written so."""

    def admit(self, argv: Sequence[str], env: dict[str, str], credentials: str | None) -> list[str]:
        """The command, reading that file if there is one; the environment may be changed."""


class Scratch(NamedTuple):
    """The commands that make a database, load a dump into it from standard input, and take it away."""

    make: tuple[str, ...]
    load: tuple[str, ...]
    drop: tuple[str, ...]


class Loader(Client, Protocol):
    """A client that can load what it dumped."""

    def scratch(self, database: str) -> Scratch:
        """How a database of that name is made; making one that exists fails."""


class Surroundings(NamedTuple):
    """What a source needs of the process that it works in."""

    now_ns: int
    """The modification time of the dumps, epoch nanoseconds."""
    env: Mapping[str, str]
    """The environment that programs inherit."""
    password: Callable[[], bytes] | None = None
    """Gives the password each time a program starts, and may raise any OpskitError."""
    redact: Callable[[str], str] = str
    """Cleans what programs say."""
    tell: Callable[[str], None] = lambda _text: None
    """Takes warnings."""


class Programs:
    """Runs the programs of a client, with its credentials; `run_as` is a user of this system as whom they run."""

    def __init__(
        self,
        client: Loader,
        surroundings: Surroundings,
        *,
        run_as: str | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.client, self.around = client, surroundings
        self._run_as, self._grace_seconds = run_as, grace_seconds

    def require(self) -> None:
        """Raises SourceError where one is missing."""
        path = self.around.env.get("PATH", os.defpath)
        for program, package in self.client.programs().items():
            if shutil.which(program, path=path) is None:
                raise cannot_start(program, "not found", f"Debian, Ubuntu: apt-get install {package}")

    def ask(self, argv: Sequence[str]) -> bytes:
        """All that one writes; raises SourceError."""
        return whole(self.start(argv), MAX_ANSWER)

    def start(
        self, argv: Sequence[str], tell: Callable[[str], None] | None = None, *, reads: bool = False
    ) -> CommandOutput:
        """Start one, which gets standard input if it `reads`; raises SourceError, and what the password's source
        raises."""
        identity, env = _identity(self._run_as), dict(self.around.env)
        if "user" in identity:
            account = pwd.getpwuid(identity["user"])
            env.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
        password = self.around.password
        file = None if password is None else _private_file(self.client.credentials(password()))
        try:
            command = self.client.admit(argv, env, None if file is None else f"/proc/self/fd/{file}")
            return CommandOutput(
                command, env, self._grace_seconds, self.around.redact,
                keep=() if file is None else (file,), identity=identity, tell=tell, reads=reads,
            )  # fmt: skip
        finally:
            if file is not None:
                os.close(file)


class DumpSource:
    """The dumps of a server; implements Source."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._argv: dict[bytes, tuple[str, ...]] = {}
        self._running: list[CommandOutput] = []

    def entries(self) -> Iterator[Entry | Problem]:
        """The dumps and their folders, once the server has answered; closing ends programs that run.

        Raises SourceError where a program is missing, the server does not answer, or a database is not there.
        """
        programs, around = self._programs, self._programs.around
        programs.require()
        self._argv = {dump.path: dump.argv for dump in programs.client.dumps(programs.ask, around.tell)}
        paths = sorted(tuple(path.split(b"/")) for path in self._argv)
        folders = {path[:depth] for path in paths for depth in range(1, len(path))}
        try:
            for path in sorted([*paths, *folders]):
                yield virtual_entry(b"/".join(path), around.now_ns, "dir" if path in folders else "file")
        except GeneratorExit:
            self.close()
            raise

    def open(self, entry: Entry) -> OpenFile | Problem:
        """Start the dump; raises SourceError where it does not start, and what the password's source raises."""
        output = self._programs.start(self._argv[entry.path], self._programs.around.tell)
        self._running.append(output)
        return output

    def metadata(self, entry: Entry, opened: OpenFile | None = None) -> Metadata:
        """Owner names."""
        return virtual_metadata(entry)

    def close(self) -> None:
        """End every program of this source that still runs."""
        while self._running:
            self._running.pop().close()


def file_name(database: str) -> bytes:
    """The name of a database's dump: what cannot stand in a file name is %-encoded, "%" itself too."""
    return os.fsencode(database.replace("%", "%25").replace("/", "%2F")) + b".sql"


def chosen(wanted: Sequence[str], there: Sequence[str], server: str) -> list[str]:
    """The databases to dump: those wanted, or all; raises SourceError where there are none, or one is missing."""
    absent = [name for name in wanted if name not in there]
    if absent:
        known = ", ".join(there[:20]) or "none"
        raise SourceError(f"{server}: no database {absent[0]!r}; there are: {known}", hint="correct it in the config")
    if not there:
        raise SourceError(f"{server}: expected at least one database that this user may see, got none")
    return list(wanted or there)


def _private_file(content: bytes) -> int:
    """A descriptor of a file in memory that only this user may open. It stays with this process until it is passed."""
    try:
        descriptor = os.memfd_create("opskit", os.MFD_CLOEXEC | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise SourceError(f"no file in memory for a password: {(error.strerror or 'error').lower()}") from error
        descriptor = os.memfd_create("opskit", os.MFD_CLOEXEC)
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, content)
    return descriptor


def _identity(user: str | None) -> dict[str, Any]:
    """As whom to run, for Popen: nothing where it is this user anyway."""
    if user is None:
        return {}
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise SourceError(f"run_as: no user {user!r} on this system", hint="correct it in the config") from None
    if account.pw_uid == os.geteuid():
        return {}
    if os.geteuid() != 0:
        raise SourceError(f"run_as {user}: expected to be root, or {user}", hint="leave run_as out, or run as root")
    groups = os.getgrouplist(user, account.pw_gid)
    # "/": the working folder may be closed to that user, which the programs would complain about.
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups, "cwd": "/"}

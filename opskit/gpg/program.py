"""Running gpg and gpgv: finding them, one call, and reading what they say about it.

Every call has its input, output, log and status lines in memory files (memfd): nothing touches a disk, nothing can
deadlock on a full pipe, and a result is read only after the program has ended.
Secrets reach a program through a pipe whose descriptor it inherits: never through argv, the environment or a file.

Invariants: argv lists only; the child sees an environment of known names (never the caller's secrets), in the C
locale; it has its own process group, so that Ctrl-C reaches opskit and not a half-written object.

It deliberately does not judge an answer: exit codes and status lines are returned, the callers decide.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from opskit.errors import OpskitError, ProgramMissing, UsageError

Buffer = bytes | bytearray | memoryview
Version = tuple[int, int, int]

OLDEST: Version = (2, 2, 21)
"""The first release that reads OCB, which 2.3 and newer write to recipients whose keys ask for it."""

NOWHERE = "/nonexistent/opskit"
"""A home folder for calls that must neither read nor create one."""

_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "LD_LIBRARY_PATH", "GNUPGHOME", "GPG_TTY", "TERM", "DISPLAY",
    "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "PINENTRY_USER_DATA",
)  # fmt: skip
_PIPE_HOLDS = 4096
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGXFSZ)
"""What a crafted message may do to gpg (2.2.40 fails an assertion on a flipped bit): the message's fault."""

_INSTALL = "install it: apt-get install gpg gpgv gpg-agent (Debian, Ubuntu), dnf install gnupg2 (Fedora)"


# Both by path: questions that wait for their answer to be read, and versions found.
_asked: dict[str, subprocess.Popen[bytes]] = {}
_versions: dict[str, Version] = {}


class Versions(NamedTuple):
    """The versions of the programs in use."""

    gpg: Version
    gpgv: Version


class MemoryFile(io.FileIO):
    """A file in memory without a name. Reading it whole takes one system call and one copy."""

    def __init__(self) -> None:
        super().__init__(os.memfd_create("opskit", os.MFD_CLOEXEC), "r+b")

    def fill(self, data: Buffer) -> None:
        """Hold `data` and nothing else."""
        self.seek(0)
        rest = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        while rest:
            rest = rest[self.write(rest) :]
        self.truncate()

    def readall(self) -> bytes:
        """What is left from the present position. (FileIO reads in pieces and copies twice: five times slower.)"""
        pieces = []
        while piece := os.read(self.fileno(), max(self.size() - self.tell(), 0)):
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; all that is left for None or a negative size."""
        return self.readall() if size is None or size < 0 else super().read(size)

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.fileno()).st_size

    def mapped(self) -> memoryview:
        """The whole file without a copy; it stays when the file is closed."""
        size = self.size()
        return memoryview(mmap.mmap(self.fileno(), size, prot=mmap.PROT_READ)) if size else memoryview(b"")

    def content(self) -> bytes:
        """The whole file."""
        self.seek(0)
        return self.readall()


class Scratch(MemoryFile):
    """A memory file that call after call writes over, so that its memory is made once; closed with its owner."""

    _end = 0
    _map = memoryview(b"")

    def __del__(self) -> None:
        self.close()

    def fill(self, data: Buffer) -> None:
        """Hold `data` and nothing else."""
        super().fill(data)
        self.finish()

    def room(self, size: int) -> memoryview:
        """The memory of the content itself, now of `size` bytes, to be written there; valid until the next call."""
        if size > len(self._map):
            os.ftruncate(self.fileno(), size)
            self._map = memoryview(mmap.mmap(self.fileno(), size))
        os.ftruncate(self.fileno(), size)  # what lies behind would be given to a program as well
        self.seek(size)
        self.finish()
        return self._map[:size]

    def begin(self) -> None:
        """Be empty again."""
        self.seek(0)
        self._end = 0

    def finish(self) -> None:
        """End where the program that wrote has stopped; what lies behind is of an earlier call."""
        self._end = self.tell()

    def size(self) -> int:
        """Bytes of the present content."""
        return self._end


class Finished(NamedTuple):
    """What a call left: exit code, status lines (keyword first), output (rewound; the caller closes it), log text."""

    code: int
    status: list[list[str]]
    output: MemoryFile
    log: str

    def count(self, keyword: str) -> int:
        """How many status lines begin with `keyword`."""
        return sum(1 for line in self.status if line[0] == keyword)

    def lines(self, keyword: str) -> list[list[str]]:
        """The arguments of every status line that begins with `keyword`."""
        return [line[1:] for line in self.status if line[0] == keyword]

    def read(self) -> bytes:
        """The whole output; closes it."""
        with self.output as file:
            return file.read()

    def last_words(self) -> str:
        """The end of the log, on one line, for an error message."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return "; ".join(lines[-2:])[-300:] or f"exit code {self.code}"


def check_programs() -> Versions:
    """Make sure that gpg and gpgv are there and new enough; asked once, then remembered. Raises ProgramMissing."""
    begin_check()
    return Versions(_version(find_program("gpg")), _version(find_program("gpgv")))


@functools.cache
def find_program(name: str) -> str:
    """The absolute path of a GnuPG program. Raises ProgramMissing."""
    path = shutil.which(name)
    if path is None:
        raise ProgramMissing(f"the program {name} is needed, expected it in PATH, got nothing", hint=_INSTALL)
    return os.path.abspath(path)


def begin_check() -> None:
    """Ask gpg and gpgv for their versions without waiting: `check_programs` then finds the answers there."""
    for name in ("gpg", "gpgv"):
        with contextlib.suppress(ProgramMissing, OSError):  # check_programs tells
            path = find_program(name)
            if path not in _versions and path not in _asked:
                _asked[path] = _ask(path)


def _ask(path: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [path, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=child_environment(),
    )  # fmt: skip


def _version(path: str) -> Version:
    if path not in _versions:
        _versions[path] = _answered(path)
    return _versions[path]


def _answered(path: str) -> Version:
    try:
        process = _asked.pop(path, None) or _ask(path)
        answer, _ = process.communicate()
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ProgramMissing(f"cannot run {path}: {error}", hint=_INSTALL) from error
    match = re.match(rb"gpgv? \(GnuPG[^)]*\) (\d+)\.(\d+)\.(\d+)", answer)
    if match is None:
        raise ProgramMissing(f"expected {path} to be GnuPG, got {answer[:60]!r}", hint=_INSTALL)
    found = (int(match[1]), int(match[2]), int(match[3]))
    if found < OLDEST:
        versions = f"expected at least {_dotted(OLDEST)}, got {_dotted(found)}"
        raise ProgramMissing(f"{path} is too old: {versions}", hint=_INSTALL)
    return found


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def child_environment() -> dict[str, str]:
    """The environment of every GnuPG program: known names only, C locale, the terminal for a passphrase question."""
    environment = {name: value for name, value in os.environ.items() if name in _INHERITED}
    environment["LC_ALL"] = "C"
    if "GPG_TTY" not in environment and (terminal := _terminal()):
        environment["GPG_TTY"] = terminal
    return environment


def _terminal() -> str | None:
    for descriptor in (0, 2, 1):
        try:
            return os.ttyname(descriptor)
        except OSError:
            continue
    return None


def run(
    name: str,
    arguments: Sequence[str],
    *,
    data: Buffer | MemoryFile = b"",
    secret: bytes | None = None,
    output_limit: int | None = None,
    scratch: Scratch | None = None,
) -> Finished:
    """Run one GnuPG program to its end, with `data` as its input (of a file: all of it).

    `secret` is handed over as `--passphrase-fd`. `output_limit` (bytes) bounds what a hostile, compressed message may
    grow to. The output goes into `scratch` where one is given, else into a new file. A crash of the program is an
    answer (a negative exit code); being killed from outside is not. Raises OpskitError when the program was killed or
    could not run, ProgramMissing when it is not there.
    """
    try:
        return _run(name, arguments, data, secret, output_limit, scratch)
    except OSError as error:
        raise OpskitError(f"cannot run {name}: {error}") from error


def _run(
    name: str,
    arguments: Sequence[str],
    data: Buffer | MemoryFile,
    secret: bytes | None,
    output_limit: int | None,
    scratch: Scratch | None,
) -> Finished:
    with MemoryFile() as status, MemoryFile() as log, MemoryFile() as given:
        if not isinstance(data, MemoryFile):
            given.fill(data)
            data = given
        data.seek(0)
        output = scratch or MemoryFile()
        try:
            if scratch:
                scratch.begin()
            code = _spawn(name, arguments, data, (output, log, status), secret, output_limit)
            if scratch:
                scratch.finish()
            words = [line.split(" ") for line in _status_lines(status.content())]
            finished = Finished(code, words, output, log.content().decode(errors="replace"))
            if code < 0 and -code not in _CRASHES:
                raise OpskitError(f"{name} was ended by signal {-code}: {finished.last_words()}")
            output.seek(0)
            return finished
        except BaseException:
            if output is not scratch:
                output.close()
            raise


def _spawn(
    name: str,
    arguments: Sequence[str],
    data: MemoryFile,
    files: tuple[MemoryFile, MemoryFile, MemoryFile],
    secret: bytes | None,
    output_limit: int | None,
) -> int:
    output, log, status = files
    limit = None if output_limit is None else _possible(output_limit)
    command = [find_program(name), "--status-fd", str(status.fileno())]
    passed = [status.fileno()]
    if secret is not None:
        passed.append(_secret_pipe(secret))
        command += ["--passphrase-fd", str(passed[-1])]
    try:
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=data, stdout=output, stderr=log, pass_fds=passed, env=child_environment(), process_group=0,
        )  # fmt: skip
    finally:
        if secret is not None:
            os.close(passed[-1])
    try:
        if limit is not None:
            # The kernel ends the program with SIGXFSZ when its output passes the limit.
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code == -signal.SIGXFSZ and limit != output_limit:  # so small a limit says nothing about the message
        raise OpskitError(
            f"{name} was ended because files may not grow beyond {limit} bytes here",
            hint="lift that limit: ulimit -f unlimited",
        )
    return code


def _possible(limit: int) -> int:
    """`limit` bytes, or the present hard limit on files (`ulimit -f`), which cannot be raised, where that is less."""
    present = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return limit if present == resource.RLIM_INFINITY else min(limit, present)


def _secret_pipe(secret: bytes) -> int:
    # gpg reads one line: what follows a line end would silently not be part of the passphrase.
    if b"\n" in secret or b"\0" in secret or len(secret) >= _PIPE_HOLDS:
        raise UsageError(f"a passphrase must be one line of fewer than {_PIPE_HOLDS} bytes")
    reader, writer = os.pipe()
    try:
        os.write(writer, secret + b"\n")
    finally:
        os.close(writer)
    return reader


def _status_lines(raw: bytes) -> Iterable[str]:
    for line in raw.decode(errors="replace").split("\n"):
        if line.startswith("[GNUPG:] "):
            yield line[9:]

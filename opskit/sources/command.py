"""The output of a command, or standard input, as a source with one file.

Invariants: the content counts as complete only when the command has ended with status 0, and the last
`readinto` says otherwise by SourceError, before anything can be committed; standard error is drained at all times,
so that a chatty command never blocks; a command that is no longer wanted is ended with its whole process group, by
this process, or by the kernel where this process is killed (`Lifeline`).
Arguments go to the program as they are, no shell is involved, and they never appear in messages: they may hold secrets.

There is no time limit: a dump takes as long as it takes. Of standard input the status of the writer
cannot be known: a failed program in front of the pipe looks like the end. Prefer a command where there is a choice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from opskit.errors import SourceError
from opskit.sources.base import Entry, Metadata, OpenFile, OwnerNames, Problem

KEPT_STDERR_BYTES = 2048
GRACE_SECONDS = 5.0
"""Between asking a process group to end and killing it."""


class CommandSource:
    """What `argv` writes to standard output, as the file `filename` (mode 0600, current user); implements Source.

    `now_ns` becomes its modification time (epoch nanoseconds). `env` replaces the environment where given;
    `more_env` is asked for more of it when the command starts, and may raise any OpskitError. `redact` cleans
    what the command says on standard error before it stands in a message.
    The command starts when the entry is opened; one no longer wanted gets `grace_seconds` between the request
    to end and being killed. Raises ValueError for a name that is no single path part.
    """

    def __init__(
        self,
        argv: Sequence[str],
        filename: str | bytes,
        now_ns: int,
        env: Mapping[str, str] | None = None,
        *,
        more_env: Callable[[], Mapping[str, str]] = dict,
        redact: Callable[[str], str] = str,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        if not argv:
            raise ValueError("expected a command, got an empty list")
        self._argv = list(argv)
        self._env = None if env is None else dict(env)
        self._more_env, self._redact = more_env, redact
        self._grace_seconds = grace_seconds
        self._entry = _virtual_entry(filename, now_ns)
        self._running: list[CommandOutput] = []

    def entries(self) -> Iterator[Entry | Problem]:
        """The one entry; raises SourceError where the program cannot be found. Closing ends the command."""
        path = None if self._env is None else self._env.get("PATH", os.defpath)
        if shutil.which(self._argv[0], path=path) is None:
            raise _cannot_start(self._argv[0], "not found, or not executable")
        try:
            yield self._entry
        except GeneratorExit:
            self.close()
            raise

    def open(self, entry: Entry) -> OpenFile | Problem:
        """Start the command; raises SourceError where it does not start, and what `more_env` raises."""
        env, more = self._env, self._more_env()
        if more:
            env = {**(os.environ if env is None else env), **more}
        output = CommandOutput(self._argv, env, self._grace_seconds, self._redact)
        self._running.append(output)
        return output

    def metadata(self, entry: Entry, opened: OpenFile | None = None) -> Metadata:
        """Owner names."""
        return _virtual_metadata(entry)

    def close(self) -> None:
        """End every command of this source that still runs."""
        while self._running:
            self._running.pop().close()


class CommandOutput:
    """Standard output of a running command; implements OpenFile."""

    fd = -1

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        grace_seconds: float,
        redact: Callable[[str], str],
    ) -> None:
        self._grace_seconds, self._redact = grace_seconds, redact
        self._name = os.path.basename(argv[0])
        self._lifeline = Lifeline()
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                bufsize=0,
                start_new_session=True,
                pass_fds=(self._lifeline.held,),
            )
        except (OSError, ValueError) as error:
            self._lifeline.close()
            raise _cannot_start(argv[0], str(getattr(error, "strerror", None) or "bad argument").lower()) from error
        self._lifeline.tie(self._process.pid)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._stdout, self._stderr = self._process.stdout, self._process.stderr
        self._tail: deque[bytes] = deque()
        self._drain = threading.Thread(target=self._drain_stderr, name="opskit-stderr", daemon=True)
        self._drain.start()

    def readinto(self, buffer: memoryview) -> int:
        """The next bytes; 0 when the command has ended well, SourceError when it has not."""
        count = os.readv(self._stdout.fileno(), [buffer])
        if count == 0 and len(buffer):
            self._check_status()
        return count

    def close(self) -> None:
        """Free the pipes; end the process group where the command still runs."""
        if self._process.poll() is None:
            self._end_group()
        self._lifeline.close()
        self._drain.join(self._grace_seconds)
        self._stdout.close()
        if not self._drain.is_alive():  # else a stray grandchild holds the pipe: its thread ends with the process
            self._stderr.close()

    def _check_status(self) -> None:
        status = self._process.wait()
        if status == 0:
            return
        self._drain.join(self._grace_seconds)
        how = f"exit status {status}" if status > 0 else f"killed by {_signal_name(-status)}"
        # All that was kept is cleaned before it is cut: a secret cut in two would not be found.
        said = _printable_text(self._redact(b"".join(self._tail).decode("utf-8", "replace"))[-KEPT_STDERR_BYTES:])
        raise SourceError(
            f"command {self._name}: expected exit status 0, got {how}{': ' + said if said else ''}",
            hint="nothing was committed; run the command by hand to see why it fails",
        )

    def _end_group(self) -> None:
        """Ask the whole group to end, then kill it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace_seconds)
                return

    def _drain_stderr(self) -> None:
        kept = 0
        with suppress(OSError, ValueError):
            while block := os.read(self._stderr.fileno(), 65536):
                self._tail.append(block)
                kept += len(block)
                while kept - len(self._tail[0]) >= 2 * KEPT_STDERR_BYTES:
                    kept -= len(self._tail.popleft())


class Lifeline:
    """Ends a process group when this process dies without a chance to, as by `kill -9`.

    A pipe in which nothing is ever written: the command inherits the end called `held`, only this process has the
    other one. When that closes, the kernel sends SIGTERM to the group (fcntl(2): F_SETOWN, F_SETSIG, O_ASYNC). Unlike
    PR_SET_PDEATHSIG it needs no code in the child, reaches the whole group, and does not follow the death of a thread.
    A command that closes the descriptors it does not know, and has no child that keeps them, is out of its reach.
    """

    def __init__(self) -> None:
        self.held, self._ours = os.pipe()

    def tie(self, group: int) -> None:
        """From now on the group goes with this process."""
        with suppress(OSError):  # it is over already, or this kernel cannot do it
            fcntl.fcntl(self.held, fcntl.F_SETSIG, signal.SIGTERM)
            fcntl.fcntl(self.held, fcntl.F_SETOWN, -group)
            self._watch(os.O_ASYNC)

    def close(self) -> None:
        """Let the group go: what a command left running on purpose stays. May be repeated."""
        if self.held >= 0:
            with suppress(OSError):
                self._watch(0)
            os.close(self.held)
            os.close(self._ours)
            self.held = -1

    def _watch(self, flag: int) -> None:
        flags = fcntl.fcntl(self.held, fcntl.F_GETFL)
        fcntl.fcntl(self.held, fcntl.F_SETFL, flags & ~os.O_ASYNC | flag)


class StdinSource:
    """Standard input (or `fd`) as the file `filename`; implements Source. It can be opened once."""

    def __init__(self, filename: str | bytes, now_ns: int, fd: int = 0) -> None:
        self._entry = _virtual_entry(filename, now_ns)
        self._fd = fd
        self._is_open = False

    def entries(self) -> Iterator[Entry | Problem]:
        """The one entry; raises SourceError where there is no input to read, or it is a terminal."""
        try:
            is_terminal = os.isatty(self._fd)
            os.fstat(self._fd)
        except OSError as error:
            raise SourceError("standard input is closed", hint="pipe the data into opskit") from error
        if is_terminal:
            raise SourceError("expected data on standard input, got a terminal", hint="pipe the data into opskit")
        yield self._entry

    def open(self, entry: Entry) -> OpenFile | Problem:
        """The input itself; a second time there is nothing left, which is a SourceError."""
        if self._is_open:
            raise SourceError("standard input can be read only once")
        self._is_open = True
        return InputStream(self._fd)

    def metadata(self, entry: Entry, opened: OpenFile | None = None) -> Metadata:
        """Owner names."""
        return _virtual_metadata(entry)

    def close(self) -> None:
        """Nothing to free: the descriptor belongs to the process."""


class InputStream:
    """An inherited descriptor; implements OpenFile."""

    fd = -1

    def __init__(self, fd: int) -> None:
        self._input = fd

    def readinto(self, buffer: memoryview) -> int:
        """The next bytes; 0 at the end. Raises SourceError where reading fails."""
        try:
            return os.readv(self._input, [buffer])
        except OSError as error:
            raise SourceError(f"standard input cannot be read: {(error.strerror or 'error').lower()}") from error

    def close(self) -> None:
        """Leave the descriptor to the process."""


def _virtual_entry(filename: str | bytes, now_ns: int) -> Entry:
    """An entry with a stat of its own; its size is not known before the end and stands as 0."""
    name = os.fsencode(filename)
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise ValueError(f"expected a plain file name for the output of a command, got {filename!r}")
    seconds = now_ns // 1_000_000_000
    fields = (stat.S_IFREG | 0o600, 0, 0, 1, os.geteuid(), os.getegid(), 0, seconds, seconds, seconds)
    exact = {"st_atime_ns": now_ns, "st_mtime_ns": now_ns, "st_ctime_ns": now_ns, "st_blocks": 0, "st_rdev": 0}
    return Entry(name, "file", os.stat_result(fields, exact), False)


def _virtual_metadata(entry: Entry) -> Metadata:
    names = OwnerNames()
    return Metadata({}, b"", names.user(entry.stat.st_uid), names.group(entry.stat.st_gid), None)


def _cannot_start(program: str, reason: str) -> SourceError:
    hint = "give the full path of the program in the config"
    return SourceError(f"command {os.path.basename(program)}: {reason}", hint=hint)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _printable_text(text: str) -> str:
    """Words of a program, safe for a terminal: no control characters but line ends."""
    text = text.strip()
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)

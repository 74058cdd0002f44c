"""What programs write, as open files: the streaming that every source made of commands shares.

Invariants: content counts as complete only when the program has ended with status 0, and the last `readinto` says
otherwise by SourceError, before anything can be committed; standard error is drained at all times, so that a chatty
program never blocks; a program that is no longer wanted is ended with its whole process group, by this process, or by
the kernel where this process is killed (`Lifeline`). Arguments never appear in messages: they may hold secrets.

It knows no particular program and chooses no arguments.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from opskit.errors import SourceError
from opskit.sources.base import Entry, Kind, Metadata, OwnerNames

KEPT_STDERR_BYTES = 2048
GRACE_SECONDS = 5.0
"""Between asking a process group to end and killing it."""


class CommandOutput:
    """Standard output of a running command; implements OpenFile.

    `keep` are descriptors that the command gets under the same numbers. `identity` are the arguments of Popen that
    say as whom, and where, it runs. `tell` gets what a command that ended well said on standard error, cleaned. One
    that `reads` has the end of a pipe as standard input, the other is `input`; else its input is empty.
    """

    fd = -1

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        grace_seconds: float,
        redact: Callable[[str], str],
        *,
        keep: Sequence[int] = (),
        identity: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] | None = None,
        reads: bool = False,
    ) -> None:
        self._grace_seconds, self._redact, self._tell = grace_seconds, redact, tell
        self._name = os.path.basename(argv[0])
        self._lifeline = Lifeline()
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                bufsize=0,
                start_new_session=True,
                pass_fds=(self._lifeline.held, *keep),
                **(identity or {}),
            )
        except (OSError, ValueError) as error:
            self._lifeline.close()
            raise cannot_start(argv[0], str(getattr(error, "strerror", None) or "bad argument").lower()) from error
        self._lifeline.tie(self._process.pid)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._stdout, self._stderr, self.input = self._process.stdout, self._process.stderr, self._process.stdin
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
        if self.input is not None:
            with suppress(OSError):
                self.input.close()
        if not self._drain.is_alive():  # else a stray grandchild holds the pipe: its thread ends with the process
            self._stderr.close()

    def _check_status(self) -> None:
        status = self._process.wait()
        if status == 0 and self._tell is None:
            return
        self._drain.join(self._grace_seconds)
        # All that was kept is cleaned before it is cut: a secret cut in two would not be found.
        said = _printable_text(self._redact(b"".join(self._tail).decode("utf-8", "replace"))[-KEPT_STDERR_BYTES:])
        if status:
            raise self._failed(status, said)
        if said and self._tell is not None:
            self._tell(f"{self._name}: {said}")

    def _failed(self, status: int, said: str) -> SourceError:
        how = f"exit status {status}" if status > 0 else f"killed by {_signal_name(-status)}"
        return SourceError(
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


def whole(output: CommandOutput, most: int) -> bytes:
    """All that a command writes, at most `most` bytes; raises SourceError where it fails or writes more. Closes it."""
    found, block = bytearray(), memoryview(bytearray(65536))
    try:
        while count := output.readinto(block):
            found += block[:count]
            if len(found) > most:
                raise SourceError(f"a command answered with more than {most:,} bytes")
        return bytes(found)
    finally:
        output.close()


def virtual_entry(path: bytes, now_ns: int, kind: Kind = "file") -> Entry:
    """An entry (mode 0600, a folder 0700, current user) with a stat of its own; the size of a file is not known before
    its end and stands as 0."""
    mode = stat.S_IFDIR | 0o700 if kind == "dir" else stat.S_IFREG | 0o600
    seconds = now_ns // 1_000_000_000
    fields = (mode, 0, 0, 1, os.geteuid(), os.getegid(), 0, seconds, seconds, seconds)
    exact = {"st_atime_ns": now_ns, "st_mtime_ns": now_ns, "st_ctime_ns": now_ns, "st_blocks": 0, "st_rdev": 0}
    return Entry(path, kind, os.stat_result(fields, exact), False)


def virtual_metadata(entry: Entry) -> Metadata:
    """Owner names of an entry of `virtual_entry`."""
    names = OwnerNames()
    return Metadata({}, b"", names.user(entry.stat.st_uid), names.group(entry.stat.st_gid), None)


def cannot_start(
    program: str, reason: str, hint: str = "give the full path of the program in the config"
) -> SourceError:
    """The error for a program that is not there or does not run; its other arguments are not told."""
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

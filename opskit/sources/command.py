"""The output of a command, or standard input, as a source with one file.

Invariants: the content counts as complete only when the command has ended with status 0 (`output` sees to that);
arguments go to the program as they are, no shell is involved, and they never appear in messages: they may hold secrets.

There is no time limit: a dump takes as long as it takes. Of standard input the status of the writer
cannot be known: a failed program in front of the pipe looks like the end. Prefer a command where there is a choice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence

from opskit.errors import SourceError
from opskit.sources.base import Entry, Metadata, OpenFile, Problem
from opskit.sources.output import GRACE_SECONDS, CommandOutput, cannot_start, virtual_entry, virtual_metadata


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
        self._entry = _named(filename, now_ns)
        self._running: list[CommandOutput] = []

    def entries(self) -> Iterator[Entry | Problem]:
        """The one entry; raises SourceError where the program cannot be found. Closing ends the command."""
        path = None if self._env is None else self._env.get("PATH", os.defpath)
        if shutil.which(self._argv[0], path=path) is None:
            raise cannot_start(self._argv[0], "not found, or not executable")
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
        return virtual_metadata(entry)

    def close(self) -> None:
        """End every command of this source that still runs."""
        while self._running:
            self._running.pop().close()


class StdinSource:
    """Standard input (or `fd`) as the file `filename`; implements Source. It can be opened once."""

    def __init__(self, filename: str | bytes, now_ns: int, fd: int = 0) -> None:
        self._entry = _named(filename, now_ns)
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
        return virtual_metadata(entry)

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


def _named(filename: str | bytes, now_ns: int) -> Entry:
    """The one entry; raises ValueError for a name that could leave the target of a restore."""
    name = os.fsencode(filename)
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise ValueError(f"expected a plain file name for the output of a command, got {filename!r}")
    return virtual_entry(name, now_ns)

"""What judges restored data beyond its bytes: the source's own commands, and SQLite's own look at databases.

Invariants: commands are lists of words, no shell is involved; they run in the scratch with an environment of their own
(PATH, a home and a place for temporary files in the scratch, no variable of this process), without input, in a process
group of their own that is killed when their time is over or the drill ends; so is what left that group. Exit status 0
means good. What they say is cleaned of secrets, and stays on this host. Nothing here knows a repository.

What was backed up may have been written by anybody, and the drill may be root: a journal beside a database names
further files, which SQLite would read and delete wherever they lie. It gets to see none of these names, and no link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sqlite3
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from opskit.repository.threads import end

_SAID = 300
"""Characters that are kept of what a failing command said last."""
_SQLITE_STEPS = 100_000
"""Steps of SQLite's machine between two chances to be interrupted."""
_JOURNAL_END = 16
"""Bytes of length, sum and magic that stand behind such a name (https://sqlite.org/fileformat.html, section 3)."""

_ROUNDS = 10
_LOOK_SECONDS = 0.05
_AT_ONCE = 1000
"""Files whose commands are in the queue; there may be millions."""

HOME = "home"
"""The folder of a scratch that commands have for a home; nothing else has it."""

Failure = tuple[bytes, str]
"""(path in the snapshot, what is wrong); the path is empty for what is not about one file."""


@dataclass(frozen=True, slots=True)
class Commands:
    """The `verify` of a source; `redact` cleans what they say."""

    each: Sequence[str] | None = None
    all: Sequence[str] | None = None
    limit: timedelta = timedelta(minutes=10)
    redact: Callable[[str], str] = str


class Runner:
    """Runs commands in one scratch; `stop` kills what runs."""

    def __init__(self, folder: Path, path: str, redact: Callable[[str], str], about: Mapping[str, str]) -> None:
        self._redact = redact
        self._home, self._temporary = folder / HOME, folder / "tmp"
        for each in (self._home, self._temporary):
            each.mkdir(mode=0o700, exist_ok=True)
        self._environment = {
            "PATH": path,
            "HOME": str(self._home),
            "TMPDIR": str(self._temporary),
            "LANG": "C.UTF-8",
            **about,
        }
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def run(self, argv: Sequence[str | bytes], folder: bytes, limit: timedelta) -> str | None:
        """Run a command in a folder; None where it judged the data good, else what is wrong."""
        with tempfile.TemporaryFile(dir=self._temporary) as said:
            try:
                process = self._start(argv, folder, said.fileno())
            except (OSError, ValueError) as error:
                return f"the command cannot be run: {getattr(error, 'strerror', None) or error}"
            try:
                status = process.wait(limit.total_seconds())
            except subprocess.TimeoutExpired:
                return f"it took longer than {limit}"
            finally:
                self._end(process)
            if status == 0:
                return None
            said.seek(max(said.seek(0, os.SEEK_END) - 16 * _SAID, 0))
            return f"exit status {status}{self._shown(said.read())}"

    def _start(self, argv: Sequence[str | bytes], folder: bytes, said: int) -> subprocess.Popen[bytes]:
        with self._lock:  # else a command could begin after `stop` has looked
            if self._is_stopped:
                raise OSError("the drill has ended")
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=folder,
                start_new_session=True,
            )
            self._running.add(process.pid)
            return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with self._lock:
            self._running.discard(process.pid)

    def _shown(self, said: bytes) -> str:
        text = self._redact(said.decode("utf-8", "replace"))  # before it is cut: half a secret is not found
        words = re.sub(r"\s+", " ", "".join(each if each.isprintable() else " " for each in text)).strip()
        return f": {words[-_SAID:]}" if words else ""

    def end_strays(self) -> None:
        """Kill what commands left running outside of their process groups: known by the home that they were given."""
        end_strays(self._home)

    def stop(self) -> None:
        """Kill what runs, and begin nothing more."""
        with self._lock:
            self._is_stopped = True
            for group in self._running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)


def end_strays(home: Path, grace: float = 0.0) -> None:
    """Kill every process of this user that was started with this home; first ask it to end, for `grace` seconds."""
    mark = b"HOME=" + os.fsencode(home)
    for number in range(int(grace / _LOOK_SECONDS)):
        if not _signal_marked(mark, 0 if number else signal.SIGTERM):
            return
        time.sleep(_LOOK_SECONDS)
    for _ in range(_ROUNDS):  # one that is killed may have started another meanwhile
        if not _signal_marked(mark, signal.SIGKILL):
            return


def _signal_marked(mark: bytes, what: int) -> bool:
    """Signal all processes in whose environment a variable stands so; whether there was one."""
    return any([_signal_if_marked(name, mark, what) for name in os.listdir("/proc") if name.isdigit()])


def _signal_if_marked(number: str, mark: bytes, what: int) -> bool:
    try:
        process = os.pidfd_open(int(number))  # first, so that no other process can come to have its number
    except OSError:
        return False
    try:
        with open(f"/proc/{number}/environ", "rb") as file:
            if mark not in file.read().split(b"\0"):
                return False
        signal.pidfd_send_signal(process, what)
    except OSError:  # gone meanwhile, or another user's
        return False
    finally:
        os.close(process)
    return True


def judge_each(
    runner: Runner, commands: Commands, restored: Path, files: Iterable[bytes], folder: bytes, workers: int
) -> tuple[int, list[Failure]]:
    """Run `each` for every file, some at once; how many files there were, and which are not good."""
    argv = commands.each
    assert argv is not None

    def judge(path: bytes) -> Failure | None:
        place = os.fsencode(restored) + b"/" + path
        words = [os.fsencode(word).replace(b"{file}", place) for word in argv]
        problem = runner.run(words, folder, commands.limit)
        return None if problem is None else (path, problem)

    threads = ThreadPoolExecutor(workers, thread_name_prefix="verify")
    count, failures, rest = 0, list[Failure](), iter(files)
    tasks: list[Future[Failure | None]] = []
    try:
        while batch := list(islice(rest, _AT_ONCE)):
            tasks = [threads.submit(judge, path) for path in batch]
            failures += [failure for task in tasks if (failure := task.result()) is not None]
            count += len(batch)
    except BaseException as error:
        runner.stop()
        end(threads, tasks, error)
        raise
    end(threads, tasks, None)
    return count, failures


def judge_all(runner: Runner, commands: Commands, folder: bytes) -> list[Failure]:
    """Run `all` once in the restored folder."""
    assert commands.all is not None
    try:
        problem = runner.run(commands.all, folder, commands.limit)
    except BaseException:
        runner.stop()
        raise
    return [] if problem is None else [(b"", problem)]


def judge_databases(restored: Path, databases: Iterable[bytes]) -> list[Failure]:
    """SQLite's `PRAGMA integrity_check` of each database; those that are not sound."""
    return [(path, problem) for path in databases if (problem := _integrity(restored, path)) is not None]


def _integrity(restored: Path, path: bytes) -> str | None:
    """None for a sound database. One with a journal beside it is opened as a program would, which replays that."""
    place = os.fsencode(restored) + b"/" + path
    try:
        how = "mode=rw" if _has_journal(place) else "mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(f"file:{quote(place)}?{how}", uri=True, timeout=5)) as database:
            database.set_progress_handler(lambda: 0, _SQLITE_STEPS)  # Python looks for signals there
            database.execute("PRAGMA trusted_schema = OFF")  # what was backed up is data, and runs nothing
            rows = database.execute("PRAGMA integrity_check(3)").fetchall()
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        return f"SQLite cannot read it: {error}"
    said = "; ".join(str(row[0]).replace("\n", " ") for row in rows)
    return None if said == "ok" else f"SQLite finds it corrupt: {said[:_SAID]}"


def _has_journal(place: bytes) -> bool:
    """Whether something is to be replayed into a database; leads nowhere else afterwards.

    The last bytes of a rollback journal may name the journal of a transaction over several databases. Without that name
    it is rolled back, which gives a state that this database once had, whatever became of the others.
    """
    found = False
    for suffix in (b"-wal", b"-journal", b"-shm"):
        beside = place + suffix
        try:
            about = os.lstat(beside)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(about.st_mode):
            raise IsADirectoryError(errno.EISDIR, f"a folder lies where its {suffix.decode()} belongs")
        if not stat.S_ISREG(about.st_mode) or suffix == b"-shm":  # SQLite makes the last one anew
            os.unlink(beside)
        elif about.st_size:
            found = True
            if suffix == b"-journal":
                _forget_others(beside)
    return found


def _forget_others(journal: bytes) -> None:
    """Put something else where SQLite looks for the name of another journal: at the very end."""
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(descriptor, bytes(_JOURNAL_END))
    finally:
        os.close(descriptor)

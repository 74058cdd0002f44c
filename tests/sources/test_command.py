"""Commands and standard input as sources: complete output or an error, and no process left behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from opskit.errors import SourceError
from opskit.sources.base import Entry, OpenFile, Problem
from opskit.sources.command import CommandSource, StdinSource
from tests.sources.walking import content, open_descriptors

NOW = 1_795_212_000_123_456_789


def python(code: str) -> list[str]:
    """A command that runs some Python."""
    return [sys.executable, "-c", code]


def start(source: CommandSource | StdinSource) -> OpenFile:
    """Open the one entry."""
    (entry,) = source.entries()
    assert isinstance(entry, Entry)
    opened = source.open(entry)
    assert not isinstance(opened, Problem)
    return opened


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """After each test there is no child process (but agents of other tests) and no descriptor more than before."""
    before, agents = open_descriptors(), psutil.Process().children()
    yield
    assert [child for child in psutil.Process().children() if child not in agents] == []
    assert open_descriptors() == before


def test_the_entry_describes_a_private_file() -> None:
    """The one entry is a regular file of this user, mode 0600, with the time passed in."""
    (entry,) = CommandSource(["true"], "db.sql", NOW).entries()
    assert isinstance(entry, Entry)
    assert (entry.path, entry.kind, entry.is_parent) == (b"db.sql", "file", False)
    found = entry.stat
    assert (found.st_mode, found.st_uid, found.st_gid) == (0o100600, os.geteuid(), os.getegid())
    assert (found.st_mtime_ns, found.st_mtime, found.st_nlink, found.st_size) == (NOW, NOW // 10**9, 1, 0)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b"])
def test_a_name_is_one_path_part(name: str) -> None:
    """A file name which could leave the target of a restore is refused."""
    with pytest.raises(ValueError, match="file name"):
        CommandSource(["true"], name, NOW)


@pytest.mark.parametrize("size", [0, 1, 65536, 1_000_003])
def test_all_output_arrives(size: int) -> None:
    """The content is exactly what the command wrote, whatever the size of the buffer."""
    for block in (1 << 20, 4093):
        opened = start(CommandSource(python(f"import os; os.write(1, b'')\nprint('x' * {size}, end='')"), "out", NOW))
        assert content(opened, block) == b"x" * size


def test_arguments_are_passed_untouched() -> None:
    """No shell looks at the arguments, and the environment is the one given."""
    argv = python("import os, sys; print(sys.argv[1], os.environ.get('A'), os.environ.get('HOME'))")
    opened = start(CommandSource([*argv, "$(id) `x` 'y' *"], "out", NOW, {"A": "b", "PATH": os.environ["PATH"]}))
    assert content(opened) == b"$(id) `x` 'y' * b None\n"


def test_a_failure_is_known_at_the_last_read() -> None:
    """A non-zero status is a SourceError instead of the end, with the end of what the command said, made printable."""
    code = "import os, sys, time; print('data'); os.write(2, b'x' * 9000 + b'\\x1b[31m\\nbad '); time.sleep(0.1)"
    code += "; os.write(2, b'table'); sys.exit(3)"
    opened = start(CommandSource(python(code), "out", NOW))
    with pytest.raises(SourceError) as caught:
        content(opened)
    message = str(caught.value)
    assert "exit status 3" in message and message.endswith("bad table") and "x" * 1000 in message
    assert "\x1b" not in message and len(message) < 2200
    assert "os.write" not in message  # arguments may hold secrets


def test_a_signal_is_a_failure() -> None:
    """A command that a signal ended is a SourceError which names the signal."""
    opened = start(CommandSource(python("import os; print('x', flush=True); os.kill(os.getpid(), 9)"), "out", NOW))
    with pytest.raises(SourceError, match="killed by SIGKILL"):
        content(opened)


@pytest.mark.parametrize("program", ["opskit-no-such-program", "/no/such/program", "/etc/passwd"])
def test_a_command_that_cannot_start_is_known_first(program: str) -> None:
    """A missing or not executable program is a SourceError before anything is yielded."""
    with pytest.raises(SourceError, match="not found"):
        next(CommandSource([program], "out", NOW).entries())


def test_a_program_that_does_not_execute_is_a_source_error(tmp_path: Path) -> None:
    """A file that the kernel refuses to run is a SourceError when it is opened."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF nonsense")
    program.chmod(0o755)
    source = CommandSource([str(program)], "out", NOW)
    with pytest.raises(SourceError, match="command program"):
        start(source)


def test_a_chatty_command_does_not_block() -> None:
    """Megabytes on standard error, before and between the data, neither block nor mix."""
    code = "import sys\nfor _ in range(40): sys.stderr.write('e' * 100000); sys.stdout.write('o' * 1000)"
    assert content(start(CommandSource(python(code), "out", NOW)), 512) == b"o" * 40_000


def family(opened: OpenFile) -> list[psutil.Process]:
    """The command and its child, once both run (it prints a line when they do)."""
    buffer = memoryview(bytearray(16))
    assert opened.readinto(buffer) > 0
    child = max(psutil.Process().children(), key=lambda process: process.create_time())
    return [child, *child.children(recursive=True)]


def ended(process: psutil.Process) -> bool:
    """Wait until a process runs no more; an orphan may stay a zombie until init collects it."""
    for _ in range(3000):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


SLEEPER = python(
    "import subprocess, sys; child = subprocess.Popen(['sleep', '1000']); print('up', flush=True); child.wait()"
)


@pytest.mark.parametrize("how", ["file", "source", "generator"])
def test_closing_ends_the_whole_process_group(how: str) -> None:
    """Closing the file, the source or the suspended generator ends the command and its children."""
    source = CommandSource(SLEEPER, "out", NOW)
    stream = source.entries()
    entry = next(stream)
    assert isinstance(entry, Entry)
    opened = source.open(entry)
    assert not isinstance(opened, Problem)
    processes = family(opened)
    assert len(processes) == 2
    if how == "file":
        opened.close()
    elif how == "source":
        source.close()
    else:
        stream.close()  # type: ignore[attr-defined]
    assert all(ended(process) for process in processes)
    source.close()
    opened.close()


def test_a_stubborn_command_is_killed() -> None:
    """A command that ignores the request to end is killed."""
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(1000)"
    opened = start(CommandSource(python(code), "out", NOW, grace_seconds=0.2))
    (process,) = family(opened)
    opened.close()
    assert not process.is_running()


KILLED = """
import os, signal, sys
from opskit.sources.command import CommandSource
source = CommandSource(sys.argv[1:], "out", 0)
opened = source.open(next(source.entries()))
buffer = bytearray(100)
print(bytes(buffer[: opened.readinto(memoryview(buffer))]).decode(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
DEAF = python(
    "import signal, subprocess, time; signal.signal(signal.SIGPIPE, signal.SIG_IGN); "
    "print(subprocess.Popen(['sleep', '1000']).pid, __import__('os').getpid(), flush=True); time.sleep(1000)"
)


def test_a_command_does_not_outlive_a_killed_backup() -> None:
    """When this process is killed with -9, the command and its children end, even where they never write again."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *DEAF], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL
    for process in map(int, done.stdout.split()):
        assert not psutil.pid_exists(process) or ended(psutil.Process(process))


def test_what_a_finished_command_left_running_stays() -> None:
    """A child that a command started for later, with all its descriptors, does not end when the output is closed."""
    code = "import subprocess; print(subprocess.Popen(['sleep', '1000'], stdout=2, stderr=2, close_fds=False).pid)"
    opened = start(CommandSource(["sh", "-c", 'exec 2>/dev/null; exec "$@"', "-", *python(code)], "out", NOW))
    left = psutil.Process(int(content(opened)))
    opened.close()
    time.sleep(0.2)  # a signal may take a moment to show
    assert left.status() != psutil.STATUS_ZOMBIE
    left.kill()


def test_reading_the_entries_to_their_end_ends_nothing() -> None:
    """The walk may be over before the content is read."""
    source = CommandSource(["cat", "/dev/null"], "out", NOW)
    stream = source.entries()
    entry = next(stream)
    assert isinstance(entry, Entry)
    opened = source.open(entry)
    assert list(stream) == []
    assert content(opened) == b""


def test_standard_input_is_streamed_once() -> None:
    """What is piped in is the content; a second reading is refused."""
    reader, writer = os.pipe()
    os.write(writer, b"a dump")
    os.close(writer)
    source = StdinSource("dump", NOW, reader)
    assert content(start(source), 3) == b"a dump"
    with pytest.raises(SourceError, match="only once"):
        start(source)
    os.close(reader)


def test_a_terminal_or_nothing_is_no_input() -> None:
    """A terminal, a closed descriptor and a folder on standard input are SourceErrors."""
    ours, theirs = pty.openpty()
    with pytest.raises(SourceError, match="terminal"):
        next(StdinSource("x", NOW, theirs).entries())
    os.close(ours)
    os.close(theirs)
    with pytest.raises(SourceError, match="closed"):
        next(StdinSource("x", NOW, theirs).entries())
    folder = os.open("/", os.O_RDONLY)
    with pytest.raises(SourceError, match="is a directory"):
        content(start(StdinSource("x", NOW, folder)))
    os.close(folder)


def test_signals_without_a_name_are_numbers() -> None:
    """A real-time signal is named by its number."""
    number = signal.SIGRTMIN + 3
    opened = start(CommandSource(python(f"import os; os.kill(os.getpid(), {number})"), "out", NOW))
    with pytest.raises(SourceError, match=f"killed by signal {number}"):
        content(opened)

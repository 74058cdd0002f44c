"""Signals, core dumps, closed descriptors and outputs that fail, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import OPSKIT, clean, python

HARDENED = """
import ctypes, resource
from opskit.cli import main
main(["--version"])
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""

# A command that waits to be interrupted, and cleans up for as long as it takes to read a line.
WAITING = """
import sys, time
from opskit.cli import commands, main
from opskit.cli.options import build, noun
app = noun()
@app.command()
def wait() -> None:
    "Wait."
    try:
        print("waiting", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        sys.stdin.readline()
        print("clean", flush=True)
commands.COMMANDS["wait"] = ("wait", "Wait.")
commands.LazyGroup.load = lambda self, name: build(app, [])
sys.exit(main())
"""


def test_no_core_dumps() -> None:
    """After main, the process neither writes core files nor lets another program have one."""
    assert python(HARDENED).stdout.splitlines()[-1] == "(0, 0) 0"


def waiting() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "wait"],
        env=clean({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    return process


LEAVING = """
import atexit, sys, threading
from opskit.cli import main
atexit.register(print, "goodbye")
if sys.argv.pop() == "busy":
    threading.Thread(target=lambda: (threading.main_thread().join(), print("done"))).start()
sys.exit(main())
"""


@pytest.mark.parametrize(("others", "end"), [("idle", ["goodbye"]), ("busy", ["done", "goodbye"])])
def test_a_process_ends_whole(others: str, end: list[str]) -> None:
    """However quickly it leaves, what was printed arrives, what waits for the end runs, and no thread is cut off."""
    run = python(LEAVING, "config", "generate", others)
    assert run.returncode == 0 and run.stderr == ""
    assert run.stdout.splitlines()[-len(end) :] == end and len(run.stdout) > 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up_and_exits_130(number: signal.Signals) -> None:
    """A first signal runs the cleaning, a second one does not disturb it; then exit 130 without traceback."""
    process = waiting()
    assert process.stdout is not None and process.stderr is not None
    process.send_signal(number)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(number)
    assert process.stderr.readline() == "\n"  # after the ^C on the terminal
    assert process.stderr.readline().startswith("opskit: still cleaning up")
    out, err = process.communicate("go on\n", timeout=60)
    assert process.returncode == 130
    assert out == "clean\n"
    assert err == "opskit: error: interrupted\n"


def test_a_third_signal_ends_at_once() -> None:
    """Whoever insists is obeyed: the third signal does not wait for the cleaning."""
    process = waiting()
    assert process.stdout is not None and process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGTERM)
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    process.communicate()


def test_an_ignored_signal_stays_ignored() -> None:
    """Under nohup the end of the terminal session does not stop a run."""
    code = "import os, signal; signal.signal(1, signal.SIG_IGN)\n" + (
        "from opskit.cli.process import signals\n"
        "with signals(restore=True):\n    os.kill(os.getpid(), 1); print('still here')"
    )
    assert python(code).stdout == "still here\n"


def test_handlers_are_restored() -> None:
    """A program that calls main() gets its own signal handlers back."""
    code = "import signal; from opskit.cli import main; main(['--version'])\nprint(signal.getsignal(2))"
    assert "default_int_handler" in python(code).stdout


@pytest.mark.parametrize("size", ["schema", "--help", "--version"])
def test_a_full_output_is_an_error(size: str) -> None:
    """A result that could not be written, large or small, does not look like success."""
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [*OPSKIT, "config", size], stdout=full, stderr=subprocess.PIPE, text=True, env=clean({}), check=False
        )
    assert run.returncode == 1
    assert run.stderr.startswith("opskit: error: cannot write the output: no space left on device\n")
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("size", ["schema", "--help"])
def test_a_reader_that_goes_away_is_met_in_silence(size: str, unbuffered: str) -> None:
    """`opskit … | head` prints no complaint, whoever printed."""
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [*OPSKIT, "config", size],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=clean({"PYTHONUNBUFFERED": unbuffered}),
        check=False,
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, "")


def test_closed_descriptors_are_filled(tmp_path: Path) -> None:
    """With stdin, stdout and stderr closed, no file that opskit opens takes their numbers."""
    code = (
        "import os; os.close(0); os.close(1); os.close(2)\n"
        "from opskit.cli import main; main(['--version'])\n"
        f"fd = os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY); os.write(fd, str(fd).encode())"
    )
    assert python(code).returncode == 0
    assert int((tmp_path / "file").read_text()) > 2


def test_the_terminals_encoding_never_fails(tmp_path: Path) -> None:
    """A character that the locale lacks is shown as an escape, not as an exception."""
    code = (
        "from opskit.cli.context import Context; c = Context.of_process()\n"
        "c.write('\\u2713 \\udcff'); c.message('\\u2713'); c.flush()"
    )
    run = python(code, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert run.stdout == "\\u2713 \\udcff\n" and run.stderr == "\\u2713\n"


def test_bytes_of_a_file_keep_their_order_and_fail_alike() -> None:
    """Binary output follows the text before it, and a full output is the same error as for text."""
    code = "from opskit.cli.context import Context; c = Context.of_process()\n"
    code += "c.write('first'); c.binary_output().write(b'\\x00second'); c.flush()"
    assert python(code).stdout == "first\n\x00second"
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=-1, text=True, env=clean({}), check=False
        )
    assert "OpskitError: cannot write the output: no space left on device" in run.stderr

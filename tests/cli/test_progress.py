"""The progress line, on a real terminal (a pty) and off it."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from opskit.cli.backup_progress import Shown
from opskit.cli.context import Context
from opskit.cli.progress import ProgressSample
from opskit.operations.reading import Reading
from opskit.repository.writer import ChunkWriter
from tests.cli.hosts import Machine
from tests.cli.running import clean

# Works in steps that this test steers through stdin, one line a step.
WORK = """
import contextlib, sys, time
from opskit.cli import progress
from opskit.cli.context import Context
from opskit.cli.progress import ProgressSample
progress._DELAY_SECONDS = 0
context = Context.of_process()
context.quiet, context.json = "quiet" in sys.argv, "json" in sys.argv
def sample():
    return ProgressSample(51204, 950_000_000, 1_900_000_000 if "total" in sys.argv else None)
with context.progress("tok\\x1b[ens", sample) as line:
    sys.stdin.readline()
    context.warning("look")
    with line.suspended() if line else contextlib.nullcontext():
        context.stderr.write("<question>")
        context.stderr.flush()
        time.sleep(0.3)
        context.stderr.write("<answered>\\n")
    sys.stdin.readline()
context.write("result")
"""


class Screen(io.StringIO):
    """What says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Terminal:
    """The program with a pty as stderr."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.master, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK, *arguments],
            env=clean({"TERM": "xterm-256color", "COLUMNS": "120", **environ}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
        )
        os.close(terminal)
        self.seen = ""

    def read_until(self, text: str) -> None:
        """Read what the terminal shows until `text` has appeared."""
        while text not in self.seen:
            assert select.select([self.master], [], [], 60)[0], f"{text!r} never came: {self.seen!r}"
            self.seen += os.read(self.master, 65536).decode()

    def go_on(self) -> None:
        """Let the program take its next step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> tuple[str, str]:
        """Let the program end; what it wrote to stdout and to the terminal."""
        out = self.process.communicate("\n\n", timeout=60)[0]
        try:
            while chunk := os.read(self.master, 65536):
                self.seen += chunk.decode()
        except OSError:
            pass  # EIO: the other end is closed
        os.close(self.master)
        assert self.process.returncode == 0
        return out, self.seen


def test_the_line_shows_where_the_work_is() -> None:
    """Name, files, bytes, percent and bar stand on the terminal while the work runs, and vanish at its end."""
    terminal = Terminal("total")
    terminal.read_until("50%")
    terminal.go_on()
    terminal.read_until("<answered>")
    out, shown = terminal.finish()
    assert out == "result\n"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "tok\\x1b[ens 51,204 files   950.0 MB ━━━━━━━━━━" in plain
    # The last thing that happens to the line is that it is erased.
    assert shown.rstrip("\r\n").endswith("\x1b[2K") or shown.rstrip().endswith("\x1b[1A\x1b[2K")


def test_a_question_has_the_terminal_to_itself() -> None:
    """Between the start and the end of a suspension nothing is drawn, and a warning stands on a line of its own."""
    terminal = Terminal("total")
    terminal.read_until("50%")
    terminal.go_on()
    terminal.read_until("<answered>")
    _, shown = terminal.finish()
    erased = r"\x1b\[2K(\x1b\[\d*[A-Zm])*"
    assert re.search(erased + "<question><answered>", shown)
    assert re.search(erased + r"opskit: warning:(\x1b\[0m)? look\s*\r\n", shown)


def test_without_an_estimate_there_is_no_percentage() -> None:
    """Work of unknown size shows what is done and pretends nothing."""
    terminal = Terminal()
    terminal.read_until("950.0 MB")
    _, shown = terminal.finish()
    assert "%" not in shown


@pytest.mark.parametrize(("argument", "environ"), [("quiet", {}), ("json", {}), ("total", {"TERM": "dumb"})])
def test_nothing_is_drawn_where_nobody_wants_it(argument: str, environ: dict[str, str]) -> None:
    """With --quiet, --json or a terminal that cannot move its cursor, only messages appear."""
    _, shown = Terminal(argument, **environ).finish()
    assert shown.replace("\x1b[33m", "").replace("\x1b[0m", "") == "opskit: warning: look\r\n<question><answered>\r\n"


def test_a_pipe_sees_no_progress(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On a pipe the work is not even sampled."""

    def sample() -> ProgressSample:
        raise AssertionError("sampled")

    with Context.of_process().progress("data", sample):
        pass
    assert tuple(capsys.readouterr()) == ("", "")


def test_a_failing_sample_does_not_fail_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is only a line: an error while drawing it leaves the work alone."""
    debug = "from opskit import log; log.set_level('debug')\ndef sample():\n    1 / 0\n"
    monkeypatch.setattr("tests.cli.test_progress.WORK", WORK.replace("def sample():\n", debug))
    terminal = Terminal("total")
    terminal.read_until("progress line failed")
    out, shown = terminal.finish()
    assert out == "result\n"
    assert "Traceback" not in shown


def test_a_first_backup_is_counted_beside(machine: Machine) -> None:
    """On a terminal the bytes of a source without a snapshot become known while it is read, excluded files apart."""
    machine.edit_config(f"paths: [{machine.source}]", f"paths: [{machine.source}], exclude: [large.bin]")
    context = Context(sys.stdin, sys.stdout, Screen(), {"TERM": "xterm"}, config_option=machine.config)
    reading = Reading()
    with Shown(context, context.load_config()) as shown:
        shown.watch("data", reading, cast(ChunkWriter, None))
        counting = shown._counting
        assert counting is not None
        counting._thread.join(60)
        assert reading.expected_bytes == 3_000_000 + 2 * 7
        shown.watch("data", reading, cast(ChunkWriter, None))
        assert shown._counting is None, "what is known is not counted"


def test_counting_ends_with_the_line(machine: Machine) -> None:
    """A count that is not wanted any more is stopped; off a terminal none begins."""
    context = Context(sys.stdin, sys.stdout, Screen(), {"TERM": "xterm"}, config_option=machine.config)
    with Shown(context, context.load_config()) as shown:
        shown.watch("data", Reading(), cast(ChunkWriter, None))
        counting = shown._counting
    assert counting is not None and counting._process.returncode is not None
    context.stderr = io.StringIO()
    with Shown(context, context.load_config()) as shown:
        shown.watch("data", Reading(), cast(ChunkWriter, None))
        assert shown._counting is None

"""The live line on a terminal while long work runs: files, bytes, percent, rate and time left.

The work is not slowed and not asked to call back: a thread samples it ten times a second. Short work pays nothing, as
rich loads and the line appears only after half a second. The line vanishes at the end; the result is the command's to
tell. On a pipe, with --quiet or with --json there is none (`Context.progress`). `suspended` clears the line for a
question (pinentry draws on the same terminal).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opskit import log
from opskit.cli.render import human_bytes, human_duration, printable

if TYPE_CHECKING:
    from opskit.cli.context import Context

_DELAY_SECONDS = 0.5
_PERIOD_SECONDS = 0.1
_logger = log.logger(__name__)


@dataclass(frozen=True)
class ProgressSample:
    """How far the work is. `total_bytes` is an estimate and may be exceeded; None where there is none."""

    done_files: int
    done_bytes: int
    total_bytes: int | None = None


Sampler = Callable[[], ProgressSample]


class Progress:
    """The progress line of one piece of work; a context manager. `Context.progress` makes it.

    `sample` is called from another thread and must be quick and free of side effects.
    """

    def __init__(self, context: Context, label: str, sample: Sampler) -> None:
        self._context = context
        self._label = printable(label)
        self._sample = sample
        # Guards the line: whoever holds it may write to the terminal. Reentrant: a warning may come while drawing.
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._suspensions = 0
        self._line: Any = None
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._context.live = self
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._context.live = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Clear the line and leave the terminal alone until the end of the block."""
        with self._lock:
            self._suspensions += 1
            if self._line is not None:
                self._line.stop()
        try:
            yield
        finally:
            with self._lock:
                self._suspensions -= 1
                if self._line is not None and not self._suspensions and not self._ended.is_set():
                    self._line.start()

    def write_above(self, text: str) -> None:
        """Write a line to stderr without tearing the progress line."""
        with self._lock:
            if self._line is not None and not self._suspensions:
                self._line.console.print(text, markup=False, highlight=False, soft_wrap=True)
                return
            stream = self._context.stderr
            stream.write(text + "\n")
            stream.flush()

    def _run(self) -> None:
        if self._ended.wait(_DELAY_SECONDS):
            return
        try:
            self._draw()
        except Exception as error:
            # A line that cannot be drawn must not cost a backup.
            _logger.debug("progress line failed", error=repr(error))

    def _draw(self) -> None:
        line = _new_line(self._context)
        task = line.add_task(self._label, total=None, facts="", pace="")
        with self._lock:
            self._line = line
            if not self._suspensions:
                line.start()
        try:
            while not self._ended.wait(_PERIOD_SECONDS):
                with self._lock:
                    if not self._suspensions:
                        self._update(line, task)
        finally:
            with self._lock:
                line.stop()
                self._line = None

    def _update(self, line: Any, task: Any) -> None:
        sample = self._sample()
        total = None if sample.total_bytes is None else max(sample.total_bytes, sample.done_bytes)
        state = line.tasks[0]
        line.update(
            task,
            completed=sample.done_bytes,
            total=total,
            facts=f"{sample.done_files:,} files   {human_bytes(sample.done_bytes)}",
            pace=_pace(state.speed, state.time_remaining if total else None),
        )
        line.refresh()


def _pace(bytes_per_second: float | None, seconds_left: float | None) -> str:
    if not bytes_per_second:
        return ""
    left = "" if seconds_left is None else f"   {human_duration(round(seconds_left))} left"
    return f"{human_bytes(bytes_per_second)}/s{left}"


def _new_line(context: Context) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(file=context.stderr, no_color=not context.shows_color(context.stderr), highlight=False)
    return Progress(
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[facts]}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(show_speed=False),
        TextColumn("{task.fields[pace]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
    )

"""The progress line of a backup: one source after the other, on a terminal.

A first backup has no snapshot to tell how much there is: its files are counted beside it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

from opskit.cli.context import Context
from opskit.cli.counting import Counting
from opskit.cli.progress import Progress, ProgressSample
from opskit.config.model import Config, PathsSource
from opskit.operations.reading import Reading
from opskit.repository.writer import ChunkWriter


class Shown:
    """Shows what a source's reading has come to; use as a context manager around the run."""

    def __init__(self, context: Context, config: Config) -> None:
        self._context, self._config = context, config
        self._line: AbstractContextManager[Progress | None] | None = None
        self._counting: Counting | None = None

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def watch(self, source: str, reading: Reading, _writer: ChunkWriter) -> None:
        """Begin the line of a source."""
        self.end()

        def sample() -> ProgressSample:
            return ProgressSample(reading.files, reading.total_bytes, reading.expected_bytes)

        def expect(found: int) -> None:
            reading.expected_bytes = found

        self._line = self._context.progress(source, sample)
        self._line.__enter__()
        if reading.expected_bytes is None and self._context.live and self._is_files(source):
            with suppress(OSError):  # an estimate is not worth a backup
                self._counting = Counting(self._context.find_config(), source, expect)

    def _is_files(self, source: str) -> bool:
        return isinstance(self._config.sources.get(source), PathsSource)

    def end(self) -> None:
        """Take the line away."""
        if self._line is not None:
            self._line.__exit__(None, None, None)
            self._line = None
        if self._counting is not None:
            self._counting.end()
            self._counting = None

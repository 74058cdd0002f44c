"""The progress line of a backup: one source after the other, on a terminal."""

from __future__ import annotations

from opskit.cli.context import Context
from opskit.cli.progress import Progress, ProgressSample
from opskit.operations.reading import Reading
from opskit.repository.writer import ChunkWriter


class Shown:
    """Shows what a source's reading has come to; use as a context manager around the run."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._line: Progress | None = None

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def watch(self, source: str, reading: Reading, _writer: ChunkWriter) -> None:
        """Begin the line of a source."""
        self.end()

        def sample() -> ProgressSample:
            return ProgressSample(reading.files, reading.total_bytes, reading.expected_bytes)

        self._line = self._context.progress(source, sample)
        self._line.__enter__()

    def end(self) -> None:
        """Take the line away."""
        if self._line is not None:
            self._line.__exit__(None, None, None)
            self._line = None

"""Cuts long content into chunks whose borders depend on the content (FastCDC).

Invariants: the cuts of a byte string depend on nothing but its bytes, so two runs, two hosts and
two window sizes find the same chunks; every chunk but the last of a file is MIN_CHUNK to MAX_CHUNK
bytes long. A file shorter than MIN_CHUNK is one chunk.

Source of the algorithm: Xia et al., "The Design of Fast Content-Defined Chunking for Data
Deduplication Based Storage Systems", IEEE TPDS 2020 (FastCDC 2020), as the library pyfastcdc
implements it: normalisation level 1, seed 0. The borders are part of repository format 1 only as far
as deduplication goes: other borders would restore as well, but store everything once more. That is
why the library's version is pinned and tests/golden holds vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from opskit.repository.memory import buffer

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

MIN_CHUNK = 512 * 1024
"""Bytes; a shorter file is a single chunk."""
AVERAGE_CHUNK = 1024 * 1024
"""Bytes; the parameter of the algorithm. Real chunks average about 1.25 MiB."""
MAX_CHUNK = 8 * 1024 * 1024
"""Bytes; no chunk is longer."""

WINDOW = 2 * MAX_CHUNK
"""Bytes read ahead: a cut is only trusted where MAX_CHUNK bytes or the end of the content follow."""

ReadInto = Callable[[memoryview], int]
"""Fills the start of the given buffer and returns how many bytes it wrote; 0 at the end."""


class Chunker:
    """Cuts streams, one after the other, through one reusable window (not for several threads)."""

    def __init__(self) -> None:
        self._cutter: FastCDC | None = None
        self._window = buffer(WINDOW)

    def chunks(self, read_into: ReadInto) -> Iterator[memoryview]:
        """Yield the chunks of a stream in order; each view is valid only until the next is asked for."""
        view = self._window
        from pyfastcdc import FastCDC  # here: 17 M instructions that a backup which reads nothing does not pay

        if self._cutter is None:
            self._cutter = FastCDC(AVERAGE_CHUNK, min_size=MIN_CHUNK, max_size=MAX_CHUNK, normalized_chunking=1, seed=0)
        filled, at_end = 0, False
        while not at_end:
            filled, at_end = _fill(view, filled, read_into)
            start = 0
            for cut in self._cutter.cut_buf(view[:filled]):
                if not at_end and filled - start < MAX_CHUNK:
                    break
                yield view[start : start + cut.length]
                start += cut.length
            view[: filled - start] = view[start:filled]
            filled -= start


def _fill(view: memoryview, filled: int, read_into: ReadInto) -> tuple[int, bool]:
    """Read until the window is full or the stream ends; returns bytes held and whether it ended."""
    while filled < len(view):
        count = read_into(view[filled:])
        if count == 0:
            return filled, True
        filled += count
    return filled, False

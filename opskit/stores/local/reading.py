"""Reading an open file: a part of it, whole into memory that is there, or piece by piece, as far as it goes."""

from __future__ import annotations

import os
from collections.abc import Iterator

_PIECE = 1 << 20
"""Bytes: few enough to be hashed and written while they lie in the cache of a processor."""


def read_from(descriptor: int, offset: int, wanted: int) -> bytes:
    """`wanted` bytes of an open file, fewer where it ends before; one system call and no copy below 2 GiB."""
    pieces: list[bytes] = []
    while wanted and (piece := os.pread(descriptor, wanted, offset)):
        pieces.append(piece)
        offset, wanted = offset + len(piece), wanted - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_into(descriptor: int, buffer: memoryview) -> int:
    """Fill `buffer` from the beginning of an open file; returns how many bytes there were."""
    done = 0
    while done < len(buffer) and (count := os.preadv(descriptor, [buffer[done:]], done)):
        done += count
    return done


def read_pieces(descriptor: int, size: int) -> Iterator[memoryview]:
    """The next `size` bytes of an open file, fewer where it ends before; each piece is valid until the next."""
    # One buffer for all: memory that is new costs more, page by page, than hashing what is read into it.
    buffer = memoryview(bytearray(min(size, _PIECE)))
    while size and (count := os.readv(descriptor, [buffer[:size]])):
        yield buffer[:count]
        size -= count

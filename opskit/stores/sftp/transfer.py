"""Bodies of objects on their way to and from a server, many pieces at once: a far server is as fast as a near one.

Invariant: as long as pieces arrive the transfer goes on, however slow the line; when none does for the time-out it
raises TimeoutError. What is read is exactly the bytes that were asked for, or EOFError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncssh import SFTPClientFile

_PIECE = 255 * 1024
"""Bytes: what OpenSSH takes at once; other servers say less, and then it is less."""

_UNDER_WAY = 4 << 20
"""Bytes of one body that may be unanswered."""


async def write_all(file: SFTPClientFile, data: memoryview, timeout: float) -> None:
    """Write `data` to an open file from its beginning."""
    size = _piece(file.write_len)

    async def write(start: int) -> None:
        # A copy of a piece: asyncssh takes bytes alone.
        await file.write(bytes(data[start : start + size]), start)

    await _all(write, len(data), size, timeout)


async def read_all(file: SFTPClientFile, offset: int, length: int, timeout: float) -> bytes:
    """`length` bytes of an open file from `offset`; raises EOFError where it ends before."""
    size = _piece(file.read_len)
    found = bytearray(length)

    async def read(start: int) -> None:
        wanted = min(size, length - start)
        piece: Any = await file.read(wanted, offset + start)
        if len(piece) != wanted:
            raise EOFError(f"expected {wanted} bytes at {offset + start}, got {len(piece)}")
        found[start : start + wanted] = piece

    await _all(read, length, size, timeout)
    return bytes(found)


def _piece(most: int) -> int:
    return min(most or _PIECE, _PIECE)


async def _all(move: Callable[[int], Coroutine[Any, Any, None]], length: int, size: int, timeout: float) -> None:
    """Await `move` for each start of a piece, as many at once as may be under way."""
    most = max(16, _UNDER_WAY // size)
    pending: set[asyncio.Task[None]] = set()
    try:
        for start in range(0, length, size):
            if len(pending) >= most:
                pending = await _some(pending, timeout)
            pending.add(asyncio.create_task(move(start)))
        while pending:
            pending = await _some(pending, timeout)
    except BaseException:
        for each in pending:
            each.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        raise


async def _some(pending: set[asyncio.Task[None]], timeout: float) -> set[asyncio.Task[None]]:
    """Wait until at least one is done; raises what went wrong in it, TimeoutError when none is in time."""
    done, rest = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        raise TimeoutError(f"nothing moved for {timeout:g} s")
    failed = [error for each in done if (error := each.exception()) is not None]
    if failed:
        raise failed[0]
    return rest

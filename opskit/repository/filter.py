"""A filter of chunk ids: says for sure that a chunk is new, or that it may be known.

Chunk ids are SHA-256, so a slice of one is its hash: a Bloom filter (B. H. Bloom, "Space/Time Trade-offs in Hash
Coding with Allowable Errors", 1970) with a single function. With 2**24 bits (2 MiB) 100,000 ids give one false alarm
in 170, a million one in 17; a false alarm costs a query, nothing else. More functions would cost every chunk more than
the queries they save, and more bits every first backup the time to zero them.
"""

from __future__ import annotations

from collections.abc import Iterable

_BITS = 24
_SHIFT = 32 - _BITS


class Filter:
    """A set that may claim members it does not have, and never denies one it has."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_BITS - 3))

    def update(self, chunk_ids: Iterable[bytes]) -> None:
        """Take in ids of 32 bytes."""
        bits = self._bits
        for chunk_id in chunk_ids:
            value = int.from_bytes(chunk_id[:4]) >> _SHIFT
            bits[value >> 3] |= 1 << (value & 7)

    def __contains__(self, chunk_id: bytes) -> bool:
        value = int.from_bytes(chunk_id[:4]) >> _SHIFT
        return bool(self._bits[value >> 3] & (1 << (value & 7)))

"""A Bloom filter of chunk ids: says for sure that a chunk is new, or that it may be known.

Chunk ids are SHA-256, so slices of one serve as its hash functions (Kirsch and Mitzenmacher, "Less Hashing, Same
Performance", 2006). With 2**26 bits (8 MiB) a million ids give one false alarm in 2,000, ten million one in
four; a false alarm costs a query, nothing else.
"""

from __future__ import annotations

_BITS = 26
_MASK = (1 << _BITS) - 1
_PROBES = 3


class Filter:
    """A set that may claim members it does not have, and never denies one it has."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_BITS - 3))

    def add(self, chunk_id: bytes) -> None:
        """Take in an id of 32 bytes."""
        value, bits = int.from_bytes(chunk_id[:10]), self._bits
        for _ in range(_PROBES):
            bits[(value & _MASK) >> 3] |= 1 << (value & 7)
            value >>= _BITS

    def __contains__(self, chunk_id: bytes) -> bool:
        value, bits = int.from_bytes(chunk_id[:10]), self._bits
        for _ in range(_PROBES):
            if not bits[(value & _MASK) >> 3] & (1 << (value & 7)):
                return False
            value >>= _BITS
        return True

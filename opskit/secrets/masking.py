"""Hiding secrets in a stream of bytes that comes in pieces, as the output of a program does.

Hidden is each value as it is, and as programs commonly write it: in JSON, in base64, percent-encoded, in hexadecimal;
of a value of several lines each long line too. Whatever overlaps is hidden together, so no end of one secret is left
beside another.

Invariants: what comes out depends on the bytes alone, not on how they were cut; no piece is held back longer than it
could be the beginning of a secret. It cannot hide what a program has changed in another way.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from urllib.parse import quote, quote_plus

MASK = b"[secret]"
SHORTEST = 6
"""Bytes; shorter values stand inside innocent words, and hiding those would hide nothing."""
_SHORTEST_LINE = 16


class Masker:
    """Hides `values`; feed it everything in order, then `finish`."""

    def __init__(self, values: Iterable[bytes]) -> None:
        self._patterns = sorted({form for value in values if len(value) >= SHORTEST for form in _forms(value)})
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be shown now."""
        text = self._held + data
        spans = self._spans(text)
        end = self._undecided_from(text)
        for start, stop in reversed(spans):
            if stop > end:
                end = min(end, start)
        self._held = text[end:]
        return _masked(text[:end], [span for span in spans if span[1] <= end])

    def finish(self) -> bytes:
        """The rest."""
        text, self._held = self._held, b""
        return _masked(text, self._spans(text))

    def _spans(self, text: bytes) -> list[tuple[int, int]]:
        """Where something is to be hidden, in order; what overlaps is one span."""
        found = sorted(span for pattern in self._patterns for span in _occurrences(text, pattern))
        merged: list[tuple[int, int]] = []
        for start, stop in found:
            if merged and start < merged[-1][1]:
                merged[-1] = merged[-1][0], max(stop, merged[-1][1])
            else:
                merged.append((start, stop))
        return merged

    def _undecided_from(self, text: bytes) -> int:
        """The first position from which the rest could be the beginning of something to be hidden."""
        longest = max((_overlap(text, pattern) for pattern in self._patterns), default=0)
        return len(text) - longest


def _occurrences(text: bytes, pattern: bytes) -> Iterable[tuple[int, int]]:
    position = text.find(pattern)
    while position >= 0:
        yield position, position + len(pattern)
        position = text.find(pattern, position + 1)


def _overlap(text: bytes, pattern: bytes) -> int:
    """How many bytes at the end of `text` are the beginning, but not all, of `pattern`."""
    return next((size for size in range(min(len(pattern) - 1, len(text)), 0, -1) if text.endswith(pattern[:size])), 0)


def _masked(text: bytes, spans: list[tuple[int, int]]) -> bytes:
    shown, position = [], 0
    for start, stop in spans:
        shown += [text[position:start], MASK]
        position = stop
    return b"".join([*shown, text[position:]])


def _forms(value: bytes) -> set[bytes]:
    text = value.decode("utf-8", "surrogateescape")
    forms = {value, quote(value, safe="").encode(), quote(value).encode(), quote_plus(value).encode()}
    forms |= {json.dumps(text)[1:-1].encode(), json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")}
    forms |= {value.hex().encode(), value.hex().upper().encode()}
    forms |= {form for encode in (base64.b64encode, base64.urlsafe_b64encode) for form in _aligned(value, encode)}
    lines = value.split(b"\n")
    if len(lines) > 1:
        forms |= {line.strip() for line in lines if len(line.strip()) >= _SHORTEST_LINE}
    return {form for form in forms if len(form) >= SHORTEST}


def _aligned(value: bytes, encode: Callable[[bytes], bytes]) -> Iterable[bytes]:
    """The value in base64 as it looks at each of the three places it can begin at in a longer text.

    The characters that its neighbours have a part in are cut off.
    """
    for before in range(3):
        encoded = encode(bytes(before) + value)
        start = (0, 2, 3)[before]
        rest = (before + len(value)) % 3
        yield encoded[start : len(encoded) - (0, 3, 2)[rest]]

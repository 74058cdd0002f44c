"""Hiding secrets in a stream of bytes that comes in pieces, as the output of a program does.

Hidden is each value as it is and without the blanks and line ends around it, and of a value of several lines each line
of 8 bytes or more. Each is found in four readings of the output: as it is; with the escapes of JSON, URLs, XML and
shells undone and quotes and backslashes left out; as hexadecimal and as base64, both without line ends. Whatever
overlaps is hidden together, so no end of one secret is left beside another.

Invariants: what comes out depends on the bytes alone, not on how they were cut; what is held back could be the
beginning of a secret or of an escape, and is no longer than `_WIDEST` times the longest value and a little. Time grows
with the output, not with how often a secret overlaps itself.

It cannot hide what a program has changed in another way. Where a value that begins or ends with quotes or backslashes
is written with escapes, those may stay beside the mask.
"""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache

MASK = b"[secret]"
SHORTEST = 6
"""Bytes; shorter values stand inside innocent words, and hiding those would hide nothing."""
_SHORTEST_LINE = 8
_WIDEST = 12
"""Bytes of output that one byte of a value may take; what is spread wider is not looked for, to hold little back."""
_FEW = 24
"""Patterns that are searched one by one; more are searched together, by words of `_WORD` bytes."""
_WORD = 4

_HEX = rb"[0-9a-fA-F]"
_OPEN = (
    rb"(?P<open>(?:%H?|\\(?:u(?:H{0,3}|[dD][89abAB]HH(?:\\(?:u(?:[dD](?:[c-fC-F]H?)?)?)?)?)|xH?|[0-3][0-7]?)?"
    rb"|&(?:#(?:[0-9]{0,7}|[xX]H{0,6})|[a-z]{0,4}))\Z)|"
).replace(b"H", _HEX)
_ESCAPE = (
    rb"%(?P<percent>HH)|\\u(?P<high>[dD][89abAB]HH)\\u(?P<low>[dD][c-fC-F]HH)|\\u(?P<unicode>HHHH)|\\x(?P<byte>HH)"
    rb"|\\(?P<octal>[0-3][0-7]{2})|\\(?P<control>[nrtbf])|\\\\"
    rb"|&(?:(?P<name>amp|lt|gt|quot|apos)|#(?P<number>[0-9]{1,7})|#[xX](?P<point>H{1,6}));"
).replace(b"H", _HEX)
_WHOLE_ESCAPES = re.compile(_ESCAPE)
_ESCAPES = re.compile(_OPEN + _ESCAPE)
_CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
_NAMES = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}


class Masker:
    """Hides `values`; feed it everything in order, then `finish`."""

    def __init__(self, values: Iterable[bytes]) -> None:
        self._readings = _readings([value for value in values if len(value) >= SHORTEST])
        self._held = b""
        self._hidden = 0  # how much of what comes next, the held included, is part of a mask already shown

    def feed(self, data: bytes) -> bytes:
        """What can be shown now."""
        return self._show(self._held + data, last=False)

    def finish(self) -> bytes:
        """The rest."""
        return self._show(self._held, last=True)

    def _show(self, text: bytes, *, last: bool) -> bytes:
        spans: list[tuple[int, int]] = []
        end = len(text)
        views = [reading.of(text, last=last) for reading in self._readings]
        for view in views:
            spans += view.spans()
            end = end if last else min(end, view.undecided_from())
        for view in views:  # the rest must be read as it would be with all before it
            end = view.boundary(end)
        shown, hidden = [], self._hidden
        for start, stop in sorted(spans):
            if start >= end:
                break
            if start >= hidden:
                shown += [text[hidden:start], MASK]
            hidden = max(hidden, stop)
        shown.append(text[hidden:end])
        self._held, self._hidden = text[end:], max(hidden - end, 0)
        return b"".join(shown)


class _Pattern:
    """One string to be found in a reading."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.seed = content[:_WORD]

    @cached_property
    def _period(self) -> int:
        """The least distance at which two occurrences can be."""
        borders, border = [0], 0
        for byte in self.content[1:]:
            while border and byte != self.content[border]:
                border = borders[border - 1]
            border += byte == self.content[border]
            borders.append(border)
        return len(self.content) - border

    @cached_property
    def _repeats(self) -> re.Pattern[bytes]:
        """What may follow an occurrence and make more of them that overlap it."""
        if self._period == len(self.content):
            return re.compile(b"")
        return re.compile(b"(?:" + re.escape(self.content[-self._period :]) + b")*+")

    def occurrences(self, text: bytes) -> Iterator[tuple[range, int]]:
        """All of them, overlapping ones too, in time that grows with the text only: where they begin, and their size.

        Those of one range overlap.
        """
        size = len(self.content)
        start = text.find(self.content)
        while start >= 0:
            repeats = self._repeats.match(text, start + size)
            after = (repeats.end() if repeats else start + size) - size + self._period
            yield range(start, after, self._period), size
            start = text.find(self.content, after)

    def beginnings(self, text: bytes) -> Iterator[int]:
        """Where the rest of `text` is the beginning, but not all, of this."""
        low = max(len(text) - len(self.content) + 1, 0)
        start = text.find(self.seed, low)
        while start >= 0:
            if self.content.startswith(text[start:]):
                yield start
            start = text.find(self.seed, start + 1)
        for start in range(max(low, len(text) - len(self.seed) + 1), len(text)):
            if self.content.startswith(text[start:]):
                yield start


class _Index:
    """Finds many patterns in one pass.

    Each pattern of seven bytes or more covers a whole word of four at a multiple of four, wherever it begins.
    """

    def __init__(self, patterns: list[_Pattern]) -> None:
        self._short = [pattern for pattern in patterns if len(pattern.content) < 2 * _WORD - 1]
        self._places: dict[int, list[tuple[bytes, int]]] = {}
        for pattern in patterns:
            if len(pattern.content) >= 2 * _WORD - 1:
                for offset in range(_WORD):
                    word = memoryview(pattern.content[offset : offset + _WORD]).cast("I")[0]
                    self._places.setdefault(word, []).append((pattern.content, offset))

    def occurrences(self, text: bytes) -> Iterator[tuple[range, int]]:
        """As those of each pattern."""
        for pattern in self._short:
            yield from pattern.occurrences(text)
        places = self._places
        words = memoryview(text)[: len(text) // _WORD * _WORD].cast("I")
        for at, word in [(at, word) for at, word in enumerate(words) if word in places]:
            for content, offset in places[word]:
                start = at * _WORD - offset
                if start >= 0 and text.startswith(content, start):
                    yield range(start, start + 1), len(content)


class _Reading:
    """One way to read output: some bytes stand for others, some for nothing, and escapes for what they mean."""

    def __init__(self, contents: Iterable[bytes], table: bytes, left_out: bytes, *, escapes: bool, limit: int) -> None:
        self.table, self.left_out, self.escapes, self.limit = table, left_out, escapes, limit
        read = {content.translate(table, left_out) for content in contents}
        self.patterns = [_Pattern(content) for content in sorted(read) if len(content) >= SHORTEST]
        self.index = _Index(self.patterns) if len(self.patterns) > _FEW else None

    def of(self, text: bytes, *, last: bool) -> _View:
        """`text` read so; unless it is the `last`, an escape at its end may be incomplete."""
        return _View(self, text, last=last)

    def occurrences(self, text: bytes) -> Iterator[tuple[range, int]]:
        """As those of each pattern."""
        if self.index:
            yield from self.index.occurrences(text)
        else:
            for pattern in self.patterns:
                yield from pattern.occurrences(text)


class _View:
    """A text as one reading sees it, with the way back from places there to places in the text."""

    def __init__(self, reading: _Reading, text: bytes, *, last: bool) -> None:
        self._reading, self._text = reading, text
        self._open = len(text)
        read = text
        if reading.escapes and (b"\\" in text or b"%" in text or b"&" in text):
            read = (_WHOLE_ESCAPES if last else _ESCAPES).sub(self._undone, text)
        self._read = read.translate(reading.table, reading.left_out)

    def _undone(self, match: re.Match[bytes]) -> bytes:
        if match.lastgroup == "open":
            self._open = match.start()
            return b""
        return _meaning(match[0])

    @cached_property
    def _escapes(self) -> list[tuple[int, int, bytes]]:
        """Start, stop, what it is read as."""
        reading = self._reading
        found = _WHOLE_ESCAPES.finditer(self._text) if reading.escapes else ()
        meanings = ((*match.span(), _meaning(match[0])) for match in found if match.start() < self._open)
        return [(start, stop, read.translate(reading.table, reading.left_out)) for start, stop, read in meanings]

    @cached_property
    def _steps(self) -> tuple[list[int], list[int]]:
        """Where runs of bytes that are read one for one begin: in the reading, and in the text.

        An escape that means several bytes is one run: the way back leads to its start from its first byte only, and
        `_source` keeps to its bounds.
        """
        read, text = [0], [0]
        at = position = 0
        for start, stop, size in self._changes():
            at += start - position
            if size:
                read.append(at)
                text.append(start)
            at += size
            position = stop
            if read[-1] == at:
                text[-1] = stop
            else:
                read.append(at)
                text.append(stop)
        return read, text

    def _changes(self) -> Iterator[tuple[int, int, int]]:
        """What is not read one for one: start, stop, and bytes it is read as."""
        position = 0
        for start, stop, meaning in [*self._escapes, (self._open, self._open, b"")]:
            if self._reading.left_out:
                for match in self._left_out.finditer(self._text, position, start):
                    yield *match.span(), 0
            if stop > start:
                yield start, stop, len(meaning)
            position = stop

    @cached_property
    def _left_out(self) -> re.Pattern[bytes]:
        return re.compile(b"[" + re.escape(self._reading.left_out) + b"]+")

    def _source(self, place: int) -> int:
        """Where in the text the byte at `place` of the reading begins."""
        if len(self._read) == len(self._text):
            return place
        read, text = self._steps
        step = bisect_right(read, place) - 1
        return self.boundary(text[step] + place - read[step])

    def boundary(self, place: int) -> int:
        """`place`, or the start of the escape that it is within."""
        if place >= self._open:
            return self._open
        step = bisect_right(self._escapes, place, key=lambda escape: escape[0]) - 1
        if step >= 0 and place < self._escapes[step][1]:
            return self._escapes[step][0]
        return place

    def _end_of(self, place: int) -> int:
        """Where in the text the byte at `place` of the reading ends."""
        start = self._source(place)
        step = bisect_right(self._escapes, start, key=lambda escape: escape[0]) - 1
        if step >= 0 and self._escapes[step][0] == start:
            return self._escapes[step][1]
        return start + 1

    def spans(self) -> Iterator[tuple[int, int]]:
        """Where in the text something is to be hidden."""
        for starts, size in self._reading.occurrences(self._read):
            if len(self._read) == len(self._text):
                yield starts[0], starts[-1] + size
                continue
            for place in starts:
                start, stop = self._source(place), self._end_of(place + size - 1)
                if stop - start <= self._reading.limit:
                    yield start, stop

    def undecided_from(self) -> int:
        """The first place in the text from which the rest could be the beginning of something to be hidden."""
        earliest = self._open
        least = len(self._text) - self._reading.limit
        for pattern in self._reading.patterns:
            for place in pattern.beginnings(self._read):
                source = self._source(place)
                if source > least:
                    earliest = min(earliest, source)
                    break
        return earliest


@lru_cache(4096)
def _meaning(escape: bytes) -> bytes:
    """What an escape stands for; a pair of backslashes for nothing, as all backslashes do."""
    match = _WHOLE_ESCAPES.fullmatch(escape)
    assert match is not None
    kind, content = match.lastgroup, match[match.lastgroup or 0]
    if kind in ("percent", "byte"):
        return bytes([int(content, 16)])
    if kind == "octal":
        return bytes([int(content, 8)])
    if kind == "control":
        return _CONTROLS[content]
    if kind == "name":
        return _NAMES[content]
    if kind == "low":
        return _character(0x10000 + ((int(match["high"], 16) - 0xD800) << 10) + int(content, 16) - 0xDC00)
    return _character(int(content, 10 if kind == "number" else 16)) if kind else b""


def _character(point: int) -> bytes:
    """In UTF-8; Python writes a byte that is no UTF-8 as one of the points U+DC80 to U+DCFF."""
    if 0xDC80 <= point <= 0xDCFF:
        return bytes([point - 0xDC00])
    return chr(point).encode("utf-8", "replace") if point <= 0x10FFFF else b"?"


def _readings(values: list[bytes]) -> list[_Reading]:
    wholes = {form for value in values for form in (value, value.strip()) if len(form) >= SHORTEST}
    texts = wholes | {line for value in values for line in _lines(value)}
    limit = _WIDEST * max(map(len, values), default=0) + 64
    same = bytes(range(256))
    blank, lower, safe = (bytes.maketrans(*pair) for pair in ((b"+", b" "), (b"ABCDEF", b"abcdef"), (b"-_", b"+/")))
    encoded = {form for whole in wholes for form in _aligned(whole)}
    readings = [
        _Reading(texts, same, b"", escapes=False, limit=limit),
        _Reading(texts | set(map(_undone, _written(texts))), blank, b"'\"\\", escapes=True, limit=limit),
        _Reading([whole.hex().encode() for whole in wholes], lower, b"\r\n", escapes=False, limit=limit),
        _Reading(encoded, safe, b"\r\n", escapes=False, limit=limit),
    ]
    return [reading for reading in readings if reading.patterns]


def _written(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Texts as they are, and with escapes of JSON and XML.

    Of a value that looks as if it held escapes itself (`%41`), some are undone with those that were put in.
    """
    for text in texts:
        decoded = text.decode("utf-8", "surrogateescape")
        yield text
        yield json.dumps(decoded)[1:-1].encode()
        for form in (json.dumps(decoded, ensure_ascii=False)[1:-1], html.escape(decoded)):
            yield form.encode("utf-8", "surrogateescape")


def _undone(text: bytes) -> bytes:
    return _WHOLE_ESCAPES.sub(lambda escape: _meaning(escape[0]), text)


def _lines(value: bytes) -> Iterable[bytes]:
    """The long lines of a value that has several."""
    lines = value.split(b"\n")
    return [line.strip() for line in lines if len(lines) > 1 and len(line.strip()) >= _SHORTEST_LINE]


def _aligned(value: bytes) -> Iterable[bytes]:
    """The value in base64 as it looks at each of the three places it can begin at in a longer text.

    The characters that its neighbours have a part in are cut off; the last is kept once, as it is at the end of a text.
    """
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + value)
        start = (0, 2, 3)[before]
        rest = (before + len(value)) % 3
        yield encoded[start : len(encoded) - (0, 3, 2)[rest]]
        yield encoded[start:].rstrip(b"=")

"""A recovery-key file as numbered lines with a check sum each, and as the parts that go into QR codes.

Invariants: a part holds whole lines, and neither begins nor ends with an empty one, so that a scanner which trims what
it reads takes nothing away. Everything is ASCII. No check sum is secret, and none protects against a forger: they find
slips. Byte-exact in docs/format.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from opskit.errors import UsageError

PART_CHARACTERS = 600
"""Of one QR code: with error correction M that is version 20, whose modules are 0.75 mm wide when the code is 80 mm."""
LONGEST_LINE = 2200
"""Characters: a line is never divided, and the largest QR code with error correction M holds 2,331."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one QR code holds: some lines, the first of which is line `first` (from 1), of the sheet `sheet`."""

    number: int
    count: int
    sheet: str
    first: int
    lines: tuple[str, ...]

    @property
    def last(self) -> int:
        """The number of its last line."""
        return self.first + len(self.lines) - 1

    def text(self) -> str:
        """What a scanner shows: a line that says which part this is, then its lines."""
        span = f"{self.first}-{self.last}"
        head = f"opskit-paper {self.number}/{self.count} {self.sheet} {span} {part_sum(self.lines)}"
        return "".join(f"{line}\n" for line in (head, *self.lines))


def plain(data: bytes) -> str:
    """A key file as it is printed: LF, single blanks and empty lines, nothing at the ends of lines.

    What opskit wrote is that already. Raises UsageError for what is not ASCII, or a line too long for a code.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise UsageError(
            "the key file has characters beside ASCII, which scanners change",
            hint="take the lines that begin with 'Comment:' out of a copy of it: gpg does not need them",
        ) from error
    lines = [" ".join(line.split()) for line in text.splitlines()]
    kept = [line for number, line in enumerate(lines) if line or (number and lines[number - 1])]
    while kept and not kept[-1]:
        kept.pop()
    kept = kept[1:] if kept and not kept[0] else kept
    if any(len(line) > LONGEST_LINE for line in kept):
        raise UsageError(f"the key file has a line of more than {LONGEST_LINE} characters, which no QR code holds")
    if any(not line.isprintable() for line in kept):
        raise UsageError("the key file has control characters in it: expected text")
    return joined(kept)


def joined(lines: Sequence[str]) -> str:
    """Lines as a text that ends with a line end."""
    return "".join(f"{line}\n" for line in lines)


def sheet_sum(text: str) -> str:
    """The first eight digits of the SHA-256 of a whole text: they say which sheet something is of."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def line_sum(number: int, line: str) -> str:
    """Four digits that show a slip in a line that somebody typed: of the SHA-256 of `NUMBER:LINE`."""
    return hashlib.sha256(f"{number}:{line}".encode()).hexdigest()[:4]


def part_sum(lines: Sequence[str]) -> str:
    """Four digits of the SHA-256 of lines without blanks and line ends, which scanners change."""
    return hashlib.sha256("".join("".join(lines).split()).encode()).hexdigest()[:4]


def divide(text: str) -> list[Part]:
    """The parts of a text, of about the same length each."""
    lines, sheet = text.splitlines(), sheet_sum(text)
    wanted = len(text) / max(1, -(-len(text) // PART_CHARACTERS))
    spans: list[tuple[str, ...]] = []
    begun: list[str] = []
    for number, line in enumerate(lines):
        begun.append(line)
        may_end = line and number + 1 < len(lines) and lines[number + 1]
        following = len(lines[number + 1]) if may_end else 0
        if may_end and len(joined(begun)) + following / 2 > wanted:
            spans.append(tuple(begun))
            begun = []
    spans.append(tuple(begun))
    parts, first = [], 1
    for number, span in enumerate(spans, 1):
        parts.append(Part(number, len(spans), sheet, first, span))
        first += len(span)
    return parts


_MARKS = re.compile(
    r" (?=# |opskit recovery key |(?:repository|recover\.py sha256|signers|maintainers): |-----(?:BEGIN|END) )"
)
_ARMOR = re.compile(r"(-----(?:BEGIN|END) PGP (?:PUBLIC|PRIVATE) KEY BLOCK-----) ?(.*)")
_HEADER = re.compile(r"# |opskit recovery key |[a-z0-9. ]+: ")


def relaid(words: Sequence[str]) -> list[str]:
    """Lines of a key file whose line ends were lost: laid out anew by what opskit writes. A guess, to be checked."""
    lines: list[str] = []
    for segment in _MARKS.split(" ".join(words)):
        armor = _ARMOR.match(segment)
        if armor is None:
            lines += [segment] if _HEADER.match(segment) else segment.split()
            continue
        begins = armor[1].startswith("-----BEGIN")
        if begins and lines:
            lines.append("")
        lines += [armor[1], *([""] if begins else []), *armor[2].split()]
    return lines

"""Numbers, times, names and tables as people read them.

Invariants: the same data gives the same text, whatever the terminal; nothing that came from outside (names of files,
hosts, errors) reaches a terminal before `printable` made it harmless. It deliberately writes nothing (`Context` does),
and needs no rich: columns and five colours do not repay 0.1 s of start-up.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def styled(text: str, style: str) -> str:
    """The text in one of STYLES (ECMA-48 SGR), for a terminal that shows colours."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def human_bytes(size: float) -> str:
    """A size with a decimal unit and three or four digits: 999 B, 1.0 kB, 41.2 MB, 1.9 GB."""
    value, unit = float(size), 0
    # 999.95 would be written 1000.0: it belongs to the next unit.
    while abs(value) >= (999.5 if unit == 0 else 999.95) and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def human_duration(seconds: float) -> str:
    """A duration in at most two units: 0.4 s, 42.0 s, 3 min 12 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 59.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for size, name, smaller, smaller_name in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // smaller} {smaller_name}"
    return f"{whole // _MINUTE} min {whole % _MINUTE} s"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with thousands separators and its noun: 1 file, 51,204 files."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def printable(name: str | bytes) -> str:
    r"""A name from outside as text on one line that cannot steer a terminal.

    Control characters, escape sequences, bidirectional overrides, line separators and bytes that are not UTF-8 become
    escapes as in Python (`\x1b`, `\n`, `\u202e`, `\xff`); a backslash is doubled where there are any.
    """
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return text if text.isprintable() else "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how surrogateescape stands for one byte
        return f"\\x{code - 0xDC00:02x}"
    return ascii(character)[1:-1]


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), align: str = "") -> list[str]:
    """Lines of columns two spaces apart; `align` holds `<` or `>` for each column (`<` unless told).

    Cells must have passed `printable`. The last column is not padded, so no line ends in spaces.
    """
    lines = [*([header] if header else []), *rows]
    columns = max((len(line) for line in lines), default=0)
    widths = [max((cell_width(line[i]) for line in lines if i < len(line)), default=0) for i in range(columns)]
    return ["  ".join(map(_padded, line, widths, align.ljust(columns, "<"))).rstrip() for line in lines]


def _padded(cell: str, width: int, align: str) -> str:
    padding = " " * (width - cell_width(cell))
    return padding + cell if align == ">" else cell + padding


def cell_width(text: str) -> int:
    """How many columns of a terminal the text takes (Unicode Standard Annex 11; combining marks take none)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )

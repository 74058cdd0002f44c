"""From what a phone scanned or a person typed back to the text of the key file.

Any order, anything twice, whatever scanner apps make of blanks and line ends; codes and typed lines together, since a
code that cannot be read any more is made up for by typing its lines. Nothing is believed that its check sum does not
fit, and no text comes out unless the sum of the whole fits. No message shows what a line says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opskit.paper.sheet import joined, line_sum, part_sum, relaid, sheet_sum

_HEAD = re.compile(
    r"opskit[-\s]?paper\s+(\d{1,3})/(\d{1,3})\s+([0-9a-f]{8})\s+(\d{1,4})-(\d{1,4})\s+([0-9a-f]{4})(?=\s|$)"
)
_TYPED = re.compile(r"\s*(\d{1,4})[.:]?\s+([0-9a-fA-F]{4})(?:\s+(.*))?$")
_END = re.compile(r"\s*end\s+(\d{1,4})\s+([0-9a-fA-F]{8})\s*$")


MOST_ROWS = 50
"""Rows that a typed line may be broken into: the longest has 2,200 characters."""


@dataclass(slots=True)
class Read:
    """What came of reading: the `text` of the key file, or `problems` that say why there is none.

    `notes` tell what was left aside. `is_proven` is False where nothing but gpg can tell whether the text is right.
    """

    text: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_proven: bool = True


@dataclass(slots=True)
class _Sheet:
    """What is known of one sheet: lines by number, codes seen of how many, and how many lines there are."""

    lines: dict[int, str] = field(default_factory=dict)
    codes: set[int] = field(default_factory=set)
    count: int = 0
    total: int = 0


@dataclass(slots=True)
class _Pile:
    """Everything that was read: by sheet what codes say, and what was typed, which says nothing of its sheet."""

    sheets: dict[str, _Sheet] = field(default_factory=dict)
    typed: dict[int, str] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)
    broken: dict[tuple[str, int], str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    bare: list[str] = field(default_factory=list)


def read(texts: Iterable[tuple[str, str]]) -> Read:
    """Put scanned and typed texts together; each comes with the name of where it is from."""
    pile = _Pile()
    for name, text in texts:
        _take(pile, name, text)
    if not pile.sheets:
        return _without_codes(pile)
    chosen = max(pile.sheets, key=lambda each: (len(pile.sheets[each].lines), each))
    found = Read()
    for other in sorted(pile.sheets.keys() - {chosen}):
        places = ", ".join(dict.fromkeys(pile.places[other]))
        found.notes.append(f"{places}: of another key ({other}), left aside; this one is {chosen}")
    return _assembled(pile, chosen, found)


def _take(pile: _Pile, name: str, text: str) -> None:
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ")
    heads = [*_HEAD.finditer(text)]
    places = [*(head.start() for head in heads), len(text)]
    numbered = _take_typed(pile, name, text[: places[0]])
    for head, end in zip(heads, places[1:], strict=True):
        body = text[head.end() : end]
        _take_code(pile, name, head, body)
        numbered |= _take_typed(pile, name, body)  # in one editor window, say
    if not heads and not numbered and text.strip():
        pile.bare.append(text)


def _take_code(pile: _Pile, name: str, head: re.Match[str], body: str) -> None:
    number, count, first, last = (int(head[group]) for group in (1, 2, 4, 5))
    if not (1 <= number <= count and 1 <= first <= last):
        return  # no page ever said that
    sheet = pile.sheets.setdefault(head[3], _Sheet())
    pile.places.setdefault(head[3], []).append(f"{name} code {number}")
    sheet.count = max(sheet.count, count)
    if number == count:
        sheet.total = last
    lines = _lines_of(body, last - first + 1, head[6])
    if lines is None:
        pile.broken[head[3], number] = f"{name}: code {number} of {count} was changed after it was scanned"
        return
    sheet.codes.add(number)
    sheet.lines.update(enumerate(lines, first))


def _lines_of(body: str, wanted: int, check: str) -> list[str] | None:
    """The lines in the text of a code: as they stand, else laid out anew; None where characters are wrong.

    What follows the code's own lines (a signature of the app, typed lines) is left out.
    """
    rows = [" ".join(line.split()) for line in body.strip().split("\n")]
    words = body.split()
    for candidate in (rows, rows[:wanted], relaid(words)[:wanted], relaid(words)):
        if len(candidate) == wanted and part_sum(candidate) == check:
            return candidate
    return None


def _take_typed(pile: _Pile, name: str, text: str) -> bool:
    """Lines as they are printed, number and check sum first; True where there was any. A long line may be broken."""
    found = False
    rows = text.split("\n")
    for place, row in enumerate(rows):
        end = _END.match(row)
        if end is not None:
            sheet = pile.sheets.setdefault(end[2].lower(), _Sheet())
            sheet.total = int(end[1])
            pile.places.setdefault(end[2].lower(), []).append(name)
            found = True
        typed = _TYPED.match(row)
        if typed is not None:
            found = True
            _take_line(pile, name, typed, _continued(rows[place + 1 : place + 1 + MOST_ROWS]))
    return found


def _continued(rows: Sequence[str]) -> list[str]:
    """The rows that go on with a line: until the next that has a number, or an empty one."""
    following: list[str] = []
    for row in rows:
        if not row.strip() or _TYPED.match(row) or _END.match(row) or _HEAD.match(row):
            break
        following.append(row.strip())
    return following


def _take_line(pile: _Pile, name: str, typed: re.Match[str], following: Sequence[str]) -> None:
    number, check = int(typed[1]), typed[2].lower()
    line = " ".join((typed[3] or "").split())
    for glue in ("", " "):
        whole = glue.join([line, *following])
        if line_sum(number, whole) == check or line_sum(number, line) == check:
            pile.typed[number] = whole if line_sum(number, whole) == check else line
            return
    pile.wrong[number] = f"{name}: line {number} is wrong, or its check sum is: compare it with the paper"


def _assembled(pile: _Pile, chosen: str, found: Read) -> Read:
    sheet = pile.sheets[chosen]
    lines = {**pile.typed, **sheet.lines}
    total = sheet.total or max(lines, default=0)
    missing = [number for number in range(1, total + 1) if number not in lines]
    text = joined([lines.get(number, "") for number in range(1, total + 1)])
    if total and sheet_sum(text) == chosen:
        found.text = text
        return found
    found.problems += [reason for (each, number), reason in pile.broken.items() if each == chosen and missing]
    found.problems += [reason for number, reason in sorted(pile.wrong.items()) if number in missing]
    if sheet.count:
        absent = [number for number in range(1, sheet.count + 1) if number not in sheet.codes]
        broken = {number for each, number in pile.broken if each == chosen}
        if (gone := [number for number in absent if number not in broken]) and (missing or not sheet.total):
            found.problems.append(_codes(gone, sheet.count) + _instead(missing))
    elif gone := [number for number in missing if number not in pile.wrong]:
        found.problems.append(_gone(gone))
    if not found.problems:
        found.problems.append(
            f"everything is there, and the sum of the whole is {sheet_sum(text)}, not {chosen}: "
            "is something in it from another paper?"
        )
    return found


def _instead(missing: Sequence[int]) -> str:
    return f" (typing {_spans(missing)} of the paper does instead)" if missing else ""


def _without_codes(pile: _Pile) -> Read:
    """Typed lines without their end, or a text without any check sums."""
    found = Read(is_proven=False)
    if pile.typed or pile.wrong:
        missing = [number for number in range(1, max(pile.typed | pile.wrong) + 1) if number not in pile.typed]
        found.problems = [pile.wrong[number] for number in missing if number in pile.wrong]
        if gone := [number for number in missing if number not in pile.wrong]:
            found.problems.append(_gone(gone))
        found.problems.append("the last line, which begins with 'end', is missing")
    elif len(pile.bare) == 1 and "-----BEGIN PGP" in pile.bare[0]:
        found.text = pile.bare[0]
    else:
        found.problems.append("nothing there is of a paper key: expected the text of its codes, or its numbered lines")
    return found


def _codes(numbers: Sequence[int], count: int) -> str:
    texts = [str(number) for number in numbers]
    if len(texts) == 1:
        return f"code {texts[0]} of {count} is missing"
    return f"codes {', '.join(texts[:-1])} and {texts[-1]} of {count} are missing"


def _gone(numbers: Sequence[int]) -> str:
    return f"{_spans(numbers)} {'is' if len(numbers) == 1 else 'are'} missing"


def _spans(numbers: Sequence[int]) -> str:
    """Line numbers as people write them: 3 to 7, 9."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [f"{first} to {last}" if first < last else str(first) for first, last in spans]
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(texts)}"


def as_mapping(found: Read) -> Mapping[str, object]:
    """For machines; never the text."""
    return {"complete": found.text is not None, "problems": found.problems, "notes": found.notes}

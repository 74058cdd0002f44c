"""Placeholders in the arguments of programs: `{item}` stands for a word that is put in when the program is called.

In an argument that holds `{{`, doubled braces are braces themselves: `{{print}}` reaches awk as `{print}`. An argument
without `{{` is left alone but for its placeholders, so that JSON (`{"a": {"b": 1}}`) needs no care. All is done in one
pass from left to right: what was put in is not looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_NAME = re.compile(r"\{([a-z_]+)\}")
_NAME_OR_BRACE = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}")


def names(words: Iterable[str]) -> set[str]:
    """What stands in single braces in any of these."""
    return {found[1] for word in words for found in _pattern(word).finditer(word) if found[1]}


def filled(word: str, values: Mapping[str, str]) -> str:
    """A word with its placeholders filled; what is unknown stays as it is."""

    def value(found: re.Match[str]) -> str:
        return found[0][0] if found[0] in ("{{", "}}") else values.get(found[1], found[0])

    return _pattern(word).sub(value, word)


def _pattern(word: str) -> re.Pattern[str]:
    return _NAME_OR_BRACE if "{{" in word else _NAME

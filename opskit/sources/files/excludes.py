r"""Which names of a tree are left out: gitignore patterns, made fast for a walk that prunes.

The pattern language is git's, translated by the pathspec library: `*.tmp`, `cache/`, `/build`,
`docs/**/draft?`, `!keep.tmp`, `\#name`; the last pattern that matches decides; nothing below an
excluded folder can be brought back. A pattern with a slash inside or in front is anchored at the source path.
The caller must not descend into what is excluded: then only a *direct* match of each path matters,
and pathspec's own matcher (which also lets ancestors match, at a cost of 2 µs a pattern) is not needed.

Plain names and `*suffix` patterns cost a set look-up; all other patterns of one sign are one regular
expression. Differences from git: `?` and `[...]` match a character, not a byte; `[[:alpha:]]` is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import NamedTuple

from pathspec.patterns.gitignore import GitIgnorePatternError
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from opskit.errors import ConfigError

ANY_DEPTH = "^(?:.+/)?"
FILE_OR_FOLDER = "(?:(?P<ps_d>/)|$)"
ONLY_FOLDER = "(?P<ps_d>/)"
TEXT = ("utf-8", "surrogateescape")
"""How names become text for matching, whatever the locale: a nightly job must decide as a terminal does."""


class Pattern(NamedTuple):
    """One translated line: `body` must match the whole name, or the whole path below the source path."""

    line: str
    is_negated: bool
    is_only_for_folders: bool
    is_of_name: bool
    body: str


class Matcher:
    """A set of patterns of one sign, for one of the two questions: about folders, or about anything else."""

    def __init__(self, patterns: list[Pattern]) -> None:
        literals, suffixes, names, paths = [], [], [], []
        for pattern in patterns:
            plain = pattern.line.removeprefix("!").removesuffix("/")
            if not pattern.is_of_name:
                paths.append(pattern.body)
            elif not set("*?[\\/! \t").intersection(plain):
                literals.append(plain.encode(*TEXT))
            elif plain.startswith("*") and len(plain) > 1 and not set("*?[\\/! \t").intersection(plain[1:]):
                suffixes.append(plain[1:].encode(*TEXT))
            else:
                names.append(pattern.body)
        self._literals = frozenset(literals)
        self._suffixes = tuple(suffixes)
        self._match_name = _any_of(names)
        self._match_path = _any_of(paths)

    def matches(self, folder: bytes, name: bytes) -> bool:
        """Whether a pattern matches `name` in `folder` (below the source path, with "/" at its end, or empty)."""
        if name in self._literals or name.endswith(self._suffixes):
            return True
        if self._match_name is not None and self._match_name(name.decode(*TEXT)):
            return True
        return self._match_path is not None and bool(self._match_path((folder + name).decode(*TEXT)))


class Excludes:
    """The decision for a list of gitignore lines; raises ConfigError for a line it cannot use."""

    def __init__(self, lines: Iterable[str]) -> None:
        patterns = [pattern for line in lines if (pattern := translate(line)) is not None]
        runs = [(sign, list(run)) for sign, run in groupby(patterns, key=lambda pattern: pattern.is_negated)]
        self._of_folders = [(not negated, Matcher(run)) for negated, run in reversed(runs)]
        others = [(negated, [p for p in run if not p.is_only_for_folders]) for negated, run in reversed(runs)]
        self._of_others = [(not negated, Matcher(run)) for negated, run in others if run]
        self.is_empty = not patterns

    def excludes(self, folder: bytes, name: bytes, is_folder: bool) -> bool:
        """Whether `name` is left out; `folder` is relative to the source path, with "/" at its end, or empty."""
        for verdict, matcher in self._of_folders if is_folder else self._of_others:
            if matcher.matches(folder, name):
                return verdict
        return False


def translate(line: str) -> Pattern | None:
    """The pattern of one gitignore line, None for a comment or an empty one; raises ConfigError."""
    if re.search(r"\[\[:\w+:\]", line):
        raise ConfigError(f"exclude pattern {line!r}: expected plain ranges as in [a-z], got a named character class")
    text = re.sub(r"/\*\*/$", "/**/*/", line.rstrip("\n"))  # pathspec takes `a/**/` for `a/`, git for all folders in it
    try:
        compiled = GitIgnoreSpecPattern(text)
    except (GitIgnorePatternError, re.error) as error:
        raise ConfigError(f"exclude pattern {line!r} is not a gitignore pattern") from error
    if compiled.include is None or compiled.regex is None:
        return None
    body, is_only_for_folders = _direct(compiled.regex.pattern)
    of_name = body.removeprefix(ANY_DEPTH)
    is_of_name = of_name != body and "/" not in of_name.replace("[^/", "")
    return Pattern(text, not compiled.include, is_only_for_folders, is_of_name, of_name if is_of_name else body)


def _direct(regex: str) -> tuple[str, bool]:
    """Turn a pathspec expression, which matches a prefix, into one for a whole path; and whether only for folders."""
    regex = re.sub(r"\[\^(?!/)", "[^/", regex)  # a negated range never matches a slash
    if regex == "/":  # `**/*/**`: whatever lies in a folder
        return ".+/.+", False
    if regex.endswith(FILE_OR_FOLDER):
        return regex.removesuffix(FILE_OR_FOLDER), False
    if regex.endswith(ONLY_FOLDER):
        return regex.removesuffix(ONLY_FOLDER) or f"{ANY_DEPTH}[^/]+", True
    return (f"{ANY_DEPTH}[^/]+", False) if regex == "." else (f"{regex}.+", False)


def _any_of(bodies: list[str]) -> Callable[[str], re.Match[str] | None] | None:
    """One expression for all; DOTALL since names may hold newlines."""
    if not bodies:
        return None
    return re.compile("|".join(f"(?:{body})" for body in bodies), re.DOTALL).fullmatch

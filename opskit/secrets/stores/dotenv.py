"""`dotenv:///path/.env#NAME`: one variable of a .env file, for development.

Read as python-dotenv reads it, but nothing is interpolated and nothing gets into our own environment. The stages of
NAME are the variables NAME, NAME__pending and NAME__previous, so that one replacement of the file promotes.

Invariants: a variable is changed where it stands, in the last line that names it, which keeps its `export` and its
comment; a new one comes at the end; every other line stays as it was, byte for byte. A value is only written when
python-dotenv, with interpolation or without, and a shell read it alike; the previous value keeps the spelling it had.
A file that others may read is refused, and so is one that would grow too large to be read again.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from opskit.errors import SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.base import SUFFIXES, Stage
from opskit.secrets.private import MAX_BYTES, read_private
from opskit.secrets.reference import Reference, Secret

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STAGED = tuple(suffix for suffix in SUFFIXES.values() if suffix)
_READ_DIFFERENTLY = frozenset("'\\\r\n\0")
"""What shells and python-dotenv read differently between single quotes, or cannot have in a variable."""
_LINE = re.compile(
    r"""
    (?P<head>\s*(?:export[^\S\r\n]+)?)
    (?:'[^']+'|[^=\#\s]+)
    (?:[^\S\r\n]*=)?
    (?P<value>(?:[^\S\r\n]*(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))?[^\r\n]*?)
    (?P<comment>[^\S\r\n]+\#[^\r\n]*)?
    [^\S\r\n]*(?P<end>\r\n|\n|\r|)
    """,
    re.VERBOSE | re.DOTALL,
)
"""The parts of a line that names a variable, which the parser of python-dotenv does not tell.

A comment is one with a blank before it: to a shell, what touches the value belongs to it.
"""


@dataclass(frozen=True, slots=True)
class FileTools:
    """What the store is given: `replace` writes a file durably, `alone` keeps other writers from it meanwhile.

    Both raise OpskitError.
    """

    replace: Callable[[Path, bytes], None]
    alone: Callable[[Path], AbstractContextManager[None]]


class Line(NamedTuple):
    """What the parser takes as one: the variable it names, if any, the value it gives it, if any, the text, its end."""

    name: str | None
    value: str | None
    text: str


class Spelled(NamedTuple):
    """A value, and how it stands in the file, with its quotes."""

    value: str
    spelling: str


Lines = list[Line]
Edits = dict[str, Spelled | None]
"""The variables that change; None takes one out."""


class DotenvStore:
    """Keeps secrets as variables of .env files."""

    def __init__(self, tools: FileTools) -> None:
        self._tools = tools

    def get(self, reference: Reference, stage: Stage) -> Secret:
        """The value of a variable; of several lines that set it the last counts."""
        path, name = _place(reference, stage)
        line = _setting(_lines(reference, path)).get(name)
        if line is None or not line.value:
            raise SecretAbsent(f"{reference} cannot be resolved: expected a value of {name} in {path}, got none")
        return Secret(line.value)

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        """Set a variable; a file that is not there is made. SecretStoreError: not every reader would read the value."""
        name, value = _place(reference, stage)[1], secret.reveal()
        _require_readable(reference, value)
        self._change(reference, lambda _: {name: _quoted(value)})

    def promote(self, reference: Reference) -> None:
        """The three variables change in one replacement of the file."""
        names = {stage: _place(reference, stage)[1] for stage in Stage}

        def change(lines: dict[str, Line]) -> Edits:
            pending, former = (_spelled(lines.get(names[stage])) for stage in (Stage.PENDING, Stage.CURRENT))
            if pending is None:
                raise SecretAbsent(f"{reference} has no pending value to be made the current one")
            _require_readable(reference, pending.value)  # somebody may have written it by hand
            edits: Edits = {names[Stage.PENDING]: None, names[Stage.CURRENT]: _quoted(pending.value)}
            return edits if former is None else edits | {names[Stage.PREVIOUS]: former}

        self._change(reference, change)

    def delete(self, reference: Reference, stage: Stage) -> None:
        """Take a variable out, with every line that names it: else an older value would come back to life."""
        path, name = _place(reference, stage)
        if name in _setting(_lines(reference, path)):
            self._change(reference, lambda _: {name: None})

    def _change(self, reference: Reference, change: Callable[[dict[str, Line]], Edits]) -> None:
        path, _ = _place(reference, Stage.CURRENT)
        with self._tools.alone(path):
            lines = _lines(reference, path)
            edits = change(_setting(lines))
            text = _written(lines, edits)
            if _values(_parsed(text)) != _edited(_values(lines), edits):
                raise SecretStoreError(
                    f"{path} was left as it is: expected that only {reference.field} would change, got another reading",
                    hint="mend the lines of the file that set no variable: is a quote left open?",
                )
            data = text.encode()
            if len(data) > MAX_BYTES:  # nobody could read or change it any more
                raise SecretStoreError(
                    f"{path} was left as it is: expected a file of at most {MAX_BYTES:,} bytes, got {len(data):,}",
                    hint="keep large secrets in files of their own, with file:",
                )
            self._tools.replace(path, data)


def _place(reference: Reference, stage: Stage) -> tuple[Path, str]:
    """The file and the variable; raises UnresolvedReference."""
    if not reference.locator.startswith("/") or not _NAME.fullmatch(reference.field or ""):
        raise UnresolvedReference(
            f"{reference} is malformed: expected dotenv:///path/.env#NAME, NAME of A-Z, 0-9 and _"
        )
    if reference.field is not None and reference.field.endswith(_STAGED):
        raise UnresolvedReference(
            f"{reference} is malformed: expected a NAME without {' or '.join(_STAGED)} at its end, which mark stages",
            hint="name a stage with ?stage=pending or ?stage=previous",
        )
    if reference.options:
        raise UnresolvedReference(f"{reference} has an unknown option: expected stage, got '{reference.options[0][0]}'")
    return Path(reference.locator), f"{reference.field}{SUFFIXES[stage]}"


def _lines(reference: Reference, path: Path) -> Lines:
    if not os.path.lexists(path):
        return []
    data = read_private(reference, str(path))
    try:
        return _parsed(data.decode())
    except UnicodeDecodeError:
        raise SecretStoreError(f"{path} cannot be read: expected UTF-8, got other bytes") from None


def _parsed(text: str) -> Lines:
    from dotenv.parser import parse_stream  # here: only those who use such a file pay for it

    found = list(parse_stream(io.StringIO(text)))
    skipped = len(text) - sum(len(each.original.string) for each in found)  # a byte order mark
    lines = [Line(None, None, text[:skipped])]
    for each in found:
        line = each.original.string
        blank = "".join(line[: len(line) - len(line.lstrip())].rpartition("\n")[:2])  # counted to the variable below
        lines.append(Line(None, None, blank))
        lines.append(Line(None if each.error else each.key, each.value, line.removeprefix(blank)))
    return lines


def _setting(lines: Lines) -> dict[str, Line]:
    """Of each variable the last line that gives it a value."""
    return {line.name: line for line in lines if line.name is not None and line.value is not None}


def _values(lines: Lines) -> dict[str, str]:
    return {name: line.value for name, line in _setting(lines).items() if line.value is not None}


def _edited(values: dict[str, str], edits: Edits) -> dict[str, str]:
    kept = {name: value for name, value in values.items() if name not in edits}
    return kept | {name: new.value for name, new in edits.items() if new is not None}


def _written(lines: Lines, edits: Edits) -> str:
    """The file with those changes. A variable changes in its last line, lines before that it hides stay."""
    last = {line.name: index for index, line in enumerate(lines)}
    text = "".join(_rewritten(line, edits, last[line.name] == index) for index, line in enumerate(lines))
    new = [f"{name}={each.spelling}\n" for name, each in edits.items() if each is not None and name not in last]
    return text + ("\n" if new and text and not text.endswith("\n") else "") + "".join(new)


def _rewritten(line: Line, edits: Edits, is_last: bool) -> str:
    if line.name is None or line.name not in edits:
        return line.text
    new = edits[line.name]
    if new is None:
        return ""
    if not is_last:
        return line.text
    parts = _parts(line)
    return f"{parts['head']}{line.name}={new.spelling}{parts['comment'] or ''}{parts['end']}"


def _quoted(value: str) -> Spelled:
    return Spelled(value, f"'{value}'")


def _spelled(line: Line | None) -> Spelled | None:
    """The value of a line as it stands there; None where it is empty."""
    return Spelled(line.value, _parts(line)["value"].strip()) if line is not None and line.value else None


def _parts(line: Line) -> re.Match[str]:
    match = _LINE.fullmatch(line.text)
    if match is None:
        raise SecretStoreError(f"the line of {line.name} cannot be changed: expected [export] {line.name}=VALUE")
    return match


def _require_readable(reference: Reference, value: str) -> None:
    """Raises SecretStoreError for a value that shells and python-dotenv would not read alike.

    python-dotenv puts variables in between single quotes too; whether there is one to be put in is asked of it, and
    not what comes out, which would hang on the environment of this process.
    """
    from dotenv.variables import Variable, parse_variables

    if _READ_DIFFERENTLY & set(value) or any(isinstance(each, Variable) for each in parse_variables(value)):
        raise SecretStoreError(
            f"{reference} cannot keep this value: expected no single quote, backslash, end of line, NUL or ${{…}}, "
            "which programs read differently in .env files, got one",
            hint="keep it in an encrypted file: gpg:///path/secrets.gpg#NAME",
        )

"""`dotenv:///path/.env#NAME`: one variable of a .env file, for development.

Read as python-dotenv reads it, but nothing is interpolated and nothing gets into our own environment. The stages of
NAME are the variables NAME, NAME__pending and NAME__previous, so that one replacement of the file promotes.

Invariants: every line that is not changed stays as it was, comments too. A file is only written when it says to a
reader what it should. One that others may read is refused.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from opskit.errors import SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.base import Stage
from opskit.secrets.private import read_private
from opskit.secrets.reference import Reference, Secret

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SUFFIXES = {Stage.PENDING: "__pending", Stage.CURRENT: "", Stage.PREVIOUS: "__previous"}


@dataclass(frozen=True, slots=True)
class FileTools:
    """What the store is given: `replace` writes a file durably, `alone` keeps other writers from it meanwhile.

    Both raise OpskitError.
    """

    replace: Callable[[Path, bytes], None]
    alone: Callable[[Path], AbstractContextManager[None]]


Lines = list[tuple[str | None, str | None, str]]
"""Of each line of a file: the variable it sets, if any, its value, and the line with its end."""


class DotenvStore:
    """Keeps secrets as variables of .env files."""

    def __init__(self, tools: FileTools) -> None:
        self._tools = tools

    def get(self, reference: Reference, stage: Stage) -> Secret:
        """The value of a variable; of several lines that set it the last counts."""
        path, name = _place(reference, stage)
        value = _values(_lines(reference, path)).get(name)
        if not value:
            raise SecretAbsent(f"{reference} cannot be resolved: expected a value of {name} in {path}, got none")
        return Secret(value)

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        """Set a variable; a file that is not there is made."""
        name, value = _place(reference, stage)[1], secret.reveal()
        self._change(reference, lambda values: values | {name: value})

    def promote(self, reference: Reference) -> None:
        """The three variables change in one replacement of the file."""
        names = {stage: _place(reference, stage)[1] for stage in Stage}

        def change(values: dict[str, str]) -> dict[str, str]:
            if not values.get(names[Stage.PENDING]):
                raise SecretAbsent(f"{reference} has no pending value to be made the current one")
            moved = {names[Stage.CURRENT]: values.pop(names[Stage.PENDING])}
            if former := values.get(names[Stage.CURRENT]):
                moved[names[Stage.PREVIOUS]] = former
            return values | moved

        self._change(reference, change)

    def delete(self, reference: Reference, stage: Stage) -> None:
        """Take a variable out."""
        path, name = _place(reference, stage)
        if name in _values(_lines(reference, path)):
            self._change(reference, lambda values: {each: value for each, value in values.items() if each != name})

    def _change(self, reference: Reference, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        path, _ = _place(reference, Stage.CURRENT)
        with self._tools.alone(path):
            lines = _lines(reference, path)
            values = change(_values(lines))
            text = _written(lines, values)
            if _values(_parsed(text)) != values:
                raise SecretStoreError(f"{path} was left as it is: the new value cannot be written in a .env file")
            self._tools.replace(path, text.encode())


def _place(reference: Reference, stage: Stage) -> tuple[Path, str]:
    """The file and the variable; raises UnresolvedReference."""
    if not reference.locator.startswith("/") or not _NAME.fullmatch(reference.field or ""):
        raise UnresolvedReference(
            f"{reference} is malformed: expected dotenv:///path/.env#NAME, NAME of A-Z, 0-9 and _"
        )
    if reference.options:
        raise UnresolvedReference(f"{reference} has an unknown option: expected stage, got '{reference.options[0][0]}'")
    return Path(reference.locator), f"{reference.field}{_SUFFIXES[stage]}"


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

    lines: Lines = []
    for each in parse_stream(io.StringIO(text)):
        line = each.original.string
        blank = line[: len(line) - len(line.lstrip())].rpartition("\n")[:2]  # counted to the variable below them
        lines.append((None, None, "".join(blank)))
        lines.append((None if each.error else each.key, each.value, line.removeprefix("".join(blank))))
    return lines


def _values(lines: Lines) -> dict[str, str]:
    return {key: value for key, value, _ in lines if key is not None and value is not None}


def _written(lines: Lines, values: dict[str, str]) -> str:
    """The file with those values: what stays as it was keeps its lines, what changes or is new comes at the end."""
    before = _values(lines)
    kept = "".join(
        line for key, value, line in lines if key is None or value is None or values.get(key) == before[key] == value
    )
    if kept and not kept.endswith("\n"):
        kept += "\n"
    new = [f"{key}={_quoted(value)}\n" for key, value in values.items() if before.get(key) != value]
    return kept + "".join(new)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

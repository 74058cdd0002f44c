"""YAML text → plain values, and where each of them stands.

Plain scalars resolve by the core schema of YAML 1.2: `no`, `on`, `12:30` and `2026-11-21` are text. Duplicate keys,
merge keys, keys that are not text, and tags beyond that schema are problems; the others are still read, so that
all problems show at once. Nesting and size after expansion of aliases are bounded. Messages quote no text of the
document except keys: a value may be a secret that stands in the wrong place.

It deliberately does not know what keys mean: that is `model`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

MAX_DEPTH = 32
MAX_VALUES = 20_000

Location = tuple[str | int, ...]


class Position(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


class Problem(NamedTuple):
    """One thing wrong: where, at which field, and what."""

    position: Position
    location: Location
    text: str


class Origin(NamedTuple):
    """Where a value comes from: its key (or list item), itself, and its text when it is a scalar."""

    key: Position
    value: Position
    text: str | None


@dataclass
class Document:
    """The plain value of a document, the origin of everything in it, and what is wrong with it."""

    value: Any = None
    origins: dict[Location, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def origin(self, location: Location) -> Origin:
        """The origin of `location`, or of the nearest thing around it."""
        while location and location not in self.origins:
            location = location[:-1]
        return self.origins.get(location, Origin(Position(1, 1), Position(1, 1), None))


class _TooDeep(yaml.MarkedYAMLError):
    """Nesting beyond MAX_DEPTH."""


class Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's parser with the core schema of YAML 1.2 and bounded nesting."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """As in PyYAML, but refusing before Python's stack ends."""
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _TooDeep(problem=_DEPTH_TEXT, problem_mark=mark)
        self._depth += 1
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


_TAG = "tag:yaml.org,2002:"
_STRING, _SEQUENCE, _MAPPING = _TAG + "str", _TAG + "seq", _TAG + "map"
_CORE_SCHEMA = (  # YAML 1.2.2, section 10.3.2; the first match counts
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
)
for _name, _expression, _first in _CORE_SCHEMA:
    Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_expression})\Z"), _first)

_DEPTH_TEXT = f"nested too deeply, expected at most {MAX_DEPTH} levels"
_SIZE_TEXT = f"too large once aliases are expanded, expected at most {MAX_VALUES} values"
# The start of PyYAML's wording → ours. Only these may be said: others could quote a secret.
_WORDINGS = (
    ("found undefined alias", "undefined alias, expected a value; quote text that starts with '*'"),
    ("found duplicate anchor", "anchor defined twice, expected different names"),
    ("mapping values are not allowed here", "unexpected ':', expected one key a line; quote text that holds ': '"),
    ("could not find expected ':'", "no ':' after a key, expected 'key: value'"),
    ("expected <block end>", "unexpected indentation, expected it to match the lines above"),
    ("expected ',' or ']'", "list not closed, expected ',' or ']'"),
    ("expected ',' or '}'", "mapping not closed, expected ',' or '}'"),
    ("found unexpected end of stream", "text not closed, expected an end quote"),
    (
        "found unknown escape character",
        "unknown escape in \"…\", expected one that YAML knows; use '…' for plain backslashes",
    ),
    ("but found another document", "a second document, expected one"),
    ("nested too deeply", _DEPTH_TEXT),
)


def compose(text: str) -> Node | None:
    """The node tree of a document; None when it is empty. Raises yaml.YAMLError."""
    node: Node | None = Loader(text).get_single_node()
    return node


def read(text: str) -> Document:
    """Read YAML. Never raises for what the text holds: problems are listed in the document."""
    document = Document()
    try:
        node = compose(text)
    except ReaderError as error:
        before = text[: error.position]
        position = Position(before.count("\n") + 1, len(before) - before.rfind("\n"))
        document.problems.append(Problem(position, (), "control character, expected printable text"))
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(1, 1) if mark is None else Position(mark.line + 1, mark.column + 1)
        document.problems.append(Problem(position, (), _wording(error, text)))
        return document
    if node is None:
        document.problems.append(Problem(Position(1, 1), (), "empty file, expected a mapping, got nothing"))
        return document
    _Reading(document).read(node)
    return document


def _wording(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = error.problem or ""
    mark = error.problem_mark
    if mark is not None and problem.startswith("found character") and text[mark.index : mark.index + 1] == "\t":
        return "tab, expected blanks for indentation, got a tab"
    if problem.startswith("found character"):
        return "a value cannot start with this character, expected it in quotes"
    return next(
        (ours for theirs, ours in _WORDINGS if problem.startswith(theirs)), "not YAML, expected 'key: value' lines"
    )


class _TooLarge(Exception):
    """The expanded document exceeds MAX_VALUES; ends the reading."""


class _Reading:
    """One conversion of nodes into a document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0

    def read(self, node: Node) -> None:
        position = _position(node)
        try:
            self._document.value = self._value(node, (), position)
        except _TooLarge:
            self._document.value = None
            self._document.problems.append(Problem(position, (), _SIZE_TEXT))

    def _value(self, node: Node, location: Location, key: Position) -> Any:
        self._count += 1
        # Aliases may nest without end, where composing did not.
        if self._count > MAX_VALUES or len(location) > MAX_DEPTH:
            raise _TooLarge
        text = node.value if isinstance(node, ScalarNode) else None
        self._document.origins[location] = Origin(key, _position(node), text)
        if isinstance(node, MappingNode) and node.tag == _MAPPING:
            return dict(self._entries(node, location))
        if isinstance(node, SequenceNode) and node.tag == _SEQUENCE:
            return [self._value(item, (*location, i), _position(item)) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, location)
        return self._problem(node, location, "unknown tag, expected none")

    def _entries(self, node: MappingNode, location: Location) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Position] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, location)
            if key is None:
                continue
            position = _position(key_node)
            if key in seen:
                self._problem(
                    key_node, (*location, key), f"duplicate key, expected it once, got it on line {seen[key].line} too"
                )
                continue
            seen[key] = position
            yield key, self._value(value_node, (*location, key), position)

    def _key(self, node: Node, location: Location) -> str | None:
        if not isinstance(node, ScalarNode):
            self._problem(node, location, "wrong type of key, expected text, got a list or mapping")
        elif node.tag != _STRING:
            self._problem(node, location, f"wrong type of key, expected text, got {node.value or 'nothing'}; quote it")
        elif node.value == "<<" and node.style is None:
            self._problem(node, location, "merge key '<<', expected the keys themselves")
        else:
            return str(node.value)
        return None

    def _scalar(self, node: ScalarNode, location: Location) -> Any:
        kind = node.tag.removeprefix(_TAG)
        try:
            return _CONVERSIONS[kind](node.value)
        except KeyError:
            return self._problem(node, location, "unknown tag, expected none")
        except ValueError:
            return self._problem(node, location, f"not of the type of its tag, expected a value of type {kind}")

    def _problem(self, node: Node, location: Location, text: str) -> None:
        self._document.problems.append(Problem(_position(node), location, text))


def _position(node: Node) -> Position:
    mark = node.start_mark
    return Position(mark.line + 1, mark.column + 1)


def _integer(text: str) -> int:
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError
    return text.lower() == "true"


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda _: None,
    "bool": _boolean,
    "int": _integer,
    "float": _float,
}

"""Judge what a config file says, and report everything that is wrong with it at once.

Every error is a line `file:line:col: field: what, expected X, got Y` of one ConfigError. Values of secret fields are
never repeated. It deliberately does not touch the paths that a config names: whether they exist is seen when they are
used. Importing it loads pydantic and yaml; `load` does so only for a file that is new or has changed.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from opskit.config.build import build
from opskit.config.dangers import contradictions
from opskit.config.entry import Entry
from opskit.config.model import Config
from opskit.config.schema import judged
from opskit.config.syntax import Document, Location, Position, Problem, read
from opskit.config.terms import MEANINGS, without_account
from opskit.errors import ConfigError

MAX_PROBLEMS = 100


def decoded(content: bytes, filename: str) -> str:
    """The text of a file. Raises ConfigError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before) - before.rfind(b"\n")
        position = Position(before.count(b"\n") + 1, column)
        problem = Problem(position, (), f"not UTF-8, expected UTF-8 text, got byte 0x{content[error.start]:02x}")
        # `from None`: the cause would carry the whole file.
        raise _refusal(filename, [problem]) from None


def parse(text: str, filename: str, base: Path, schemes: Collection[str]) -> Config:
    """Turn YAML into a Config; `filename` is for messages, relative paths start at `base`. Raises ConfigError."""
    document = read(text)
    if document.value is None and document.problems:
        raise _refusal(filename, document.problems)
    if not isinstance(document.value, dict):
        found = _described(document, ())
        raise _refusal(filename, [Problem(Position(1, 1), (), f"not a config, expected a mapping, got {found}")])
    try:
        config = build(judged(document.value, base, schemes))
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_problem(detail, document) for detail in details if not _is_echo(detail)]
        # `from None`: the cause holds the values of the file, secrets in wrong places included.
        raise _refusal(filename, document.problems + problems) from None
    problems = [
        Problem(document.origin(location).value, location, f"{what}, got {_described(document, location)}")
        for location, what in contradictions(config)
    ]
    if document.problems or problems:
        raise _refusal(filename, document.problems + problems)
    return config


def _refusal(filename: str, problems: list[Problem]) -> ConfigError:
    lines = [
        f"{filename}:{line}:{column}: {field + ': ' if (field := field_name(location)) else ''}{text}"
        for (line, column), location, text in sorted(problems, key=lambda problem: problem.position)
    ]
    left_out = len(lines) - MAX_PROBLEMS
    if left_out > 0:
        lines[MAX_PROBLEMS:] = [f"{filename}: and {left_out} more"]
    return ConfigError(
        "\n".join(dict.fromkeys(lines)), hint="`opskit config generate` writes an example with every key explained"
    )


def field_name(location: Location) -> str:
    """A location as people write it: `sources.tokens.paths[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in location)
    return text.removeprefix(".")


def _printable(text: str) -> str:
    return text if text.isprintable() and len(text) <= 60 else ascii(text[:60])[1:-1]


def _is_echo(detail: ErrorDetails) -> bool:
    """Whether pydantic calls a list empty because its entries are wrong, which is reported anyway."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _problem(detail: ErrorDetails, document: Document) -> Problem:
    """One error of pydantic in our words."""
    tags_and_keys = detail["loc"]
    # Brackets mark what is not in the file: the chosen kind of a union, and "the key itself".
    location = tuple(part for part in tags_and_keys if not str(part).startswith("["))
    origin = document.origin(location)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return Problem(origin.key, location, _unknown_key(str(location[-1]), list(_keys_at(tags_and_keys[:-1]))))
    if kind == "missing":
        known = _keys_at(tags_and_keys[:-1])
        meaning = known.get(str(location[-1]), "it")
        return Problem(document.origin(location[:-1]).key, location, f"missing, expected {meaning}, got nothing")
    if kind == "opskit_secret":
        return Problem(origin.value, location, str(detail["ctx"]["message"]))
    if kind == "opskit_kind":
        found = _keys_found(document, location)
        return Problem(origin.key, location, f"unclear kind, expected {detail['msg']}, got {found}")
    if tags_and_keys[-1] == "[key]":
        name = location[-1]
        return Problem(origin.key, location, f"not a name, {_expected(detail)[1]}, got '{_printable(str(name))}'")
    what, expected = _expected(detail)
    return Problem(origin.value, location, f"{what}, {expected}, got {_described(document, location, kind)}")


_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def _expected(detail: ErrorDetails) -> tuple[str, str]:
    """What is wrong, and "expected …"."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _TYPES:
        return "wrong type", f"expected {_TYPES[kind]}"
    if kind == "opskit":
        return str(context["what"]), f"expected {context['expected']}"
    if kind == "string_pattern_mismatch":
        return "malformed", f"expected {MEANINGS[context['pattern']]}"
    if kind == "greater_than_equal":
        return "too small", f"expected {context['ge']} or more"
    if kind == "less_than_equal":
        return "too large", f"expected {context['le']} or less"
    if kind in {"too_short", "string_too_short"}:
        return "empty", "expected at least one entry" if kind == "too_short" else "expected text"
    if kind == "literal_error":
        return "unsupported value", f"expected {context['expected']}"
    return "not valid", "expected another value"


def _described(document: Document, location: Location, kind: str = "") -> str:
    """What stands at `location`. Text is repeated only where text was expected."""
    value: Any = document.value
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return "nothing"
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if not isinstance(value, str):
        text = _printable(document.origin(location).text or str(value))
        advice = "; quote it" if kind == "string_type" else ""
        return (text if isinstance(value, bool) else f"the number {text}") + advice
    if kind in {"dict_type", "model_type", "tuple_type"} or not location:
        return "text"
    return f"'{_printable(without_account(value))}'"


def _keys_found(document: Document, location: Location) -> str:
    value: Any = document.value
    for part in location:
        value = value[part]
    if not isinstance(value, dict):
        return _described(document, location, "dict_type")
    kinds = [part.kind for part in _members(_hint_at(location))]
    both = [key for key in value if key in kinds]
    if both:
        return " and ".join(both)
    close = [match for key in value if (match := _closest(key, kinds))]
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return (", ".join(_printable(key) for key in list(value)[:8]) or "none") + meant


def _unknown_key(key: str, known: list[str]) -> str:
    close = _closest(key.lower().replace("-", "_"), known)
    if close:
        return f"unknown key; did you mean '{close}'?"
    return f"unknown key, expected one of {', '.join(known)}"


def _closest(key: str, known: list[str]) -> str | None:
    import difflib  # here: only mistakes pay for it

    return next(iter(difflib.get_close_matches(key, known, n=1)), None)


def _keys_at(location: Collection[str | int]) -> dict[str, str]:
    """Keys of the entry at `location`, each with what it means."""
    members = _members(_hint_at(location))
    return {name: key.description for name, key in members[0].known_keys().items()} if members else {}


def _members(hint: Any) -> list[Any]:
    """The entries in a type: one, or those of a union."""
    is_entry = isinstance(hint, type) and issubclass(hint, Entry)
    return [hint] if is_entry else [part for each in get_args(hint) for part in _members(each)]


def _hint_at(location: Collection[str | int]) -> Any:
    """The type that the schema gives to a mapping at `location`; bracketed tags choose among the members of a union."""
    hint: Any = Config
    for part in location:
        if str(part).startswith("["):
            hint = next(member for member in _members(hint) if f"[{member.kind}]" == part)
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        else:
            hint = get_type_hints(_members(hint)[0])[str(part)]
    return hint

"""Find a config file, read it, and report everything that is wrong with it at once.

Every error of a file's content is a line `file:line:col: field: what, expected X, got Y` of one ConfigError. Values of
secret fields are never repeated. A file that others could change is refused when root reads it, for it holds commands.
It deliberately does not touch the paths that a config names: whether they exist is seen when they are used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from opskit.config.dangers import contradictions, warnings
from opskit.config.model import MEANINGS, Config
from opskit.config.render import add_entries, example, render, schema
from opskit.config.syntax import Document, Location, Position, Problem, read
from opskit.errors import ConfigError
from opskit.secrets.reference import BUILT_IN_SCHEMES

__all__ = ["add_entries", "example", "find_config", "load", "parse", "render", "schema", "warnings"]

MAX_BYTES = 1024 * 1024
MAX_PROBLEMS = 100
SYSTEM_CONFIG = Path("/etc/opskit/opskit.yaml")


def find_config(
    explicit: Path | None, environ: Mapping[str, str], cwd: Path, home: Path, system: Path = SYSTEM_CONFIG
) -> Path:
    """The config file to use: `explicit`, else $OPSKIT_CONFIG, ./opskit.yaml, ~/.config/opskit/opskit.yaml, /etc.

    Whoever names a file gets that file or an error, never another one. Raises ConfigError when there is none.
    """
    named = environ.get("OPSKIT_CONFIG")
    if explicit is not None or named:
        return cwd / (explicit or str(named))  # absent or unreadable: `load` says so
    places = [cwd / "opskit.yaml", home / ".config" / "opskit" / "opskit.yaml", system]
    for place in places:
        if os.path.lexists(place):
            return place
    raise ConfigError(
        f"no config file: expected one of {', '.join(map(str, places))}",
        hint="`opskit init` makes one; --config FILE or $OPSKIT_CONFIG names another",
    )


def load(path: Path, schemes: Collection[str] = BUILT_IN_SCHEMES) -> Config:
    """Read the config file at `path`; secret references may use `schemes`. Raises ConfigError."""
    try:
        content = _content(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(
            f"{path}: cannot be read: {(reason or 'error').lower()}",
            hint="`opskit init` makes a config; --config FILE names another",
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before) - before.rfind(b"\n")
        position = Position(before.count(b"\n") + 1, column)
        problem = Problem(position, (), f"not UTF-8, expected UTF-8 text, got byte 0x{content[error.start]:02x}")
        # `from None`: the cause would carry the whole file.
        raise _refusal(str(path), [problem]) from None
    return parse(text, str(path), Path(os.path.abspath(path)).parent, schemes)


def parse(text: str, filename: str, base: Path, schemes: Collection[str] = BUILT_IN_SCHEMES) -> Config:
    """Turn YAML into a Config; `filename` is for messages, relative paths start at `base`. Raises ConfigError."""
    document = read(text)
    if document.value is None and document.problems:
        raise _refusal(filename, document.problems)
    if not isinstance(document.value, dict):
        found = _described(document, ())
        raise _refusal(filename, [Problem(Position(1, 1), (), f"not a config, expected a mapping, got {found}")])
    try:
        config = Config.model_validate(document.value, context={"base": base, "schemes": schemes})
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


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_unsafe(path, os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: too large: expected at most 1 MiB")
    return content


def _refuse_unsafe(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
        raise ConfigError(f"{path}: not a config file: expected a regular file, got {found}")
    if os.geteuid() != 0:
        return
    # A config holds commands: whoever can write it commands root.
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(
            f"{path}: others may change the commands root runs: expected mode 0644 or less, got {mode:04o}",
            hint=f"chmod go-w {path}",
        )
    if status.st_uid != 0:
        raise ConfigError(
            f"{path}: its owner could make root run commands: expected owner root, got uid {status.st_uid}",
            hint=f"chown root {path}",
        )


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
        return Problem(origin.key, location, _unknown_key(str(location[-1]), _model_at(tags_and_keys[:-1])))
    if kind == "missing":
        model = _model_at(tags_and_keys[:-1])
        meaning = model.model_fields[str(location[-1])].description if model else "it"
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
    return f"'{_printable(value)}'"


def _keys_found(document: Document, location: Location) -> str:
    value: Any = document.value
    for part in location:
        value = value[part]
    if not isinstance(value, dict):
        return _described(document, location, "dict_type")
    kinds = [model.kind for model in _members(_annotation_at(location))]
    both = [key for key in value if key in kinds]
    if both:
        return " and ".join(both)
    close = [match for key in value if (match := _closest(key, kinds))]
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return (", ".join(_printable(key) for key in list(value)[:8]) or "none") + meant


def _unknown_key(key: str, model: type[BaseModel] | None) -> str:
    known = list(model.model_fields) if model is not None else []
    close = _closest(key.lower().replace("-", "_"), known)
    if close:
        return f"unknown key; did you mean '{close}'?"
    return f"unknown key, expected one of {', '.join(known)}"


def _closest(key: str, known: list[str]) -> str | None:
    import difflib  # here: only mistakes pay for it

    return next(iter(difflib.get_close_matches(key, known, n=1)), None)


def _model_at(location: Collection[str | int]) -> type[BaseModel] | None:
    return next(iter(_members(_annotation_at(location))), None)


def _members(annotation: Any) -> list[Any]:
    """The models in an annotation: one, or those of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _members(part)]


def _annotation_at(location: Collection[str | int]) -> Any:
    """The type that the schema gives to a mapping at `location`; bracketed tags choose among the members of a union."""
    annotation: Any = Config
    for part in location:
        if str(part).startswith("["):
            annotation = next(model for model in _members(annotation) if f"[{model.kind}]" == part)
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            annotation = _members(annotation)[0].model_fields[part].annotation
    return annotation

"""Plain values that were judged good → the objects of `model`.

The one way to a Config, whether its file was judged just now or long ago. It deliberately judges nothing: values come
from `schema.judged` alone, directly or by way of `kept`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from opskit.config.entry import Entry
from opskit.config.model import Config, Values
from opskit.config.terms import Duration
from opskit.secrets.reference import Reference


def build(values: Values) -> Config:
    """The config that `values` describe; what they leave out takes its default now, on this machine."""
    config: Config = _made(Config, values)
    return config.but(given=values)


def _made(hint: Any, value: Any) -> Any:
    if hint in _READERS:
        return _READERS[hint](value)
    if isinstance(hint, type) and issubclass(hint, Entry):
        hints = get_type_hints(hint)
        return hint(**{name: _made(hints[name], each) for name, each in value.items()})
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return tuple([_made(arguments[0], each) for each in value])
    if origin is dict:
        return {name: _made(arguments[1], each) for name, each in value.items()}
    if value is None or not arguments:
        return value
    return _made(_meant(arguments, value), value)


def _meant(members: tuple[Any, ...], value: Any) -> Any:
    """The member of a union that a value belongs to: that of an entry is announced by its key."""
    entries = [each for each in members if hasattr(each, "kind")]
    return next((each for each in entries if each.kind in value), members[0])


def _reference(text: str) -> Reference:
    # Its scheme was judged when the file was.
    return Reference.parse(text, [text.partition(":")[0]])


_READERS: dict[Any, Any] = {Path: Path, Duration: Duration.parse, Reference: _reference}

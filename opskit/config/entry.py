"""What the entries of a config are made of: keys with types, defaults and descriptions.

A subclass of `Entry` is like a frozen dataclass that takes keyword arguments only, and type checkers take it for one.
But nothing is generated: `dataclass` compiles six methods for every class at every start, which for the schema took a
tenth of all the imports of a backup. It deliberately judges no value: that is `schema`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self, dataclass_transform

NOTHING: Any = object()
"""The default of a key that must be given."""


class Key(NamedTuple):
    """What is known of a key beside its type; without a description it is no key of the file."""

    description: str
    default: Any = NOTHING
    default_factory: Callable[[], Any] | None = None

    def value(self) -> Any:
        """Its default; NOTHING where it has none."""
        return self.default if self.default_factory is None else self.default_factory()


def key(description: str, *, default: Any = NOTHING, default_factory: Callable[[], Any] | None = None) -> Any:
    """Declare a key, as `dataclasses.field` does."""
    return Key(description, default, default_factory)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(key,))
class Entry:
    """A mapping of the config whose keys are known."""

    _declared: ClassVar[dict[str, Key]] = {}

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Key)}
        cls._declared = {**cls._declared, **own}
        for name in own:
            delattr(cls, name)

    def __init__(self, **values: Any) -> None:
        for name, declared in self._declared.items():
            value = values.pop(name) if name in values else declared.value()
            if value is NOTHING:
                raise TypeError(f"{type(self).__name__} needs a value for {name}")
            self.__dict__[name] = value
        if values:
            raise TypeError(f"{type(self).__name__} has no key {', '.join(values)}")

    @classmethod
    def known_keys(cls) -> dict[str, Key]:
        """The keys that a file may give, in the order in which they are shown."""
        return {name: each for name, each in cls._declared.items() if each.description}

    def but(self, **values: Any) -> Self:
        """A copy with other values for some keys."""
        return type(self)(**{**self.__dict__, **values})

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(self.__dict__[name] == other.__dict__[name] for name in self.known_keys())

    __hash__ = None  # type: ignore[assignment]  # some hold mappings

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self.known_keys())})"

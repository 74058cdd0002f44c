"""Secret references: the grammar, the value that never shows itself, and the resolver.

A reference says where a secret lies, and is safe to print; the secret itself travels as a `Secret`,
which shows as `[secret]` wherever it is printed, formatted or logged. The grammar is

    [ref+]scheme://locator[#field][?option=value&...]      env:NAME, file:/path and cred:NAME for short

with percent-encoding inside locator, field and option values.

Invariants: no exception and no `repr` made here contains a value, nor a text that failed to parse
(it might be a secret written in the wrong place). Which schemes exist is decided by the table given
to `Resolver`; this module knows only the names that ship with opskit, to tell a reference from an
inline secret. It deliberately does not cache: a rotated secret is seen at the next `resolve`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol
from urllib.parse import quote, unquote

from opskit.errors import UnresolvedReference

BUILT_IN_SCHEMES: tuple[str, ...] = (
    "env",
    "file",
    "cred",
    "gpg",
    "vault",
    "aws-sm",
    "dotenv",
    "keyring",
    "op",
    "bw",
    "lpass",
    "cmd",
)

_SHAPE = re.compile(r"(?:ref\+)?([a-z][a-z0-9+.-]*):(//)?([^#?]*)(?:#([^?]*))?(?:\?(.*))?", re.DOTALL)
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_PRINTABLE = re.compile(r"[\x00-\x20\x7f]")


class Secret:
    """A secret value. Only `reveal` and `reveal_bytes` give it out; everything else shows `[secret]`.

    The bytes stay in this process's memory until collected: Python cannot promise to wipe them.
    Pickling and copying are refused, so that a value cannot slip into a file or another process.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else value

    def reveal(self) -> str:
        """The value as text. Raises UnresolvedReference when it is not UTF-8."""
        try:
            return self._value.decode()
        except UnicodeDecodeError:
            # `from None`: the cause would carry the bytes of the secret.
            raise UnresolvedReference("the secret is not text: expected UTF-8, got other bytes") from None

    def reveal_bytes(self) -> bytes:
        """The value as bytes."""
        return self._value

    def __repr__(self) -> str:
        return "[secret]"

    def __format__(self, spec: str) -> str:
        return format("[secret]", spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")


@dataclass(frozen=True)
class Reference:
    """Where a secret lies: `scheme`, decoded `locator`, `field` within it and `options`. Printable."""

    scheme: str
    locator: str
    field: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, schemes: Collection[str] = BUILT_IN_SCHEMES) -> Reference:
        """Read a reference whose scheme is one of `schemes`.

        Raises UnresolvedReference when `text` is no reference (then it is taken for an inline secret and
        not repeated), names an unknown scheme, or is malformed.
        """
        shape = _SHAPE.fullmatch(text)
        if shape is None:
            raise UnresolvedReference(f"inline secret; use {_prefixes(schemes)}", hint=_MOVE_IT)
        scheme, slashes, locator, field, options = shape.groups()
        if scheme not in schemes:
            raise _unknown(scheme, schemes, is_reference=slashes is not None)
        if not locator:
            raise UnresolvedReference(f"malformed {scheme} reference: expected a locator, got nothing")
        return cls(scheme, _decoded(locator, scheme), _field(field, scheme), _options(options, scheme))

    def option(self, name: str) -> str | None:
        """The value of option `name`, or None."""
        return dict(self.options).get(name)

    def __str__(self) -> str:
        is_short = self.scheme == "env" and not self.locator.startswith("/")
        head = "env:" if is_short else f"{self.scheme}://"
        text = head + _encoded(self.locator)
        if self.field is not None:
            text += "#" + _encoded(self.field)
        if self.options:
            text += "?" + "&".join(f"{name}={_encoded(value)}" for name, value in self.options)
        return text


class Scheme(Protocol):
    """A kind of place where secrets lie."""

    def resolve(self, reference: Reference) -> Secret:
        """Fetch the secret now. Raises UnresolvedReference, naming the reference and what to do."""
        ...


class Resolver:
    """Turns references into secrets through the one table of schemes."""

    def __init__(self, schemes: Mapping[str, Scheme]) -> None:
        self._schemes = dict(schemes)

    @property
    def schemes(self) -> tuple[str, ...]:
        """The names of the schemes that can be resolved."""
        return tuple(self._schemes)

    def resolve(self, reference: Reference | str) -> Secret:
        """The secret behind `reference`. Raises UnresolvedReference; an empty secret counts as missing."""
        if isinstance(reference, str):
            reference = Reference.parse(reference, self._schemes)
        scheme = self._schemes.get(reference.scheme)
        if scheme is None:
            raise _unknown(reference.scheme, self._schemes, is_reference=True)
        secret = scheme.resolve(reference)
        if not secret.reveal_bytes():
            raise UnresolvedReference(f"{reference} is empty: expected a secret, got nothing")
        return secret


_NAMED = 4
"""Schemes that are named to whom wrote none; all of them to whom wrote a wrong one."""
_MOVE_IT = "put the value into an environment variable or a file of mode 0600 and write its reference here"


def refuse_unknown_parts(reference: Reference, *, options: Collection[str] = ()) -> None:
    """For schemes without fields: raises UnresolvedReference for a `#field` or an option not in `options`."""
    if reference.field is not None:
        raise UnresolvedReference(
            f"{reference} names a field: expected none, as {reference.scheme} has no fields",
            hint=f"write '#' as %23 where it belongs to the {reference.scheme} locator",
        )
    for name, _ in reference.options:
        if name not in options:
            known = ", ".join(options) or "none"
            raise UnresolvedReference(f"{reference} has an unknown option: expected {known}, got '{name}'")


def _prefixes(schemes: Collection[str]) -> str:
    some = [f"{name}:" for name in schemes][:_NAMED]
    return "/".join([*some, "…"] if len(schemes) > _NAMED else some)


def _unknown(scheme: str, schemes: Collection[str], *, is_reference: bool) -> UnresolvedReference:
    import difflib  # here: only mistakes pay for it

    close = difflib.get_close_matches(scheme, schemes, n=1, cutoff=0.65)  # "pass" is not meant to be aws-sm
    meant = f"; did you mean '{close[0]}'?" if close else ""
    if not is_reference:
        # `word:word` may well be a password: say nothing of it.
        return UnresolvedReference(f"inline secret; use {_prefixes(schemes)}{meant}", hint=_MOVE_IT)
    expected = ", ".join(sorted(schemes))
    return UnresolvedReference(f"unknown scheme '{scheme}' in a secret reference: expected one of {expected}{meant}")


def _decoded(text: str, scheme: str) -> str:
    if _STRAY_PERCENT.search(text) or _NOT_PRINTABLE.search(text):
        raise UnresolvedReference(
            f"malformed {scheme} reference: expected %-encoding of blanks, control characters and '%' itself"
        )
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise UnresolvedReference(f"malformed {scheme} reference: expected %-encoded UTF-8, got other bytes") from None


def _field(text: str | None, scheme: str) -> str | None:
    if text == "":
        raise UnresolvedReference(f"malformed {scheme} reference: expected a field after '#', got nothing")
    return None if text is None else _decoded(text, scheme)


def _options(text: str | None, scheme: str) -> tuple[tuple[str, str], ...]:
    if text is None:
        return ()
    pairs: dict[str, str] = {}
    for part in text.split("&"):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in pairs:
            raise UnresolvedReference(f"malformed {scheme} reference: expected options as ?name=value&name=value")
        pairs[name] = _decoded(value, scheme)
    return tuple(pairs.items())


def _encoded(text: str) -> str:
    return quote(text, safe="/:@+,=~!$()*;")

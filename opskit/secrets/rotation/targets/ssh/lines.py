"""The text of an authorized_keys file (sshd(8)): which lines hold a key, and the text with or without them.

A line that opskit switched off is a comment with `OFF` before what it was. Every other line is left as it is, byte for
byte; comments of people are never taken for keys. A key may stand in several lines, with other options in each.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

OFF = "# switched off by opskit: "

_OPTIONS = re.compile(r'((?:[^\s"]|"(?:\\"|[^"])*")+)[ \t]+(.*)', re.DOTALL)


@dataclass(frozen=True)
class Line:
    """A line that holds a key: the key itself as sshd compares it, and the options before it, "" without any."""

    key: bytes
    options: str


def key_of(public: str) -> bytes:
    """What is compared of a public key in OpenSSH's form; raises ValueError where it is none."""
    line = read(public)
    if line is None:
        raise ValueError("no public key")
    return line.key


def read(text: str) -> Line | None:
    """A line as sshd reads it; None where it accepts no key."""
    text = text.lstrip(" \t")
    if (key := _key(text)) is not None:
        return Line(key, "")
    if text.startswith("#") or (found := _OPTIONS.fullmatch(text)) is None or (key := _key(found[2])) is None:
        return None
    return Line(key, found[1])


def accepts(text: str, key: bytes) -> bool:
    """Whether a line of the file does."""
    return any(line is not None and line.key == key for line in map(read, text.split("\n")))


def with_key(text: str, public: str, like: bytes | None, options: str) -> str | None:
    """The text with a key switched on, or added with the options of another key, `like`, one line for each of its own.

    `public` is the key and a comment. The options given count where there is no other key. None where the other key is
    not in the file, on or off, so that nobody knows what the new one should be allowed.
    """
    key = key_of(public)
    if accepts(text, key):
        return text
    lines = text.split("\n")
    if any(_is_off(each, key) for each in lines):
        return "\n".join(each.removeprefix(OFF) if _is_off(each, key) else each for each in lines)
    if like is None:
        return "\n".join([*_ended(lines), _line(options, public), ""])
    models = {at: line for at, each in enumerate(lines) if (line := read(each.removeprefix(OFF))) and line.key == like}
    if not models:
        return None
    return "\n".join(
        piece
        for at, each in enumerate(lines)
        for piece in ([each, _line(models[at].options, public)] if at in models else [each])
    )


def without_key(text: str, key: bytes, *, final: bool) -> str:
    """The text with all lines of the key switched off, or gone."""
    changed = []
    for each in text.split("\n"):
        line = read(each)
        is_on = line is not None and line.key == key
        if is_on and not final:
            changed.append(OFF + each)
        elif not is_on and not (final and _is_off(each, key)):
            changed.append(each)
    return "\n".join(changed)


def _key(text: str) -> bytes | None:
    """The key that a text begins with: its kind, then its base64, in which the kind is said again."""
    words = text.split(maxsplit=2)[:2]
    if len(words) < 2:
        return None
    try:
        blob = base64.b64decode(words[1].encode(), validate=True)
    except (binascii.Error, ValueError):
        return None
    kind = words[0].encode(errors="surrogateescape")
    return blob if blob.startswith(len(kind).to_bytes(4, "big") + kind) else None


def _is_off(text: str, key: bytes) -> bool:
    if not text.startswith(OFF):
        return False
    line = read(text.removeprefix(OFF))
    return line is not None and line.key == key


def _ended(lines: list[str]) -> list[str]:
    """The lines without the empty one after the last end of line."""
    return lines[:-1] if lines[-1] == "" else lines


def _line(options: str, public: str) -> str:
    return f"{options} {public}" if options else public

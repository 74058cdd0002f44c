"""Decoding pieces of a tree quickly: ordinary entries at sight, all others by module `tree`.

Nearly every entry is a folder or a file of one chunk, with the same few keys. Those are held here against the rules of
`tree.decode_line`, in half its time. Whatever differs in the least is left to `decode_line`, so that it alone says
what is refused, and why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import tree
from opskit.repository.tree import EARLIEST, LATEST, Node

_FILE_KEYS, _FOLDER_KEYS = 10, 8
_ID = 32
_OWNERS, _LENGTHS, _SIZES = 2**32, 2**32, 2**62
_Owner = tuple[int, int, int, str, str]


def nodes(piece: bytes) -> Iterator[Node]:
    """What `tree.decode_lines` gives: the node of each line, "more" lines among them; raises Damaged."""
    lines = [line for line in piece.split(b"\n") if line]
    values = _together(lines)
    if len(values) != len(lines):
        yield from tree.decode_lines(piece)  # says what is wrong
        return
    owners: dict[_Owner, _Owner] = {}
    for line, value in zip(lines, values, strict=True):
        yield _ordinary(value, owners) or tree.decode_line(line)


def _together(lines: list[bytes]) -> list[Any]:
    """The value of each line, decoded in one call, which costs little more than one line's; empty for odd lines.

    No value reaches over a line's end unseen: no string holds a newline, no member of an object begins with a brace,
    and what is in a list is no ordinary entry.
    """
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        return []
    try:
        return list(encoding.decode(b"[" + b",\n".join(lines) + b"]"))
    except Damaged:
        return []


def _ordinary(value: dict[str, Any], owners: dict[_Owner, _Owner]) -> Node | None:
    """The node of a folder or of a file of one chunk with nothing special about it; None for any other.

    `owners` are mode and owner of entries found good so far: there are few, so most are compared with those alone.
    """
    try:
        kind, path, mtime = value["type"], value["path"], value["mtime"]
        owner = owners.get((value["mode"], value["uid"], value["gid"], value["user"], value["group"]))
        mode, uid, gid, user, group = owner or _checked_owner(value, owners)
        size, chunks = 0, []
        if kind == "file" and len(value) == _FILE_KEYS:
            ((digits, length),) = value["chunks"]
            size, chunk_id = value["size"], bytes.fromhex(digits)
            if len(chunk_id) != _ID or type(length) is not int or not 0 <= length < _LENGTHS:
                return None
            chunks.append((chunk_id, length))
        elif kind != "dir" or len(value) != _FOLDER_KEYS:
            return None
        if type(mtime) is not int or not EARLIEST <= mtime <= LATEST or type(size) is not int or not 0 <= size < _SIZES:
            return None
        if "//" in path or "/." in path or "\0" in path or path[0] in "/." or path[-1] == "/":
            return None  # perhaps a hidden name, perhaps a way out (asked of bytes, `in` takes five times as long)
        return Node(path.encode(), kind, mode, uid, gid, user, group, mtime, size, chunks)
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _checked_owner(value: dict[str, Any], owners: dict[_Owner, _Owner]) -> _Owner:
    """Mode and owner of an entry, kept in `owners`; raises ValueError, TypeError for what `tree` must look at."""
    numbers = mode, uid, gid = value["mode"], value["uid"], value["gid"]
    user, group = value["user"], value["group"]
    if not all(type(number) is int for number in numbers):
        raise TypeError("expected numbers")
    if not (0 <= mode < 0o10000 and 0 <= uid < _OWNERS and 0 <= gid < _OWNERS):
        raise ValueError("expected numbers within their bounds")
    # the same few names stand in every entry: one copy of each is enough
    owner = mode, uid, gid, sys.intern(user), sys.intern(group)
    return owners.setdefault(owner, owner)

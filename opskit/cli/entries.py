"""Entries of a tree as `ls` and `find` show them.

Invariants: names reach a terminal escaped, JSON in ASCII; raw bytes come only where asked for. Paths start with "/",
as they did on the host, whatever the target of a restore. Times are UTC.
"""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from opskit.cli.render import human_bytes, printable

if TYPE_CHECKING:
    from opskit.cli.context import Context
    from opskit.repository.tree import Node

_TYPE_BITS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "socket": stat.S_IFSOCK,
}


def absolute(node: Node) -> bytes:
    """The path as it was on the host."""
    return b"/" + node.path


def as_json(node: Node) -> dict[str, object]:
    """An entry for programs; `mtime` in nanoseconds since the epoch, `mode` as chmod takes it."""
    value: dict[str, object] = {
        "path": os.fsdecode(absolute(node)),
        "type": node.type,
        "size": node.size,
        "mode": f"{node.mode:04o}",
        "mtime": node.mtime,
        "uid": node.uid,
        "gid": node.gid,
        "user": node.user,
        "group": node.group,
    }
    if node.target is not None:
        value["target"] = os.fsdecode(node.target)
    if node.hardlink is not None:
        value["hardlink"] = node.hardlink
    if node.error is not None:
        value["error"] = node.error
    return value


def write_json_lines(context: Context, lines: list[str]) -> None:
    """One JSON array of ready-made items: a million entries stay text, not dictionaries."""
    context.write("[" + ",".join(f"\n  {line}" for line in lines) + ("\n]" if lines else "]"))


def encoded(value: dict[str, object]) -> str:
    """One item for `write_json_lines`."""
    return json.dumps(value)


def long_line(node: Node, name: str) -> str:
    """Mode, owner, group, size, time and name, as ls -l would; `name` has passed `printable`."""
    mode = stat.filemode(_TYPE_BITS[node.type] | node.mode)
    owner, group = printable(node.user or str(node.uid)), printable(node.group or str(node.gid))
    size = (
        f"{node.device[0]}, {node.device[1]}" if node.device else human_bytes(node.size) if node.type == "file" else "-"
    )
    arrow = f" -> {printable(node.target)}" if node.target is not None else ""
    unread = f"   (not backed up: {printable(node.error)})" if node.error else ""
    return f"{mode} {owner:<8} {group:<8} {size:>9} {utc_time(node.mtime):<16} {name}{arrow}{unread}"


def utc_time(nanoseconds: int | None) -> str:
    """A time of the tree to the minute, in UTC; times no calendar has are given in seconds since the epoch."""
    if nanoseconds is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(nanoseconds // 10**9, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return f"@{nanoseconds // 10**9}"

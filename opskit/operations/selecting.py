"""Which entries of a snapshot a person wants: include and exclude patterns as in .gitignore, on the full path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from opskit.errors import UsageError
from opskit.repository.tree import Node

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


def selection(include: Sequence[str], exclude: Sequence[str]) -> Callable[[Node], bool]:
    """A function that says whether to restore an entry; without includes, everything not excluded.

    Folders above an included entry are made on the way, with default modes. Raises UsageError for a bad pattern.
    """
    wanted, unwanted = _compile(include), _compile(exclude)

    def select(node: Node) -> bool:
        path = node.path.decode("utf-8", "surrogateescape")
        text = path + "/" if node.type == "dir" else path
        if unwanted is not None and unwanted.match_file(text):
            return False
        return wanted is None or bool(wanted.match_file(text))

    return select


def _compile(patterns: Sequence[str]) -> GitIgnoreSpec | None:
    if not patterns:
        return None
    from pathspec import GitIgnoreSpec  # here: 48 M instructions, and most restores are whole

    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise UsageError(f"not a pattern: {error}") from error

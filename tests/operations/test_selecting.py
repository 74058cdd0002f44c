"""Include and exclude patterns."""

from __future__ import annotations

import pytest

from opskit.operations.selecting import selection
from opskit.repository.tree import Node

FILE, FOLDER, ODD = b"srv/a/note.txt", b"srv/a", b"srv/\xff\n.txt"


def chosen(path: bytes, kind: str, include: list[str], exclude: list[str]) -> bool:
    return selection(include, exclude)(Node(path, kind, 0, 0, 0))


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], True),
        (["*.txt"], [], True),
        (["*.md"], [], False),
        (["/srv/a/"], [], True),
        (["/a"], [], False),
        ([], ["*.txt"], False),
        ([], ["a/"], False),
        (["*.txt"], ["note*"], False),
        ([], ["*.txt", "!note.txt"], True),
    ],
)
def test_a_file(include: list[str], exclude: list[str], expected: bool) -> None:
    """Patterns work as in .gitignore on the full path; exclude wins."""
    assert chosen(FILE, "file", include, exclude) is expected


def test_names_that_are_not_text() -> None:
    """A name that is not UTF-8 and spans two lines matches like any other."""
    assert chosen(ODD, "file", ["*.txt"], []) and not chosen(ODD, "file", [], ["*.txt"])
    assert chosen(FOLDER, "dir", ["a/"], []) and not chosen(FOLDER, "file", ["a/"], [])

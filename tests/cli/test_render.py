"""How numbers, times, names and tables are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.cli.render import cell_width, counted, human_bytes, human_duration, printable, table


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (41_200_000, "41.2 MB"),
        (1_900_000_000, "1.9 GB"),
        (10**13, "10.0 TB"),
        (10**22, "10000.0 EB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    """A size has a decimal unit, never four digits before the point below the largest unit."""
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.4, "9.4 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (192, "3 min 12 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 3600 * 4 + 59, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A duration has at most two units and never sixty of one."""
    assert human_duration(seconds) == text


def test_counts() -> None:
    """Numbers have thousands separators, and one thing is singular."""
    assert [counted(1, "file"), counted(51204, "file"), counted(2, "copy", "copies")] == [
        "1 file",
        "51,204 files",
        "2 copies",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain name.txt", "plain name.txt"),
        ("grün 漢字 \\ ok", "grün 漢字 \\ ok"),
        ("a\nb\tc\\", "a\\nb\\tc\\\\"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("\u2028", "\\u2028"),
        (b"caf\xe9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_names_cannot_steer_a_terminal(name: str | bytes, text: str) -> None:
    """What is not printable is shown as an escape."""
    assert printable(name) == text


@given(st.binary())
def test_any_name_becomes_one_printable_line(name: bytes) -> None:
    """Whatever bytes a file is named by, the text is printable."""
    assert printable(name).isprintable()


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=2, unique=True))
def test_escaped_names_stay_different(names: list[bytes]) -> None:
    """Two names that both needed escapes never look the same."""
    first, second = names
    if not any(name.decode("utf-8", "surrogateescape").isprintable() for name in names):
        assert printable(first) != printable(second)


def test_tables_have_stable_columns() -> None:
    """Columns start at one place, numbers are right-aligned, wide characters count twice, no line ends in spaces."""
    lines = table([("a", "1", "x"), ("漢字", "1,000", "")], header=("name", "files", "note"), align="<>")
    assert lines == ["name  files  note", "a         1  x", "漢字  1,000"]


def test_tables_of_nothing() -> None:
    """No rows give no lines; a header alone stays."""
    assert table([]) == [] and table([], header=("id",)) == ["id"]


def test_combining_marks_take_no_room() -> None:
    """An accent written as its own character does not widen a column."""
    assert cell_width("e\u0301a") == 2

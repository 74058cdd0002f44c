"""Which snapshot a text names."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import SnapshotNotFound, UsageError
from opskit.operations.choosing import choose, split_path
from opskit.repository.manifest import Manifest, Snapshot


def snapshot(source: str, sequence: int, day: int, host: str = "lab", id: str | None = None) -> Snapshot:
    """A snapshot at noon UTC of a day in November 2026."""
    at = datetime(2026, 11, day, 12, tzinfo=UTC)
    manifest = Manifest(
        "r", host, source, sequence, None, at, at, (), "0" * 64, 0, (), {}, 1, 1, 1, 0, True, "test"
    )  # fmt: skip
    digest = id or hashlib.sha256(f"{host}{source}{sequence}".encode()).hexdigest()
    return Snapshot(f"snapshots/{digest}", digest, "F" * 40, manifest)


ONE = [snapshot("data", 1, 1), snapshot("data", 2, 3), snapshot("data", 3, 2)]
TWO = [*ONE, snapshot("db", 1, 5)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latest", ("latest", "")),
        ("latest:", ("latest", "")),
        ("latest:/", ("latest", "")),
        ("data@latest:/srv/a/", ("data@latest", "srv/a")),
        ("7f3a9c21:srv:with:colons", ("7f3a9c21", "srv:with:colons")),
        ("2026-11-21T02:30:00:/srv", ("2026-11-21T02:30:00", "srv")),
        ("data@2026-11-21 02:30:a\nb", ("data@2026-11-21 02:30", "a\nb")),
        ("2026-11-22T05:24:49Z", ("2026-11-22T05:24:49Z", "")),
        ("2026-11-22T05:24:49Z:/srv/a", ("2026-11-22T05:24:49Z", "srv/a")),
        ("data@2026-11-22T05:24:49+02:00:49Z", ("data@2026-11-22T05:24:49+02:00", "49Z")),
        ("2026-11-22T05:24+0200", ("2026-11-22T05:24+0200", "")),
        ("2026-11-22 05:24:49 UTC:a", ("2026-11-22 05:24:49 UTC", "a")),
        ("2026-11-22T05:24:49.123456Z:a", ("2026-11-22T05:24:49.123456Z", "a")),
        ("2026-11-22T05:24:/49Z", ("2026-11-22T05:24", "49Z")),
        ("2026-11-22T05:24:49/a", ("2026-11-22T05:24", "49/a")),
        ("2026-11-22T05:24:2026", ("2026-11-22T05:24", "2026")),
        ("2026-11-22T05:24+02:00/a", ("2026-11-22T05:24+02", "00/a")),
        ("2026-11-22:05:24", ("2026-11-22", "05:24")),
        ("latest:/a:b", ("latest", "a:b")),
        ("latest:a\n", ("latest", "a\n")),
        ("latest:\udce9", ("latest", "\udce9")),
    ],
)
def test_the_path_is_what_follows_the_snapshot(text: str, expected: tuple[str, str]) -> None:
    """Colons of times and of paths are told from the one between them."""
    assert split_path(text) == expected


@pytest.mark.parametrize("text", ["2026-11-22T05:24:49z", "2026-11-22T05:24:49 a", "2026-11-22T05:24+2", "2026-11-22x"])
def test_what_may_be_a_time_is_not_taken_for_a_path(text: str) -> None:
    """After a date stands its end or a colon; a mistyped time is refused and not looked for as a path."""
    with pytest.raises(UsageError, match="after the date") as caught:
        split_path(text)
    assert caught.value.hint


@given(st.text(st.characters(exclude_characters="\0")))
def test_any_path_survives(path: str) -> None:
    """Whatever stands behind the colon is the path, but for slashes at its ends."""
    assert split_path(f"data@latest:{path}") == ("data@latest", path.strip("/"))


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("latest", 3),
        ("data@latest", 3),
        ("2026-11-01", 1),
        ("2026-11-02", 3),
        ("2026-11-02T11:59", 1),
        ("2026-11-02 12:00:00", 3),
        ("2026-11-02T11:59:59Z", 1),
        ("2026-11-02T12:00:00Z", 3),
        ("2026-11-02T12:00:00.5Z", 3),
        ("2026-11-02 11:59 UTC", 1),
        ("2026-11-02T13:59:59+02:00", 1),
        ("2026-11-02T14:00:00+02:00", 3),
        ("2026-11-02T14:00+0200", 3),
        ("2026-11-02T07:00-05", 3),
        ("2026-11-02T12:00+02:00", 1),
        ("2026-12-31", 3),
        ("9999-12-31", 3),
    ],
)
def test_latest_goes_by_number_and_dates_cut(text: str, sequence: int) -> None:
    """`latest` has the highest number, whatever the clock said; a date means the newest at or before it."""
    assert choose(ONE, text).manifest.sequence == sequence


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M UTC", "%Y-%m-%dT%H:%M"])
def test_a_time_that_was_printed_names_its_snapshot(form: str) -> None:
    """Times as `snapshots` and `restore` print them find the snapshot, whose last minute is not over at its start."""
    day = snapshot("data", 4, 7)
    at = day.manifest.started.replace(hour=5, minute=24, second=49)
    late = replace(day, manifest=replace(day.manifest, started=at))
    assert choose([*ONE, late], f"{at:{form}}") is late


def test_an_id_may_be_cut_short() -> None:
    """Four digits that fit one snapshot only name it; with its source before them too."""
    for each in TWO:
        assert choose(TWO, each.id[:8]) is each
        assert choose(TWO, f"{each.manifest.source}@{each.id}") is each


def test_a_prefix_of_two_ids_names_neither() -> None:
    """An ambiguous prefix is refused and not resolved by guessing."""
    twins = [snapshot("data", 1, 1, id="ab12" + "0" * 60), snapshot("data", 2, 2, id="ab12" + "1" * 60)]
    with pytest.raises(SnapshotNotFound, match="2 snapshots"):
        choose(twins, "ab12")
    assert choose(twins, "ab121") is twins[1]


@pytest.mark.parametrize("text", ["data@1999-01-01", "ffffffff", "dta@latest", "db@2026-11-04"])
def test_what_is_not_there_is_not_found(text: str) -> None:
    """No match is SnapshotNotFound with a hint."""
    with pytest.raises(SnapshotNotFound) as caught:
        choose(TWO, text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "newest", "7f3", "2026-13-45", "2026-11-02T12:00+25:00", "2026-11-02T12", "ABCDEF01", "data@"]
)
def test_what_makes_no_sense_is_a_usage_error(text: str) -> None:
    """A text that can be no snapshot says what one looks like."""
    with pytest.raises(UsageError):
        choose(TWO, text)


def test_several_sources_or_hosts_are_never_mixed() -> None:
    """`latest` of two sources, or of one source on two hosts, is ambiguous."""
    with pytest.raises(UsageError, match="several sources"):
        choose(TWO, "latest")
    assert choose(TWO, "db@latest").manifest.source == "db"
    with pytest.raises(UsageError, match="several hosts"):
        choose([*ONE, snapshot("data", 9, 9, host="other")], "data@latest")

"""Since when what a snapshot lacks could not be read: remembered by the host, told by the manifest and by `forget`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opskit.cli.forget import why_all_stay
from opskit.operations import unread
from opskit.operations.forget import JudgedChain
from opskit.repository.manifest import Manifest
from opskit.repository.retention import Judged
from opskit.sources.base import Entry, Problem
from opskit.sources.files import FileSource
from tests.operations.judging import lab_in, run
from tests.repositories import Keys, Lab

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Lacking(FileSource):
    """A folder in which some files cannot be read."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__([folder])
        self._lacking = names

    def entries(self) -> Iterator[Entry | Problem]:
        yield from super().entries()
        yield from (Problem(name.encode(), "permission denied", "unreadable") for name in self._lacking)


@pytest.fixture
def lab(throwaway_keys: Keys, tmp_path: Path) -> Lab:
    return lab_in(throwaway_keys, tmp_path)


def after(lab: Lab, source: Path, *names: str) -> Manifest:
    """The manifest of a run that could not read these files."""
    result = run(lab, Lacking(source, names))
    return next(each.manifest for each in lab.history().snapshots if each.id == result.snapshot)


def test_the_manifest_says_since_when(lab: Lab, source: Path) -> None:
    """Of several the latest; what was readable in between, or is gone instead of another, begins anew."""
    first = after(lab, source, "never")
    assert first.unreadable_since == first.started
    assert after(lab, source, "never").unreadable_since == first.started
    third = after(lab, source, "never", "folder")
    assert third.unreadable_since == third.started
    assert after(lab, source, "never").unreadable_since == first.started
    fifth = after(lab, source, "folder")
    assert (fifth.unreadable, fifth.unreadable_since) == (1, fifth.started)
    assert after(lab, source).unreadable_since is None
    last = after(lab, source, "never")
    assert last.unreadable_since == last.started


def test_a_memory_that_is_lost_or_too_small_makes_nothing_older() -> None:
    """Nor one that is spoilt, or of a clock that was ahead."""
    paths, later = [b"one", b"two"], NOON + timedelta(days=1)
    about = unread.noted(unread.remember({}, paths, NOON))
    assert unread.since(unread.remember(about, paths, later)) == NOON
    assert unread.since(unread.remember(about, paths, NOON - timedelta(days=9))) == NOON - timedelta(days=9)
    for lost in ({}, {"unreadable": 7}, {"unreadable": dict.fromkeys(about["unreadable"], "soon")}):  # type: ignore[call-overload]
        assert unread.since(unread.remember(lost, paths, later)) == later
    many = [b"%d" % number for number in range(unread.MOST_REMEMBERED + 1)]
    about = unread.noted(unread.remember({}, many, NOON))
    assert unread.since(unread.remember(about, many, later)) == later


def test_a_source_that_lacks_too_much_is_told_why_it_keeps_everything(lab: Lab, source: Path) -> None:
    """Beyond the limit, which is named, as real runs show it; up to it, it is files that could be read lately."""
    names = [f"{number}" for number in range(unread.MOST_REMEMBERED + 1)]

    def chain() -> JudgedChain:
        return JudgedChain("web", "data", [Judged(each) for each in lab.history().snapshots])

    assert after(lab, source, *names[1:]).unreadable == 10_000
    assert chain().lacks_too_many is None and why_all_stay(chain()) == "each lacks files that could be read lately"
    for _ in range(2):
        after(lab, source, *names)
        assert chain().lacks_too_many == 10_001
        assert "lacks 10,001 files: of more than 10,000 it is not remembered since when" in why_all_stay(chain())
    after(lab, source, "one")
    assert chain().lacks_too_many is None

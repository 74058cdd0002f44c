"""What several hosts say of one copy, taken together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opskit.errors import Damaged
from opskit.operations.verified import Verified
from opskit.repository import evidence
from opskit.repository.evidence import Evidence
from opskit.repository.verification import Coverage, Verification

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def found(days_ago: int, *, damaged: int = 0, since: int | None = None, whole: bool = False) -> Verification:
    """A run so many days ago; of a part unless it is `whole`, everything read since so many days ago."""
    ended = NOW - timedelta(days=days_ago)
    start = None if since is None else NOW - timedelta(days=since)
    coverage = None if whole else Coverage(start, start, 100, ((0, 100),), 0, None, "10%")
    return Verification(ended, 1, 1, damaged, newest={"h/s": f"of {days_ago}"}, since=start, coverage=coverage)


def together(tmp_path: Path, *said: Verification) -> Verification:
    memory = Verified(tmp_path / "none.json")
    for each in said:
        memory.learn("c", each)
    known = memory.get("c")
    assert known is not None
    return known


@pytest.mark.parametrize("turned", [False, True])
def test_damage_stays_until_all_was_read_again(tmp_path: Path, turned: bool) -> None:
    """A later run of a part does not take back what another host found; one that covers everything since does."""
    for later, damaged in ((found(1), 1), (found(1, since=5), 1), (found(1, whole=True), 0), (found(1, since=2), 0)):
        pair = [found(3, damaged=1), later]
        assert together(tmp_path, *(reversed(pair) if turned else pair)).damaged == damaged


def test_the_latest_date_and_the_later_word_count(tmp_path: Path) -> None:
    """Everything read since is true whoever says it; the newest good snapshot is that of the later run."""
    known = together(tmp_path, found(3, whole=True), found(1, since=20))
    assert known.known_since == NOW - timedelta(days=3) and known.newest == {"h/s": "of 1"}


def test_evidence_of_a_verification_comes_back() -> None:
    """What is encoded is decoded as it was; anything else is damage, never a claim."""
    said = Evidence(evidence.VERIFICATION, "0" * 32, "h", NOW, verifications={"c" * 32: found(0, since=4)})
    assert evidence.decode(evidence.encode(said)) == said
    data = evidence.encode(said)
    for wrong, right in ((b'"copies"', b'"copy"'), (b"[[0,100]]", b"[[0]]"), (b'"total":100', b'"total":-1')):
        assert wrong in data
        with pytest.raises(Damaged):
            evidence.decode(data.replace(wrong, right))

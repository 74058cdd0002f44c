"""For whom hosts write, as their newest manifests tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.operations.rekeying.following import written_for
from opskit.repository.manifest import Manifest, Snapshot

START = datetime(2026, 11, 21, tzinfo=UTC)


def snapshot(host: str, source: str, day: int, recipients: tuple[str, ...], sequence: int = 1) -> Snapshot:
    time = START + timedelta(days=day)
    manifest = Manifest(
        "r", host, source, sequence, None, time, time, (), "0" * 64, 0, (), {}, 1, 1, 1, 0, True, "x",
        recipients=recipients,
    )  # fmt: skip
    return Snapshot(f"{host}{source}{day}", "0" * 64, "F" * 40, manifest)


@given(st.permutations([0, 1, 2, 3]))
def test_the_newest_of_each_host_counts(order: list[int]) -> None:
    """Whatever its source, and in whichever order they are listed; one that tells nothing tells that nobody knows."""
    found = [
        snapshot("web", "a", 1, ("OLD",)), snapshot("web", "b", 2, ("NEW", "OLD")),
        snapshot("db", "a", 5, ("OLD",)), snapshot("db", "a", 6, (), 2),
    ]  # fmt: skip
    assert written_for(found[each] for each in order) == {"web": {"NEW", "OLD"}, "db": set()}


@pytest.mark.parametrize("days", [(1, 1), (200, 1)])
def test_no_clock_makes_a_backup_newer(days: tuple[int, int]) -> None:
    """Of one source the one with the higher number is the newer one, also after the clock was ahead for a while."""
    found = [snapshot("web", "a", days[0], ("NEW",), 1), snapshot("web", "a", days[1], ("OLD",), 2)]
    assert written_for(found) == written_for(found[::-1]) == {"web": {"OLD"}}

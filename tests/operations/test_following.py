"""For whom hosts write, as their newest manifests tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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


def test_two_of_one_second() -> None:
    """The one with the higher number is the newer one."""
    assert written_for([snapshot("web", "a", 1, ("NEW",), 2), snapshot("web", "a", 1, ("OLD",), 1)]) == {"web": {"NEW"}}

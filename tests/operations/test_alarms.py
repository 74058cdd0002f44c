"""What is odd about a backup, and what is not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opskit.operations.alarms import Counts, Limits, judge
from opskit.operations.backup import Job, Options, backup
from opskit.repository import retention
from opskit.repository.manifest import Snapshot
from opskit.repository.retention import Rules
from opskit.sources.files import FileSource
from tests.repositories import LONG_AGO, SOURCE, Lab
from tests.repository.test_retention import snapshot

MB = 1_000_000


def chain(*counts: Counts) -> list[Snapshot]:
    """Snapshots that counted so, a day apart."""
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    made = []
    for number, each in enumerate(counts):
        plain = snapshot(number + 1, begin + timedelta(days=number))
        manifest = replace(
            plain.manifest, files=each.files, bytes=each.total_bytes, new_bytes=each.new_bytes,
            stored_bytes=each.stored_bytes,
        )  # fmt: skip
        made.append(replace(plain, manifest=manifest))
    return made


USUAL = Counts(1000, 100 * MB, 100 * MB, 40 * MB)


@pytest.mark.parametrize(
    ("now", "older", "expected"),
    [
        (Counts(1000, 100 * MB, 0, 0), [USUAL], ""),
        (Counts(0, 0, 0, 0), [USUAL], "the source is empty: it had 1,000 files"),
        (Counts(0, 0, 0, 0), [], "the source is empty"),
        (Counts(499, 90 * MB, 0, 0), [USUAL], "shrank to 499 files, from 1,000"),
        (Counts(500, 90 * MB, 0, 0), [USUAL], ""),
        (Counts(1000, 49 * MB, 0, 0), [USUAL], "shrank to 49,000,000 bytes"),
        (Counts(1000, 100 * MB, 51 * MB, 20 * MB), [USUAL], "51,000,000 bytes are new"),
        (Counts(1100, 150 * MB, 50 * MB, 20 * MB), [USUAL], ""),
        (Counts(1000, 100 * MB, 30 * MB, 30 * MB), [USUAL], "hardly compresses, as encrypted files do not: to 100 %"),
        (Counts(1000, 100 * MB, 9 * MB, 9 * MB), [USUAL], ""),
        (Counts(1000, 100 * MB, 30 * MB, 30 * MB), [Counts(1000, 100 * MB, 100 * MB, 99 * MB)], ""),
        (Counts(3, 300, 0, 0), [Counts(19, 900, 900, 500)], ""),
        (Counts(3, 63 * MB, 63 * MB, 20 * MB), [Counts(3, 63 * MB, 63 * MB, 20 * MB)], ""),
        (Counts(3, 65 * MB, 65 * MB, 20 * MB), [Counts(3, 65 * MB, 65 * MB, 20 * MB)], "65,000,000 bytes are new"),
        (USUAL, [], ""),
    ],
)
def test_what_is_odd(now: Counts, older: Sequence[Counts], expected: str) -> None:
    """An empty source, one that shrank, much that is new, and content that stopped to compress; small ones aside."""
    found = judge(now, chain(*older), Limits())
    assert (len(found) == 1 and expected in found[0]) if expected else not found


def test_limits_can_be_switched_off() -> None:
    """With 0 and false nothing is odd but an empty source; incomplete snapshots are no measure."""
    off = Limits(0, 0, entropy=False)
    assert not judge(Counts(1, 1, 90 * MB, 90 * MB), chain(USUAL), off)
    (older,) = chain(USUAL)
    broken = replace(older, manifest=replace(older.manifest, complete=False))
    assert not judge(Counts(1, 1, 0, 0), [broken], Limits())


def test_retention_keeps_what_came_before_an_alarm() -> None:
    """As long as the snapshot with the alarm stays; one alarm after another does not keep everything."""
    made = chain(*[USUAL] * 6)
    made = [
        replace(each, manifest=replace(each.manifest, alarms=["odd"] if each.manifest.sequence in (3, 5, 6) else []))
        for each in made
    ]
    judged = retention.judge(made, Rules(last=2), now=datetime(2026, 12, 1, tzinfo=UTC), protected={}, zone=UTC)
    assert [each.snapshot.manifest.sequence for each in judged if each.reasons] == [4, 5, 6]


def test_a_run_records_its_alarms(lab: Lab, source: Path) -> None:
    """The signed manifest carries them, and the result; the snapshot is as good as any."""
    for number in range(30):
        (source / f"{number}").write_bytes(os.urandom(40_000))
    for remaining in (30, 10):
        for number in range(remaining, 30):
            (source / f"{number}").unlink()
        lab.minutes += 1
        with lab.session() as session:
            options = Options(workers=1, alarms=Limits())
            job = Job(SOURCE, FileSource([source]))
            (result,) = backup(session, [job], options, clock_ns=lambda: LONG_AGO)
    assert result.alarms and "shrank to 10 files, from 30" in result.alarms[0] and result.is_good
    first, second = lab.history().snapshots
    assert not first.manifest.alarms and list(second.manifest.alarms) == list(result.alarms)
    assert first.manifest.new_bytes > MB and first.manifest.stored_bytes > MB

"""Packs of which little is needed any more: what is left of them is stored anew, a limited amount a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from opskit.operations import sparse
from opskit.operations.backup import Job, Options, backup
from opskit.operations.outcome import Result
from opskit.operations.retiring import retire
from opskit.operations.sparse import AT_ONCE_BYTES, Measured, choose, used_content
from opskit.repository.cache import PackRow
from opskit.repository.locating import packs_of
from opskit.sources.files import FileSource
from tests.operations.judging import restored, run
from tests.repositories import LONG_AGO, SOURCE, Lab, noise

FILES = 40


def rows(*contents: int) -> dict[int, PackRow]:
    return {number: PackRow(number, f"{number:064x}", 1, size, size) for number, size in enumerate(contents)}


def needed(lab: Lab) -> set[str]:
    newest = lab.history().snapshots[-1].manifest
    return {digest for each in newest.runs for digest in packs_of(each, lab.stores["a"].get)}


def change(source: Path, numbers: range, seed: int) -> None:
    for number in numbers:
        (source / f"file-{number}").write_bytes(noise(seed * 1000 + number, 20_000))


@pytest.fixture
def many(lab: Lab, source: Path) -> Lab:
    """A snapshot whose files lie in one pack."""
    change(source, range(FILES), 0)
    run(lab, FileSource([source]))
    return lab


def test_a_sparse_pack_is_left(many: Lab, source: Path, tmp_path: Path) -> None:
    """When most of a pack is changed, the rest is stored anew by the run after; older snapshots keep what they need."""
    first = needed(many)
    change(source, range(FILES * 8 // 10), 1)
    run(many, FileSource([source]))
    assert needed(many) & first, "what has not changed lies where it lay"
    result = run(many, FileSource([source]))
    assert result.new_bytes >= FILES * 2 // 10 * 20_000
    assert len(needed(many) & first) == 0
    again = run(many, FileSource([source]))
    assert not again.new_bytes, "once is enough"
    for number, snapshot in enumerate(many.history().snapshots):
        assert many.restore(snapshot, tmp_path / f"all-{number}").problems == []
    assert restored(many, result, tmp_path / "target").problems == []


def test_what_was_stored_anew_is_not_taken_from_the_old_pack_again(many: Lab, source: Path) -> None:
    """A file that is read once more is found in the newest pack that has it."""
    first = needed(many)
    change(source, range(FILES * 8 // 10), 1)
    run(many, FileSource([source]))
    run(many, FileSource([source]))
    os.utime(source / f"file-{FILES - 1}", (1, 1))
    result = run(many, FileSource([source]))
    assert result.new_bytes < 20_000 and not needed(many) & first


def test_a_run_stores_only_so_much(many: Lab, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into one run's share is left to the next ones, which go on by themselves."""
    monkeypatch.setattr(sparse, "AT_ONCE_BYTES", 100_000)
    monkeypatch.setattr(sparse, "AT_ONCE_SHARE", 0)
    change(source, range(FILES * 8 // 10), 1)
    run(many, FileSource([source]))
    assert run(many, FileSource([source])).new_bytes < 20_000
    monkeypatch.setattr(sparse, "AT_ONCE_BYTES", AT_ONCE_BYTES)
    assert run(many, FileSource([source])).new_bytes >= FILES * 2 // 10 * 20_000


def test_a_deleted_half_is_noticed(many: Lab, source: Path) -> None:
    """A source that shrinks leaves sparse packs, too, though nothing was added."""
    first = needed(many)
    for number in range(FILES * 8 // 10):
        (source / f"file-{number}").unlink()
    run(many, FileSource([source]))
    run(many, FileSource([source]))
    assert not needed(many) & first


def test_another_source_that_shares_files_keeps_its_packs(lab: Lab, source: Path, tmp_path: Path) -> None:
    """What one source stores anew makes no other do so, though both are backed up in one run and share content."""
    other = tmp_path / "other"
    other.mkdir()
    change(other, range(FILES), 0)
    (source / "same").write_bytes((other / "file-1").read_bytes())
    for number in range(30):
        (source / f"own-{number}").write_bytes(noise(number, 20_000))

    def both() -> list[Result]:
        lab.minutes += 1
        with lab.session() as session:
            jobs = [Job("data", FileSource([source])), Job("other", FileSource([other]))]
            return list(backup(session, jobs, Options(workers=1), clock_ns=lambda: time.time_ns() + LONG_AGO))

    both()
    for number in range(30):
        (source / f"own-{number}").write_bytes(noise(100 + number, 20_000))
    both()
    with lab.session() as session:
        retired = retire(session, [lab.history().of("data", lab.label)[-1].manifest], session.last_tree("data"))
        assert retired is not None and session.retired
    data, second = both()
    assert data.new_bytes >= 20_000 and second.new_bytes == 0


def test_use_is_counted_to_the_byte(lab: Lab, source: Path) -> None:
    """Of what was just stored, long files among it, all is needed: packs of trees aside, which the last tree omits."""
    change(source, range(FILES), 0)
    (source / "long").write_bytes(noise(1, 9_000_000))
    (source / "sparse").touch()
    os.truncate(source / "sparse", 1_000_000)
    run(lab, FileSource([source]))
    with lab.session() as session:
        used = used_content(session.last_tree(SOURCE), session.cache, session.live)
        assert used and all(session.live[number].content == size for number, size in used.items())
        assert sum(used.values()) > 9_000_000 + FILES * 20_000


def test_the_emptiest_come_first() -> None:
    """Up to the limit of a run; a pack of which enough is needed, or nothing, is not among them."""
    size = 400 * 1024 * 1024
    packs = rows(size, size, size, size)
    used = {0: size * 9 // 10, 1: size // 10, 2: size // 20, 3: size // 5}
    found = choose(used, packs, 0)
    assert found.packs == {1, 2} and not found.is_all
    assert choose(used, packs, 100 * size).packs == {1, 2, 3} and choose(used, packs, 100 * size).is_all
    assert choose({0: size * 9 // 10, 1: size * 9 // 10, 2: size // 20}, packs, 0).packs == {2}
    assert choose({0: size, 1: size, 2: size, 3: size // 5}, packs, 0).packs == set(), "little is wasted in all"


def test_when_to_look_again() -> None:
    """A tenth more content, or a tenth of it less to back up, since the last look."""
    before = Measured(1000, 900)
    assert not before.has_changed(Measured(1050, 900)) and before.has_changed(Measured(1200, 900))
    assert not before.has_changed(Measured(1000, 850)) and before.has_changed(Measured(1000, 700))

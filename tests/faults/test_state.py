"""The state folder is lost, old, foreign or lies: the next backup is right, and stores nothing twice."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from opskit.errors import StoreError
from opskit.operations.outcome import Result
from opskit.repository.cache import Cache
from tests.fakes import Fault, FaultyStore
from tests.faults.conftest import Scene
from tests.repositories import REPOSITORY, SOURCE, Keys, Lab, PackInspector, assert_restores, memory_store

Spoil = Callable[[Path], None]


def cache_of(state: Path) -> Path:
    return state / "cache" / f"{REPOSITORY}.sqlite"


def tree_of(state: Path) -> Path:
    return state / "trees" / f"{REPOSITORY}-{SOURCE}"


def heads_of(state: Path) -> Path:
    return state / "heads" / f"{REPOSITORY}.json"


LOSSES: dict[str, Spoil] = {
    "the cache": lambda state: shutil.rmtree(state / "cache"),
    "the last trees": lambda state: shutil.rmtree(state / "trees"),
    "the heads": lambda state: shutil.rmtree(state / "heads"),
    "everything": lambda state: shutil.rmtree(state),
}


def _sql(statement: str) -> Spoil:
    def spoil(state: Path) -> None:
        with sqlite3.connect(cache_of(state)) as db:
            db.execute(statement)
        db.close()

    return spoil


LIES: dict[str, Spoil] = {
    "chunks in other packs": _sql("UPDATE chunks SET pack = (SELECT max(no) FROM packs)"),
    "chunks that are nowhere": _sql("UPDATE chunks SET pack = 4711"),
    "checksums of zero": _sql("UPDATE chunks SET check_sum = 0"),
    "packs of other runs": _sql("UPDATE packs SET run = run + 1"),
    "packs of other sizes": _sql("UPDATE packs SET stored = stored + 1"),
    "packs exchanged": _sql("UPDATE packs SET name = name || 'x'"),
    "runs with other keys": _sql("UPDATE runs SET key = '" + "0" * 64 + "'"),
    "runs with other ids": _sql("UPDATE runs SET id = 'f' || substr(id, 2)"),
    "index objects of other runs": _sql("UPDATE OR REPLACE indexes SET run = 3 - run"),
    "index objects for other packs": _sql("UPDATE OR REPLACE indexes SET pack = 3"),
    "other sizes": _sql("UPDATE sizes SET size = size + 1"),
    "text that is no text": _sql("UPDATE packs SET name = CAST(x'ccff' AS TEXT) WHERE no = 1"),
    "numbers that are none": _sql("UPDATE runs SET key = x'00'"),
    "manifests of another type": _sql("UPDATE manifests SET payload = 'text'"),
    "manifests that say nothing": _sql("UPDATE manifests SET payload = x'7b7d'"),
    "manifests by another": _sql("UPDATE manifests SET signer = 'nobody'"),
    "index objects unknown": _sql("DELETE FROM indexes"),
    "no chunks": _sql("DELETE FROM chunks"),
    "no packs": _sql("DELETE FROM packs"),
    "no runs": _sql("DELETE FROM runs"),
    "another version": _sql("UPDATE meta SET value = '0' WHERE key = 'version'"),
    "no token": _sql("DELETE FROM meta WHERE key LIKE 'tree-%'"),
    "no tables": _sql("DROP TABLE chunks"),
}


TELLING = {"chunks in other packs", "packs of other sizes", "runs with other ids", "no packs", "no tables", "no token"}
"""Those that CI tries each time."""


def _run(lab: Lab, scene: Scene, folder: Path, *, force: bool = False) -> Result:
    """Back up, and prove that the new snapshot and all older ones restore exactly."""
    result = lab.backup(scene.source, force=force)
    assert set(result.destinations.values()) == {"ok"}, result
    assert_restores(lab, scene.source, folder / "restored")
    history = lab.history()
    assert len(history.snapshots) == len(lab.pictures)
    assert [each.manifest.sequence for each in history.snapshots] == list(range(1, len(history.snapshots) + 1))
    assert all(report.is_good for report in lab.verify().values())
    return result


@pytest.mark.parametrize("lost", LOSSES)
def test_lost_state(later: Scene, tmp_path: Path, inspector: PackInspector, lost: str) -> None:
    """Without its state folder, or a part of it, the next run stores no chunk again."""
    lab = later.lab.fork(tmp_path / "state")
    lab.backup(later.source)
    before = inspector.packs(lab.stores["a"])
    LOSSES[lost](lab.state)
    _run(lab, later, tmp_path)
    after = inspector.packs(lab.stores["a"])
    had = {chunk for stored in before.values() for chunk in stored.ids}
    new = [stored for digest, stored in after.items() if digest not in before]
    assert not any(set(stored.ids) - stored.roots & had for stored in new), f"{len(new)} packs hold known chunks"


@pytest.mark.parametrize(
    "lie", [pytest.param(lie, marks=() if lie in TELLING else pytest.mark.campaign) for lie in LIES]
)
def test_lying_cache(later: Scene, tmp_path: Path, lie: str) -> None:
    """Whatever stands in the cache, the next snapshot is complete and earlier ones are untouched."""
    lab = later.lab.fork(tmp_path / "state")
    lab.backup(later.source)
    LIES[lie](lab.state)
    result = _run(lab, later, tmp_path, force=True)  # or the last tree would answer and the cache not be asked
    assert not result.errors, "a wrong cache is no damage of a copy"


def test_lying_members(later: Scene, tmp_path: Path) -> None:
    """A wrong list of the chunks in a pack that a crash left without index is not put into an index object."""
    lab = later.lab.fork(tmp_path / "state")
    with pytest.raises(StoreError):  # at the index object, after both packs
        lab.backup(later.source, {"a": FaultyStore(lab.stores["a"], {7: Fault(error=StoreError("gone"))})})
    with closing(sqlite3.connect(cache_of(lab.state))) as db, db:
        changed = db.execute("UPDATE members SET ids = CAST(zeroblob(length(ids)) AS BLOB)").rowcount
    assert changed == 2
    lab.stores = {"a": lab.stores["a"]}
    _run(lab, later, tmp_path)


def test_stale_cache(later: Scene, tmp_path: Path) -> None:
    """An older cache put back knows too little, never too much."""
    lab = later.lab.fork(tmp_path / "state")
    shutil.copytree(lab.state / "cache", tmp_path / "old")
    lab.backup(later.source)
    shutil.rmtree(lab.state / "cache")
    shutil.copytree(tmp_path / "old", lab.state / "cache")
    _run(lab, later, tmp_path)


def test_older_state(later: Scene, tmp_path: Path) -> None:
    """A whole state folder put back from before the last run makes neither a fork nor a loss."""
    lab = later.lab.fork(tmp_path / "state")
    shutil.copytree(lab.state, tmp_path / "old")
    lab.backup(later.source)
    shutil.rmtree(lab.state)
    shutil.copytree(tmp_path / "old", lab.state)
    _run(lab, later, tmp_path)


def test_foreign_cache(later: Scene, throwaway_keys: Keys, tmp_path: Path) -> None:
    """A cache and last tree of another repository are not believed, whatever their file names."""
    other = Lab(throwaway_keys, tmp_path / "other", {"c": memory_store()}, repository="f" * 32).create()
    other.backup(later.source)
    lab = later.lab.fork(tmp_path / "state")
    lab.backup(later.source)
    shutil.copy(other.state / "cache" / f"{'f' * 32}.sqlite", cache_of(lab.state))
    shutil.copy(other.state / "trees" / f"{'f' * 32}-{SOURCE}", tree_of(lab.state))
    _run(lab, later, tmp_path)


def test_last_tree_of_another_cache(later: Scene, tmp_path: Path) -> None:
    """A last tree whose pack numbers are those of another cache is not used."""
    lab = later.lab.fork(tmp_path / "state")
    lab.backup(later.source)
    shutil.copy(tree_of(lab.state), tmp_path / "tree")
    cache_of(lab.state).unlink()
    Cache(cache_of(lab.state), REPOSITORY).close()
    _run(lab, later, tmp_path)
    shutil.copy(tmp_path / "tree", tree_of(lab.state))
    _run(lab, later, tmp_path)


def test_lost_cache_and_cut_tree(later: Scene, tmp_path: Path) -> None:
    """A last tree that lost its end is not believed beside a new cache either."""
    lab = later.lab.fork(tmp_path / "state")
    lab.backup(later.source)
    cache_of(lab.state).unlink()
    path = tree_of(lab.state)
    path.write_bytes(path.read_bytes()[:-10])
    _run(lab, later, tmp_path)


def _flip_somewhere(path: Path, seed: int, count: int = 1) -> None:
    data, chance = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(count):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _cut_somewhere(path: Path, seed: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: random.Random(seed).randrange(len(data))])


SPOILERS: list[tuple[Callable[[Path], Path], Callable[[Path, int], None]]] = [
    (cache_of, _cut_somewhere),
    (tree_of, _flip_somewhere),
    (cache_of, lambda path, seed: _flip_somewhere(path, seed, 200)),
    (tree_of, _cut_somewhere),
    (cache_of, _flip_somewhere),
    (tree_of, lambda path, seed: _flip_somewhere(path, seed, 5)),
]


def _spoil_files(later: Scene, folder: Path, count: int, seed: int) -> None:
    for number in range(count):
        path_of, act = SPOILERS[number % len(SPOILERS)]
        work = folder / str(number)
        work.mkdir()
        lab = later.lab.fork(work / "state")
        lab.backup(later.source)
        act(path_of(lab.state), seed + number)
        _run(lab, later, work)


def test_spoilt_files(later: Scene, tmp_path: Path) -> None:
    """Flipped bytes in the cache or the last tree, or their loss from some point on, harm no snapshot (a sample)."""
    _spoil_files(later, tmp_path, 3, seed=0)


@pytest.mark.campaign
def test_spoilt_files_at_length(later: Scene, tmp_path: Path) -> None:
    """The same at many places."""
    _spoil_files(later, tmp_path, 150, seed=100)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 40, json.dumps({"x": {"lab/data": "no"}}).encode()])
def test_spoilt_heads(later: Scene, tmp_path: Path, content: bytes) -> None:
    """Heads that cannot be read do not stop a backup for good, nor break the chain."""
    lab = later.lab.fork(tmp_path / "state")
    lab.backup(later.source)
    heads_of(lab.state).write_bytes(content)
    _run(lab, later, tmp_path)

"""The process stops at every store call of a backup; the next run goes on as if nothing had been."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from opskit.operations import retiring, sparse, storing
from opskit.repository import locating, manifest, names
from opskit.stores.base import Store
from tests.fakes import Crash, FaultyStore, When
from tests.faults.conftest import Scene
from tests.repositories import Lab, PackInspector, assert_restores, picture, restored_below
from tests.telling import Tell


@dataclass(frozen=True)
class Copies:
    """The destinations of a run, and which of them the process dies at."""

    destinations: tuple[str, ...]
    faulty: str


COPIES = {
    "one copy": Copies(("a",), "a"),
    "the first of two copies": Copies(("a", "b"), "a"),
    "the second of two copies": Copies(("a", "b"), "b"),
}


@dataclass(frozen=True)
class Point:
    """Where the process stops: at which call to the store, and how."""

    call: int
    when: When
    operation: str
    name: str


def points(scene: Scene, copies: Copies) -> list[Point]:
    """Every call the last backup of a scene makes to the faulty copy, before, after and (puts and listings) torn."""
    with _folder(scene) as folder:
        lab = scene.lab.fork(folder / "state")
        counting = FaultyStore(lab.stores[copies.faulty])
        lab.backup(scene.source, {**_only(lab, copies), copies.faulty: counting})
    return [
        Point(call, when, operation, name)
        for call, (operation, name) in enumerate(counting.log, 1)
        for when in get_args(When)
        if when != "torn" or operation in ("put", "list")
    ]


def strike(scene: Scene, copies: Copies, point: Point, inspector: PackInspector, *, is_gathering: bool = False) -> None:
    """Stop a backup at a point, run the next one, and hold everything against what must be."""
    with _folder(scene) as folder:
        lab = scene.lab.fork(folder / "state")
        stores = _only(lab, copies)
        faulty = FaultyStore(stores[copies.faulty], crash_at=point.call, when=point.when)
        with pytest.raises(Crash):
            lab.backup(scene.source, {**stores, copies.faulty: faulty})
        stored = _packs(inspector, stores)
        # What lay in small packs is meant to be stored again; what the dead run gathered is not, unless it had ended.
        had_ended = point.name.startswith("snapshots/") and point.when == "after"
        gathered = stored if had_ended else _packs(inspector, scene.lab.stores)
        excused = gathered.keys() if is_gathering else set()
        result = lab.backup(scene.source, stores)
        assert set(result.destinations.values()) == {"ok"}, (point, result)
        new = [chunks for digest, chunks in _packs(inspector, stores).items() if digest not in stored]
        had = frozenset[bytes]().union(*(chunks for digest, chunks in stored.items() if digest not in excused))
        assert not any(chunks & had for chunks in new), f"{point}: chunks that were stored are stored again"
        for destination, store in stores.items():
            assert any(result.snapshot == each.id for each in lab.history({destination: store}).snapshots), point
            assert_restores(lab, scene.source, folder / destination, {destination: store}, point)
        torn = _torn(stores[copies.faulty])
        for report in lab.verify(stores).values():
            assert set(report.damaged) <= torn and not report.missing and not report.behind, (point, report)
            assert not report.untrusted and report.failure is None, (point, report)


def _packs(inspector: PackInspector, stores: dict[str, Store]) -> dict[str, frozenset[bytes]]:
    """Pack → its chunks without the roots of trees, over all copies."""
    return {
        digest: frozenset(stored.ids) - stored.roots
        for store in stores.values()
        for digest, stored in inspector.packs(store).items()
    }


def _torn(store: Store) -> set[str]:
    """The objects that a keyless look finds damaged."""
    return {
        info.name
        for info in store.list()
        if (digest := names.digest_in(info.name)) and names.sha256(store.get(info.name)) != digest
    }


def _only(lab: Lab, copies: Copies) -> dict[str, Store]:
    return {name: lab.stores[name] for name in copies.destinations}


class _folder:
    """A folder beside a scene's own, gone afterwards."""

    def __init__(self, scene: Scene) -> None:
        self._path = Path(tempfile.mkdtemp(dir=scene.scratch))

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path)


SCENES = [
    (scene, copies)
    for scene in ("first", "later", "behind")
    for copies in COPIES
    if (scene, copies) != ("behind", "one copy")
]


def _campaign(scene: Scene, copies: str, inspector: PackInspector, tell: Tell, step: int = 1, **how: bool) -> None:
    found = points(scene, COPIES[copies])[::step]
    for point in found:
        strike(scene, COPIES[copies], point, inspector, **how)
    tell(f"crash points: {len(found)} ({scene.scratch.name}, {copies})")


def test_crash(later: Scene, inspector: PackInspector, tell: Tell) -> None:
    """After a crash at any store call the next run succeeds, all snapshots restore, nothing stored is stored again."""
    _campaign(later, "one copy", inspector, tell)


def test_crash_while_catching_up(behind: Scene, inspector: PackInspector, tell: Tell) -> None:
    """The same where one of two copies lacks a snapshot (a sample)."""
    _campaign(behind, "the first of two copies", inspector, tell, step=9)


def test_crash_and_lost_state(later: Scene) -> None:
    """A crash at any put, and then the loss of the state folder, cost space at most."""
    copies = COPIES["one copy"]
    for point in points(later, copies):
        if point.operation != "put" or point.when == "before":
            continue
        with _folder(later) as folder:
            lab = later.lab.fork(folder / "state")
            stores = _only(lab, copies)
            with pytest.raises(Crash):
                lab.backup(later.source, {"a": FaultyStore(stores["a"], crash_at=point.call, when=point.when)})
            shutil.rmtree(lab.state)
            result = lab.backup(later.source, stores)
            assert result.destinations == {"a": "ok"}, (point, result)
            newest = [each for each in lab.history(stores).snapshots if each.id == result.snapshot]
            assert newest and lab.restore(newest[0], folder / "restored", stores).problems == [], point
            assert picture(restored_below(folder / "restored", later.source)) == picture(later.source), point


@pytest.mark.campaign
@pytest.mark.parametrize(("scene", "copies"), SCENES)
def test_crash_everywhere(
    scene: str,
    copies: str,
    request: pytest.FixtureRequest,
    inspector: PackInspector,
    tell: Tell,
) -> None:
    """The same of first, later and catching-up backups, with one copy and with two."""
    _campaign(request.getfixturevalue(scene), copies, inspector, tell)


@pytest.mark.campaign
def test_crash_with_pack_lists(
    later: Scene, inspector: PackInspector, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of manifests whose packs stand in lists, which the next run stores under the same names."""
    monkeypatch.setattr(locating, "MAX_INLINE_PACKS", 0)
    # A list a pack: otherwise the names of packs, which are random, say how many there are, and so how many calls.
    monkeypatch.setattr(manifest, "_LIST_CUT", 1 << 16)
    _campaign(later, "the first of two copies", inspector, tell)


@pytest.mark.campaign
def test_crash_while_gathering(
    later: Scene, inspector: PackInspector, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a run that stores the chunks of many small packs together."""
    monkeypatch.setattr(retiring, "MANY_SMALL_PACKS", 1)
    _campaign(later, "the first of two copies", inspector, tell, is_gathering=True)


@pytest.mark.campaign
def test_crash_while_leaving_sparse_packs(
    later: Scene, inspector: PackInspector, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a run that stores anew what is left of sparse packs, here of all, and merges all index objects."""
    monkeypatch.setattr(sparse, "SPARSE", 2)
    monkeypatch.setattr(sparse, "TOLERATED", -2)
    monkeypatch.setattr(sparse, "GROWTH", -2)
    monkeypatch.setattr(storing, "MANY_SMALL_INDEXES", 0)
    _campaign(later, "the first of two copies", inspector, tell, is_gathering=True)

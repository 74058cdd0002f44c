"""The process stops at every store call of a backup; the next run must not notice, but for what it need not do again."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from opskit.repository import names
from opskit.repository.manifest import Snapshot
from opskit.stores.base import Store
from tests.fakes import Crash, FaultyStore, When
from tests.faults.conftest import Scene
from tests.repositories import Lab, PackInspector, picture, restored_below

COPIES = {"one copy": ("a",), "two copies": ("a", "b")}


PROVED: set[frozenset[str]] = set()
"""Snapshots with the intact objects they were once restored from: the same bytes need not be restored at each point."""


@dataclass(frozen=True)
class Point:
    """Where the process stops: at which call to the store, and how."""

    call: int
    when: When
    operation: str
    name: str


def points(scene: Scene, destinations: tuple[str, ...]) -> list[Point]:
    """Every call the last backup of a scene makes to copy `a`, before, after and (puts and listings) torn."""
    with _folder(scene) as folder:
        lab = scene.lab.fork(folder / "state")
        counting = FaultyStore(lab.stores["a"])
        lab.backup(scene.source, {**_only(lab, destinations), "a": counting})
    return [
        Point(call, when, operation, name)
        for call, (operation, name) in enumerate(counting.log, 1)
        for when in get_args(When)
        if when != "torn" or operation in ("put", "list")
    ]


def strike(scene: Scene, destinations: tuple[str, ...], point: Point, inspector: PackInspector) -> None:
    """Stop a backup at a point, run the next one, and hold everything against what must be."""
    with _folder(scene) as folder:
        lab = scene.lab.fork(folder / "state")
        stores = _only(lab, destinations)
        with pytest.raises(Crash):
            lab.backup(scene.source, {**stores, "a": FaultyStore(stores["a"], crash_at=point.call, when=point.when)})
        stored = _packs(inspector, stores)
        result = lab.backup(scene.source, stores)
        assert set(result.destinations.values()) == {"ok"}, (point, result)
        _assert_nothing_twice(stored, _packs(inspector, stores), point)
        for destination, store in stores.items():
            _assert_restores(lab, {destination: store}, result.snapshot, scene.source, folder / destination, point)
        torn = _torn(stores["a"])
        for report in lab.verify(stores).values():
            assert set(report.damaged) <= torn and not report.missing and not report.behind, (point, report)
            assert not report.untrusted and report.failure is None, (point, report)


def _assert_nothing_twice(before: dict[str, frozenset[bytes]], after: dict[str, frozenset[bytes]], point: Point) -> None:
    had = frozenset[bytes]().union(*before.values())
    for digest in after.keys() - before.keys():
        again = after[digest] & had
        assert not again, f"{point}: pack {digest[:8]} holds {len(again)} chunks that were stored before"


def _assert_restores(
    lab: Lab, stores: dict[str, Store], newest: str, source: Path, target: Path, point: Point
) -> None:
    """Every snapshot that a copy shows restores exactly, and none that was there has gone."""
    history = lab.history(stores)
    shown = {snapshot.name for snapshot in history.snapshots}
    assert newest in {snapshot.id for snapshot in history.snapshots}, point
    assert lab.pictures.keys() <= shown, f"{point}: snapshots are gone: {lab.pictures.keys() - shown}"
    for number, snapshot in enumerate(history.snapshots):
        needed = _intact(snapshot, stores)
        if needed in PROVED:
            continue
        PROVED.add(needed)
        place = target / str(number)
        done = lab.restore(snapshot, place, stores)
        assert not done.problems, (point, snapshot.name, done.problems[:3])
        expected = lab.pictures.get(snapshot.name) or picture(source)
        assert picture(restored_below(place, source)) == expected, (point, snapshot.name)


def _intact(snapshot: Snapshot, stores: dict[str, Store]) -> frozenset[str]:
    """The snapshot and what it needs: which of that is there in one of the stores, with the right bytes."""
    found = {snapshot.name}
    for store in stores.values():
        held = {info.name for info in store.list()} & set(snapshot.manifest.object_names())
        found |= {name for name in held if names.sha256(store.get(name)) == names.digest_in(name)}
    return frozenset(found)


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


def _only(lab: Lab, destinations: tuple[str, ...]) -> dict[str, Store]:
    return {name: lab.stores[name] for name in destinations}


class _folder:
    """A folder beside a scene's own, gone afterwards."""

    def __init__(self, scene: Scene) -> None:
        self._path = Path(tempfile.mkdtemp(dir=scene.scratch))

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path)


SCENES = [(scene, copies) for scene in ("first", "later", "behind") for copies in COPIES if (scene, copies) != ("behind", "one copy")]
QUICK = {("later", "one copy"), ("behind", "two copies")}


def _campaign(scene: Scene, copies: str, inspector: PackInspector, capsys: pytest.CaptureFixture[str]) -> None:
    found = points(scene, COPIES[copies])
    for point in found:
        strike(scene, COPIES[copies], point, inspector)
    with capsys.disabled():
        sys.stdout.write(f"\ncrash points, {scene.scratch.name} backup, {copies}: {len(found)}\n")


@pytest.mark.parametrize(("scene", "copies"), [each for each in SCENES if each in QUICK])
def test_crash(
    scene: str,
    copies: str,
    request: pytest.FixtureRequest,
    inspector: PackInspector,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After a crash at any store call the next run succeeds, all snapshots restore, and nothing stored is stored again."""
    _campaign(request.getfixturevalue(scene), copies, inspector, capsys)


@pytest.mark.campaign
@pytest.mark.parametrize(("scene", "copies"), [each for each in SCENES if each not in QUICK])
def test_crash_everywhere(
    scene: str,
    copies: str,
    request: pytest.FixtureRequest,
    inspector: PackInspector,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same of first backups, and of both copies at work."""
    _campaign(request.getfixturevalue(scene), copies, inspector, capsys)

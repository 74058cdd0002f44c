"""Every object of a repository is damaged in every way; no restore is wrong in silence, and verify always objects."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opskit.errors import OpskitError
from opskit.repository import names
from opskit.stores.base import Store
from tests.fakes import flipped
from tests.faults.conftest import Scene
from tests.repositories import Lab, Picture, apart, memory_copy, picture, restored_below
from tests.telling import Tell

Damage = Callable[[bytes], bytes | None]
DAMAGES: dict[str, Damage] = {
    "first bit flipped": lambda data: flipped(data, 0),
    "head flipped": lambda data: flipped(data, 8 * 20 + 3),
    "middle flipped": lambda data: flipped(data, 4 * len(data) + 1),
    "tail flipped": lambda data: flipped(data, 8 * len(data) - 1),
    "emptied": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "last byte cut off": lambda data: data[:-1],
    "a byte longer": lambda data: data + b"\0",
    "deleted": lambda data: None,
}
SIBLING = "bytes of a sibling"


def cases(store: Store) -> Iterator[tuple[str, str]]:
    """(object, damage) of everything there is; each hashed object also gets the bytes of the next of its kind."""
    objects = [info.name for info in store.list()]
    for name in objects:
        for damage in DAMAGES:
            yield name, damage
        if _sibling(name, objects) != name:
            yield name, SIBLING


def _sibling(name: str, objects: list[str]) -> str:
    kind = [each for each in objects if each.split("/")[0] == name.split("/")[0]]
    return kind[(kind.index(name) + 1) % len(kind)]


def damaged(store: Store, name: str, damage: str) -> Store:
    """A copy of the store in which one object is damaged."""
    if damage == SIBLING:
        other = store.get(_sibling(name, [info.name for info in store.list()]))
        return memory_copy(store, lambda each, data: other if each == name else data)
    return memory_copy(store, lambda each, data: DAMAGES[damage](data) if each == name else data)


@pytest.fixture(scope="module")
def repository(later: Scene) -> Lab:
    """Two copies of two snapshots."""
    lab = later.lab.fork(apart(later.scratch, "corruption"))
    lab.backup(later.source)
    return lab


def test_verify_objects(repository: Lab) -> None:
    """`verify` objects to every damage of every object, to that object, and to nothing else."""
    intact = repository.stores["b"]
    reports = repository.verify()
    assert all(report.is_good for report in reports.values()), reports
    for name, damage in cases(intact):
        stores = {"a": damaged(intact, name, damage), "b": intact}
        if name in names.FIXED:
            continue
        report = repository.verify(stores)["a"]
        found = [*report.damaged, *report.missing, *report.behind]
        assert not report.is_good, (name, damage, report)
        assert set(found) == {name}, (name, damage, report)


@pytest.mark.parametrize("damage", ["deleted", "middle flipped"])
def test_two_halves(repository: Lab, later: Scene, tmp_path: Path, damage: str) -> None:
    """Two copies, each with half of its objects damaged, but never both of one, still restore everything."""
    whole = repository.stores["b"]
    hashed = [info.name for info in whole.list() if info.name not in names.FIXED]
    stores: dict[str, Store] = {}
    for number, destination in enumerate("ab"):
        bad = set(hashed[number::2])
        stores[destination] = memory_copy(
            whole, lambda name, data, bad=bad: DAMAGES[damage](data) if name in bad else data
        )
    _restore_both(repository, later, stores, tmp_path / "both", ("half of everything", damage))
    assert all(not report.is_good for report in repository.verify(stores).values())


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_identity(repository: Lab, damage: str) -> None:
    """A copy whose `opskit.json` is damaged is not opened, or `verify` objects to it."""
    stores: dict[str, Store] = {"a": damaged(repository.stores["b"], names.REPOSITORY, damage)}
    assert names.REPOSITORY in {info.name for info in repository.stores["b"].list()}
    try:
        report = repository.verify(stores)["a"]
    except KeyError:  # the copy is absent
        return
    assert report.damaged == [names.REPOSITORY], report


def test_restore_is_right_or_objects(repository: Lab, later: Scene, tmp_path: Path, tell: Tell) -> None:
    """A damaged copy alone restores right or says what is wrong, and beside an intact one everything (a sample)."""
    _restore_all(list(cases(repository.stores["b"]))[::9], repository, later, tmp_path, tell)


@pytest.mark.campaign
def test_restore_is_right_or_objects_everywhere(repository: Lab, later: Scene, tmp_path: Path, tell: Tell) -> None:
    """The same for every damage of every object."""
    _restore_all(list(cases(repository.stores["b"])), repository, later, tmp_path, tell)


def _restore_all(wanted: list[tuple[str, str]], lab: Lab, scene: Scene, folder: Path, tell: Tell) -> None:
    intact = lab.stores["b"]
    for name, damage in wanted:
        bad = damaged(intact, name, damage)
        _restore_alone(lab, scene, {"a": bad}, folder / "alone", (name, damage))
        _restore_both(lab, scene, {"a": bad, "b": intact}, folder / "both", (name, damage))
    tell(f"damages survived: {len(wanted)}")


def _restore_alone(lab: Lab, scene: Scene, stores: dict[str, Store], target: Path, case: tuple[str, str]) -> None:
    for snapshot in lab.history(lab.stores).snapshots:
        told: set[str] | None = None
        try:
            done = lab.restore(snapshot, target, stores)
            told = {path.decode("utf-8", "surrogateescape") for path, _ in done.problems}
        except OpskitError:
            pass  # everything was objected to
        expected = lab.pictures[snapshot.name]
        place = restored_below(target, scene.source)
        found = picture(place) if place.exists() else {}
        if told is not None:
            assert not _wrong(found, expected, told, scene.source), (case, _wrong(found, expected, told, scene.source))
        shutil.rmtree(target, ignore_errors=True)


def _wrong(found: Picture, expected: Picture, told: set[str], source: Path) -> list[str]:
    """Entries that are neither as they were nor told to be otherwise."""
    return [
        path
        for path in found.keys() | expected.keys()
        if found.get(path) != expected.get(path) and f"{source}/{path}".lstrip("/") not in told
    ]


def _restore_both(lab: Lab, scene: Scene, stores: dict[str, Store], target: Path, case: tuple[str, str]) -> None:
    history = lab.history(stores)
    assert {snapshot.name for snapshot in history.snapshots} == lab.pictures.keys(), case
    snapshot = history.snapshots[-1]
    done = lab.restore(snapshot, target, stores)
    assert not done.problems, (case, done.problems)
    assert picture(restored_below(target, scene.source)) == lab.pictures[snapshot.name], case
    shutil.rmtree(target)

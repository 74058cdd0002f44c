"""Objects are lost or damaged at the only copy; the next backup stores anew what it needs, and says so or succeeds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opskit.errors import OpskitError
from opskit.repository import names
from tests.faults.conftest import Scene
from tests.repositories import Lab, PackInspector, apart, memory_copy, picture, restored_below


@pytest.fixture(scope="module")
def repository(later: Scene) -> Lab:
    """One copy of two snapshots; the source is as the last one saw it."""
    lab = later.lab.fork(apart(later.scratch, "damaged-copy"))
    del lab.stores["b"]
    lab.backup(later.source)
    return lab


def _lose(lab: Lab, name: str, state: Path, *, cut: bool) -> Lab:
    """A fork of the lab whose copy has lost one object, or half of it."""
    fork = lab.fork(state)
    fork.stores["a"] = memory_copy(
        lab.stores["a"], lambda each, data: data if each != name else data[: len(data) // 2] if cut else None
    )
    return fork


LONG = pytest.mark.campaign


@pytest.mark.parametrize(
    ("cut", "force"),
    [(False, False), pytest.param(True, False, marks=LONG), pytest.param(False, True, marks=LONG), (True, True)],
)
def test_next_backup_is_whole(repository: Lab, later: Scene, tmp_path: Path, cut: bool, force: bool) -> None:
    """Whichever object was lost or cut, the next snapshot restores exactly, though nothing in the source changed."""
    objects = [info.name for info in repository.stores["a"].list() if info.name not in names.FIXED]
    for number, name in enumerate(objects):
        lab = _lose(repository, name, tmp_path / f"state-{number}", cut=cut)
        try:
            result = lab.backup(later.source, force=force)
        except OpskitError as error:
            pytest.fail(f"{name}: {error!r}")
        snapshot = next(each for each in lab.history().snapshots if each.id == result.snapshot)
        done = lab.restore(snapshot, tmp_path / "restored")
        assert not done.problems, (name, done.problems[:2])
        assert picture(restored_below(tmp_path / "restored", later.source)) == picture(later.source), name
        shutil.rmtree(tmp_path / "restored")


def test_nothing_new_is_nothing_stored(repository: Lab, later: Scene, tmp_path: Path, inspector: PackInspector) -> None:
    """A run that reads every file and finds nothing new stores no pack, not an empty one either."""
    lab = repository.fork(tmp_path / "state")
    before = inspector.packs(lab.stores["a"])
    lab.backup(later.source, force=True)
    after = inspector.packs(lab.stores["a"])
    assert after.keys() == before.keys()
    (later.source / "docs" / "deep" / "er" / "x").touch()
    lab.backup(later.source)
    new = [stored for digest, stored in inspector.packs(lab.stores["a"]).items() if digest not in after]
    assert len(new) == 1 and new[0].roots, "expected the changed piece of the tree and its root, in one pack"

"""Scenes that the campaigns fork: repositories made once, each in a folder in memory where possible."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.repositories import Keys, Lab, PackInspector, change_source, make_source, memory_store


@dataclass(frozen=True)
class Scene:
    """A repository as it is when the fault strikes: fork `lab` and back `source` up once more."""

    lab: Lab
    source: Path
    scratch: Path


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder for sources and restores, in memory where possible: a campaign restores hundreds of times."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="opskit-faults-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def inspector(throwaway_keys: Keys) -> PackInspector:
    """Knows what lies in the packs it has seen."""
    return PackInspector(throwaway_keys)


def _empty(keys: Keys, folder: Path, *destinations: str) -> Scene:
    folder.mkdir()
    lab = Lab(keys, folder / "state", {name: memory_store(name) for name in destinations}).create()
    lab.state.mkdir()
    return Scene(lab, make_source(folder / "source"), folder)


@pytest.fixture(scope="session")
def first(throwaway_keys: Keys, scratch: Path) -> Scene:
    """Two empty copies: the fault strikes in the very first backup."""
    return _empty(throwaway_keys, scratch / "first", "a", "b")


@pytest.fixture(scope="session")
def later(throwaway_keys: Keys, scratch: Path) -> Scene:
    """Two copies with one snapshot, and a source that changed since."""
    scene = _empty(throwaway_keys, scratch / "later", "a", "b")
    scene.lab.backup(scene.source)
    change_source(scene.source)
    return scene


@pytest.fixture(scope="session")
def behind(throwaway_keys: Keys, scratch: Path) -> Scene:
    """Two copies of which `a` missed the last snapshot, and a source that changed since: the next run catches up."""
    scene = _empty(throwaway_keys, scratch / "behind", "a", "b")
    scene.lab.backup(scene.source)
    (scene.source / "docs" / "between.txt").write_bytes(b"on one copy only")
    scene.lab.backup(scene.source, {"b": scene.lab.stores["b"]})
    change_source(scene.source)
    return scene

"""Real small file systems that fill up: under a destination, under the state folder, under a restore."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opskit.errors import OpskitError, StoreFull
from opskit.stores.local import LocalStore
from tests.repositories import Keys, Lab, assert_restores, memory_store, noise, restored_below
from tests.stores.mounts import MEBIBYTE, mounted


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two megabytes that do not compress."""
    made = tmp_path / "source"
    made.mkdir()
    for number in range(8):
        (made / f"file-{number}").write_bytes(noise(number, MEBIBYTE // 4))
    return made


def fill(folder: Path, leave: int) -> Path:
    """Take all space of a file system but `leave` bytes."""
    ballast = folder / "ballast"
    free = shutil.disk_usage(folder).free
    with ballast.open("wb") as file:
        for _ in range(max(0, free - leave) // 4096):
            file.write(bytes(4096))
    return ballast


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_only_destination_full(kind: str, throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """A full destination ends the run with StoreFull and no manifest; with room again the next run goes on."""
    with mounted(kind, tmp_path, size=16 * MEBIBYTE) as place:
        store = LocalStore(place / "repository")
        store.create()
        lab = Lab(throwaway_keys, tmp_path / "state", {"a": store}).create()
        lab.backup(source)
        (source / "more").write_bytes(noise(99, 3 * MEBIBYTE))
        ballast = fill(place, MEBIBYTE)
        with pytest.raises(StoreFull) as caught:
            lab.backup(source)
        assert caught.value.exit_code == 21
        assert len(lab.history().snapshots) == 1
        assert_restores(lab, source, tmp_path / "restored")
        assert all(report.is_good for report in lab.verify().values())
        ballast.unlink()
        result = lab.backup(source)
        assert result.destinations == {"a": "ok"}
        assert result.stored_bytes < 4 * MEBIBYTE
        assert_restores(lab, source, tmp_path / "restored")
        assert all(report.is_good for report in lab.verify().values())


def test_one_of_two_destinations_full(throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """A full destination is "failed" and gets no manifest while the other commits; with room again it catches up."""
    with mounted("tmpfs", tmp_path, size=8 * MEBIBYTE) as place:
        store = LocalStore(place / "repository")
        store.create()
        lab = Lab(throwaway_keys, tmp_path / "state", {"a": store, "b": memory_store()}).create()
        ballast = fill(place, MEBIBYTE)
        result = lab.backup(source)
        assert result.destinations == {"a": "failed", "b": "ok"}
        assert isinstance(result.reasons["a"], StoreFull)
        assert not lab.history({"a": store}).snapshots
        ballast.unlink()
        assert lab.backup(source).destinations == {"a": "ok", "b": "ok"}
        assert len(lab.history({"a": store}).snapshots) == 2
        assert_restores(lab, source, tmp_path / "restored", {"a": store})


@pytest.mark.parametrize("leave", [0, pytest.param(16 * 1024, marks=pytest.mark.campaign), 100 * 1024])
def test_state_folder_full(throwaway_keys: Keys, source: Path, tmp_path: Path, leave: int) -> None:
    """A full disk under the state folder ends the run with an error of opskit's own, and loses nothing."""
    with mounted("tmpfs", tmp_path, size=4 * MEBIBYTE) as place:
        lab = Lab(throwaway_keys, place / "state", {"a": memory_store()}).create()
        lab.backup(source)
        for number in range(1200):
            (source / f"small-{number}").write_bytes(noise(number, 40))
        ballast = fill(place, leave)
        with pytest.raises(OpskitError) as raised:
            lab.backup(source)
        assert raised.value.hint is not None, "which disk is full, and what to do"
        assert_restores(lab, source, tmp_path / "restored")
        ballast.unlink()
        assert lab.backup(source).destinations == {"a": "ok"}
        assert_restores(lab, source, tmp_path / "restored")


def test_target_full(throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """A restore into a full target ends with StoreFull and leaves no half file."""
    lab = Lab(throwaway_keys, tmp_path / "state", {"a": memory_store()}).create()
    lab.backup(source)
    (snapshot,) = lab.history().snapshots
    with mounted("tmpfs", tmp_path, size=MEBIBYTE) as place:
        with pytest.raises(StoreFull):
            lab.restore(snapshot, place / "target")
        found = restored_below(place / "target", source)
        for path in found.iterdir() if found.exists() else ():
            assert path.read_bytes() == (source / path.name).read_bytes(), f"{path.name} is not whole"

"""What `opskit init` sees at the places it was given: a stick that is not mounted, folders that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.config.load import parse
from opskit.config.model import Config
from opskit.setup import places
from tests.stores.mounts import mounted


def config(root: Path, **destinations: Path) -> Config:
    """A config whose paths lie below `root`, which stands for `/`."""
    lines = "".join(f"  {name}: {{path: {path}}}\n" for name, path in destinations.items())
    text = f"version: 1\nstate_dir: {root}/state\nsources: {{s: {{paths: [{root}/data]}}}}\ndestinations:\n{lines}"
    return parse(f"{text}keys: {{recipients: [{'A' * 40}]}}\n", "test", root)


def test_a_missing_mount_point(tmp_path: Path) -> None:
    """The topmost folder that would be made is named, where the repository then lies on the disk of the root."""
    (tmp_path / "backup").mkdir()
    given = config(tmp_path, disk=tmp_path / "backup" / "opskit", usb=tmp_path / "srv" / "usb" / "opskit")
    missing = places.folders_to_make(given)
    assert missing == {"usb": tmp_path / "srv"}
    (tmp_path / "srv" / "usb" / "opskit").mkdir(parents=True)
    (told,) = places.misplaced(given, ["disk", "usb"], missing, tmp_path)
    assert told.startswith(f"usb: {tmp_path / 'srv'} was not there: it was made, on the disk of {tmp_path}")
    assert not list(places.misplaced(given, ["disk"], missing, tmp_path)), "only of what was made now"


@pytest.mark.parametrize("media", ["mnt", "media", "run/media"])
def test_a_bare_mount_point(tmp_path: Path, media: str) -> None:
    """A folder where disks get mounted is doubted while nothing is mounted there, any other is not."""
    place = tmp_path / media / "usb" / "opskit"
    place.mkdir(parents=True)
    assert places.is_unmounted(place, tmp_path)
    assert not places.is_unmounted(tmp_path / "backup", tmp_path)
    (told,) = places.misplaced(config(tmp_path, usb=place), ["usb"], {}, tmp_path)
    assert f"usb: {place} lies on the disk of {tmp_path}: nothing is mounted there" in told


def test_a_mounted_stick(tmp_path: Path) -> None:
    """What lies on a mounted file system is not doubted, though folders were made on it."""
    (tmp_path / "mnt").mkdir()
    with mounted("tmpfs", tmp_path / "mnt") as stick:
        place = stick / "backups" / "opskit"
        given = config(tmp_path, usb=place)
        missing = places.folders_to_make(given)
        place.mkdir(parents=True)
        assert missing == {"usb": stick / "backups"}
        assert not places.is_unmounted(place, tmp_path)
        assert not list(places.misplaced(given, ["usb"], missing, tmp_path))


def test_an_absent_source(tmp_path: Path) -> None:
    """A source path that is not there is named; a link that leads nowhere is there."""
    given = config(tmp_path, a=tmp_path / "a")
    assert len(list(places.absent_sources(given))) == 1
    (tmp_path / "data").symlink_to("data")
    assert not list(places.absent_sources(given)), "it is backed up as a link"

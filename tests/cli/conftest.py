"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opskit import log
from tests.cli.hosts import Machine, fill

CONFIG = """\
version: 1
state_dir: state
sources:
  data: {paths: [/srv/data]}
destinations:
  disk: {path: /backup/one, medium: disk}
  usb: {path: /mnt/usb/two, medium: usb, must_be_mounted: true}
keys: {recipients: [AAAABBBBCCCCDDDDEEEEFFFF0000111122223333]}
"""


@pytest.fixture(autouse=True)
def defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty home and working folder, no settings from outside, and a log as new afterwards."""
    for name in ("OPSKIT_CONFIG", "OPSKIT_LOG", "NO_COLOR", "_OPSKIT_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log._settings, "secrets", set())
    yield
    log.configure()


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A valid config with one source and two destinations."""
    path = tmp_path / "given.yaml"
    path.write_text(CONFIG)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def set_up(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A host after init, with data and no snapshot yet; nobody may change it."""
    machine = Machine(tmp_path_factory.mktemp("set-up"))
    fill(machine.source)
    assert machine.init().code == 0
    return machine


@pytest.fixture(scope="session")
def backed_up(set_up: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The same with two snapshots, the second of which has one more file; nobody may change it."""
    machine = set_up.copy_to(tmp_path_factory.mktemp("backed-up") / "host")
    assert machine.run("backup").code == 0
    (machine.source / "later").write_text("second\n")
    assert machine.run("backup").code == 0
    return machine


@pytest.fixture
def machine(set_up: Machine, tmp_path: Path) -> Machine:
    """A host after init, of this test's own."""
    return set_up.copy_to(tmp_path / "host")


@pytest.fixture
def used(backed_up: Machine, tmp_path: Path) -> Machine:
    """A host with two snapshots, of this test's own; its data has moved with it."""
    return backed_up.copy_to(tmp_path / "host")

"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opskit import log

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

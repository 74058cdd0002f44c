"""Whole commands with a destination at a WebDAV server, beside one on a disk."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.cli.hosts import Machine, assert_restores, fill
from tests.stores import url_servers

pytestmark = pytest.mark.skipif(url_servers.missing() is not None, reason=str(url_servers.missing()))


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was backed up to a WebDAV server is verified and restored, by the config and by its location alone."""
    monkeypatch.setenv("DAV_PASSWORD", url_servers.PASSWORD)
    server = url_servers.running().removeprefix("http://")
    location = f"webdav://{url_servers.USER}@{server}/{uuid.uuid4().hex}?password=env:DAV_PASSWORD"
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    answer = machine.init(far=location)
    assert answer.code == 0 and "WebDAV cannot promise" in answer.err, answer
    assert "the password travels unencrypted" in machine.run("config", "validate").err
    assert url_servers.PASSWORD not in machine.config.read_text()
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    assert_restores(machine, location, tmp_path)

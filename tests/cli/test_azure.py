"""Whole commands with a destination at Azure, beside one on a disk."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.cli.hosts import Machine, assert_restores, fill
from tests.stores import azure_server

pytestmark = pytest.mark.skipif(azure_server.missing() is not None, reason=str(azure_server.missing()))


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was backed up to Azure is verified and restored, by config and by location; a wrong key is exit 22."""
    monkeypatch.setenv("AZURE_KEY", azure_server.KEY)
    location = (
        f"az://{azure_server.ACCOUNT}/{azure_server.CONTAINER}/{uuid.uuid4().hex}"
        f"?endpoint={azure_server.running()}&account_key=env:AZURE_KEY"
    )
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    answer = machine.init(far=location)
    assert answer.code == 0, answer
    assert azure_server.KEY not in machine.config.read_text()
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    assert_restores(machine, location, tmp_path)
    monkeypatch.setenv("AZURE_KEY", "aHVudGVyMg==")
    answer = machine.run("snapshots", "--repository", location, "--key", machine.key)
    assert answer.code == 22 and "aHVudGVyMg" not in answer.err, answer

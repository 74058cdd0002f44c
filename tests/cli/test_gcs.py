"""Whole commands with a destination at Google, beside one on a disk."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from tests.cli.hosts import Machine, assert_restores, fill
from tests.stores import gcs_rules, gcs_server

pytestmark = pytest.mark.skipif(gcs_server.missing() is not None, reason=str(gcs_server.missing()))


def location(tmp_path: Path, address: str | None = None, *, bucket: str = gcs_server.BUCKET) -> str:
    """A place of its own at the server that keeps the rules, or at another; the key lies in a file."""
    file = tmp_path / "google-key.json"
    file.write_text(gcs_server.key())
    file.chmod(0o600)
    where = address or gcs_server.rules().address
    return f"gs://{bucket}/{uuid.uuid4().hex}?endpoint={where}&service_account=file://{file}"


def test_the_whole_way(tmp_path: Path) -> None:
    """What was backed up to Google is verified and restored, by config and by location; a wrong key is exit 22."""
    place = location(tmp_path)
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    answer = machine.init(far=place)
    assert answer.code == 0 and "ifGenerationMatch" not in answer.err, answer
    assert json.loads((machine.state / "endpoints.json").read_bytes()) == {
        "far": {"checksums": True, "conditional": True}
    }
    stored = gcs_server.rules().buckets[gcs_server.BUCKET].objects
    assert not [each for each in stored if "probe" in each]
    assert "requests travel unencrypted" in machine.run("config", "validate").err
    assert "PRIVATE KEY" not in machine.config.read_text()
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    assert machine.run("status", "--json").json["sources"]["data"]["destinations"]["far"]["state"] == "current"
    assert_restores(machine, place, tmp_path)
    stranger = gcs_server.rules().account("stranger", *gcs_rules.ALL, key=gcs_rules.private_key(1))
    (tmp_path / "google-key.json").write_text(stranger)
    answer = machine.run("snapshots", "--repository", place, "--key", machine.key)
    assert answer.code == 22 and "Invalid JWT Signature" in answer.err and "PRIVATE KEY" not in answer.err, answer


def test_an_endpoint_without_conditions(tmp_path: Path) -> None:
    """Init finds out that the emulator takes no notice of the condition, says and notes it; then puts look first."""
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    answer = machine.init(far=f"gs://{gcs_server.BUCKET}/{uuid.uuid4().hex}?endpoint={gcs_server.emulator()}")
    assert answer.code == 0 and "far: the endpoint ignores ifGenerationMatch" in answer.err, answer
    assert json.loads((machine.state / "endpoints.json").read_bytes())["far"]["conditional"] is False
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0


def test_a_bucket_that_is_not_there(tmp_path: Path) -> None:
    """Init makes the other copy, says which bucket is absent and what to do, and ends with 3; nobody makes a bucket."""
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    answer = machine.init(far=location(tmp_path, bucket="no-such"))
    assert answer.code == 3 and "the bucket is absent" in answer.err and "opskit never makes a bucket" in answer.err
    assert (machine.a / "opskit.json").exists()
    answer = machine.run("snapshots", "--repository", location(tmp_path, bucket="no-such"), "--key", machine.key)
    assert answer.code == 20, answer


def test_a_service_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backup goes on at the other copy and says so, status tells which copy is absent; a later run completes it."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    address = gcs_server.rules().address
    assert machine.init(far=location(tmp_path)).code == 0 and machine.run("backup").code == 0
    machine.edit_config(address, "http://127.0.0.1:9")
    (machine.source / "new").write_text("new")
    answer = machine.run("backup")
    assert answer.code == 3 and "the connection broke" in answer.out + answer.err, answer
    answer = machine.run("status", "--json")
    found = answer.json["sources"]["data"]["destinations"]
    assert answer.code == 3 and found["far"]["state"] == "absent" and found["a"]["state"] == "current", answer
    machine.edit_config("http://127.0.0.1:9", address)
    assert machine.run("sync").code == 0
    assert machine.run("status", "--json").json["sources"]["data"]["destinations"]["far"]["state"] == "current"

"""Whole commands with a destination in a bucket, beside one on a disk."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest

from tests.cli.hosts import Machine, fill, objects
from tests.operations.judging import assert_equal
from tests.stores.s3_server import KEY_ID, SECRET, running, shared_client


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials in the environment, as the usual AWS chain finds them, and nothing from this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def location(bucket: str = "plain") -> str:
    """A place of its own in a bucket of the endpoint."""
    return f"s3://{bucket}/{uuid.uuid4().hex}?endpoint=http://127.0.0.1:{running().port}&region=us-east-1"


def host(folder: Path, place: str) -> Machine:
    """A host that backs up to a disk and to a bucket."""
    machine = Machine(folder / "host")
    fill(machine.source)
    answer = machine.run(
        "init", "--state-dir", machine.state, "--source", f"data={machine.source}",
        "--destination", f"a={machine.a}", "--destination", f"far={place}",
        "--new-recipient", "Safe <safe@example.org>", "--recovery-key", machine.key, "--no-passphrase",
    )  # fmt: skip
    assert answer.code == 0, answer
    return machine


def keys(place: str) -> list[str]:
    """The keys of the objects at a place, below its prefix."""
    bucket, prefix = place.partition("?")[0].removeprefix("s3://").split("/")
    pages = shared_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def test_the_whole_way(tmp_path: Path) -> None:
    """What was backed up to disk and bucket is verified and healed at both, and restored from the bucket alone."""
    place = location()
    machine = host(tmp_path, place)
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    found = machine.run("status", "--json").json["sources"]["data"]
    assert found["destinations"]["far"]["state"] == "current" and found["copies"] == 2
    pack = sorted(objects(machine.a, "packs"))[0]
    (key,) = [each for each in keys(place) if each.endswith(pack)]
    shared_client().delete_object(Bucket="plain", Key=key)
    assert machine.run("verify").code == 3 and machine.run("heal").code == 0 and machine.run("verify").code == 0
    (machine.a / pack).unlink()
    assert machine.run("heal", "--destination", "a").code == 0
    target = tmp_path / "restored"
    answer = machine.run("restore", "latest", "--from", "far", "--target", target, "--key", machine.key)
    assert answer.code == 0, answer
    assert_equal(machine.source, target / str(machine.source)[1:])


def test_from_the_bucket_with_nothing_but_the_key(tmp_path: Path) -> None:
    """With config and state gone, the location and the recovery key list, verify, restore and rebuild the host."""
    place = location()
    machine = host(tmp_path, place)
    machine.run("backup")
    away = Machine(tmp_path / "away")
    away.folder.mkdir()
    for arguments in (["snapshots"], ["verify"], ["restore", "latest", "--target", tmp_path / "r"]):
        answer = away.run(*arguments, "--repository", place, "--key", machine.key)
        assert answer.code == 0, answer
    answer = away.run(
        "init", "--from", place, "--key", machine.key, "--state-dir", away.state, "--recovery-key", away.key
    )
    assert answer.code == 0, answer
    assert away.run("backup").code == 0
    assert (away.state / "endpoints.json").read_bytes() == (machine.state / "endpoints.json").read_bytes()


def test_what_was_overwritten_in_a_versioned_bucket_is_healed(tmp_path: Path) -> None:
    """Junk put over an object as a newer version is taken away; what shows again is whole, and heal says so."""
    place = location("locking")
    machine = host(tmp_path, place)
    machine.run("backup")
    key = next(each for each in keys(place) if "/packs/" in each)
    shared_client().put_object(Bucket="locking", Key=key, Body=b"junk")
    assert machine.run("verify").code == 3 and machine.run("heal").code == 0 and machine.run("verify").code == 0


def test_what_the_endpoint_honours_is_noted(tmp_path: Path) -> None:
    """Init asks the endpoint, leaves nothing of the asking behind, says what is missing and remembers it."""
    place = location()
    machine = host(tmp_path, place)
    assert json.loads((machine.state / "endpoints.json").read_bytes()) == {
        "far": {"checksums": False, "conditional": True}  # what moto honours
    }
    assert not [each for each in keys(place) if "probe" in each]
    assert "MD5" in machine.run("init").err


def test_locked_objects_cannot_be_taken_away(tmp_path: Path) -> None:
    """With object_lock_days each backup locks all that its snapshot needs, and says until when."""
    place = location("locking")
    machine = host(tmp_path, place)
    text = machine.config.read_text()
    machine.config.write_text(re.sub(r"(?m)^( +)(.*bucket: locking)$", r"\1object_lock_days: 2\n\1\2", text))
    assert machine.run("init").code == 0
    machine.run("backup")
    answer = machine.run("backup", "--json")
    (found,) = answer.json
    assert answer.code == 0 and found["locked"].keys() == {"far"}
    assert "locked until" in machine.run("backup").out
    for key in keys(place):
        if "/quarantine/" not in key:
            version = shared_client().head_object(Bucket="locking", Key=key)
            assert f"{version['ObjectLockRetainUntilDate']:%Y-%m-%d}" >= found["locked"]["far"][:10], key


def test_a_policy_is_printed(tmp_path: Path) -> None:
    """`config iam-policy` writes JSON for a bucket, and refuses a folder."""
    machine = host(tmp_path, location())
    allowed = [each["Action"] for each in json.loads(machine.run("config", "iam-policy", "far").out)["Statement"]]
    assert not any("Delete" in action for actions in allowed for action in actions)
    assert machine.run("config", "iam-policy", "a").code == 2
    assert machine.run("config", "iam-policy", "far", "--may", "everything").code == 2

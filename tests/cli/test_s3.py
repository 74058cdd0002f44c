"""Whole commands with a destination in a bucket, beside one on a disk."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from opskit import gpg, wiring
from opskit.repository import manifest as manifests
from opskit.repository import names
from opskit.stores.s3 import Connection, S3Store
from tests.cli.hosts import Answer, Machine, fill, objects
from tests.operations.judging import assert_equal
from tests.stores.proxy import Fault, Proxy, answer, failure, proxied
from tests.stores.s3_server import KEY_ID, SECRET, running, shared_client


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials in the environment, as the usual AWS chain finds them, and nothing from this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before the endpoint, without faults."""
    with proxied(running().port) as each:
        yield each


def location(bucket: str = "plain", port: int | None = None) -> str:
    """A place of its own in a bucket of the endpoint, or of what listens at `port`."""
    return f"s3://{bucket}/{uuid.uuid4().hex}?endpoint=http://127.0.0.1:{port or running().port}&region=us-east-1"


def host(folder: Path, place: str) -> Machine:
    """A host that backs up to a disk and to a bucket."""
    machine, answer = set_up(folder, place)
    assert answer.code == 0, answer
    return machine


def set_up(folder: Path, place: str) -> tuple[Machine, Answer]:
    """Such a host, and what init said."""
    machine = Machine(folder / "host")
    fill(machine.source)
    answer = machine.run(
        "init", "--state-dir", machine.state, "--source", f"data={machine.source}",
        "--destination", f"a={machine.a}", "--destination", f"far={place}",
        "--new-recipient", "Safe <safe@example.org>", "--recovery-key", machine.key, "--no-passphrase",
    )  # fmt: skip
    return machine, answer


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


def lock_for(machine: Machine, days: int) -> None:
    """Have the config ask for an object lock."""
    text = re.sub(r"(?m)^ +object_lock_days: .*\n", "", machine.config.read_text())
    machine.config.write_text(re.sub(r"(?m)^( +)(bucket: .*)$", rf"\1\2\n\1object_lock_days: {days}", text))


def locks(place: str) -> dict[str, datetime | None]:
    """Until when each object at a place is locked, by its name, as the endpoint tells."""
    bucket, client = place.partition("?")[0].removeprefix("s3://").split("/")[0], shared_client()
    return {
        key.partition("/")[2]: client.head_object(Bucket=bucket, Key=key).get("ObjectLockRetainUntilDate")
        for key in keys(place)
    }


def needed(place: str, snapshot: str) -> set[str]:
    """The names of all objects that a snapshot needs, from its manifest at the endpoint."""
    bucket = place.partition("?")[0].removeprefix("s3://").split("/")[0]
    (key,) = [each for each in keys(place) if snapshot in each]
    data = shared_client().get_object(Bucket=bucket, Key=key)["Body"].read()
    found = manifests.decode(gpg.unjudged(data).payload)
    assert not any(run.lists for run in found.runs)
    return {*names.FIXED, *found.object_names(), key.partition("/")[2]}


def test_a_backup_extends_every_lock_that_its_snapshot_leans_on(tmp_path: Path) -> None:
    """Packs, keys and index of earlier runs are locked as long as what is new; the date shown is the earliest."""
    place = location("locking")
    machine = host(tmp_path, place)
    lock_for(machine, 2)
    assert machine.run("backup").code == 0
    before, bound = locks(place), datetime.now(UTC) + timedelta(days=3)
    assert all(date is not None and date < bound for name, date in before.items() if "quarantine" not in name)
    longer = next(name for name in before if name.startswith("keys/"))
    bucket, prefix = place.partition("?")[0].removeprefix("s3://").split("/")
    late = datetime.now(UTC) + timedelta(days=90)
    shared_client().put_object_retention(
        Bucket=bucket, Key=f"{prefix}/{longer}", Retention={"Mode": "COMPLIANCE", "RetainUntilDate": late}
    )
    lock_for(machine, 9)
    (machine.source / "later").write_text("later")
    least = datetime.now(UTC) + timedelta(days=9)
    answer = machine.run("backup", "--json")
    assert answer.code == 0
    (found,) = answer.json
    wanted, after = needed(place, found["snapshot"]), locks(place)
    assert longer in wanted
    for kind in ("packs/", "keys/", "index/"):
        assert any(name.startswith(kind) for name in wanted & before.keys()), f"nothing old in {kind}: no test"
    dates = {name: after[name] for name in wanted}
    assert all(date is not None and date >= least.replace(microsecond=0) for date in dates.values()), dates
    earliest = min(date for date in dates.values() if date is not None)
    assert found["locked"] == {"far": f"{earliest:%Y-%m-%dT%H:%M:%SZ}"}
    shown = machine.run("status", "--json").json["sources"]["data"]
    assert shown["locked"] == ["far"] and shown["destinations"]["a"]["locked_until"] is None
    seen = shown["destinations"]["far"]["locked_until"]
    assert least - timedelta(seconds=1) <= datetime.fromisoformat(seen) < late
    assert "object lock: far" in machine.run("status").out


def test_old_key_objects_stay_as_long_as_a_lock_holds_them(tmp_path: Path) -> None:
    """A rotation locks the new one, tells until when the old ones can be read, and backups follow all the same."""
    place = location("locking")
    machine = host(tmp_path, place)
    lock_for(machine, 2)
    assert machine.run("backup").code == 0
    new = tmp_path / "new.asc"
    comes = ("--new-recipient", "New <n@example.org>", "--recovery-key", new, "--no-passphrase")
    answer = machine.run("keys", "rotate", "--key", machine.key, *comes)
    assert answer.code == 3 and "locked until" in answer.err and "could open them still can" in answer.err
    held = {name: date for name, date in locks(place).items() if name.startswith(("keys/", "marks/"))}
    assert len(held) == 3 and all(date is not None and date > datetime.now(UTC) for date in held.values())
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    target = ("--from", "far", "--target", tmp_path / "far")
    assert machine.run("restore", "latest", "--key", new, *target).code == 0
    again = machine.run("keys", "rotate", "--key", new)
    assert again.code == 3 and len(locks(place).keys() & held.keys()) == 3


def test_a_lock_that_is_only_declared_is_not_shown_as_one(tmp_path: Path) -> None:
    """Where the config asks for a lock and the endpoint shows none, status counts none, and says what to do."""
    place = location("plain")
    machine = host(tmp_path, place)
    assert machine.run("backup").code == 0
    lock_for(machine, 9)
    answer = machine.run("status", "--json")
    found = answer.json["sources"]["data"]
    assert answer.code == 3 and found["locked"] == []
    assert found["destinations"]["far"]["declared"]["object_lock"] is True
    assert found["destinations"]["far"]["locked_until"] is None
    text = machine.run("status").out
    assert "object lock: none" in text and "far locks nothing that could be seen" in text


def test_a_lock_that_ran_out_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A date in the past is shown by the endpoint still; status does not count it."""
    machine = host(tmp_path, location("locking"))
    lock_for(machine, 1)
    assert machine.run("backup").code == 0
    assert machine.run("status", "--json").json["sources"]["data"]["locked"] == ["far"]
    monkeypatch.setattr(wiring, "now", lambda: datetime.now(UTC) + timedelta(hours=25))
    assert machine.run("status", "--json").json["sources"]["data"]["locked"] == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [("status", Fault("HEAD", hangs=True)), ("backup", Fault("PUT", "retention", hangs=True)),
     ("init", Fault("PUT", ".bytes", hangs=True))],
)  # fmt: skip
def test_nobody_waits_for_an_endpoint_that_hangs(tmp_path: Path, proxy: Proxy, command: str, fault: Fault) -> None:
    """Ctrl-C while an endpoint gives no answer about locks, or to a probe, ends the command: 130."""
    machine = host(tmp_path, location("locking", proxy.port))
    lock_for(machine, 1)
    assert machine.run("backup").code == 0
    proxy.plan, done = [fault] * 20, len(proxy.requests)
    process = machine.start(command)
    try:
        until = time.monotonic() + 30
        while len(proxy.plan) == 20 and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.2)
        assert process.poll() is None and len(proxy.requests) > done
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
        process.communicate()


def test_a_lock_is_judged_by_the_sources_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old snapshot of a source that is backed up no more, and whose lock nobody extends, hides no lock."""
    machine = host(tmp_path, location("locking"))
    lock_for(machine, 1)
    text = machine.config.read_text()
    once = f"sources:\n  once: {{paths: [{machine.source}]}}"
    machine.config.write_text(re.sub(r"(?m)^sources:$", once, text))
    assert len(machine.run("backup", "--json").json) == 2
    machine.config.write_text(text)
    monkeypatch.setattr(wiring, "now", lambda: datetime.now(UTC) + timedelta(hours=25))
    assert machine.run("backup").code == 0
    assert machine.run("status", "--json").json["sources"]["data"]["locked"] == ["far"]


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
    assert machine.run("status", "--json").json["sources"]["data"]["destinations"]["far"]["lock_held"] is True
    assert "a lock held when init tried" in machine.run("status").out
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


REFUSED = failure("403 Forbidden", "AccessDenied", message="not for you")
REFUSED_HEAD = answer("403 Forbidden")


def only_puts(proxy: Proxy) -> None:
    """From now on whatever is no put is refused."""
    proxy.plan = [
        *(Fault(method=method, answer=REFUSED) for method in ("GET", "DELETE") for _ in range(200)),
        *(Fault(method="HEAD", answer=REFUSED_HEAD) for _ in range(200)),
    ]


def test_credentials_that_may_only_put(tmp_path: Path, proxy: Proxy) -> None:
    """A bucket that may not be read is out for this run, by name and permission: 3 beside a copy that took it, else 22.

    Not one request of that run changes anything there.
    """
    place = location(port=proxy.port)
    machine = host(tmp_path, place)
    before = keys(place)
    only_puts(proxy)
    answer = machine.run("backup")
    assert answer.code == 3 and len(objects(machine.a, "snapshots")) == 1
    assert re.search(r"far +behind .*expected the permission s3:GetObject, got AccessDenied", answer.out), answer
    machine.config.write_text(re.sub(r"(?m)^  a: .*\n", "", machine.config.read_text()))
    alone = machine.run("backup")
    assert alone.code == 22 and "expected the permission s3:GetObject, got AccessDenied" in alone.err, alone
    assert "hint: allow s3:GetObject on arn:aws:s3:::plain/" in alone.err
    assert SECRET not in answer.err + alone.err + alone.out and keys(place) == before


def test_an_endpoint_that_hangs_is_absent(tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes connections and never answers is told as such, and the copy that is there gets its backup."""
    machine = host(tmp_path, location(port=proxy.port))
    monkeypatch.setattr("opskit.stores.s3.Connection", partial(Connection, first_read_timeout=0.1))
    proxy.plan, proxy.requests = [Fault(hangs=True)] * 99, []
    answer = machine.run("backup")
    assert answer.code == 3 and len(objects(machine.a, "snapshots")) == 1
    assert len(proxy.requests) == 9, (
        "three first requests side by side, as many tries as an endpoint gets that never spoke"
    )
    assert re.search(r"far +behind .*the endpoint cannot be reached, no answer came", answer.out), answer


def listing(place: str) -> bytes:
    """The answer that the endpoint gives now to who lists the place."""
    bucket, prefix = place.partition("?")[0].removeprefix("s3://").split("/")
    told: list[bytes] = []
    connection = running().connection()
    client: Any = connection.client()
    client.meta.events.register(
        "before-parse.s3.ListObjectsV2", lambda response_dict, **_: told.append(response_dict["body"])
    )
    client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/", EncodingType="url")
    connection.close()
    return answer("200 OK", told[0].decode())


def test_a_stale_listing_loses_nothing(tmp_path: Path, proxy: Proxy) -> None:
    """An endpoint that does not list what is newest is told as rolled back, and what is done on that belief harms none.

    Backup and sync store again what they do not see, find it there, and change nothing; the next fresh listing shows
    all of it, whole.
    """
    place = location(port=proxy.port)
    machine = host(tmp_path, place)
    assert machine.run("backup").code == 0
    stale = listing(place)
    (machine.source / "newer").write_bytes(os.urandom(50_000))
    assert machine.run("backup").code == 0
    known = {key: etag(place, key) for key in keys(place)}

    proxy.plan = [Fault("GET", "list-type", answer=stale)]
    shown = machine.run("status", "--json")
    assert shown.code == 13 and shown.json["sources"]["data"]["destinations"]["far"]["state"] == "rolled back"
    for command in (["backup"], ["sync", "far"]):
        proxy.plan = [Fault("GET", "list-type", answer=stale)]
        machine.run(*command)
        assert proxy.plan == []
    now = {key: etag(place, key) for key in keys(place)}
    assert known.items() <= now.items() and not [key for key in now if "/quarantine/" in key]
    assert machine.run("verify").code == 0 and machine.run("status", "--json").json["sources"]["data"]["copies"] == 2
    target = tmp_path / "restored"
    assert machine.run("restore", "latest", "--from", "far", "--target", target, "--key", machine.key).code == 0
    assert_equal(machine.source, target / str(machine.source)[1:])


def etag(place: str, key: str) -> str:
    """What tells one version of an object's bytes from another, and when it was put."""
    found = shared_client().head_object(Bucket=place.partition("?")[0].removeprefix("s3://").split("/")[0], Key=key)
    return f"{found['ETag']} {found['LastModified']}"


@pytest.mark.parametrize("kind", ["snapshots", "packs", "index", "keys"])
def test_old_bytes_are_not_believed(tmp_path: Path, proxy: Proxy, kind: str) -> None:
    """Whole and genuine bytes of another, older object are noticed by the hash in the name, wherever they are given.

    Verify names the object; restore takes the other copy; nothing at the endpoint is moved or deleted for it.
    """
    place = location(port=proxy.port)
    machine = host(tmp_path, place)
    assert machine.run("backup").code == 0
    earlier = keys(place)
    older = next(key for key in earlier if f"/{kind}/" in key)
    (machine.source / "newer").write_bytes(os.urandom(50_000))
    assert machine.run("backup").code == 0
    newer = next(key for key in keys(place) if f"/{kind}/" in key and key not in earlier)
    found = shared_client().get_object(Bucket="plain", Key=older)
    digest = found["Metadata"]["opskit-sha256"]
    headers = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nx-amz-meta-opskit-sha256: %s\r\n' % digest.encode()
    body = found["Body"].read()
    stale = headers + b"Content-Length: %d\r\n\r\n" % len(body) + body
    before = keys(place)
    name = newer.partition("/")[2]

    proxy.plan = [Fault("GET", newer, answer=stale) for _ in range(50)]
    told = machine.run("verify", "--destination", "far")
    assert told.code in {3, 13} and name[:20] in told.out + told.err, told
    target = tmp_path / "restored"
    answer = machine.run("restore", "latest", "--target", target, "--key", machine.key)
    assert answer.code == 0, answer
    assert_equal(machine.source, target / str(machine.source)[1:])
    proxy.plan = []
    assert keys(place) == before and machine.run("verify").code == 0


def test_a_listing_that_fails_on_its_second_page_is_no_copy(
    tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy whose listing breaks off is absent for each command, never one that lacks objects."""
    place = location(port=proxy.port)
    machine = host(tmp_path, place)
    assert machine.run("backup").code == 0
    before = keys(place)
    monkeypatch.setattr("opskit.stores.s3.S3Store", partial(S3Store, page_size=3))
    for command in (["backup"], ["verify"], ["sync", "far"], ["heal"], ["status"]):
        proxy.plan = [Fault("GET", "continuation-token", answer=failure("400 Bad Request", "InvalidArgument"))]
        told = machine.run(*command)
        assert proxy.plan == [] and told.code != 0 and "InvalidArgument" in told.out + told.err, told
        assert "rolled back" not in told.out and "missing" not in told.out, told
    assert keys(place) == before
    assert machine.run("backup").code == 0


def test_init_with_credentials_that_may_only_put(tmp_path: Path, proxy: Proxy) -> None:
    """A first init names the destination and the permission it lacks, ends with 3, and makes the other copy."""
    only_puts(proxy)
    machine, answer = set_up(tmp_path, location(port=proxy.port))
    assert answer.code == 3 and "a: repository made" in answer.out
    assert "far: " in answer.err and "expected the permission s3:" in answer.err, answer
    assert (machine.a / "opskit.json").exists()


def test_init_tells_of_an_endpoint_that_replaces(tmp_path: Path, proxy: Proxy) -> None:
    """Where a second put under If-None-Match succeeds, init says so and notes it, and backup works all the same."""
    taken = answer("200 OK", "", 'ETag: "0"')
    proxy.plan = [Fault("PUT", ".opskit-probe-"), Fault("PUT", ".opskit-probe-", answer=taken)]
    machine = host(tmp_path, location(port=proxy.port))
    assert proxy.plan == []
    assert json.loads((machine.state / "endpoints.json").read_bytes())["far"]["conditional"] is False
    proxy.plan = [Fault("PUT", ".opskit-probe-"), Fault("PUT", ".opskit-probe-", answer=taken)]
    told = machine.run("init")
    assert told.code == 0 and "far: the endpoint ignores If-None-Match" in told.err
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    assert "If-None-Match" not in machine.run("init").err, "asked again, and it honours it now"


@pytest.mark.parametrize("bucket", ["plain", "locking"])
def test_init_tells_of_a_lock_that_does_not_hold(tmp_path: Path, proxy: Proxy, bucket: str) -> None:
    """Where a put with a lock is refused, or what is locked can be deleted all the same, init warns of it."""
    machine = host(tmp_path, location(bucket, port=proxy.port))
    lock_for(machine, 1)
    if bucket == "locking":
        proxy.plan = [Fault("DELETE", ".lock", answer=answer("204 No Content"))]
    told = machine.run("init")
    assert "far: the bucket has no working object lock" in told.err, told
    assert json.loads((machine.state / "endpoints.json").read_bytes())["far"]["object_lock"] is False
    machine.run("backup")
    found = machine.run("status", "--json").json["sources"]["data"]
    assert found["locked"] == [], "a date that an endpoint shows is no lock where one was seen not to hold"
    seen = found["destinations"]["far"]
    assert seen["lock_held"] is False and (seen["locked_until"] is not None) is (bucket == "locking")
    text = " ".join(machine.run("status").out.split())
    assert "did not hold when init tried" in text and ("far has no lock that holds" in text) is (bucket == "locking")


def test_a_lock_that_cannot_be_put_off_is_told(tmp_path: Path, proxy: Proxy) -> None:
    """Where extending is refused the snapshot stays, no date is shown for it, and the answer is 3, with the reason."""
    place = location("locking", port=proxy.port)
    machine = host(tmp_path, place)
    lock_for(machine, 2)
    assert machine.run("backup").code == 0
    lock_for(machine, 9)
    proxy.plan = [Fault("PUT", "?retention", answer=REFUSED) for _ in range(100)]
    answer = machine.run("backup", "--json")
    (found,) = answer.json
    assert answer.code == 3 and "locked" not in found and found["destinations"]["far"] == "ok"
    (told,) = found["errors"]
    assert told.startswith("far: the lock of what is there was not extended: ") and "AccessDenied" in told
    assert any(found["snapshot"] in key for key in keys(place))


def test_the_word_of_an_endpoint_is_taken_where_asked(tmp_path: Path) -> None:
    """With --by-checksum packs are asked for, not read; that counts as verified and is shown, but is no recovery point.

    What the endpoint keeps no checksum of, or another one, is read.
    """
    place = location()
    machine = host(tmp_path, place)
    honours = machine.state / "endpoints.json"
    honours.write_text(honours.read_text().replace('"checksums":false', '"checksums":true'))
    assert machine.run("backup").code == 0
    packs = [each for each in keys(place) if "/packs/" in each]
    answer = machine.run("verify", "--destination", "far", "--by-checksum", "--json")
    found = answer.json["destinations"]["far"]
    assert answer.code == 0 and found["by_checksum"] == len(packs)
    assert found["objects"] == len(keys(place)) - len(packs), "all but the packs is read"
    coverage = found["coverage"]
    assert coverage["word_bytes"] == coverage["bytes"] and coverage["since"] and not coverage["read_since"]
    assert "* by the store's word alone: far" in machine.run("status").out
    told = machine.run("verify", "--destination", "far", "--by-checksum").out
    assert "read back, or by the store's word, within" in told
    seen = machine.run("status", "--json").json["sources"]["data"]
    assert seen["destinations"]["far"]["last_verified"] and seen["newest_verified"] is None
    (without, body), junk = shared_bytes(packs[0]), packs[-1]
    shared_client().put_object(Bucket="plain", Key=without, Body=body)
    assert (
        machine.run("verify", "--destination", "far", "--by-checksum", "--json").json["destinations"]["far"][
            "by_checksum"
        ]
        == len(packs) - 1
    )
    shared_client().put_object(Bucket="plain", Key=junk, Body=b"junk", ChecksumAlgorithm="SHA256")
    answer = machine.run("verify", "--destination", "far", "--by-checksum", "--json")
    assert answer.code == 3 and len(answer.json["destinations"]["far"]["damaged"]) == 1


def test_a_budget_is_read_and_the_rest_asked_for(tmp_path: Path) -> None:
    """With a budget beside it, so much is really read, and the word is taken for what is left out."""
    place = location()
    machine = host(tmp_path, place)
    honours = machine.state / "endpoints.json"
    honours.write_text(honours.read_text().replace('"checksums":false', '"checksums":true'))
    for number in range(4):
        (machine.source / f"n{number}").write_bytes(os.urandom(900))
        assert machine.run("backup").code == 0
    packs = [each for each in keys(place) if "/packs/" in each]
    answer = machine.run("verify", "--destination", "far", "--by-checksum", "--budget", "1kB", "--json")
    found = answer.json["destinations"]["far"]
    assert 0 < found["by_checksum"] < len(packs) and found["coverage"]["percent"] == 100
    assert 0 < found["coverage"]["word_bytes"] < found["coverage"]["bytes"]
    answer = machine.run("verify", "--destination", "a", "--by-checksum", "--json")
    assert answer.json["destinations"]["a"]["by_checksum"] == 0, "a folder keeps no checksums: all of it is read"
    assert answer.json["destinations"]["a"]["coverage"]["percent"] == 100


def shared_bytes(key: str) -> tuple[str, bytes]:
    """A key of the bucket, and what lies there."""
    return key, shared_client().get_object(Bucket="plain", Key=key)["Body"].read()


def test_a_drill_of_the_bucket_by_the_recovery_kit(tmp_path: Path) -> None:
    """--stock copies what one snapshot needs out of the bucket and runs recover.py on it; damage there fails it."""
    place = location()
    machine = host(tmp_path, place)
    assert machine.run("backup").code == 0
    (machine.source / "more.bin").write_bytes(os.urandom(200_000))
    assert machine.run("backup").code == 0
    words = ("drill", "run", "--from", "far", "--stock", "--key", machine.key, "--snapshot", "latest", "--json")
    answer = machine.run(*words)
    (told,) = answer.json
    assert answer.code == 0 and told["passed"] and told["method"] == "stock", answer
    assert not list((machine.state / "scratch").iterdir())
    packs = [each for each in keys(place) if "/packs/" in each]
    for pack in packs:
        shared_client().put_object(Bucket="plain", Key=pack, Body=b"rotten")
    answer = machine.run(*words)
    (told,) = answer.json
    assert answer.code == 3 and any("recover.py: PROBLEM" in each["what"] for each in told["failures"]), told
    assert told["objects"] and all(any(pack.endswith(name) for pack in packs) for name in told["objects"])
    assert told["elsewhere"] == {"a": "good"}

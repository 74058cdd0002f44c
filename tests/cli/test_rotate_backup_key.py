"""`opskit rotate` of a recipient of the backups: what restores at every moment, and when the old key may go."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from opskit.gpg import Keyring
from opskit.repository import deleted_keys
from tests.cli.hosts import Machine
from tests.cli.recovery import (
    first,  # noqa: F401  # a fixture
    host,  # noqa: F401  # a fixture
    last,
    name_recipients,
    public_half,
    reference,
    restores,
    succeeds,
    value,
    waits,
)
from tests.cli.test_keys_rotate import other_host, public_key, recipients

KILLS = 2


def is_undone(machine: Machine, new: Path | None) -> None:
    """Only the old key opens, as before, and no config names a key that is gone."""
    (old, *_), retired = recipients(machine)
    assert value(machine).read_bytes().strip() == machine.key.read_bytes().strip()
    assert machine.run("backup").code == 0, "for the old key alone"
    ids = [each["id"] for each in machine.run("--json", "snapshots").json]
    for copy, some in ((machine.a, ids), (machine.b, ids[-1:])):
        assert all(restores(machine, machine.key, copy, each) for each in some)
        assert new is None or not restores(machine, new, copy, ids[-1])
    assert (
        not {old} & deleted_keys.read(machine.state).keys() and set(retired) <= deleted_keys.read(machine.state).keys()
    )


def is_off(machine: Machine) -> None:
    """The grace is over, and the old key retired."""
    machine.edit_config("backup_key: {", "grace: 1s\n    backup_key: {")
    time.sleep(1.1)
    succeeds(machine, "rotate", "resume", "recovery")
    assert last(machine)["state"] == "OLD_DISABLED"


def test_a_new_key_comes_in_the_place_of_the_old_one(host: Machine) -> None:  # noqa: F811
    """During the grace both restore, after it the new one alone; the old value goes, and no secret is in the trail."""
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "plan")
    succeeds(host, "rotate", "run", "recovery")
    new = value(host)
    now, _ = recipients(host)
    assert len(now) == 2 and old in now and last(host)["state"] == "GRACE"
    for copy in (host.a, host.b):
        assert restores(host, new, copy) and restores(host, host.key, copy)
    (host.source / "later").write_text("while both are recipients\n")
    succeeds(host, "backup")
    succeeds(host, "rotate", "retire", "recovery", "--now")
    assert recipients(host) == ([each for each in now if each != old], [old])
    for copy in (host.a, host.b):
        assert restores(host, new, copy) and not restores(host, host.key, copy)
    assert host.run("secrets", "get", f"{reference(host)}?stage=previous").code == 30
    (of_old,) = [each for each in host.run("--json", "keys", "list").json if each["fingerprint"] == old]
    assert of_old["safe_to_destroy"] is True
    trail = host.run("--json", "audit", "tail", "-n", "1000").out
    assert "PRIVATE KEY" not in trail and "OLD_DELETED" in trail


@pytest.mark.parametrize("is_deep", [False, True])
def test_undo_leaves_the_old_key_alone(host: Machine, is_deep: bool) -> None:  # noqa: F811
    """After an undo, with a backup made meanwhile, only the old key opens; from where the old one was off, too."""
    before = recipients(host)[0]
    succeeds(host, "rotate", "run", "recovery")
    new = value(host)
    (host.source / "later").write_text("while both are recipients\n")
    succeeds(host, "backup")
    if is_deep:
        is_off(host)
        assert recipients(host) == ([each for each in recipients(host)[0] if each not in before], before)
        (host.source / "latest").write_text("for the new key alone\n")
        succeeds(host, "backup")
    succeeds(host, "rotate", "undo", "recovery")
    assert recipients(host)[0] == before
    is_undone(host, new)


def test_undo_of_a_host_that_never_backed_up_names_no_ghost(first: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Without any key object to change, too, the config names nobody whose key went."""
    host = Machine(tmp_short / "fresh")  # noqa: F811
    host.source.mkdir(parents=True)
    (host.source / "token").write_text("a token\n")
    assert host.init().code == 0
    entry = first.config.read_text().partition("rotations:")[2].replace(str(first.folder), str(host.folder))
    host.config.write_text(f"{host.config.read_text()}rotations:{entry}")
    process = host.start("secrets", "set", reference(host), stdin=-1)
    process.communicate(host.key.read_bytes(), timeout=60)
    before = recipients(host)[0]
    succeeds(host, "rotate", "run", "recovery")
    assert len(recipients(host)[0]) == 2
    succeeds(host, "rotate", "undo", "recovery")
    assert recipients(host)[0] == before
    is_undone(host, None)


def test_undo_where_a_copy_refuses_to_delete(host: Machine) -> None:  # noqa: F811
    """What a lock keeps there is named; the config names nobody whose key goes."""
    before = recipients(host)[0]
    succeeds(host, "rotate", "run", "recovery")
    new = value(host)
    keys = sorted(host.b.glob("keys/*"))
    if subprocess.run(["chattr", "+i", *keys], capture_output=True).returncode:
        pytest.skip("this file system has no immutable files: expected chattr +i to work")
    try:
        answer = host.run("rotate", "undo", "recovery")
    finally:
        subprocess.run(["chattr", "-i", *keys], check=True)
    assert answer.code == 0 and "a lock keeps key objects" in answer.err, answer.err
    assert recipients(host)[0] == before
    succeeds(host, "prune")
    is_undone(host, new)


def test_an_undo_waits_for_no_host_that_never_wrote_for_the_new_key(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """It goes on writing for the old one, and believes what was done meanwhile: it knows one of both who agreed."""
    other = other_host(host, tmp_short / "other")
    before = recipients(host)[0]
    succeeds(host, "rotate", "run", "recovery")
    new = value(host)
    succeeds(host, "rotate", "undo", "recovery")
    assert recipients(host)[0] == before
    (other.source / "more").write_text("for the old key\n")
    assert other.run("backup").code == 0 and other.run("verify").code == 0 and other.run("prune").code == 0
    is_undone(host, new)


def test_an_undo_keeps_a_key_that_another_host_names(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Also beside the old one: that may be taken out there, and the new one would be left alone."""
    other = other_host(host, tmp_short / "other")
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "run", "recovery")
    (new,) = [each for each in recipients(host)[0] if each != old]
    succeeds(other, "keys", "add", public_half(host, new))
    succeeds(other, "backup")
    answer = host.run("rotate", "undo", "recovery")
    assert answer.code == 31 and f"other backs up for {new} still: there, opskit keys remove {new}" in answer.err
    (of_new,) = [each for each in host.run("--json", "keys", "list").json if each["fingerprint"] == new]
    assert of_new["safe_to_destroy"] is False, "its newest backup names it"
    succeeds(other, "keys", "remove", new)
    succeeds(other, "backup")
    succeeds(host, "rotate", "resume", "recovery")
    assert recipients(host)[0] == [old]
    is_undone(host, None)


def test_an_undo_looks_at_every_destination(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Where a config that was put back names the new key no more, too: what was written for it may be away."""
    other = other_host(host, tmp_short / "other")
    (old,), before = recipients(host)[0], host.config.read_text()
    away = host.folder / "away"
    host.b.rename(away)
    succeeds(host, "rotate", "run", "recovery")
    (new,) = [each for each in recipients(host)[0] if each != old]
    assert other.run("keys", "add", public_half(host, new)).code == 3
    assert other.run("keys", "remove", old).code == 3
    (other.source / "more").write_text("for the new key alone, at one copy\n")
    assert other.run("backup").code == 3
    host.config.write_text(before)
    host.a.rename(host.folder / "away-too")
    away.rename(host.b)
    answer = host.run("rotate", "undo", "recovery")
    assert answer.code == 31 and "a cannot be reached" in answer.err
    assert host.run("secrets", "get", f"{reference(host)}?stage=previous").code == 0, "it is kept"


def test_an_undo_keeps_a_key_that_another_host_writes_for(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """A host that was moved to the new key already is moved back first: nothing of it is lost, and it is named."""
    other = other_host(host, tmp_short / "other")
    before = recipients(host)[0]
    succeeds(host, "rotate", "run", "recovery")
    new_key, new = value(host), [each for each in recipients(host)[0] if each not in before]
    assert other.run("keys", "add", public_half(host, new[0])).code == 0
    assert other.run("keys", "remove", before[0]).code == 3
    succeeds(other, "backup")
    answer = host.run("rotate", "undo", "recovery")
    assert answer.code == 31 and "other backs up for recipients without" in answer.err and before[0] in answer.err
    for each in host.run("--json", "snapshots").json:
        assert any(restores(host, key, host.a, each["id"]) for key in (host.key, new_key)), "nothing went"
    assert other.run("keys", "add", public_half(host, before[0])).code == 3
    succeeds(other, "backup")
    answer = host.run("rotate", "resume", "recovery")
    assert answer.code == 31 and f"other backs up for {new[0]} still" in answer.err, "it might be left alone there"
    succeeds(other, "keys", "remove", new[0])
    succeeds(other, "backup")
    succeeds(host, "rotate", "resume", "recovery")
    for each in host.run("--json", "snapshots").json:
        assert restores(host, host.key, host.a, each["id"]), each


def test_an_old_key_waits_for_a_destination_that_is_away(host: Machine) -> None:  # noqa: F811
    """What lies at a disk in the safe may open with the old key alone; that is told at once, and costs no new grace."""
    away = host.folder / "away"
    host.b.rename(away)
    told = succeeds(host, "rotate", "run", "recovery").err
    assert "a destination opens by one of both keys only" in told and "destination=b" in told
    since = last(host)["reached"]["GRACE"]
    for _ in range(2):
        waits(host, "b cannot be reached")
    assert last(host)["reached"]["GRACE"] == since
    away.rename(host.b)
    assert restores(host, host.key, host.b)
    succeeds(host, "rotate", "retire", "recovery", "--now")
    assert restores(host, value(host), host.b) and not restores(host, host.key, host.b)


def test_an_old_key_waits_for_other_hosts(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """A host whose config nobody changed writes for the old key; once it was, an empty backup says so."""
    other = other_host(host, tmp_short / "other")
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "run", "recovery")
    waits(host, "other backs up for recipients without")
    (other.source / "more").write_text("for the old key alone\n")
    succeeds(other, "backup")
    waits(host, "other backs up for recipients without")
    new = value(host)
    assert other.run("keys", "add", public_half(host, recipients(host)[0][1])).code == 3
    waits(host, "other backs up for recipients without")
    succeeds(other, "backup")
    waits(host, f"other backs up for {old} still")
    assert last(host)["state"] == "OLD_DISABLED"
    succeeds(other, "keys", "remove", old)
    succeeds(other, "backup")
    succeeds(host, "rotate", "retire", "recovery", "--now")
    for each in host.run("--json", "snapshots").json:
        assert restores(host, new, host.a, each["id"]), each
        assert not restores(host, host.key, host.a, each["id"]), each
    assert other.run("verify").code == 0, "it follows, by the key that agreed and that it knows"


def test_a_host_that_falls_back_keeps_the_old_key(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Asked again before the old key is deleted, while everything can still be undone."""
    other = other_host(host, tmp_short / "other")
    (old,), _ = recipients(host)
    before = other.config.read_text()
    succeeds(host, "rotate", "run", "recovery")
    new = recipients(host)[0][1]
    assert other.run("keys", "add", public_half(host, new)).code == 0
    succeeds(other, "backup")
    is_off(host)
    other.config.write_text(before)
    (other.source / "more").write_text("for the old key alone, again\n")
    succeeds(other, "backup")
    waits(host, "other backs up for recipients without")
    succeeds(host, "rotate", "undo", "recovery")
    assert recipients(host)[0] == [old]
    for each in host.run("--json", "snapshots").json:
        assert restores(host, host.key, host.a, each["id"]), each


def test_an_undo_seals_a_key_that_nothing_shows(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Its public half was given out: others may encrypt to it tomorrow. They are told, and nothing is lost."""
    other = other_host(host, tmp_short / "other")
    before = host.config.read_text()
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "run", "recovery")
    (new,) = [each for each in recipients(host)[0] if each != old]
    succeeds(other, "keys", "add", public_half(host, new))
    assert other.run("keys", "remove", old).code == 3
    host.config.write_text(before)
    assert host.run("keys", "rotate", "--key", host.key).code == 0
    succeeds(host, "rotate", "undo", "recovery")
    assert [*host.a.glob("evidence/*-sealed-key-*")] and new in deleted_keys.read(host.state)
    told = other.run("backup")
    assert told.code == 12 and new in told.err and "deleted on" in told.err


def test_a_destination_that_was_taken_out_loses_nothing(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Back in the config after the old key went, what it alone has opens with the new one."""
    away = host.folder / "away"
    host.a.rename(away)
    (host.source / "later").write_text("at b alone\n")
    assert host.run("backup").code == 3
    away.rename(host.a)
    host.b.rename(away)
    succeeds(host, "rotate", "run", "recovery")
    waits(host, "b cannot be reached")
    (place,) = [line for line in host.config.read_text().splitlines() if line.startswith("  b:")]
    host.edit_config(f"{place}\n", "")
    succeeds(host, "rotate", "retire", "recovery", "--now")
    away.rename(host.b)
    host.edit_config("\ndestinations:\n", f"\ndestinations:\n{place}\n")
    assert host.run("sync").code == 0
    new = value(host)
    for each in host.run("--json", "snapshots").json:
        assert restores(host, new, host.a, each["id"]) and restores(host, new, host.b, each["id"]), each


def test_an_undo_brings_back_nobody_who_was_retired_by_hand(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """As one does who learns that the new key leaked."""
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "run", "recovery")
    (new,) = [each for each in recipients(host)[0] if each != old]
    new_key = value(host)
    is_off(host)
    comes = ("--new-recipient", "Hand <h@example.org>", "--recovery-key", tmp_short / "hand.asc", "--no-passphrase")
    succeeds(host, "keys", "rotate", "--key", new_key, "--replace", new, *comes)
    host.run("rotate", "undo", "recovery")
    assert new in recipients(host)[1]


def asleep(other: Machine, host: Machine, folder: Path) -> None:  # noqa: F811
    """A backup as if it had been made before any key was sealed."""
    for copy in (host.a, host.b):
        for sealed in copy.glob("evidence/*-sealed-key-*"):
            sealed.rename(folder / f"{copy.name}-{sealed.name}")
    assert other.run("backup").code in (0, 3)
    for each in folder.glob("?-*-sealed-key-*"):
        each.rename(host.folder / each.name[0] / "evidence" / each.name[2:])


def test_an_heir_is_kept_as_long_as_what_is_sealed_to_it(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Neither removed without its key nor called safe to destroy, while only by it something opens."""
    other = other_host(host, tmp_short / "other")
    host.edit_config("backup_key: {", "backup_key: {gone: [other], ")
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "run", "recovery")
    succeeds(host, "rotate", "retire", "recovery", "--now")
    (new,), new_key = recipients(host)[0], value(host)
    public, private, third = public_key(tmp_short)
    succeeds(host, "keys", "add", public, "--key", new_key)
    (other.source / "late").write_text("for the old key alone\n")
    asleep(other, host, tmp_short)
    refused = host.run("keys", "remove", new)
    assert refused.code == 12 and "nobody who would be left" in refused.err
    name_recipients(host, third)
    host.edit_config(f"recipients: [{third}]", f"recipients: [{third}]\n  retired: [{old}, {new}]")
    other.config.write_text(other.config.read_text().replace(old, third))
    with Keyring(other.state / "gnupg") as ring:
        ring.import_keys(public.read_bytes())
    assert other.run("backup").code in (0, 3)
    listed = host.run("keys", "list")
    assert f"it alone opens the sealed key of {old}" in listed.err and f"{new} is safe" not in listed.err
    assert "something needs it now" in listed.err
    succeeds(host, "keys", "rotate", "--key", new_key)
    for number, each in enumerate(host.run("--json", "snapshots").json):
        succeeds(host, "restore", each["id"], "--key", private, "--target", tmp_short / f"out-{number}")
    listed = host.run("keys", "list")
    assert f"{new} is safe" not in listed.err, "a disk that is in no config may have more for the old key"
    assert "something needs it now" not in listed.err


def test_a_host_that_falls_back_at_the_end_loses_nothing(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """What was encrypted to a key that is gone opens with the one that took its place; and that host is told."""
    other = other_host(host, tmp_short / "other")
    host.edit_config("backup_key: {", "backup_key: {gone: [other], ")
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "run", "recovery")
    (other.source / "before").write_text("for the old key alone\n")
    stopped = other.config.read_text()
    succeeds(host, "rotate", "retire", "recovery", "--now")
    asleep(other, host, tmp_short)
    new = value(host)
    for each in host.run("--json", "snapshots").json:
        assert restores(host, new, host.a, each["id"]), each
    told = other.run("backup")
    assert other.config.read_text() == stopped and told.code == 12 and old in told.err and "deleted on" in told.err


def test_a_host_that_is_gone_is_not_waited_for(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Named in the config as gone, it does not hold the end of the old key."""
    other_host(host, tmp_short / "other")
    host.edit_config("backup_key: {", "backup_key: {gone: [other], ")
    succeeds(host, "rotate", "run", "recovery")
    succeeds(host, "rotate", "retire", "recovery", "--now")


def test_a_config_without_the_new_key_stops_it(host: Machine) -> None:  # noqa: F811
    """Put back while a rotation is under way, nothing is retired; the way out that is told works, and undo."""
    before = host.config.read_text()
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "run", "recovery")
    (new,) = [each for each in recipients(host)[0] if each != old]
    host.config.write_text(before)
    waits(host, f"opskit keys add {new}")
    assert host.run("keys", "add", new).code == 0 and set(recipients(host)[0]) == {old, new}
    is_off(host)
    host.config.write_text(before)
    (host.source / "later").write_text("for the old key alone, again\n")
    succeeds(host, "backup")
    waits(host, f"opskit keys add {new}")
    succeeds(host, "rotate", "undo", "recovery")
    assert recipients(host)[0] == [old]
    is_undone(host, None)


def test_what_a_third_one_alone_opens_is_told(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """A disk that was away at the start has it: nothing goes before both open it, and the way that is told works."""
    public, private, third = public_key(tmp_short)
    (mine,), _ = recipients(host)
    succeeds(host, "keys", "add", public, "--key", host.key)
    both = host.config.read_text()
    name_recipients(host, third)
    away = host.folder / "away"
    host.a.rename(away)
    (host.source / "later").write_text("for the third one alone\n")
    assert host.run("backup").code == 3
    host.config.write_text(both)
    away.rename(host.a)
    host.b.rename(away)
    succeeds(host, "rotate", "run", "recovery")
    away.rename(host.b)
    waits(host, "key objects are for other recipients")
    assert host.run("rotate", "undo", "recovery").code == 31
    succeeds(host, "keys", "rotate", "--key", private)
    succeeds(host, "rotate", "resume", "recovery")
    assert recipients(host)[0] == [mine, third] and last(host)["state"] == "ROLLED_BACK"
    is_undone(host, None)


def test_an_old_config_that_is_put_back_is_noticed(host: Machine) -> None:  # noqa: F811
    """Nothing is encrypted to a key that was deleted, whatever names it again."""
    (old,), _ = recipients(host)
    before = host.config.read_text()
    succeeds(host, "rotate", "run", "recovery")
    succeeds(host, "rotate", "retire", "recovery", "--now")
    (new,), _ = recipients(host)
    (host.source / "later").write_text("later\n")
    host.config.write_text(before)
    answer = host.run("backup")
    assert answer.code == 12 and old in answer.err and "deleted on" in answer.err, answer.err
    assert "deleted on" in host.run("config", "validate").err
    name_recipients(host, old, new)
    answer = host.run("backup")
    assert answer.code == 3 and old in answer.err and restores(host, value(host), host.a)


@pytest.mark.parametrize("point", range(KILLS))
def test_killed_anywhere_it_is_undone(host: Machine, point: int) -> None:  # noqa: F811
    """kill -9 of the run at some moment, then of the undo; undone at last, the old key opens all, no ghost stays."""
    _killed_and_undone(host, random.Random(point), (point + 0.5) / KILLS)


@pytest.mark.campaign
@pytest.mark.parametrize("point", range(60))
def test_killed_at_many_moments_it_is_undone(host: Machine, point: int) -> None:  # noqa: F811
    """The same at many moments."""
    _killed_and_undone(host, random.Random(1000 + point), point / 60)


def _killed_and_undone(host: Machine, chance: random.Random, share: float) -> None:  # noqa: F811
    before = recipients(host)[0]
    _killed(host, "run", 3.0 * share)
    new = value(host)
    (host.source / "later").write_text(f"{share}\n")
    assert host.run("backup").code == 0
    if last(host) is None or last(host)["state"] in ("ROLLED_BACK", "OLD_DELETED"):
        return
    _killed(host, "undo", chance.uniform(0.3, 2.5))
    if last(host)["state"] != "ROLLED_BACK":
        back = "resume" if last(host)["undone"] else "undo"
        succeeds(host, "rotate", back, "recovery")
    assert recipients(host)[0] == before
    same = new.read_bytes().strip() == host.key.read_bytes().strip()
    is_undone(host, None if same else new)


def _killed(host: Machine, verb: str, delay: float) -> None:  # noqa: F811
    process = host.start("rotate", verb, "recovery", start_new_session=True)
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=60)

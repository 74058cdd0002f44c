"""`opskit rotate` of a recipient of the backups: what restores at every moment, and when the old key may go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opskit.gpg import Keyring
from tests.cli.hosts import Answer, Machine, fill, run
from tests.cli.test_keys_rotate import other_host, public_key, recipients

ENTRY = """
rotations:
  recovery:
    secret: gpg://{state}/secrets.gpg#recovery
    backup_key: {{user_id: "Next <next@example.org>"}}
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A host with a run at two copies, whose recovery key is in a secret store."""
    machine = Machine(tmp_path_factory.mktemp("m"))
    fill(machine.source)
    assert machine.init().code == 0
    machine.config.write_text(machine.config.read_text() + ENTRY.format(state=machine.state))
    process = machine.start("secrets", "set", f"gpg://{machine.state}/secrets.gpg#recovery", stdin=-1)
    process.communicate(machine.key.read_bytes(), timeout=60)
    assert process.returncode == 0 and machine.run("backup").code == 0
    return machine


@pytest.fixture
def host(first: Machine, tmp_short: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same host, to be changed; whoever types has no keys of his own."""
    monkeypatch.setenv("GNUPGHOME", str(tmp_short / "none"))
    machine = first.copy_to(tmp_short / "host")
    assert machine.run("backup").code == 0  # what was copied may have lost its holes
    return machine


def value(host: Machine) -> Path:
    """The current value of the store, as a key file."""
    path = host.folder / f"key-{len(list(host.folder.iterdir()))}.asc"
    path.write_bytes(host.run("secrets", "get", "-n", f"gpg://{host.state}/secrets.gpg#recovery").data)
    return path


def restores(host: Machine, key: Path, copy: Path, snapshot: str = "latest") -> bool:
    """Whether a key file alone brings everything back from a copy."""
    target = host.folder / f"restored-{len(list(host.folder.iterdir()))}"
    code = run("restore", snapshot, "--repository", copy, "--key", key, "--target", target).code
    assert code in (0, 12)
    return code == 0


def last(host: Machine) -> Any:
    (found,) = host.run("--json", "rotate", "status").json
    return found["last"]


def test_a_new_key_comes_in_the_place_of_the_old_one(host: Machine) -> None:
    """During the grace both restore, after it the new one alone; the old value goes, and no secret is in the trail."""
    (old,), _ = recipients(host)
    assert host.run("rotate", "plan").code == 0
    ran = host.run("rotate", "run", "recovery")
    assert ran.code == 0, ran.err
    new = value(host)
    now, _ = recipients(host)
    assert len(now) == 2 and old in now and last(host)["state"] == "GRACE"
    for copy in (host.a, host.b):
        assert restores(host, new, copy) and restores(host, host.key, copy)
    (host.source / "later").write_text("while both are recipients\n")
    assert host.run("backup").code == 0
    retired = host.run("rotate", "retire", "recovery", "--now")
    assert retired.code == 0, retired.err
    assert recipients(host) == ([each for each in now if each != old], [old])
    for copy in (host.a, host.b):
        assert restores(host, new, copy) and not restores(host, host.key, copy)
    assert host.run("secrets", "get", f"gpg://{host.state}/secrets.gpg#recovery?stage=previous").code == 30
    (of_old,) = [each for each in host.run("--json", "keys", "list").json if each["fingerprint"] == old]
    assert of_old["safe_to_destroy"] is True
    trail = host.run("--json", "audit", "tail", "-n", "1000").out
    assert "PRIVATE KEY" not in trail and "OLD_DELETED" in trail


def test_undo_leaves_the_old_key_alone(host: Machine) -> None:
    """After an undo, even with a backup made meanwhile, only the old key opens, as before."""
    before = recipients(host)[0]
    assert host.run("rotate", "run", "recovery").code == 0
    new = value(host)
    (host.source / "later").write_text("while both are recipients\n")
    assert host.run("backup").code == 0
    undone = host.run("rotate", "undo", "recovery")
    assert undone.code == 0, undone.err
    assert recipients(host)[0] == before and value(host).read_bytes().strip() == host.key.read_bytes().strip()
    for copy in (host.a, host.b):
        assert restores(host, host.key, copy) and not restores(host, new, copy)


def test_an_old_key_waits_for_a_destination_that_is_away(host: Machine) -> None:
    """What lies at a disk in the safe may open with the old key alone: it is not revoked before that was seen."""
    away = host.folder / "away"
    host.b.rename(away)
    assert host.run("rotate", "run", "recovery").code == 0
    held = host.run("rotate", "retire", "recovery", "--now")
    assert held.code == 3 and "b cannot be reached" in held.err
    away.rename(host.b)
    assert restores(host, host.key, host.b)
    assert host.run("rotate", "retire", "recovery", "--now").code == 0
    assert restores(host, value(host), host.b) and not restores(host, host.key, host.b)


def test_an_old_key_waits_for_other_hosts(host: Machine, tmp_short: Path) -> None:
    """A host whose config nobody changed writes for the old key: it is kept until that host has written for the new."""
    other = other_host(host, tmp_short / "other")
    assert host.run("rotate", "run", "recovery").code == 0
    waits(host, "other stored nothing for the new key yet")
    (other.source / "more").write_text("for the old key alone\n")
    assert other.run("backup").code == 0
    waits(host, "other stored nothing for the new key yet")
    public = tmp_short / "new.pub"
    with Keyring(host.state / "gnupg") as ring:
        public.write_bytes(ring.export_public(recipients(host)[0][1:]))
    assert other.run("keys", "add", public).code == 3
    (other.source / "most").write_text("for both\n")
    assert other.run("backup").code == 0
    held = host.run("rotate", "retire", "recovery", "--now")
    assert held.code == 31 and "other stored nothing since" in held.err, "it was switched off, and is not deleted"
    (other.source / "last").write_text("for both again\n")
    assert other.run("backup").code == 0
    assert host.run("rotate", "retire", "recovery", "--now").code == 0
    new = value(host)
    for each in host.run("--json", "snapshots").json:
        assert restores(host, new, host.a, each["id"]), each
    assert not restores(host, host.key, host.a, each["id"]), "the host's own, of before"


def waits(host: Machine, why: str) -> None:
    answer = host.run("rotate", "retire", "recovery", "--now")
    assert answer.code == 3 and why in answer.err, answer.err


def test_a_host_that_is_gone_is_not_waited_for(host: Machine, tmp_short: Path) -> None:
    """Named in the config as gone, it does not hold the end of the old key."""
    other_host(host, tmp_short / "other")
    host.edit_config("backup_key: {", "backup_key: {gone: [other], ")
    assert host.run("rotate", "run", "recovery").code == 0
    assert host.run("rotate", "retire", "recovery", "--now").code == 0


def test_a_key_that_does_not_open_everything_is_not_replaced(host: Machine, tmp_short: Path) -> None:
    """Its heir would not open that either: it is said before anything is changed, and who can mend it."""
    public, _, third = public_key(tmp_short)
    before = host.config.read_text()
    assert host.run("keys", "add", public).code == 3
    keys = host.config.read_text()
    fingerprint = recipients(host)[0][0]
    host.config.write_text(keys.replace(f"{fingerprint}", third))  # as if the other one were the only recipient
    (host.source / "later").write_text("for the other one alone\n")
    assert before != keys
    assert host.run("backup").code == 0
    host.config.write_text(keys)
    answer = host.run("rotate", "run", "recovery")
    assert answer.code == 31 and "key objects are for other recipients" in answer.err and "keys rotate" in answer.err
    assert host.config.read_text() == keys
    assert host.run("rotate", "undo", "recovery").code == 0


@pytest.mark.parametrize("content", [b"not a key\n", b""])
def test_another_value_is_refused(host: Machine, content: bytes) -> None:
    """A value that is no recovery-key file is told as such, never shown, and nothing begins."""
    process = host.start("secrets", "set", f"gpg://{host.state}/secrets.gpg#recovery", stdin=-1)
    process.communicate(content or b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n", timeout=60)
    answer = host.run("rotate", "run", "recovery")
    assert answer.code == 31 and "recovery-key file" in answer.err and "AAAA" not in answer.err
    assert last(host) is None


def test_without_a_value_it_is_said_how_to_set_one(host: Machine) -> None:
    """The first value is the recovery key that opens the backups now: a new one could not be let in."""
    assert host.run("secrets", "delete", f"gpg://{host.state}/secrets.gpg#recovery?stage=current").code == 0
    for verb, code in (("plan", 3), ("run", 2)):
        answer = host.run("rotate", verb, "recovery")
        assert answer.code == code and "opskit secrets set" in answer.err, answer.err
    assert last(host) is None


def test_a_host_that_is_no_maintainer_changes_nothing(host: Machine) -> None:
    """Its marks would not be believed."""
    text = host.config.read_text()
    (line,) = [each for each in text.splitlines() if each.strip().startswith("maintainers:")]
    host.config.write_text(text.replace(line, line.split(":")[0] + f": [{'A' * 40}]"))
    answer: Answer = host.run("rotate", "run", "recovery")
    assert answer.code != 0 and "maintainer" in answer.err
    assert json.loads(host.run("--json", "config", "show").data)["keys"]["retired"] == []

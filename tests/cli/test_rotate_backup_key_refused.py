"""What keeps the rotation of a recipient from beginning, or from going on: told before anything is written."""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path

import pytest

from opskit import wiring
from opskit.config.load import load
from opskit.gpg import Keyring
from tests.cli.hosts import Machine
from tests.cli.recovery import (
    expire,
    first,  # noqa: F401  # a fixture
    host,  # noqa: F401  # a fixture
    last,
    name_recipients,
    reference,
    restores,
    set_value,
    succeeds,
    value,
    waits,
)
from tests.cli.test_keys_rotate import public_key, recipients
from tests.gpg.keys import dated_key, private_folder, raw_gpg


def is_refused(machine: Machine, *told: str) -> None:
    """`plan` says why, `run` too; neither changes anything, nor begins."""
    config, seen = machine.config.read_bytes(), sorted(machine.a.rglob("*"))
    for words in (("plan",), ("run", "recovery"), ("run", "recovery", "--recover")):
        answer = machine.run("rotate", *words)
        assert answer.code == (3 if words == ("plan",) else 31), answer.err
        assert all(each in answer.err + answer.out for each in told), answer.err + answer.out
    assert machine.config.read_bytes() == config and sorted(machine.a.rglob("*")) == seen and last(machine) is None


@pytest.mark.parametrize("content", [b"not a key\n", b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n"])
def test_a_value_that_is_no_key(host: Machine, content: bytes) -> None:  # noqa: F811
    """It is told as such, and never shown."""
    set_value(host, content)
    is_refused(host, "recovery-key file", "opskit secrets set")
    assert "AAAA" not in host.run("rotate", "plan").err


def test_no_value(host: Machine) -> None:  # noqa: F811
    """The first value is the recovery key that opens the backups now: a new one could not be let in."""
    succeeds(host, "secrets", "delete", f"{reference(host)}?stage=current")
    is_refused(host, "the store has no key that opens the backups", "opskit secrets set")


def test_the_key_of_a_stranger(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Whose key it is, and whose was expected."""
    _, private, third = public_key(tmp_short)
    set_value(host, private.read_bytes())
    is_refused(host, f"{third}, whose private key the store has, is no recipient", recipients(host)[0][0])


def test_a_retired_key(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """A key that was retired is called so."""
    public, _, _ = public_key(tmp_short)
    (old,), _ = recipients(host)
    succeeds(host, "keys", "add", public, "--key", host.key)
    succeeds(host, "keys", "remove", old, "--key", host.key)
    is_refused(host, f"{old}, whose private key the store has, is retired")


def test_the_key_of_another_repository(host: Machine) -> None:  # noqa: F811
    """A recovery-key file says what it is for."""
    text = host.key.read_bytes()
    (line,) = [each for each in text.splitlines() if each.startswith(b"repository: ")]
    set_value(host, text.replace(line, b"repository: " + b"0" * 32))
    is_refused(host, "recovery key of another repository")


def test_a_third_key_in_the_store(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """What `secrets set` left as the previous value may open what nothing else does: no rotation replaces it."""
    public, private, _ = public_key(tmp_short)
    (old,), _ = recipients(host)
    succeeds(host, "keys", "add", public, "--key", host.key)
    set_value(host, private.read_bytes())
    is_refused(host, f"the previous value in the store is the private key of {old}", "secrets delete")
    succeeds(host, "secrets", "delete", f"{reference(host)}?stage=previous")
    succeeds(host, "rotate", "run", "recovery")


def test_a_key_with_a_passphrase(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Nobody can be asked for it: it is said how a key looks that does."""
    with Keyring(private_folder(tmp_short / "locked")) as ring:
        fingerprint = ring.generate("Locked <l@example.org>", passphrase=b"a passphrase")
        public = tmp_short / "locked.pub"
        public.write_bytes(ring.export_public([fingerprint]))
        private = ring.export_secret(fingerprint, passphrase=b"a passphrase")
    succeeds(host, "keys", "add", public, "--key", host.key)
    set_value(host, private)
    is_refused(host, fingerprint, "protected by a passphrase")


def test_a_key_that_cannot_sign(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """It could not agree to what is done with key objects."""
    home = private_folder(tmp_short / "mute")
    raw_gpg(home, "--quick-gen-key", "mute", "rsa2048", "cert", "never", secret=b"")
    (fingerprint,) = [
        line.split(":")[9]
        for line in raw_gpg(home, "--with-colons", "--list-keys").decode().splitlines()
        if line.startswith("fpr")
    ]
    raw_gpg(home, "--quick-add-key", fingerprint, "rsa2048", "encr", "never", secret=b"")
    public = tmp_short / "mute.pub"
    public.write_bytes(raw_gpg(home, "--armor", "--export", fingerprint))
    succeeds(host, "keys", "add", public, "--key", host.key)
    set_value(host, raw_gpg(home, "--armor", "--export-secret-keys", fingerprint, secret=b""))
    is_refused(host, "no part that signs")


def test_a_key_that_does_not_open_everything(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Its heir would not open that either; it is said who can mend it."""
    public, _, third = public_key(tmp_short)
    assert host.run("keys", "add", public).code == 3
    keys = host.config.read_text()
    name_recipients(host, third)
    (host.source / "later").write_text("for the other one alone\n")
    succeeds(host, "backup")
    host.config.write_text(keys)
    is_refused(host, "key objects are for other recipients", "keys rotate")


def test_a_host_that_is_no_maintainer(host: Machine) -> None:  # noqa: F811
    """Its marks would not be believed."""
    text = host.config.read_text()
    (line,) = [each for each in text.splitlines() if each.strip().startswith("maintainers:")]
    host.config.write_text(text.replace(line, line.split(":")[0] + f": [{'A' * 40}]"))
    is_refused(host, "maintainer")
    assert json.loads(host.run("--json", "config", "show").data)["keys"]["retired"] == []


def test_a_config_that_no_program_can_edit(host: Machine) -> None:  # noqa: F811
    """That is found out before a key is made."""
    (mine,), _ = recipients(host)
    text = re.sub(rf'recipients: (\["?{mine}"?\])', r"recipients: &who \1", host.config.read_text())
    host.config.write_text(text.replace("retired: []", "retired: *who"))
    assert "&who" in host.config.read_text() and "*who" in host.config.read_text()
    is_refused(host, "cannot be edited")


def test_another_recipient_that_expired(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Who cannot be encrypted to would be left out for good."""
    home = private_folder(tmp_short / "keys")
    expired = dated_key(home, "one", "20240101", "1y")
    with Keyring(host.state / "gnupg") as ring:
        ring.import_keys(raw_gpg(home, "--armor", "--export", expired))
    name_recipients(host, recipients(host)[0][0], expired)
    is_refused(host, expired, "expired on", "keys remove")


def test_a_recipient_that_expired(host: Machine) -> None:  # noqa: F811
    """Its own expiry, too: until it is renewed nobody could go back to it."""
    (mine,), _ = recipients(host)
    expire(host, host.key, mine)
    is_refused(host, mine, "expired on", "--quick-set-expire")


def test_an_old_key_that_expires_meanwhile(host: Machine) -> None:  # noqa: F811
    """An undo to it changes nothing: both keys go on opening everything, and it is said what to do."""
    (old,), _ = recipients(host)
    succeeds(host, "rotate", "run", "recovery")
    both = recipients(host)[0]
    new = value(host)
    expire(host, host.key, old)
    answer = host.run("rotate", "undo", "recovery")
    assert answer.code == 31 and old in answer.err and "expired on" in answer.err, answer.err
    assert recipients(host)[0] == both
    for copy in (host.a, host.b):
        assert restores(host, new, copy) and restores(host, host.key, copy)


def test_a_third_one_that_expires_meanwhile(host: Machine, tmp_short: Path) -> None:  # noqa: F811
    """Nothing is retired while somebody would be left out: neither config nor copies change."""
    public, private, third = public_key(tmp_short)
    succeeds(host, "keys", "add", public, "--key", host.key)
    succeeds(host, "rotate", "run", "recovery")
    before, seen = recipients(host), sorted(host.a.rglob("keys/*"))
    expire(host, private, third)
    waits(host, f"{third}: expired on")
    assert recipients(host) == before and sorted(host.a.rglob("keys/*")) == seen
    assert host.run("keys", "remove", third, "--key", host.key).code == 0
    succeeds(host, "rotate", "retire", "recovery", "--now")
    assert len(recipients(host)[0]) == 1 and restores(host, value(host), host.a)


def test_another_run_at_work(host: Machine) -> None:  # noqa: F811
    """It is told as what it is, by the exit code of its own, and resumed afterwards."""
    with wiring.lock_file(load(host.config)).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        answer = host.run("rotate", "run", "recovery")
        assert answer.code == 11, answer.err
    succeeds(host, "rotate", "resume", "recovery")
    assert last(host)["state"] == "GRACE"


@pytest.mark.parametrize("user_id", ["--batch", "-x <x@example.org>"])
def test_a_name_that_looks_like_an_option(host: Machine, user_id: str) -> None:  # noqa: F811
    """It is a name."""
    host.edit_config('"Next <next@example.org>"', json.dumps(user_id))
    succeeds(host, "rotate", "run", "recovery")
    assert user_id in host.run("keys", "list").out


def test_a_name_of_two_lines(host: Machine) -> None:  # noqa: F811
    """It is an error of the config, with its place."""
    host.edit_config('"Next <next@example.org>"', '"one\\ntwo"')
    answer = host.run("config", "validate")
    assert answer.code == 2 and "user_id" in answer.err

"""`opskit keys rotate-host` and `keys trust`: a new host key, on one host and as others see it, by real gpg."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from opskit import wiring
from opskit.config.load import load
from opskit.gpg import Keyring
from opskit.setup import rotation
from opskit.stores.local import LocalStore
from tests.cli.hosts import Machine, objects, run


def host_key(machine: Machine) -> str:
    return load(machine.config).keys.host or ""


def private_keys(machine: Machine) -> set[str]:
    with Keyring(machine.state / "gnupg") as keyring:
        return {key.fingerprint for key in keyring.keys() if key.has_secret}


def rotated(machine: Machine, *arguments: object) -> tuple[str, str]:
    """Rotate, and give the old and the new fingerprint."""
    answer = machine.run("keys", "rotate-host", "--json", *arguments)
    assert answer.code == 0, answer.err
    return answer.json["old"], answer.json["new"]


def other_host(machine: Machine, folder: Path) -> Machine:
    """Another host with the same two copies, which trusts what this one trusts at this moment."""
    other = Machine(folder)
    folder.mkdir()
    shutil.copytree(machine.state, other.state, ignore=shutil.ignore_patterns("S.*", "*.lock"))
    text = machine.config.read_text().replace(str(machine.state), str(other.state))
    other.config.write_text(text)
    return other


def manifests(machine: Machine) -> int:
    return len(objects(machine.a, "snapshots"))


def test_the_next_backup_is_signed_by_the_new_key_and_stores_no_data(used: Machine) -> None:
    """Old private half gone, no data stored again, everything verifies, and the config names both keys."""
    packs = objects(used.a, "packs")
    old, new = rotated(used)
    assert objects(used.a, "packs") == packs
    assert (host_key(used), private_keys(used)) == (new, {new})
    keys = load(used.config).keys
    assert list(keys.signers) == list(keys.maintainers) == [old, new]
    backup = used.run("backup", "--json")
    assert backup.code == 0 and backup.json[0]["stored_bytes"] < 4000
    assert used.run("verify").code == 0
    assert {each["host"] for each in used.run("snapshots", "--json").json} and manifests(used) == 3


def test_a_lost_cache_is_rebuilt_by_the_new_key_alone(used: Machine) -> None:
    """The index was stored anew for it: without the cache, and without the old key, no data is uploaded again."""
    rotated(used)
    shutil.rmtree(used.state / "cache")
    shutil.rmtree(used.state / "trees")
    backup = used.run("backup", "--json")
    assert backup.code == 0 and backup.json[0]["stored_bytes"] < 4000


def test_again_makes_yet_another_key_and_the_chain_holds(used: Machine, tmp_path: Path) -> None:
    """Two rotations: the first recovery-key file still restores what the third key signed, and says why."""
    first, second = rotated(used)
    assert used.run("backup").code == 0
    assert rotated(used)[0] == second
    (used.source / "newest").write_text("by the third key\n")
    assert used.run("backup").code == 0
    answer = run("restore", "latest", "--repository", used.b, "--key", used.key, "--target", tmp_path / "back")
    assert answer.code == 0 and list((tmp_path / "back").rglob("newest"))
    assert f"changed its key to {second}" in answer.err and f"certified by its old key {first}" in answer.err


def test_other_hosts_are_told_and_decide(used: Machine, tmp_path: Path) -> None:
    """What the new key signed is left out (13) until `keys trust` names it; a wrong fingerprint changes nothing."""
    other = other_host(used, tmp_path / "other")
    _, new = rotated(used)
    assert used.run("backup").code == 0
    for command in ("snapshots", "status", "verify"):
        answer = other.run(command)
        assert answer.code == 13, command
        assert f"changed its key to {new}" in answer.err and f"opskit keys trust {new}" in answer.err, command
    before = other.config.read_bytes()
    assert other.run("keys", "trust", "A" * 40).code == 2
    assert other.config.read_bytes() == before
    answer = other.run("keys", "trust", new)
    assert answer.code == 0 and "now among signers and maintainers" in answer.out
    assert other.run("snapshots").code == 0 and other.run("verify").code == 0
    assert other.run("keys", "trust", new).code == 0


def test_nobody_is_believed_for_a_certificate_by_a_stranger(used: Machine, tmp_path: Path) -> None:
    """A certificate that a key makes which is no signer is not shown, and cannot be trusted by name."""
    other = other_host(used, tmp_path / "other")
    stranger = wiring.now()
    with Keyring(tmp_path / "g") as keyring:
        one, two = keyring.generate("one"), keyring.generate("two")
        repository = json.loads((used.a / "opskit.json").read_bytes())["id"]
        _, name, data = rotation.certify(keyring, repository, "web1", one, two, stranger)
        LocalStore(used.a).put(name, data)
    answer = other.run("snapshots")
    assert two not in answer.err
    assert other.run("keys", "trust", two).code == 2
    answer = run("snapshots", "--repository", used.a, "--key", used.key)
    assert answer.code == 0 and two not in answer.err


def test_keep_old_keeps_the_old_private_half(used: Machine) -> None:
    """With --keep-old both private halves are there, and the next rotation starts from the new key."""
    old, new = rotated(used, "--keep-old")
    assert private_keys(used) == {old, new}
    assert rotated(used)[0] == new


def test_an_absent_destination_keeps_the_old_key_until_it_is_back(used: Machine) -> None:
    """Exit 3, backups go on; run again with the destination back, it ends with the same new key."""
    used.b.rename(used.folder / "away")
    answer = used.run("keys", "rotate-host", "--json")
    new = answer.json["new"]
    assert answer.code == 3 and [*answer.json["unready"]] == ["b"] and not answer.json["removed"]
    assert len(private_keys(used)) == 2
    assert used.run("backup").code == 3
    (used.folder / "away").rename(used.b)
    assert rotated(used)[1] == new and private_keys(used) == {new}
    assert objects(used.a, "evidence") == objects(used.b, "evidence") and len(objects(used.a, "evidence")) == 1


class Stopped(BaseException):
    """The process ends here."""


def stop_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, after: bool) -> None:
    """Let a step of the rotation end the run, before or after it is done."""
    real: Callable[..., object] = getattr(owner, name)

    def step(*arguments: object, **options: object) -> object:
        if after:
            real(*arguments, **options)
        raise Stopped

    monkeypatch.setattr(owner, name, step)


STEPS = [
    (Keyring, "generate"),
    (rotation, "write_durably"),
    (rotation, "put_where_absent"),
    (rotation, "_believe"),
    (rotation, "_write"),
    (rotation, "cover"),
    (Keyring, "remove_private"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_stopped_at_any_step_it_can_back_up_and_goes_on(
    used: Machine, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, after: bool
) -> None:
    """Wherever it ends, a backup succeeds and verifies at once; run again, one key is left, and one certificate."""
    with monkeypatch.context() as patch:
        stop_at(patch, owner, name, after=after)
        assert used.run("keys", "rotate-host").code == 1
    assert used.run("backup").code == 0
    assert used.run("verify").code == 0
    _, new = rotated(used)
    assert (host_key(used), private_keys(used)) == (new, {new})
    assert used.run("backup").code == 0 and used.run("verify").code == 0
    if (owner, name) not in ((Keyring, "generate"), (rotation, "write_durably")):
        assert len(objects(used.a, "evidence")) == 1
    assert not (used.state / "successor.json").exists()


def test_half_a_key_left_by_a_kill_is_not_used(used: Machine, tmp_short: Path) -> None:
    """A primary key whose subkey was never made could open no index: it is removed, and a whole one is made."""
    (short := tmp_short / "link").symlink_to(used.state / "gnupg")  # a path that gpg by itself can name a socket in
    with Keyring(used.state / "gnupg"):
        home = ["--homedir", str(short), "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
        half = ["--quick-generate-key", f"opskit host {load(used.config).host}", "ed25519", "cert,sign", "never"]
        subprocess.run(["gpg", *home, "--yes", *half], check=True, capture_output=True)
    assert len(private_keys(used)) == 2
    _, new = rotated(used)
    assert private_keys(used) == {new}
    assert used.run("backup").code == 0 and used.run("verify").code == 0


def test_no_copy_reached_changes_nothing(used: Machine) -> None:
    """Without any destination: that one's exit code, and config, key and trusted keys as before."""
    before = used.config.read_bytes(), host_key(used), private_keys(used), (used.state / "trusted.gpg").read_bytes()
    for copy in (used.a, used.b):
        copy.rename(copy.with_suffix(".away"))
    assert used.run("keys", "rotate-host").code >= 10
    after = used.config.read_bytes(), host_key(used), private_keys(used), (used.state / "trusted.gpg").read_bytes()
    assert before == after


def test_a_config_that_no_program_can_edit_is_told_before_anything(used: Machine) -> None:
    """A keys section without the lists: exit 2, nothing made."""
    text = used.config.read_text()
    start = text.index("  signers:")
    used.config.write_text(text[:start] + text[text.index("\n", start) + 1 :])
    before = private_keys(used)
    answer = used.run("keys", "rotate-host")
    assert answer.code == 2 and "signers" in answer.err and private_keys(used) == before


def test_the_certificate_can_be_read_by_gpg_alone(used: Machine) -> None:
    """It is signed JSON like all evidence: whoever has the old public key reads who certified whom."""
    old, new = rotated(used)
    (name,) = objects(used.a, "evidence")
    home = ["--homedir", str(used.state / "gnupg"), "--batch", "--no-options", "--trust-model", "always"]
    shown = subprocess.run(["gpg", *home, "-d", str(used.a / name)], capture_output=True, check=True)
    subprocess.run(["gpgconf", "--homedir", str(used.state / "gnupg"), "--kill", "all"], check=True)
    said = json.loads(shown.stdout)["signer"]
    assert (said["old"], said["new"]) == (old, new) and "PRIVATE" not in said["public"]

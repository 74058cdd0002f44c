"""`opskit keys add|remove|rotate`: config and key objects change together, and a person is told what is left."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from opskit.access import read_key_file
from opskit.gpg import Keyring
from opskit.gpg.agent import stop_agent
from opskit.repository.recovery import kit
from tests.cli.hosts import Machine, fill, run
from tests.gpg.keys import dated_key, private_folder, raw_gpg


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A host with two runs at two copies."""
    machine = Machine(tmp_path_factory.mktemp("m"))
    fill(machine.source)
    assert machine.init().code == 0
    assert machine.run("backup").code == 0
    (machine.source / "later").write_text("a later file\n")
    assert machine.run("backup").code == 0
    return machine


@pytest.fixture
def host(first: Machine, tmp_short: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same host, to be changed; whoever types has no keys of his own."""
    monkeypatch.setenv("GNUPGHOME", str(tmp_short / "none"))
    machine = first.copy_to(tmp_short / "host")
    assert machine.run("backup").code == 0  # what was copied may have lost its holes
    return machine


def recipients(machine: Machine) -> tuple[list[str], list[str]]:
    keys = machine.run("config", "show", "--json").json["keys"]
    return keys["recipients"], keys["retired"]


def rotated(machine: Machine, *more: object) -> tuple[Path, object]:
    """The host after its recipient was replaced by a new one; the new key file, and what the command said."""
    new = machine.folder / "new.asc"
    answer = machine.run(
        "keys", "rotate", "--key", machine.key, "--new-recipient", "New <n@example.org>", "--recovery-key", new,
        "--no-passphrase", "--json", *more,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return new, answer.json


def test_rotate_then_restore_with_the_new_key_only(host: Machine, tmp_path: Path) -> None:
    """The old key file is refused everywhere, the new one restores, and the next backup stores no file again."""
    (old,), _ = recipients(host)
    new, said = rotated(host)
    assert isinstance(said, dict) and said["runs"] == 3 and said["made"] == 1
    assert {each["deleted"] for each in said["destinations"].values()} == {3}
    (now,), retired = recipients(host)
    assert now != old and retired == [old]
    (result,) = host.run("backup", "--json").json
    assert result["new_bytes"] < 10_000, "the root carries the config, which changed"
    assert host.run("verify").code == 0
    assert host.run("restore", "latest", "--key", host.key, "--target", tmp_path / "no").code == 12
    assert host.run("restore", "latest", "--key", new, "--target", tmp_path / "yes").code == 0
    apart = ("--repository", host.a, "--key", new)
    assert run("verify", *apart).code == 0 and run("verify", "--repository", host.a).code == 0
    assert run("restore", "latest", *apart, "--target", tmp_path / "apart").code == 0


def test_recover_py_restores_with_the_new_key_only(host: Machine, tmp_path: Path) -> None:
    """Snapshots that hint at key objects which are gone restore without a problem; the old key opens nothing."""
    new, _ = rotated(host)
    program = tmp_path / "recover.py"
    program.write_bytes(kit()["recover.py"])
    codes = {}
    for key in (host.key, new):
        command = [sys.executable, program, "--repository", host.b, "--key", key, "--target", tmp_path / key.stem]
        codes[key] = subprocess.run(command, capture_output=True, text=True).returncode
    assert codes == {host.key: 12, new: 0}


def test_a_dry_run_changes_nothing(host: Machine) -> None:
    """Neither config nor key ring, key files nor copies; and it tells how much there is to do."""
    before = {path: path.read_bytes() for path in host.a.rglob("*") if path.is_file()}
    config = host.config.read_text()
    _, said = rotated(host, "--dry-run")
    assert isinstance(said, dict) and said["runs"] == 3 and said["key_objects"] == 3 and not said["made"]
    assert not (host.folder / "new.asc").exists() and host.config.read_text() == config
    assert {path: path.read_bytes() for path in host.a.rglob("*") if path.is_file()} == before


def test_a_second_rotation_has_nothing_to_do(host: Machine) -> None:
    """By the old key or the new one, which both are this config's."""
    new, _ = rotated(host)
    for key in (new, host.key):
        answer = host.run("keys", "rotate", "--key", key)
        assert answer.code == 0 and "nothing to do" in answer.out


def test_a_copy_that_is_away_is_named_and_finished_later(host: Machine, tmp_path: Path) -> None:
    """Exit 3 and how to go on; a repetition needs no more than the new key."""
    away = host.folder / "away"
    host.b.rename(away)
    new = host.folder / "new.asc"
    answer = host.run(
        "keys", "rotate", "--key", host.key, "--new-recipient", "New <n@example.org>", "--recovery-key", new,
        "--no-passphrase",
    )  # fmt: skip
    assert answer.code == 3 and "b" in answer.err and "keys rotate" in answer.err
    away.rename(host.b)
    assert host.run("sync").code == 0
    assert host.run("keys", "rotate", "--key", new).code == 0
    shutil.rmtree(host.a)
    assert host.run("restore", "latest", "--from", "b", "--key", new, "--target", tmp_path / "t").code == 0
    assert host.run("restore", "latest", "--from", "b", "--key", host.key, "--target", tmp_path / "u").code == 12


def public_key(folder: Path) -> tuple[Path, Path, str]:
    """A stranger's key: file with the public half, one with the private half, fingerprint."""
    with Keyring(folder / "ring") as ring:
        fingerprint = ring.generate("Third <t@example.org>")
        public, private = folder / "third.asc", folder / "third.key"
        public.write_bytes(ring.export_public([fingerprint]))
        private.write_bytes(ring.export_secret(fingerprint))
    return public, private, fingerprint


def test_add_and_remove(host: Machine, tmp_short: Path, tmp_path: Path) -> None:
    """Who is added opens everything; who is removed nothing; each act is one event of the audit log."""
    public, private, fingerprint = public_key(tmp_short)
    (old,), _ = recipients(host)
    answer = host.run("keys", "add", public)
    assert answer.code == 3 and "keys rotate" in answer.err, "no private key: only the future"
    assert recipients(host)[0] == [old, fingerprint]
    assert host.run("restore", "latest", "--key", private, "--target", tmp_path / "not-yet").code == 12
    assert host.run("keys", "rotate", "--key", host.key).code == 0
    assert host.run("restore", "latest", "--key", private, "--target", tmp_path / "third").code == 0
    assert host.run("keys", "remove", old, "--key", private).code == 0
    assert recipients(host) == ([fingerprint], [old])
    assert host.run("restore", "latest", "--key", host.key, "--target", tmp_path / "gone").code == 12
    assert host.run("restore", "latest", "--key", private, "--target", tmp_path / "fourth").code == 0
    events = host.run("audit", "search", "--op", "keys.remove", "--json")
    assert events.code == 0 and "keys.remove" in events.out
    assert host.run("backup").code == 0


def test_what_would_lock_everybody_out_is_refused(host: Machine, tmp_short: Path) -> None:
    """The last recipient; the only one who opens what is there; a key of nobody; all before anything is changed."""
    public, private, _ = public_key(tmp_short)
    (old,), _ = recipients(host)
    text = host.config.read_text()
    assert host.run("keys", "remove", old, "--key", host.key).code == 2
    assert host.run("keys", "rotate", "--key", private).code == 12
    assert host.run("keys", "rotate").code == 12
    assert host.run("keys", "remove", "F" * 40).code == 2
    assert host.run("keys", "remove", "short").code == 2
    assert host.run("keys", "add", host.folder / "nowhere.asc").code == 2
    assert host.run("keys", "rotate", "--key", host.key, "--recipient", public, "--new-recipient", "x").code == 2
    assert host.config.read_text() == text
    assert host.run("keys", "add", public).code == 3
    answer = host.run("keys", "remove", old)
    assert answer.code == 12 and "nobody who would be left" in answer.err
    assert old in recipients(host)[0]


def test_the_new_recovery_key_file_is_whole(host: Machine) -> None:
    """It names this repository and the config's signers; one that exists is never overwritten."""
    new, _ = rotated(host)
    known = read_key_file(new)
    said = json.loads((host.a / "opskit.json").read_text())
    keys = host.run("config", "show", "--json").json["keys"]
    assert known.repository == said["id"] and list(known.signers) == keys["signers"]
    before = new.read_bytes()
    again = host.run(
        "keys", "rotate", "--key", new, "--new-recipient", "x", "--recovery-key", new, "--no-passphrase"
    )  # fmt: skip
    assert again.code == 2 and new.read_bytes() == before


def test_a_lost_host_comes_back_after_a_rotation(host: Machine, tmp_path: Path) -> None:
    """`init --from` with the new key brings back who was retired, too: the mark is believed and nothing is missing."""
    new, _ = rotated(host)
    assert host.run("backup").code == 0
    shutil.rmtree(host.state)
    host.config.unlink()
    answer = host.run("init", "--from", host.a, "--key", new, "--no-recovery-key")
    assert answer.code == 0, answer.err
    assert host.run("verify").code == 0
    (result,) = host.run("backup", "--json").json
    assert result["new_bytes"] == 0 and not result["errors"]


def test_a_lost_host_comes_back_with_the_recipients_of_today(host: Machine, tmp_short: Path, tmp_path: Path) -> None:
    """Lost before the next backup after a rotation: it writes for the new key, not for the one of its last config."""
    (old,), _ = recipients(host)
    new, _ = rotated(host)
    (now,), _ = recipients(host)
    public, _, third = public_key(tmp_short)
    assert host.run("keys", "add", public, "--key", new).code == 0
    shutil.rmtree(host.state)
    host.config.unlink()
    answer = host.run("init", "--from", host.a, "--key", new, "--no-recovery-key")
    assert answer.code == 0, answer.err
    assert recipients(host) == ([now], [old])
    with Keyring(tmp_short / "ring") as ring:
        (info,) = ring.keys()
    assert info.fingerprint == third and any(f"{each} opens the backups too" in answer.err for each in info.key_ids)
    (host.source / "after").write_text("the loss\n")
    assert host.run("backup").code == 0 and host.run("verify").code == 0
    assert host.run("restore", "latest", "--key", new, "--target", tmp_path / "yes").code == 0
    assert host.run("restore", "latest", "--key", host.key, "--target", tmp_path / "no").code == 12


def of_key(machine: Machine, fingerprint: str) -> dict[str, object]:
    (found,) = (key for key in machine.run("keys", "list", "--json").json if key["fingerprint"] == fingerprint)
    return found  # type: ignore[no-any-return]


def test_an_old_key_is_safe_to_destroy_only_when_nothing_needs_it(host: Machine) -> None:
    """Not while a copy was not seen, nor while one still needs it; then it says so."""
    (old,), _ = recipients(host)
    opens = {"key_objects": 3, "runs": 3, "needed": 0}
    assert of_key(host, old)["opens"] == {"a": opens, "b": opens}
    away = host.folder / "away"
    host.b.rename(away)
    new = host.folder / "new.asc"
    host.run(
        "keys", "rotate", "--key", host.key, "--new-recipient", "New <n@example.org>", "--recovery-key", new,
        "--no-passphrase",
    )  # fmt: skip
    seen = of_key(host, old)
    assert (seen["opens"], seen["safe_to_destroy"], seen["not_seen"]) == ({}, False, ["b"])
    away.rename(host.b)
    seen = of_key(host, old)
    assert seen["safe_to_destroy"] is False and seen["opens"] == {"b": {**opens, "needed": 3}}
    assert "STILL NEEDED" in host.run("keys", "list").err
    assert host.run("sync").code == 0
    assert of_key(host, old)["safe_to_destroy"] is True, "the new key opens all of it at b, too"
    assert host.run("keys", "rotate", "--key", new).code == 0
    seen = of_key(host, old)
    assert seen["opens"] == {} and seen["safe_to_destroy"] is True
    assert "safe to destroy" in host.run("keys", "list").err


def test_a_stranger_who_opens_something_is_shown(host: Machine, tmp_short: Path) -> None:
    """A key object for somebody whom the config does not name: by his key id, or whose it is."""
    _, _, fingerprint = public_key(tmp_short)
    with Keyring(tmp_short / "ring") as ring:
        data = ring.encrypt(b"{}", [fingerprint])
    (host.a / "keys" / f"{sha256(data).hexdigest()}.asc").write_bytes(data)
    (stranger,) = (key for key in host.run("keys", "list", "--json").json if key["roles"] == ["unknown"])
    assert stranger["opens"] == {"a": {"key_objects": 1, "runs": 0, "needed": 1}}


def encrypting_only(folder: Path) -> tuple[Path, Path, str]:
    """A key whose primary part only certifies, with a part that encrypts: public, private, fingerprint."""
    home = folder / "card"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "Card <c@example.org>", "ed25519", "cert", "never"], check=True)
    with Keyring(home) as ring:
        (key,) = ring.keys()
        subprocess.run([*gpg, "--quick-add-key", key.fingerprint, "cv25519", "encr", "never"], check=True)
        public, private = folder / "card.asc", folder / "card.key"
        public.write_bytes(ring.export_public([key.fingerprint]))
        private.write_bytes(ring.export_secret(key.fingerprint))
    return public, private, key.fingerprint


def test_a_key_that_cannot_be_used_changes_nothing(host: Machine, tmp_short: Path) -> None:
    """A wrong passphrase, a key that cannot sign: refused before config or key files change, in a dry run as well."""
    (old,), _ = recipients(host)
    public, private, _ = encrypting_only(tmp_short)
    assert host.run("keys", "add", public, "--key", host.key).code == 0
    right, wrong = tmp_short / "right", tmp_short / "wrong"
    right.write_text("the right one")
    wrong.write_text("another one")
    for each in (right, wrong):
        each.chmod(0o600)
    guarded = tmp_short / "guarded.asc"
    answer = host.run(
        "keys", "rotate", "--key", host.key, "--new-recipient", "G <g@example.org>", "--recovery-key", guarded,
        "--new-passphrase", f"file://{right}",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    before = host.config.read_text()
    new = tmp_short / "new.asc"
    comes = ("--new-recipient", "New <n@example.org>", "--recovery-key", new, "--no-passphrase")
    for more in ((), ("--dry-run",)):
        for words in (("rotate", *comes), ("rotate",), ("remove", recipients(host)[0][1])):
            answer = host.run("keys", *words, "--key", guarded, "--passphrase", f"file://{wrong}", *more)
            assert answer.code == 12 and "passphrase" in answer.err, answer.err
        answer = host.run("keys", "remove", recipients(host)[0][0], "--key", private, *more)
        assert answer.code == 12 and "sign" in answer.err, answer.err
    assert host.config.read_text() == before and not new.exists()
    words = ("keys", "rotate", "--key", private, "--replace", recipients(host)[0][0], *comes)
    assert host.run(*words, "--dry-run").code == 0, "the new key agrees"
    assert host.run(*words).code == 0 and of_key(host, old)["safe_to_destroy"] is True


def test_a_passphrase_that_is_not_there_changes_nothing(host: Machine, tmp_short: Path) -> None:
    """Who comes would open what others do by a passphrase: without it neither config nor key objects change."""
    public, _, _ = public_key(tmp_short)
    host.edit_config("keys:\n", f'keys:\n  passphrase: "file://{tmp_short}/absent"\n')
    before = host.config.read_text()
    answer = host.run("keys", "add", public, "--key", host.key)
    assert answer.code == 12 and "keys.passphrase" in answer.err and host.config.read_text() == before


def test_what_no_key_opens_is_not_called_done(host: Machine, tmp_short: Path) -> None:
    """Where only a retired key opens what is left, rotating with another one does not say there is nothing to do."""
    public, private, _ = public_key(tmp_short)
    assert host.run("keys", "add", public).code == 3
    answer = host.run("keys", "rotate", "--key", private)
    assert answer.code == 3 and "nothing to do" not in answer.out and "left as it is" in answer.err


def other_host(machine: Machine, folder: Path) -> Machine:
    """Another host that backs something up of its own into the same copies, with the recipients of this moment."""
    other = Machine(folder)
    left_out = shutil.ignore_patterns("S.*", "*.lock", "cache", "trees", "heads")
    shutil.copytree(machine.state, other.state, ignore=left_out)
    other.source.mkdir()
    (other.source / "own").write_text("what only the other host has\n")
    text = machine.config.read_text().replace(str(machine.state), str(other.state))
    label = next(line for line in text.splitlines() if line.startswith("host: "))
    other.config.write_text(text.replace(str(machine.source), str(other.source)).replace(label, "host: other"))
    assert other.run("backup").code == 0
    return other


def test_no_key_is_safe_while_another_host_may_write_for_it(host: Machine, tmp_short: Path) -> None:
    """Until a backup of that host shows that it follows, one with nothing new does; what it writes meanwhile opens."""
    (old,), _ = recipients(host)
    other = other_host(host, tmp_short / "other")
    rotated(host)
    seen = of_key(host, old)
    assert seen["opens"] == {} and seen["safe_to_destroy"] is False and seen["unsure_hosts"] == ["other"]
    assert (
        "do not destroy it yet" in (told := host.run("keys", "list").err)
        and "the newest backup of other was for no" in told
    )
    (other.source / "more").write_text("for the old key\n")
    assert other.run("backup").code == 0
    assert of_key(host, old)["safe_to_destroy"] is False
    assert "STILL NEEDED" in host.run("keys", "list").err
    public = tmp_short / "new.pub"
    with Keyring(host.state / "gnupg") as ring:
        public.write_bytes(ring.export_public(recipients(host)[0]))
    assert other.run("keys", "add", public).code == 3
    assert other.run("keys", "remove", old, "--key", host.key).code == 0
    assert of_key(host, old)["safe_to_destroy"] is False, "nothing shows that it was told"
    assert other.run("backup").code == 0
    seen = of_key(host, old)
    assert seen["safe_to_destroy"] is True and seen["unsure_hosts"] == []


def test_no_key_is_safe_while_snapshots_of_somebody_unknown_are_there(host: Machine, tmp_short: Path) -> None:
    """They may be of a host that the config does not name yet, and that goes on to write for the old key."""
    (old,), _ = recipients(host)
    rotated(host)
    assert of_key(host, old)["safe_to_destroy"] is True
    with Keyring(tmp_short / "strange") as ring:
        data = ring.sign(b"{}", ring.generate("opskit host other"))
    (host.a / "snapshots" / f"20260101T000000Z-own-{sha256(data).hexdigest()}.gpg").write_bytes(data)
    assert of_key(host, old)["safe_to_destroy"] is False
    assert "believed was not seen" in host.run("keys", "list").err


def test_what_an_away_copy_needs_a_key_for_is_counted_whole(host: Machine, tmp_path: Path) -> None:
    """Later snapshots hint at the new key objects for the old runs; the runs at the copy that was away still count."""
    (old,), _ = recipients(host)
    away = host.folder / "away"
    host.b.rename(away)
    words = ("--new-recipient", "New <n@example.org>", "--recovery-key", tmp_path / "new.asc", "--no-passphrase")
    assert host.run("keys", "rotate", "--key", host.key, *words).code == 3
    (host.source / "after").write_text("the rotation\n")
    assert host.run("backup").code == 3
    away.rename(host.b)
    assert of_key(host, old)["opens"] == {"b": {"key_objects": 3, "runs": 3, "needed": 3}}


def test_a_key_file_alone_follows_what_other_recipients_agreed_to(host: Machine, tmp_path: Path) -> None:
    """After two rotations the newest file, and after another recipient's the one beside it: nothing is missing."""
    keys = [host.key]
    for number in range(3):
        new = tmp_path / f"new-{number}.asc"
        comes = ("--new-recipient", f"N{number} <n@example.org>", "--recovery-key", new, "--no-passphrase")
        assert host.run("keys", "rotate", "--key", keys[-1], *comes).code == 0
        keys.append(new)
    for words in (("verify",), ("restore", "latest", "--target", tmp_path / "back")):
        answer = run(*words, "--repository", host.a, "--key", keys[-1])
        assert answer.code == 0, answer.out + answer.err


def test_an_outdated_config_does_not_lock_anybody_out_in_silence(host: Machine, tmp_short: Path) -> None:
    """Whom only another host's config names is named when a rotation leaves him out, by a dry run as well."""
    other = other_host(host, tmp_short / "other")
    public, _, third = public_key(tmp_short)
    assert host.run("keys", "add", public, "--key", host.key).code == 0
    with Keyring(tmp_short / "ring") as ring:
        (info,) = ring.keys()
    for more in (("--dry-run",), ()):
        answer = other.run("keys", "rotate", "--key", host.key, *more)
        assert answer.code == 0 and any(f"{each} could open" in answer.err for each in info.key_ids), answer.err
    assert host.run("keys", "rotate", "--key", host.key).code == 0
    answer = host.run("keys", "remove", third, "--key", host.key)
    assert answer.code == 0 and "could open" not in answer.err, "he is retired: it was meant"


def test_hints_name_what_helps(host: Machine, tmp_path: Path) -> None:
    """Of the new key's passphrase its own option; of an old key, that keys may have been rotated."""
    words = ("--new-recipient", "N <n@example.org>", "--recovery-key", tmp_path / "n.asc")
    assert "--new-passphrase" in host.run("keys", "rotate", "--key", host.key, *words).err
    rotated(host)
    answer = host.run("restore", "latest", "--key", host.key, "--target", tmp_path / "no")
    assert answer.code == 12 and "opskit keys list" in answer.err


def rotation(machine: Machine, new: Path) -> tuple[object, ...]:
    return ("keys", "rotate", "--key", machine.key, "--new-recipient", "New <n@x.org>", "--no-passphrase",
            "--recovery-key", new)  # fmt: skip


def killed_before_the_config_changes(machine: Machine, new: Path) -> None:
    killed = (
        "import os, sys; from opskit.setup import recipients; from opskit.cli import main;"
        "recipients.write = lambda path, keys: os._exit(9); sys.exit(main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", killed, "--config", str(machine.config), *map(str, rotation(machine, new))]
    assert subprocess.run(arguments, capture_output=True).returncode == 9


def test_a_key_file_that_a_kill_left_is_told_of(host: Machine) -> None:
    """Killed before the config names the new key, a run leaves a file that opens nothing: the next run says so."""
    new, other = host.folder / "new.asc", host.folder / "other.asc"
    killed_before_the_config_changes(host, new)
    config = host.config.read_text()
    again = host.run(*rotation(host, new))
    assert again.code == 2 and "opens no backup" in again.err and new.exists() and host.config.read_text() == config
    elsewhere = host.run(*rotation(host, other))
    assert elsewhere.code == 0 and f"{new} is of an earlier run" in elsewhere.err
    told_once = host.run("keys", "rotate", "--key", other)
    assert told_once.code == 0 and "earlier run" not in told_once.err
    assert host.run("restore", "latest", "--key", other, "--target", host.folder / "t").code == 0


def test_a_good_key_where_a_kill_left_another_is_not_accused(host: Machine) -> None:
    """Copied there, or on another stick that is mounted there now: nobody is told to remove it, nor a program."""
    new = host.folder / "new.asc"
    killed_before_the_config_changes(host, new)
    shutil.copy(host.key, new)
    again = host.run(*rotation(host, new))
    assert again.code == 2 and "never overwritten" in again.err and "remove" not in again.err, again.err
    dry = host.run("keys", "rotate", "--key", new, "--json", "--dry-run")
    assert dry.code == 0 and dry.json["unused_key"] is None
    answer = host.run("keys", "rotate", "--key", new)
    assert answer.code == 0 and "remove" not in answer.err and f"{new} is" not in answer.err
    assert re.search(f"not seen at {new} now: should one with the key [0-9A-F]{{40}} turn up", answer.err), answer.err


def test_a_key_file_that_could_not_be_written_is_not_told_of(host: Machine) -> None:
    """What failed without a kill left no file, so the next run has nothing to say."""
    refused = host.run(*rotation(host, host.folder / ("n" * 300)))
    assert refused.code == 2 and "cannot be written" in refused.err
    answer = host.run("keys", "rotate", "--key", host.key)
    assert answer.code == 0 and "earlier run" not in answer.err, answer.err


def test_no_key_file_stays_where_the_config_could_not_change(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout that no program edits is refused before a key is made; where the write itself fails the file goes."""
    new, text = host.folder / "new.asc", host.config.read_text()
    command = rotation(host, new)
    (mine,), _ = recipients(host)
    shared = text.replace("paths:", f'exclude: &x ["{mine}"], paths:', 1)
    host.config.write_text(re.sub(r'recipients: \["?[0-9A-F]+"?\]', "recipients: *x", shared))
    refused = host.run(*command)
    assert refused.code == 2 and not new.exists(), refused.err
    host.config.write_text(text)

    def full(path: Path, keys: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("opskit.setup.recipients.write", full)
    assert host.run(*command).code == 1 and not new.exists()
    monkeypatch.undo()
    answer = host.run(*command)
    assert answer.code == 0 and "earlier run" not in answer.err


def test_no_key_is_safe_while_a_run_key_is_nowhere_whole(host: Machine, tmp_short: Path) -> None:
    """Wrong bytes that heal put into quarantine may still open with the old key: it is kept until nothing is lost."""
    public, private, _ = public_key(tmp_short)
    (old,), _ = recipients(host)
    for each in (*host.a.glob("keys/*"), *host.b.glob("keys/*")):
        each.write_bytes(each.read_bytes() + b"\n")
    assert host.run("heal").code == 3 and len([*host.a.glob("quarantine/*")]) == 3
    assert host.run("keys", "add", public).code == 0 and host.run("keys", "remove", old).code == 0
    seen = of_key(host, old)
    assert seen["safe_to_destroy"] is False and len(seen["lost_runs"]) == 3
    answer = host.run("keys", "list")
    assert "do not destroy it yet" in answer.err and "quarantine" in answer.err
    for each in (host.a, host.b):  # what a person finds is right but for its last byte
        for aside in each.glob("quarantine/*"):
            data = aside.read_bytes()[:-1]
            (each / "keys" / f"{sha256(data).hexdigest()}.asc").write_bytes(data)
    assert "STILL NEEDED" in host.run("keys", "list").err
    assert host.run("keys", "rotate", "--key", host.key).code == 0
    assert of_key(host, old)["safe_to_destroy"] is True
    assert host.run("restore", "latest", "--key", private, "--target", host.folder / "t").code == 0


def test_no_key_is_safe_for_what_is_rotten(host: Machine) -> None:
    """Old key objects that stayed, by a lock say, need their key where what stands in for them is not whole."""
    olds = {path: path.read_bytes() for path in host.a.glob("keys/*")}
    (old,), _ = recipients(host)
    rotated(host)
    for path, data in olds.items():
        path.write_bytes(data)
    assert of_key(host, old)["safe_to_destroy"] is True
    (heir,) = set(host.a.glob("keys/*")) - olds.keys()
    heir.write_bytes(heir.read_bytes()[:-2] + b"x\n")
    assert of_key(host, old)["safe_to_destroy"] is False


def test_a_host_that_was_told_of_no_rotation_is_told_what_to_do(host: Machine, tmp_short: Path) -> None:
    """After two rotations elsewhere it knows nobody who agreed: no hint calls that an intruder's work."""
    other = other_host(host, tmp_short / "other")
    key = host.key
    for number in range(2):
        new = tmp_short / f"new-{number}.asc"
        comes = ("--new-recipient", f"N{number} <n@x.org>", "--recovery-key", new, "--no-passphrase")
        assert host.run("keys", "rotate", "--key", key, *comes).code == 0
        key = new
    for words in (("prune",), ("forget", "--dry-run")):
        answer = other.run(*words)
        assert answer.code == 13 and "opskit keys add" in answer.err and "keys.signers" not in answer.err, answer.err
    public = tmp_short / "new.pub"
    with Keyring(host.state / "gnupg") as ring:
        public.write_bytes(ring.export_public(recipients(host)[0]))
    assert "can now restore" in other.run("keys", "add", public).out
    assert other.run("prune").code == 0 and other.run("verify").code == 0


def test_a_revoked_recipient_spoils_his_consent_and_that_is_told(host: Machine, tmp_short: Path) -> None:
    """Who agreed to a rotation alone and was revoked since: it says so, and his key as it was before mends it."""
    public = public_key(tmp_short)[0]
    (old,), _ = recipients(host)
    assert host.run("keys", "rotate", "--key", host.key, "--recipient", public).code == 0
    home = private_folder(tmp_short / "owner")
    raw_gpg(home, "--import", data=read_key_file(host.key).secret)
    before = raw_gpg(home, "--armor", "--export", old)
    told = ["gpg", "--homedir", str(home), "--no-tty", "--pinentry-mode", "loopback", "--command-fd", "0"]
    answers = {"input": b"y\n0\n\ny\n", "capture_output": True}
    revocation = subprocess.run([*told, "--passphrase", "", "--gen-revoke", old], **answers).stdout  # type: ignore[call-overload]
    stop_agent(home)
    raw_gpg(host.state / "gnupg", "--import", data=revocation)
    for words in (("prune",), ("keys", "rotate", "--dry-run", "--key", host.key)):
        answer = host.run(*words)
        assert answer.code == 13 and "a key that was revoked" in answer.err and "operations.md" in answer.err, (
            answer.err
        )
    raw_gpg(host.state / "gnupg", "--delete-keys", old)
    raw_gpg(host.state / "gnupg", "--import", data=before)
    assert host.run("verify").code == 0 and host.run("prune").code == 0


def test_two_keys_that_expired_together_are_renewed_or_replaced_one_after_the_other(
    host: Machine, tmp_short: Path
) -> None:
    """The config follows, and says what waits; no step asks for both at once, nor for a key that was given."""
    home = private_folder(tmp_short / "keys")
    both = [dated_key(home, name, "20240101", "1y") for name in ("one", "two")]

    def public_of(fingerprint: str) -> Path:
        path = tmp_short / f"{fingerprint}.asc"
        path.write_bytes(raw_gpg(home, "--armor", "--export", fingerprint))
        return path

    with Keyring(host.state / "gnupg") as ring:
        for each in both:
            ring.import_keys(public_of(each).read_bytes())
    (mine,), _ = recipients(host)
    host.config.write_text(re.sub(r'recipients: \["?[0-9A-F]+"?\]', f'recipients: ["{mine}", {", ".join(both)}]',
                                  host.config.read_text()))  # fmt: skip
    assert host.run("keys", "add", public_of(both[0]), "--key", host.key).code == 2
    listing = raw_gpg(home, "--with-colons", "--list-keys", both[0]).decode()
    parts = [line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr")]
    for arguments in ((both[0], "1y"), (both[0], "1y", parts[1])):
        raw_gpg(home, "--quick-set-expire", *arguments, secret=b"")
    answer = host.run("keys", "add", public_of(both[0]), "--key", host.key)
    assert answer.code == 3 and both[1] in answer.err and both[0] not in answer.err, answer.err
    assert host.run("keys", "rotate", "--key", host.key).code == 12
    stuck = host.run("keys", "remove", mine, "--key", host.key)
    assert stuck.code == 12 and "nobody who would be left" in stuck.err and recipients(host)[0] == [mine, *both]
    assert f"or remove first who cannot be encrypted to: {both[1]}" in stuck.err and "--key" not in stuck.err
    assert host.run("keys", "remove", both[1], "--key", host.key).code == 0
    assert host.run("backup").code == 0 and recipients(host)[0] == [mine, both[0]]

"""`opskit init`: unattended, by questions, repeated, interrupted, and for a host that was lost."""

from __future__ import annotations

import itertools
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from opskit.access import read_key_file
from opskit.cli.wizard import label_of
from opskit.config.load import load
from opskit.gpg import Keyring
from opskit.operations.lock import exclusive
from tests.cli.hosts import Machine, everything, fill, objects, run, snapshot_of
from tests.cli.running import OPSKIT, clean
from tests.gpg.keys import private_folder
from tests.operations.judging import assert_equal
from tests.stores.mounts import mounted


@pytest.fixture
def fresh(tmp_path: Path) -> Machine:
    """A host before init."""
    machine = Machine(tmp_path / "fresh")
    fill(machine.source)
    return machine


def test_unattended(fresh: Machine) -> None:
    """One command makes config, key, both repositories and the recovery-key file, closed to others."""
    answer = fresh.init()
    assert answer.code == 0, answer
    assert "a: repository made" in answer.out and str(fresh.key) in answer.out
    assert "move the recovery key off this host" in answer.err
    for path in (fresh.config, fresh.key):
        assert path.stat().st_mode & 0o777 == 0o600
    assert fresh.state.stat().st_mode & 0o777 == 0o700
    assert fresh.key.read_bytes().count(b"BEGIN PGP PRIVATE KEY BLOCK") == 1
    assert (fresh.a / "opskit.json").read_bytes() == (fresh.b / "opskit.json").read_bytes()
    assert (fresh.a / "copy.json").read_bytes() != (fresh.b / "copy.json").read_bytes()
    assert {"recover.py", "RECOVER.md"} <= {path.name for path in fresh.a.iterdir()}


def test_the_recovery_key_is_not_kept(fresh: Machine) -> None:
    """After init the host's key ring holds no private half but the host's own."""
    fresh.init()
    with Keyring(fresh.state / "gnupg") as keyring:
        assert [key.has_secret for key in keyring.keys() if key.can_encrypt and "Safe" in key.user_id] == [False]
        assert sum(key.has_secret for key in keyring.keys()) == 1


def test_json(fresh: Machine) -> None:
    """The fields of `init --json`."""
    made = fresh.init("--json").json
    assert set(made) == {"config", "recovery_key", "created", "present", "failed", "warnings"}
    assert (made["created"], made["present"], made["failed"]) == (["a", "b"], [], {})


def test_repeated(machine: Machine) -> None:
    """A second init finds everything there and changes nothing."""
    machine.run("backup")
    kept = {
        path: path.read_bytes() for path in machine.folder.rglob("*") if path.is_file() and "cache" not in str(path)
    }
    answer = machine.run("init")
    assert answer.code == 0 and "repository is there" in answer.out
    for path, content in kept.items():
        if path.suffix == ".jsonl":
            assert path.read_bytes().startswith(content), "the audit log only grows"
        elif path.suffix != ".lock":
            assert path.read_bytes() == content, path


def test_a_destination_added_later(machine: Machine) -> None:
    """A new destination is added to the config, comments kept, made, and filled by the next backup."""
    machine.run("backup")
    machine.edit_config("version: 1", "version: 1  # my comment")
    answer = machine.run("init", "--destination", f"c={machine.folder / 'c'}")
    assert answer.code == 0 and "c: repository made" in answer.out
    assert "# my comment" in machine.config.read_text()
    (result,) = machine.run("backup", "--json").json
    assert result["destinations"] == {"a": "ok", "b": "ok", "c": "ok"}
    assert objects(machine.folder / "c", "packs") == objects(machine.a, "packs")
    assert (machine.folder / "c" / "opskit.json").read_bytes() == (machine.a / "opskit.json").read_bytes()


def test_a_half_made_repository_is_completed(machine: Machine) -> None:
    """What an interrupted init left out is made by the next one."""
    (machine.b / "opskit.json").unlink()
    assert machine.run("backup", "--quiet").code == 3
    assert machine.run("init").code == 0
    assert machine.run("backup", "--quiet").code == 0


def test_an_existing_recovery_key_file(fresh: Machine) -> None:
    """A file at --recovery-key is never overwritten: exit 2, no config, no repository."""
    fresh.key.write_text("the only key to last year's backups")
    answer = fresh.init()
    assert answer.code == 2 and "never overwritten" in answer.err
    assert fresh.key.read_text() == "the only key to last year's backups"
    assert not fresh.config.exists() and not fresh.a.exists() and not fresh.b.exists()
    fresh.key.unlink()
    assert fresh.init().code == 0


def test_the_folder_of_the_recovery_key_is_not_there(fresh: Machine) -> None:
    """A folder that may be a stick's is never made, by init or by init --from: exit 2, nothing is written."""
    stick = fresh.folder / "stick" / "safe"
    before = snapshot_of(fresh.folder)
    answer = fresh.init("--recovery-key", stick / "key.asc")
    assert answer.code == 2 and f"{stick} is not there" in answer.err and "mount the stick" in answer.err, answer
    assert snapshot_of(fresh.folder) == before
    assert fresh.init().code == 0 and fresh.run("backup").code == 0
    shutil.rmtree(fresh.state)
    before = snapshot_of(fresh.folder)
    answer = fresh.run("init", "--from", fresh.a, "--key", fresh.key, "--recovery-key", stick / "new.asc")
    assert answer.code == 2 and f"{stick} is not there" in answer.err
    assert snapshot_of(fresh.folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--source", "no-path"],
        ["--source", "=x"],
        ["--source", "A B=/x"],
        ["--source", "odd=/srv/\udcff"],
        ["--destination", "odd=/srv/\udcff"],
        ["--destination", "c=~nobody-of-this-name/x"],
        ["--recipient", "/nonexistent"],
        ["--recipient", "ABCD"],
        ["--recipient", "0" * 40],
        ["--source", "x=/x", "--source", "x=/y"],
        ["--destination", "c=ftp://x/y"],
    ],
)
def test_bad_values(fresh: Machine, arguments: list[str]) -> None:
    """A malformed NAME=PATH is exit 2, and nothing is made."""
    before = snapshot_of(fresh.folder)
    answer = fresh.init(*arguments)
    assert answer.code == 2 and answer.err.startswith("opskit: error:")
    assert snapshot_of(fresh.folder) == before


@pytest.mark.parametrize(
    ("left_out", "message"), [("--destination", "nowhere to back up to"), ("--new-recipient", "nobody could restore")]
)
def test_incomplete(fresh: Machine, left_out: str, message: str) -> None:
    """Without a destination, or without anybody who could restore, nothing is made."""
    given = {
        "--source": f"data={fresh.source}",
        "--destination": f"a={fresh.a}",
        "--new-recipient": "Safe <safe@example.org>",
        "--recovery-key": str(fresh.key),
    }
    arguments = [word for option, value in given.items() if option != left_out for word in (option, value)]
    answer = fresh.run("init", "--state-dir", fresh.state, "--no-passphrase", *arguments)
    assert answer.code == 2 and message in answer.err
    assert not fresh.config.exists() and not fresh.key.exists()


def test_no_terminal_for_a_passphrase(fresh: Machine) -> None:
    """A new recipient without --no-passphrase and without a terminal is exit 2, and nothing is made."""
    answer = fresh.run(
        "init", "--state-dir", fresh.state, "--source", f"data={fresh.source}", "--destination", f"a={fresh.a}",
        "--new-recipient", "Safe", "--recovery-key", fresh.key,
    )  # fmt: skip
    assert answer.code == 2 and "--no-passphrase" in answer.err
    assert not fresh.config.exists() and not fresh.key.exists() and not fresh.a.exists()


def test_recipients_by_public_key(fresh: Machine, tmp_short: Path, tmp_path: Path) -> None:
    """--recipient takes a public key file; the owner of its private half restores, nobody else."""
    with Keyring(private_folder(tmp_short / "owner")) as owner:
        fingerprint = owner.generate("owner <owner@example.org>")
        public, secret = tmp_path / "public.asc", tmp_path / "secret.asc"
        public.write_bytes(owner.export_public([fingerprint]))
        secret.write_bytes(owner.export_secret(fingerprint))
    common = ["--state-dir", fresh.state, "--source", f"data={fresh.source}", "--destination", f"a={fresh.a}"]
    refused = fresh.run("init", *common, "--recipient", secret)
    assert refused.code == 2 and "private key" in refused.err
    assert not fresh.config.exists() and not fresh.a.exists()
    assert fresh.run("init", *common, "--recipient", public).code == 0
    assert fresh.run("backup").code == 0
    assert fresh.run("restore", "latest", "--target", tmp_path / "r", "--key", secret).code == 0
    assert_equal(fresh.source, tmp_path / "r" / str(fresh.source)[1:])


def test_over_another_repository(machine: Machine, tmp_path: Path) -> None:
    """A destination that holds another host's repository is refused, and is left as it was."""
    machine.run("backup")
    before = snapshot_of(machine.a)
    other = Machine(tmp_path / "other")
    fill(other.source)
    answer = other.run(
        "init", "--state-dir", other.state, "--source", f"data={other.source}", "--destination", f"a={machine.a}",
        "--new-recipient", "Other", "--recovery-key", other.key, "--no-passphrase",
    )  # fmt: skip
    assert answer.code == 2 and "--from" in answer.err
    assert snapshot_of(machine.a) == before
    assert not other.config.exists() and not other.key.exists()


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("damage", ["gone", "rubbish"])
def test_over_the_remains_of_another_repository(machine: Machine, tmp_path: Path, is_known: bool, damage: str) -> None:
    """Where snapshots are, and nothing says of which repository, none is made: they would not be read any more."""
    assert machine.run("backup").code == 0
    (machine.a / "copy.json").unlink()
    (machine.a / "opskit.json").write_text("rubbish")
    if damage == "gone":
        (machine.a / "opskit.json").unlink()
    before = snapshot_of(machine.a)
    other = Machine(tmp_path / "other")
    fill(other.source)
    if is_known:
        assert other.init().code == 0
        answer = other.run("init", "--destination", f"c={machine.a}")
        assert answer.code != 0 and "opskit.json" in answer.err
    else:
        answer = other.init("--destination", f"c={machine.a}")
        assert answer.code == 2 and "expected an empty folder" in answer.err
        assert not other.key.exists() and not other.a.exists()
    assert snapshot_of(machine.a) == before


def test_who_can_restore_is_not_changed(machine: Machine) -> None:
    """On a host with a config, init does not add recipients."""
    answer = machine.run("init", "--new-recipient", "X", "--recovery-key", machine.folder / "x", "--no-passphrase")
    assert answer.code == 2 and not (machine.folder / "x").exists()


def test_an_unreachable_destination(fresh: Machine) -> None:
    """One destination that cannot be made is exit 3; init again completes it."""
    fresh.folder.joinpath("b").write_text("a file in the way")
    answer = fresh.init()
    assert answer.code == 3 and "a: repository made" in answer.out and "b: " in answer.err
    fresh.b.unlink()
    assert fresh.run("init").code == 0
    assert fresh.run("backup").code == 0


def test_a_destination_that_is_not_mounted(machine: Machine) -> None:
    """A destination that was made and is gone is not made again by init alone, but by naming it."""
    machine.b.rename(machine.folder / "unplugged")
    for _ in range(2):
        answer = machine.run("init")
        assert answer.code == 3 and "is it mounted?" in answer.err, answer
        assert f"opskit init --destination b={machine.b}" in answer.err
        assert not machine.b.exists()
    machine.b.mkdir()
    assert machine.run("init").code == 3 and not list(machine.b.iterdir())
    assert machine.run("backup", "--quiet").code == 3
    assert machine.run("init", "--destination", f"b={machine.folder / 'c'}").code == 2
    answer = machine.run("init", "--destination", f"b={machine.b}")
    assert answer.code == 0 and "b: repository made" in answer.out
    (machine.b / "RECOVER.md").unlink()
    (machine.b / "copy.json").unlink()
    assert machine.run("init").code == 0
    assert (machine.b / "RECOVER.md").exists() and (machine.b / "copy.json").exists()


def test_a_source_of_another_path(machine: Machine) -> None:
    """A source that the config knows with another path is refused and named, with the same path it is taken."""
    config = machine.config.read_text()
    answer = machine.run("init", "--source", "data=/etc")
    assert answer.code == 2 and f"--source data: the config says {machine.source}, got /etc" in answer.err
    assert machine.config.read_text() == config
    assert machine.run("init", "--source", f"data={machine.source}/").code == 0
    machine.edit_config("sources:", "sources:\n  dump: {command: [echo], filename: x}")
    answer = machine.run("init", "--source", "dump=/etc")
    assert answer.code == 2 and "the config says a command" in answer.err


def test_a_source_that_is_not_there(fresh: Machine) -> None:
    """init warns of a source that no backup could read now, each time, and ends well."""
    absent = fresh.folder / "later"
    assert f"{absent} is not there" in fresh.init("--source", f"late={absent}").err
    assert f"sources.late.paths: {absent} is not there" in "".join(fresh.run("init", "--json").json["warnings"])
    absent.mkdir()
    assert "is not there" not in fresh.run("init").err


def test_the_folders_above_a_destination_are_missing(fresh: Machine) -> None:
    """They are made, with a warning that names them where they come to lie on the disk of the system."""
    place = fresh.folder / "mnt" / "usb" / "opskit"
    answer = fresh.init("--destination", f"usb={place}")
    assert answer.code == 0 and (place / "opskit.json").exists()
    is_on_root = fresh.folder.stat().st_dev == Path("/").stat().st_dev
    assert (f"usb: {fresh.folder / 'mnt'} was not there: it was made" in answer.err) == is_on_root, answer.err
    assert "was not there" not in fresh.run("init").err, "said once"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipient", "/nonexistent"], "no such file, and no such key in your gpg"),
        (["--recipient", "ABCD"], "no such file, and no such key in your gpg"),
        (["--recipient", "{folder}/data/large.bin"], "holds no OpenPGP public key\nopskit: hint: "),
        (["--source", "odd=/srv/\udcff"], "--source odd: expected a path in UTF-8"),
        (["--source", "A B=/x"], "--source: not a name"),
        (["--destination", "c={folder}/a/c"], "opskit: error: --destination c: shares its folder"),
    ],
)
def test_errors_name_the_option(fresh: Machine, arguments: list[str], message: str) -> None:
    """What is wrong with an argument is said of the option, not of a line in a file nobody wrote."""
    answer = fresh.init(*[word.format(folder=fresh.folder) for word in arguments])
    assert answer.code == 2 and message in answer.err, answer.err
    assert "opskit.yaml:" not in answer.err and not fresh.state.exists()


def test_the_home_folder(fresh: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in arguments is the home folder, and no folder is made of that name."""
    monkeypatch.setenv("HOME", str(fresh.folder))
    monkeypatch.chdir(fresh.source)
    answer = fresh.run(
        "init", "--state-dir", "~/state", "--source", "data=~/data", "--destination", "a=~/a",
        "--new-recipient", "Safe", "--recovery-key", "~/key.asc", "--no-passphrase",
    )  # fmt: skip
    assert answer.code == 0, answer
    assert fresh.state.is_dir() and fresh.key.exists() and (fresh.a / "opskit.json").exists()
    assert not list(fresh.source.glob("~*")) and f"{fresh.source}" in fresh.config.read_text()


def test_the_state_of_a_user(fresh: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --state-dir a user who is not root gets it below the home folder, and the config says so."""
    monkeypatch.setenv("HOME", str(fresh.folder))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    answer = fresh.run(
        "init", "--source", f"data={fresh.source}", "--destination", f"a={fresh.a}",
        "--new-recipient", "Safe", "--recovery-key", fresh.key, "--no-passphrase",
    )  # fmt: skip
    assert answer.code == 0, answer
    state = fresh.folder / ".local" / "state" / "opskit"
    assert f"state_dir: {state}\n" in fresh.config.read_text() and (state / "opskit.json").exists()


def test_quiet(fresh: Machine) -> None:
    """With --quiet init says nothing but warnings."""
    answer = fresh.init("--quiet")
    assert answer.code == 0 and answer.out == ""
    assert all(line.startswith("opskit: warning:") for line in answer.err.splitlines())


# A host that was lost


def test_a_new_recovery_key_is_not_forgotten(used: Machine, backed_up: Machine) -> None:
    """init --from without --recovery-key is refused before anything is made, unless one says that none is wanted."""
    assert used.run("backup").code == 0  # else the newest config names the copies that this host was copied from
    shutil.rmtree(used.state)
    used.config.unlink()
    lost = ["init", "--from", used.a, "--key", used.key, "--state-dir", used.state]
    answer = used.run(*lost)
    assert answer.code == 2 and "--recovery-key NEWFILE" in answer.err
    assert used.run(*lost, "--recovery-key", used.key).code == 2, "never over the old one"
    assert not used.state.exists() and not used.config.exists()
    answer = used.run(*lost, "--no-recovery-key")
    assert answer.code == 0 and "no recovery-key file knows" in answer.err


def test_a_lost_state(used: Machine, backed_up: Machine) -> None:
    """Only the state gone: init says what to do, and init --from keeps the config's text but for the keys."""
    used.edit_config("version: 1", "version: 1  # my comment")
    before = used.config.read_text()
    shutil.rmtree(used.state)
    for command in ("backup", "init"):
        answer = used.run(command)
        assert answer.code != 0 and "init --from LOCATION" in answer.err, answer
    used.b.rename(used.folder / "unplugged")
    new_key = used.folder / "new-key.asc"
    answer = used.run("init", "--from", used.a, "--key", used.key, "--recovery-key", new_key)
    assert answer.code == 0, answer
    after = used.config.read_text()
    assert "# my comment" in after and len(load(used.config).keys.signers) == 2
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert all("host" in line or "signers" in line or "maintainers" in line or "[" in line for line in changed)
    assert used.run("init").code == 3 and not used.b.exists(), "it may only be absent"
    (used.folder / "unplugged").rename(used.b)
    assert used.run("init").code == 0
    assert used.run("backup", "--quiet").code == 0


def test_a_config_that_cannot_be_edited(used: Machine, backed_up: Machine) -> None:
    """Where the keys cannot be put into the config, it stays as it was, and the new one lies beside it."""
    text = used.config.read_text()
    used.config.write_text("".join(line for line in text.splitlines(True) if "maintainers:" not in line))
    before = used.config.read_text()
    shutil.rmtree(used.state)
    answer = used.run("init", "--from", used.a, "--key", used.key, "--no-recovery-key")
    beside = used.folder / "opskit.yaml.restored"
    assert answer.code == 0 and "compare it with" in answer.err and str(beside) in answer.err
    assert used.config.read_text() == before
    beside.rename(used.config)
    assert used.run("backup", "--quiet").code == 0


def test_a_lost_host_comes_back(used: Machine, backed_up: Machine, tmp_path: Path) -> None:
    """Config and state gone: init --from brings both back, and the next backup uploads nothing but its manifest."""
    (used.source / "newest").write_text("newest\n")
    assert used.run("backup").code == 0
    config = used.config.read_text()
    shutil.rmtree(used.state)
    used.config.unlink()
    new_key = used.folder / "new-key.asc"
    answer = used.run("init", "--from", used.a, "--key", used.key, "--recovery-key", new_key)
    assert answer.code == 0, answer
    assert new_key.stat().st_mode & 0o777 == 0o600
    assert len(read_key_file(new_key).signers) == len(read_key_file(used.key).signers) + 1
    assert sorted(line for line in config.splitlines() if "path" in line) == sorted(
        line for line in used.config.read_text().splitlines() if "path" in line
    )
    before = {copy: everything(copy) for copy in (used.a, used.b)}
    (result,) = used.run("backup", "--json").json
    assert result["errors"] == [] and result["destinations"] == {"a": "ok", "b": "ok"}
    assert result["new_bytes"] == result["stored_bytes"] == 0
    for copy, there in before.items():
        (new,) = everything(copy) - there
        assert new.startswith("snapshots/")
    for number, each in enumerate(used.run("snapshots", "--json").json):
        target = tmp_path / str(number)
        assert used.run("restore", each["id"], "--target", target, "--key", new_key).code == 0
        alone = ["--repository", used.b, "--key", new_key, "--target", f"{target}-alone"]
        assert run("restore", each["id"], *alone).code == 0, "the new file trusts both host keys"
    assert len(used.run("snapshots", "--json").json) == 4


def test_what_a_new_host_learnt_outlives_its_cache(used: Machine) -> None:
    """The copies hold index objects for the new host's key: without the cache a backup stores roots alone, no data.

    And what the new host backed up brings a third one back.
    """
    assert used.run("backup").code == 0
    keys = [used.key, used.folder / "second.asc", used.folder / "third.asc"]
    for key, new_key in itertools.pairwise(keys):
        shutil.rmtree(used.state)
        used.config.unlink()
        assert used.run("init", "--from", used.b, "--key", key, "--recovery-key", new_key).code == 0
        shutil.rmtree(used.state / "cache")
        (result,) = used.run("backup", "--json").json
        assert result["errors"] == [] and result["bytes"] > 1_000_000 and result["new_bytes"] < 20_000
    assert used.run("verify").code == 0


def test_a_host_comes_back_where_a_copy_cannot_be_written(used: Machine) -> None:
    """What init --from cannot store at a copy is told, and that copy gets it with the next backup."""
    assert used.run("backup").code == 0
    shutil.rmtree(used.state)
    used.config.unlink()
    used.b.rename(used.folder / "away")
    answer = used.run("init", "--from", used.a, "--key", used.key, "--no-recovery-key", "--json")
    assert answer.code == 0
    (told,) = answer.json["unready"]
    assert told.startswith("b: ")
    (used.folder / "away").rename(used.b)
    (result,) = used.run("backup", "--json").json
    assert result["destinations"] == {"a": "ok", "b": "ok"} and result["stored_bytes"] == 0
    assert {each for each in everything(used.a) if each != "copy.json"} <= everything(used.b)


def test_a_protected_key_brings_a_host_back_unattended(fresh: Machine, tmp_path: Path) -> None:
    """init --from takes the passphrase by a reference: the right one works, a wrong one is exit 12 and told as such."""
    arguments = [
        "init", "--state-dir", str(fresh.state), "--source", f"data={fresh.source}", "--destination", f"a={fresh.a}",
        "--new-recipient", "Safe <safe@example.org>", "--recovery-key", str(fresh.key),
    ]  # fmt: skip
    script = [(b"passphrase", b"correct horse"), (b"again", b"correct horse")]
    assert converse([*OPSKIT, "--config", str(fresh.config), *arguments], fresh.folder, script)[0] == 0
    assert fresh.run("backup").code == 0
    shutil.rmtree(fresh.state)
    lost = ["init", "--from", fresh.a, "--key", fresh.key, "--no-recovery-key"]
    for name, words in {"wrong": "incorrect horse", "right": "correct horse"}.items():
        (tmp_path / name).write_text(words)
        (tmp_path / name).chmod(0o600)
    unasked = fresh.run(*lost)
    assert unasked.code == 12 and "--passphrase file:/PATH" in unasked.err, unasked
    wrong = fresh.run(*lost, "--passphrase", f"file:{tmp_path / 'wrong'}")
    assert wrong.code == 12 and "the passphrase is wrong" in wrong.err and "horse" not in wrong.err, wrong
    answer = fresh.run(*lost, "--passphrase", f"file:{tmp_path / 'right'}")
    assert answer.code == 0, answer
    assert fresh.run("backup", "--quiet").code == 0


def test_a_new_recovery_key_gets_its_passphrase_unattended(fresh: Machine, tmp_path: Path) -> None:
    """A reference gives the new key's passphrase, which then opens it; an empty one is refused."""
    new = [
        "init", "--state-dir", fresh.state, "--source", f"data={fresh.source}", "--destination", f"a={fresh.a}",
        "--new-recipient", "Safe <safe@example.org>", "--recovery-key", fresh.key,
    ]  # fmt: skip
    for name, words in {"words": "correct horse", "empty": ""}.items():
        (tmp_path / name).write_text(words)
        (tmp_path / name).chmod(0o600)
    before = snapshot_of(fresh.folder)
    for wrong in (["--passphrase", f"file:{tmp_path / 'empty'}"], ["--passphrase", "env:X", "--no-passphrase"]):
        assert fresh.run(*new, *wrong).code in (2, 30) and snapshot_of(fresh.folder) == before
    assert fresh.run(*new, "--passphrase", f"file:{tmp_path / 'words'}").code == 0
    assert fresh.run("backup").code == 0
    restore = ["restore", "latest", "--key", fresh.key, "--target", tmp_path / "target"]
    assert fresh.run(*restore).code == 12
    assert fresh.run(*restore, "--passphrase", f"file:{tmp_path / 'words'}").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--key", "k"],
        ["--passphrase", "env:X"],
        ["--host", "h"],
        ["--no-recovery-key"],
        ["--from", "x", "--key", "k", "--no-recovery-key", "--source", "a=/etc"],
        ["--from", "x", "--key", "k", "--no-recovery-key", "--new-recipient", "X"],
    ],
)
def test_options_of_the_other_way(machine: Machine, arguments: list[str]) -> None:
    """What belongs to --from alone, or does not go with it, is exit 2 and not ignored."""
    before = snapshot_of(machine.folder)
    answer = machine.run("init", *arguments)
    assert answer.code == 2 and "--from" in answer.err, answer
    assert snapshot_of(machine.folder) == before


def test_what_to_type_next(fresh: Machine) -> None:
    """The command that init names next carries the --config that this one was given, quoted where needed."""
    odd = fresh.folder / "my config.yaml"
    answer = fresh.init("--config", odd)
    assert f"next: opskit backup --config '{odd}'" in answer.err, answer


def test_a_host_that_is_not_lost(machine: Machine) -> None:
    """init --from refuses where a config or a state is in the way, without a key, and with another's key."""
    machine.run("backup")
    assert machine.run("init", "--from", machine.a, "--key", machine.key, "--no-recovery-key").code == 2
    new = ["--config", machine.folder / "new.yaml", "init", "--state-dir", machine.state, "--no-recovery-key"]
    assert "holds the state of a host" in run(*new, "--from", machine.a, "--key", machine.key).err
    assert "--key FILE" in run(*new, "--from", machine.a).err
    assert not (machine.folder / "new.yaml").exists()
    elsewhere = ["--from", machine.folder / "nothing", "--key", machine.key, "--state-dir", machine.folder / "s"]
    elsewhere.append("--no-recovery-key")
    assert run("--config", machine.folder / "new.yaml", "init", *elsewhere).code in (10, 20)
    assert not (machine.folder / "s").exists()


# Questions


def converse(
    command: list[str], folder: Path, script: list[tuple[bytes, bytes]], environ: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Run a program on a terminal of its own and answer its questions (\\x03 is Ctrl-C); returns code and output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=clean({"TERM": "dumb", **(environ or {})}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, start, end = b"", 0, time.monotonic() + 60
    try:
        for question, reply in script:
            while question not in shown[start:]:
                assert select.select([ours], [], [], max(0, end - time.monotonic()))[0], shown
                shown += os.read(ours, 4096)
            start = len(shown)
            time.sleep(0.05)  # getpass drops what was typed before it asked
            if reply == b"\x03":
                process.send_signal(signal.SIGINT)  # the terminal is not a controlling one
            else:
                os.write(ours, reply + b"\n")
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:
                break
        return process.wait(60), shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def wizard(machine: Machine, *typed: tuple[bytes, bytes]) -> tuple[int, bytes]:
    """Answer all questions. The wizard keeps its state in /var/lib/opskit: here that is a file system of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root may mount")
    keep = 'mount -t tmpfs opskit-test /var/lib || exit 99; "$@"; code=$?; cp -r /var/lib/opskit state; exit $code'
    command = ["unshare", "--mount", "sh", "-c", keep, "sh", *OPSKIT, "--config", str(machine.config), "init"]
    script = [
        (b"must not be lost", bytes(machine.source)),
        (b"first copy", bytes(machine.a)),
        (b"restore", b"Safe <safe@example.org>"),
        (b"recovery key go", bytes(machine.key)),
        *((question, reply) for pair in typed for question, reply in zip((b"passphrase", b"again"), pair, strict=True)),
    ]
    code, shown = converse(command, machine.folder, script)
    if code == 99:
        pytest.skip("this machine may not mount a tmpfs")
    return code, shown


def test_the_wizard(fresh: Machine) -> None:
    """Four answers and a passphrase typed twice, at the second attempt, make a host that backs up."""
    code, shown = wizard(fresh, (b"correct horse", b"correct hose"), (b"correct horse", b"correct horse"))
    assert code == 0 and b"the two passphrases differ" in shown and b"horse" not in shown, shown
    assert fresh.key.stat().st_mode & 0o777 == 0o600
    fresh.edit_config("/var/lib/opskit", str(fresh.state))
    answer = fresh.run("backup", "--json")
    assert answer.code == 0 and answer.json[0]["source"] == "data"


def test_the_wizard_asks_again(fresh: Machine) -> None:
    """An answer that cannot be meant is asked for again at once; breaking off says that nothing was written."""
    command = [*OPSKIT, "--config", str(fresh.config), "init"]
    script = [
        (b"must not be lost", bytes(fresh.folder / "nothing")),
        (b"is not there", b"~"),
        (b"first copy", bytes(fresh.folder / "a")),
        (b"lies inside", bytes(fresh.folder.parent / "copy")),
        (b"restore", b""),
        (b"recovery key go", bytes(fresh.source / "large.bin")),
        (b"never overwritten", bytes(fresh.folder / "stick" / "key")),
        (b"is not there", bytes(fresh.folder / "fresh-key")),
        (b"passphrase for", b"\x03"),
    ]
    before = snapshot_of(fresh.folder)
    code, shown = converse(command, fresh.folder, script, {"HOME": str(fresh.folder)})
    assert code == 130 and b"Four questions" in shown and b"nothing was written" in shown, shown
    assert snapshot_of(fresh.folder) == before


@pytest.mark.parametrize(
    ("path", "label"),
    [("/srv/Tökens x", "tokens-x"), ("/", "data"), ("/x/" + "Ab" * 40, "ab" * 16), ("/x/日本", "data")],
)
def test_the_wizards_name_for_a_source(path: str, label: str) -> None:
    """The last part of a path becomes a label that the config takes."""
    assert label_of(path) == label


def test_the_wizard_gives_up_cleanly(fresh: Machine) -> None:
    """Passphrases that differ three times: exit 2, nothing is made, and no passphrase was shown."""
    code, shown = wizard(fresh, *[(b"correct horse", b"battery staple")] * 3)
    assert code == 2 and shown.count(b"passphrases differ") == 3 and b"nothing was written" in shown
    assert b"horse" not in shown and b"staple" not in shown
    assert not fresh.config.exists() and not fresh.key.exists() and not fresh.a.exists() and not fresh.state.exists()


def test_a_key_with_a_passphrase(fresh: Machine, tmp_path: Path) -> None:
    """A recovery key made with a passphrase on a terminal restores with it, and not without."""
    arguments = [
        "init", "--state-dir", str(fresh.state), "--source", f"data={fresh.source}", "--destination", f"a={fresh.a}",
        "--new-recipient", "Safe <safe@example.org>", "--recovery-key", str(fresh.key),
    ]  # fmt: skip
    script = [(b"passphrase", b"correct horse"), (b"again", b"correct horse")]
    code, shown = converse([*OPSKIT, "--config", str(fresh.config), *arguments], fresh.folder, script)
    assert code == 0 and b"horse" not in shown, shown
    assert fresh.run("backup").code == 0
    restore = ["restore", "latest", "--key", fresh.key, "--target"]
    assert fresh.run(*restore, tmp_path / "no").code == 12
    (tmp_path / "passphrase").write_text("correct horse")
    (tmp_path / "passphrase").chmod(0o600)
    assert fresh.run(*restore, tmp_path / "r", "--passphrase", f"file:{tmp_path / 'passphrase'}").code == 0
    assert_equal(fresh.source, tmp_path / "r" / str(fresh.source)[1:])
    command = [*OPSKIT, "--config", str(fresh.config), *map(str, restore), "asked"]
    code, shown = converse(command, tmp_path, [(b"passphrase", b"correct horse")])
    assert code == 0 and b"horse" not in shown, shown


def test_two_at_once(tmp_path: Path) -> None:
    """Of several inits of one host at once one succeeds, and the recovery key it names opens what is backed up."""
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    runs = [
        machine.start(
            "init", "--state-dir", machine.state, "--source", f"data={machine.source}",
            "--destination", f"a={machine.a}", "--new-recipient", f"Safe {number} <safe@example.org>",
            "--no-passphrase", "--recovery-key", machine.folder / f"key-{number}.asc",
        )
        for number in range(4)
    ]  # fmt: skip
    answers = [each.communicate() for each in runs]
    good = [number for number, each in enumerate(runs) if each.returncode == 0]
    assert len(good) == 1 and all(each.returncode in (0, 2, 11) for each in runs), answers
    assert machine.run("backup").code == 0
    keys = list(machine.folder.glob("key-*.asc"))
    assert keys == [machine.folder / f"key-{good[0]}.asc"], "no key file stays that opens nothing"
    assert machine.run("restore", "latest", "--target", tmp_path / "r", "--key", keys[0]).code == 0


def test_init_waits_for_no_backup(machine: Machine) -> None:
    """While another run holds the state, init is exit 11 and changes nothing."""
    before = machine.config.read_text()
    with exclusive(machine.state / "lock"):
        answer = machine.run("init", "--destination", f"c={machine.folder / 'c'}")
    assert answer.code == 11 and machine.config.read_text() == before and not (machine.folder / "c").exists()


def test_a_linked_config_stays_a_link(machine: Machine) -> None:
    """A config that is a symbolic link keeps being one; the file behind it gets the entry, and keeps its mode."""
    real = machine.folder / "real.yaml"
    machine.config.rename(real)
    real.chmod(0o640)
    machine.config.symlink_to("real.yaml")
    assert machine.run("init", "--destination", f"c={machine.folder / 'c'}").code == 0
    assert machine.config.is_symlink() and "c:" in real.read_text() and real.stat().st_mode & 0o777 == 0o640


def test_a_config_that_cannot_be_written(tmp_path: Path) -> None:
    """Where the config's folder takes nothing, no recovery key is written, and the same command works afterwards."""
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    with mounted("tmpfs", tmp_path) as place:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        arguments = [
            "--config", place / "opskit.yaml", "init", "--state-dir", machine.state, "--source", f"d={machine.source}",
            "--destination", f"a={machine.a}", "--new-recipient", "Safe <safe@example.org>",
            "--recovery-key", machine.key, "--no-passphrase",
        ]  # fmt: skip
        assert run(*arguments).code == 1 and not machine.key.exists()
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        assert run(*arguments).code == 0 and machine.key.exists()

"""`opskit init --drill-host`: a host that only drills, from one copy and the recovery-key file, by real gpg."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from opskit.access import read_key_file
from opskit.config.load import load
from opskit.gpg import Keyring
from tests.cli.hosts import Answer, Machine, everything, objects, run


@pytest.fixture
def origin(used: Machine) -> Machine:
    """A host that backs up, whose newest snapshot names its copies where they are now."""
    assert used.run("backup", "--quiet").code == 0
    return used


def made(origin: Machine, drills: Machine, *more: object) -> Answer:
    """Make a drill host whose private key lies in a file."""
    drills.folder.mkdir(exist_ok=True)
    return drills.run(
        "init", "--drill-host", "drills", "--from", origin.a, "--key", origin.key, "--state-dir", drills.state,
        "--new-recipient", "Drills <d@example.org>", "--recovery-key", drills.key, "--no-passphrase", *more,
    )  # fmt: skip


def told(origin: Machine, drills: Machine) -> None:
    """What the hint tells to type on the host that backs up."""
    assert origin.run("keys", "trust", drills.state / "drills.asc").code == 0
    answer = origin.run("keys", "add", drills.state / "drills-recipient.asc", "--key", origin.key)
    assert answer.code == 0, answer.err


def test_from_nothing_to_a_drill_that_others_see(origin: Machine, tmp_path: Path) -> None:
    """Made by one command, told by two on the other host, it drills with its own key, and `status` there knows."""
    drills = Machine(tmp_path / "drills")
    before = everything(origin.a), everything(origin.b)
    answer = made(origin, drills)
    assert answer.code == 0, answer.err
    assert (everything(origin.a), everything(origin.b)) == before, "nothing is written to a copy"
    assert "opskit keys trust drills.asc && opskit keys add drills-recipient.asc" in answer.err
    assert drills.run("drill", "run", "--key", drills.key).code != 0, "nobody let its key in yet"
    told(origin, drills)
    for name in ("a", "b"):
        answer = drills.run("drill", "run", "--from", name, "--key", drills.key, "--json")
        assert answer.code == 0 and answer.json[0]["verdict"] == "PASSED", answer.err
    copies = origin.run("status", "--json").json["sources"]["data"]["destinations"]
    assert all(each["last_drilled"] for each in copies.values()), copies


def test_it_neither_backs_up_nor_maintains(origin: Machine, tmp_path: Path) -> None:
    """`backup` is refused there even with a source in the config, and so are marks; init makes no repository."""
    drills = Machine(tmp_path / "drills")
    assert made(origin, drills).code == 0
    keys, theirs = load(drills.config).keys, load(origin.config).keys
    assert keys.maintainers == theirs.maintainers and keys.signers == (*theirs.signers, keys.host)
    drills.edit_config("sources: {}", f"sources: {{data: {{paths: ['{origin.source}']}}}}")
    snapshots = objects(origin.a, "snapshots"), objects(origin.a, "marks")
    for words in (("backup",), ("backup", "data"), ("backup", "--dry-run"), ("backup", "x", "--stdin", "f")):
        answer = drills.run(*words)
        assert answer.code == 2 and "only drills" in answer.err, answer
    identity = drills.run("snapshots", "--json").json[0]["id"]
    assert drills.run("forget", "--snapshot", identity, "--reason", "x").code != 0
    assert (objects(origin.a, "snapshots"), objects(origin.a, "marks")) == snapshots
    origin.b.rename(origin.folder / "unplugged")
    assert drills.run("init").code == 3 and not origin.b.exists(), "its medium may only be absent"


def test_the_private_half_is_in_the_file_alone(origin: Machine, tmp_path: Path) -> None:
    """The new recipient's private half is in no key ring; the file (0600) knows the signers, and restores by itself."""
    drills = Machine(tmp_path / "drills")
    assert made(origin, drills).code == 0
    assert drills.key.stat().st_mode & 0o777 == 0o600
    with Keyring(drills.state / "gnupg") as keyring:
        assert {key.fingerprint for key in keyring.keys() if key.has_secret} == {load(drills.config).keys.host}
    known = read_key_file(drills.key)
    assert set(known.signers) == set(load(drills.config).keys.signers)
    assert known.maintainers == [*load(origin.config).keys.maintainers]
    told(origin, drills)
    answer = run("restore", "latest", "--repository", origin.b, "--key", drills.key, "--target", tmp_path / "back")
    assert answer.code == 0, answer.err


def test_its_config_holds_no_commands_of_the_other(origin: Machine, tmp_path: Path) -> None:
    """Sources with their verify commands, and hooks, do not come along: that host could be in somebody else's hands."""
    text = origin.config.read_text()
    text = re.sub(r"(?m)^hooks:.*$", "hooks: {before: [touch, owned]}", text)
    origin.config.write_text(re.sub(r"(?m)^(  data: \{)", r"\1verify: {all: [touch, owned]}, ", text))
    known = load(origin.config)
    assert known.sources["data"].verify is not None and known.hooks.before is not None
    assert origin.run("backup", "--quiet").code == 0
    drills = Machine(tmp_path / "drills")
    assert made(origin, drills).code == 0
    assert "owned" not in drills.config.read_text()
    assert load(drills.config).sources == {} and load(drills.config).drills.only


def test_places_of_its_own(origin: Machine, tmp_path: Path) -> None:
    """A folder that is not here is left out with a word; --destination says where a copy is, and must hold it."""
    origin.b.rename(tmp_path / "moved")
    drills = Machine(tmp_path / "drills")
    answer = made(origin, drills)
    assert answer.code == 0 and "b is left out" in answer.err
    assert [*load(drills.config).destinations] == ["a"]
    other = Machine(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    assert made(origin, other, "--destination", f"far={tmp_path / 'empty'}").code == 10
    assert not other.config.exists() and not other.key.exists() and not [*(tmp_path / "empty").iterdir()]
    answer = made(origin, other, "--destination", f"far={tmp_path / 'moved'}")
    assert answer.code == 0 and [*load(other.config).destinations] == ["far"], answer.err


def test_secrets_of_this_host_go_nowhere_unasked(origin: Machine, tmp_path: Path) -> None:
    """A destination that names a secret is left out, with what to type; typed, it is not left out silently."""
    place = "s3://nowhere/web1?endpoint=http://127.0.0.1:9"
    far = "far: {s3: {bucket: nowhere, prefix: web1, endpoint: 'http://127.0.0.1:9', "
    far += "access_key_id: 'file:/etc/hostname', secret_access_key: 'file:/etc/hostname'}}"
    origin.edit_config("destinations:", f"destinations:\n  {far}")
    assert origin.run("backup", "--quiet").code == 3
    drills = Machine(tmp_path / "drills")
    answer = made(origin, drills)
    assert answer.code == 0 and "it names secrets: --destination far=s3://nowhere/web1" in answer.err, answer.err
    assert [*load(drills.config).destinations] == ["a", "b"] and "hostname" not in drills.config.read_text()
    other = Machine(tmp_path / "other")
    answer = made(origin, other, "--destination", f"far={place}")
    assert answer.code == 30 and not other.config.exists() and not other.key.exists(), answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--source", "x=/srv"], "--source does not go with --drill-host"),
        (["--no-recovery-key"], "--no-recovery-key does not go"),
        (["--host", "nobody"], "no snapshot of a host"),
        (["--drill-host", "Not A Label"], "expected"),
        (["--recipient", "/nonexistent"], "no such file"),
        (["--destination", "a"], "expected NAME=PATH"),
    ],
)
def test_what_cannot_be_meant(origin: Machine, tmp_path: Path, change: list[str], message: str) -> None:
    """Refused with exit 2 before anything is made."""
    drills = Machine(tmp_path / "drills")
    answer = made(origin, drills, *change)
    assert answer.code == 2 and message in answer.err, answer
    assert not drills.config.exists() and not drills.state.exists() and not drills.key.exists()


def test_a_name_that_backs_up_already(origin: Machine, tmp_path: Path) -> None:
    """The label of a host that backs up there is refused; so is a config, or a state, that is in the way."""
    drills = Machine(tmp_path / "drills")
    answer = made(origin, drills, "--drill-host", load(origin.config).host)
    assert answer.code == 2 and "a host of that name" in answer.err and not drills.config.exists()
    assert made(origin, drills).code == 0
    before = drills.config.read_bytes()
    assert made(origin, drills).code == 2 and drills.config.read_bytes() == before
    drills.config.unlink()
    answer = made(origin, drills, "--recovery-key", drills.folder / "another.asc")
    assert answer.code == 2 and "holds the state of a host" in answer.err


def test_a_key_of_its_own_gpg(origin: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --recipient the private half stays where it is, in the user's gpg, and drills need no key file."""
    home = tmp_path / "g"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    quick = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "d@example.org", "default", "default"]
    subprocess.run([*quick, "never"], check=True, capture_output=True)
    with Keyring(None) as own:
        (key,) = own.keys()
    drills = Machine(tmp_path / "drills")
    drills.folder.mkdir()
    answer = drills.run(
        "init", "--drill-host", "drills", "--from", origin.a, "--key", origin.key, "--state-dir", drills.state,
        "--recipient", key.fingerprint,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    told(origin, drills)
    assert drills.run("drill", "run").code == 0
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def test_trust_takes_a_file_for_a_signer_alone(origin: Machine, tmp_path: Path) -> None:
    """`keys trust FILE` adds a signer and no maintainer, twice is once, and refuses private and recipients' keys."""
    drills = Machine(tmp_path / "drills")
    assert made(origin, drills).code == 0
    before = load(origin.config).keys
    public = drills.state / "drills.asc"
    for _ in range(2):
        assert origin.run("keys", "trust", public).code == 0
        after = load(origin.config).keys
        assert after.signers == (*before.signers, load(drills.config).keys.host)
        assert (after.maintainers, after.recipients, after.host) == (before.maintainers, before.recipients, before.host)
    text = origin.config.read_bytes()
    for wrong in (drills.key, os.devnull, origin.config):
        assert origin.run("keys", "trust", wrong).code == 2
    with Keyring(origin.state / "gnupg") as keyring:
        (tmp_path / "r.asc").write_bytes(keyring.export_public([before.recipients[0]]))
    answer = origin.run("keys", "trust", tmp_path / "r.asc")
    assert answer.code == 2 and "of a recipient" in answer.err
    assert origin.config.read_bytes() == text

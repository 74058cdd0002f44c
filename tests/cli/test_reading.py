"""What commands that read share: read-only hosts, keys that killed runs left, wrong keys, wrong places."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from opskit.gpg import Keyring, folders
from tests.cli.hosts import Machine, objects, run
from tests.cli.test_backup import close, powerless

FOLDERS = [base for base in folders.candidates() if folders.usable(base)]


def open_again(folder: Path) -> None:
    """Undo `close`, so that the folder can be removed."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("is_warm", [True, False])
def test_a_state_folder_that_cannot_be_written(used: Machine, is_warm: bool) -> None:
    """With a read-only state folder, with a cache in it or without, verify, snapshots and restore do their work."""
    if not is_warm:
        shutil.rmtree(used.state / "cache")
    close(used.state)
    target = used.folder / "target"
    for command in (["verify"], ["snapshots"], ["restore", "latest", "--key", str(used.key), "--target", str(target)]):
        done = powerless(used, *command)
        assert done.returncode == 0, done
        assert b"cannot be written" in done.stderr and b"without the cache" in done.stderr
    assert [each.read_text() for each in target.rglob("later")] == ["second\n"]
    open_again(used.state)


@pytest.mark.parametrize("command", ["status", "verify", "backup", "heal", "snapshots", "init"])
def test_somebody_who_may_not_see_the_state(used: Machine, command: str) -> None:
    """Who forgot sudo is told so, and is not told of a fault of opskit, nor of a host that knows no repository."""
    used.state.chmod(0)
    done = powerless(used, command)
    used.state.chmod(0o700)
    assert done.returncode in (1, 2) and b"fault of opskit" not in done.stderr, done
    assert b"permission denied" in done.stderr and b"hint: " in done.stderr, done


def test_status_of_a_copy_that_may_not_be_read(used: Machine) -> None:
    """A copy whose permissions are wrong does not come back by itself: status says what to look at."""
    (used.a / "opskit.json").chmod(0)
    done = powerless(used, "status")
    (used.a / "opskit.json").chmod(0o600)
    said = done.stdout.decode().replace("\n     ", " ")
    assert done.returncode == 3 and "next: check owner, permissions" in said and "when it is back" not in said, done


@pytest.mark.skipif(not FOLDERS, reason="no folder for key rings on this machine")
@pytest.mark.parametrize("command", ["backup", "verify", "snapshots"])
def test_what_a_killed_restore_left_goes_with_the_next_command(used: Machine, command: str) -> None:
    """A folder of a private key whose run was killed is gone after any of the everyday commands."""
    path, descriptor = folders.make_folder(FOLDERS[-1])
    (path / "private").write_bytes(b"key")
    with_it = used.run(command)
    assert with_it.code == 0 and path.exists(), "a living run was swept away"
    os.close(descriptor)
    assert used.run(command).code == 0
    assert not path.exists()


def test_no_key_names_the_recipients(used: Machine, tmp_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user's gpg holds no private key the message names the recipients of the config, and no subkey."""
    (tmp_short / "empty").mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(tmp_short / "empty"))
    answer = used.run("restore", "latest", "--dry-run")
    with Keyring(used.state / "gnupg") as keyring:
        recipient = next(key.fingerprint for key in keyring.keys() if not key.has_secret)
    assert answer.code == 12 and f"expected one of {recipient}" in answer.err and "--key FILE" in answer.err


def test_another_key_names_the_key_file(used: Machine, tmp_short: Path) -> None:
    """A private key of somebody else is said to be in that file, and to open other backups."""
    other = tmp_short / "other.asc"
    with Keyring(tmp_short / "g") as stranger:
        other.write_bytes(stranger.export_secret(stranger.generate("stranger")))
    answer = used.run("restore", "latest", "--dry-run", "--key", other)
    assert answer.code == 12 and f"the private key in {other} does not open this backup" in answer.err


def test_all_absent_destinations_are_named(used: Machine) -> None:
    """Where no destination can be opened each one is named, and nobody who reads is sent to opskit init."""
    for each in (used.a, used.b):
        shutil.rmtree(each)
        each.mkdir()
    for command in ("backup", "verify", "snapshots"):
        answer = used.run(command)
        assert answer.code == 10 and "error: a: " in answer.err and "error: b: " in answer.err, answer
        assert ("opskit init" in answer.err) == (command == "backup")


def test_a_damaged_repository_file_in_the_state(used: Machine) -> None:
    """A damaged opskit.json of the state folder is exit 2, named, and the hint that is given mends it."""
    (used.state / "opskit.json").write_bytes(b"\0\0")
    answer = used.run("snapshots")
    assert answer.code == 2 and str(used.state / "opskit.json") in answer.err
    assert "copy opskit.json from any of your destinations" in answer.err
    shutil.copy(used.a / "opskit.json", used.state / "opskit.json")
    assert used.run("snapshots").code == 0


def test_a_place_beside_the_repository(used: Machine) -> None:
    """A folder one level above or below a repository is not found, and the hint says which folder is."""
    for place in (used.folder, used.a / "packs"):
        answer = run("snapshots", "--repository", place, "--key", used.key)
        assert answer.code == 10 and f"is it {used.a}" in answer.err and "init" not in answer.err


@pytest.mark.parametrize("damage", ["gone", "rubbish"])
def test_a_place_whose_opskit_json_is_gone(used: Machine, tmp_path: Path, damage: str) -> None:
    """Who has a copy and the key file alone is told what restores without opskit.json, and not to heal."""
    (used.a / "opskit.json").write_text("rubbish")
    if damage == "gone":
        (used.a / "opskit.json").unlink()
    answer = run("restore", "latest", "--repository", used.a, "--key", used.key, "--target", tmp_path / "out")
    assert answer.code == 20 and "recover.py" in answer.err and "--destination" not in answer.err


def test_verify_without_any_key(used: Machine) -> None:
    """One copy without key and config: hashes are compared and gaps found, with a notice; exit 0, and 3 on damage."""
    used.config.unlink()
    whole = run("verify", "--repository", used.a)
    assert whole.code == 0 and "SIGNATURES WERE NOT JUDGED" in whole.err
    as_json = run("verify", "--repository", used.a, "--json").json
    assert as_json["ok"] and list(as_json["destinations"]["repository"]) == [
        "objects", "bytes", "damaged", "missing", "behind", "rolled_back", "untrusted",
    ]  # fmt: skip
    gone, hurt = sorted(objects(used.a, "packs"))[:2]
    (used.a / gone).unlink()
    (used.a / hurt).write_bytes(b"x" * (used.a / hurt).stat().st_size)
    found = run("verify", "--repository", used.a, "--json")
    assert found.code == 3
    assert found.json["destinations"]["repository"]["missing"] == [gone]
    assert found.json["destinations"]["repository"]["damaged"] == [hurt]
    (used.b / "recover.py").write_bytes(b"import os\n")
    assert run("verify", "--repository", used.b).code == 3, "without a key nothing is called a forgery"
    assert run("snapshots", "--repository", used.a).code == 2, "only verify does without the key"

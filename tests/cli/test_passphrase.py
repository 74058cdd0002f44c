"""A passphrase that opens the backups beside the recipients' keys: written, used, wrong, and out of reach."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from opskit.gpg.packets import FOR_KEY, FOR_PASSPHRASE, _packet, _tag, dearmored
from opskit.repository.recovery import recover as kit
from tests.cli.hosts import Answer, Machine, run
from tests.cli.running import OPSKIT, clean
from tests.cli.test_init import converse

WORDS = "seven wise words nobody else says"


@pytest.fixture
def phrase(tmp_path: Path) -> Path:
    """A file with the passphrase."""
    path = tmp_path / "phrase"
    path.write_text(WORDS + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def open_too(machine: Machine, phrase: Path) -> Machine:
    """A host whose backups the passphrase opens too, with a snapshot."""
    machine.edit_config("keys:\n", f"keys:\n  passphrase: file://{phrase}\n")
    assert machine.run("backup").code == 0
    return machine


def ways_in(copy: Path) -> list[list[tuple[int, bytes]]]:
    """Of each key object the tags and bodies of what opens it."""
    found = []
    for path in sorted((copy / "keys").iterdir()):
        message, position, ways = dearmored(path.read_bytes()), 0, []
        while _tag(message, position)[0] in (FOR_KEY, FOR_PASSPHRASE):
            packet, position = _packet(message, position)
            ways.append((packet.tag, packet.body))
        found.append(ways)
    return found


def restored(machine: Machine, target: Path, *arguments: object) -> Answer:
    """A restore of the latest snapshot, as somebody who has no private key of his own."""
    return machine.run("restore", "latest", "--target", target, *arguments)


def test_a_key_object_opens_in_both_ways(open_too: Machine, phrase: Path, tmp_path: Path) -> None:
    """With the key and without the passphrase, and the other way round, the same is restored."""
    (ways,) = ways_in(open_too.a)
    assert [tag for tag, _ in ways] == [FOR_KEY, FOR_PASSPHRASE]
    # version 4, AES-256, iterated and salted with SHA-256 or better, the largest count: RFC 4880, 5.3 and 3.7.1.3
    body = ways[1][1]
    assert body[:3] == b"\x04\x09\x03" and body[3] >= 8 and body[12] == 0xFF
    by_key = restored(open_too, tmp_path / "k", "--key", open_too.key)
    by_phrase = restored(open_too, tmp_path / "p", "--passphrase", f"file:{phrase}")
    assert (by_key.code, by_phrase.code) == (0, 0), (by_key.err, by_phrase.err)
    for target in ("k", "p"):
        (note,) = (tmp_path / target).rglob("note.txt")
        assert note.read_text() == "a note\n"


def test_without_a_config(open_too: Machine, phrase: Path, tmp_path: Path, bare_key: Path) -> None:
    """A copy, a key file that says who signs, and the passphrase are enough, though that file's key opens nothing."""
    done = run(
        "restore", "latest", "--repository", open_too.b, "--key", bare_key,
        "--passphrase", f"file:{phrase}", "--target", tmp_path / "t",
    )  # fmt: skip
    assert done.code == 0, done.err
    without = run("restore", "latest", "--repository", open_too.b, "--key", bare_key, "--target", tmp_path / "u")
    assert without.code == 12 and "does not open this backup" in without.err


@pytest.fixture
def bare_key(open_too: Machine, tmp_path: Path) -> Path:
    """A recovery-key file of this repository with somebody else's private key in it."""
    from opskit.access import read_key_file
    from opskit.gpg import ephemeral_keyring
    from opskit.repository.recovery import keyfile

    known = read_key_file(open_too.key)
    with ephemeral_keyring(None) as keyring:
        secret = keyring.export_secret(keyring.generate("stranger"), passphrase=b"")
    path = tmp_path / "stranger.asc"
    path.write_bytes(
        keyfile.encode(
            keyfile.KeyFile(
                known.repository, known.recover_sha256, known.signers, known.maintainers, secret, known.public
            )
        )
    )
    return path


def test_a_wrong_passphrase(open_too: Machine, tmp_path: Path) -> None:
    """A passphrase that does not fit is told as such, with exit 12, and nothing is asked or restored."""
    wrong = tmp_path / "wrong"
    wrong.write_text("something else entirely")
    wrong.chmod(0o600)
    done = restored(open_too, tmp_path / "t", "--passphrase", f"file:{wrong}")
    assert done.code == 12 and "nor the passphrase" in done.err and not (tmp_path / "t").exists()
    assert "something else" not in done.err


def test_it_is_asked_for_on_a_terminal(open_too: Machine, tmp_path: Path) -> None:
    """Who has no key is asked, once more where he is wrong; where there is no terminal he hears what to say."""
    command = [*OPSKIT, "--config", str(open_too.config), "ls", "latest"]
    words = [(b"passphrase of the backups", b"wrong indeed"), (b"wrong; passphrase", WORDS.encode())]
    code, out = converse(command, tmp_path, words)
    assert code == 0 and WORDS.encode() not in out, out
    done = subprocess.run(command, env=clean({}), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 12 and b"--passphrase REFERENCE" in done.stderr, done


@pytest.mark.parametrize("trouble", ["absent", "short", "two lines"])
def test_a_passphrase_that_cannot_be_used(open_too: Machine, phrase: Path, tmp_path: Path, trouble: str) -> None:
    """The backup is made for the recipients alone, says so and exits 3; the key opens it, the passphrase does not."""
    if trouble == "absent":
        phrase.unlink()
    else:
        phrase.write_text("short" if trouble == "short" else "one long enough line\nand another")
    (open_too.source / "new").write_text("new")
    done = open_too.run("backup")
    assert done.code == 3 and "keys.passphrase cannot be used" in done.err + done.out, done
    assert "short" not in done.err.replace("shorter", "")
    assert sorted(len(ways) for ways in ways_in(open_too.a)) == [1, 2]
    assert restored(open_too, tmp_path / "k", "--key", open_too.key).code == 0


def test_the_config_is_warned_about(open_too: Machine) -> None:
    """`config validate` says what the host holds then, and no passphrase stands in a config itself."""
    assert "keys.passphrase: this host can resolve" in open_too.run("config", "validate").err
    text = open_too.config.read_text()
    open_too.config.write_text(text.replace("passphrase: file:", f"passphrase: {WORDS} #"))
    refused = open_too.run("config", "validate")
    assert refused.code == 2 and "keys.passphrase" in refused.err and "seven" not in refused.err


def recover(machine: Machine, target: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The recovery kit of a copy, without opskit and without a terminal."""
    command = [sys.executable, str(machine.a / "recover.py"), "--target", str(target), *map(str, arguments)]
    environ = clean({"PYTHONPATH": "", "HOME": str(target.parent)})
    return subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
        start_new_session=True,
    )  # fmt: skip


def test_the_recovery_kit(open_too: Machine, phrase: Path, tmp_path: Path) -> None:
    """recover.py takes the key, not stopped by the other way in; it takes the passphrase, and refuses a wrong one."""
    by_key = recover(open_too, tmp_path / "k", "--key", open_too.key)
    assert by_key.returncode == 0, by_key.stderr
    by_phrase = recover(open_too, tmp_path / "p", "--passphrase-file", phrase, "--accept-unknown-signers")
    assert by_phrase.returncode == 0, by_phrase.stderr
    for target in ("k", "p"):
        (note,) = (tmp_path / target).rglob("note.txt")
        assert note.read_text() == "a note\n"
    wrong = tmp_path / "wrong"
    wrong.write_text("not these words")
    refused = recover(open_too, tmp_path / "w", "--passphrase-file", wrong, "--accept-unknown-signers")
    assert refused.returncode == 12 and "does not open" in refused.stderr, refused.stderr
    neither = recover(open_too, tmp_path / "n", "--accept-unknown-signers")
    assert neither.returncode == 12, neither.stderr


@pytest.mark.parametrize("size", [30, 31, 32])
def test_the_recovery_kit_needs_no_check_sum_in_the_armor(size: int) -> None:
    """RFC 9580 has programs leave it out."""
    key, phrase, rest = b"\x84\x03key", b"\x8c\x04word", bytes([0xD2, size]) + bytes(size)
    text = base64.encodebytes(key + phrase + rest)
    head, tail = b"-----BEGIN PGP MESSAGE-----\n\n", b"-----END PGP MESSAGE-----\n"
    for armored in (head + text + tail, head + text + b"=abcd\n" + tail):
        assert kit.ways_in(armored, 1) == key + rest and kit.ways_in(armored, 3) == phrase + rest


def test_another_passphrase_is_taken_in_by_a_rotation(open_too: Machine, phrase: Path, tmp_path: Path) -> None:
    """Changed where it lies: a dry run says so, then only the new one opens, and once more there is nothing to do."""
    before = tmp_path / "before"
    before.write_bytes(phrase.read_bytes())
    before.chmod(0o600)
    phrase.write_text("seven other words that nobody says\n")
    rotate = ("keys", "rotate", "--key", open_too.key)
    assert "would be encrypted anew" in open_too.run(*rotate, "--dry-run").out
    answer = open_too.run(*rotate)
    assert answer.code == 0 and "nothing to do" not in answer.out, answer.err
    assert restored(open_too, tmp_path / "new", "--passphrase", f"file:{phrase}").code == 0
    assert restored(open_too, tmp_path / "old", "--passphrase", f"file:{before}").code == 12
    assert restored(open_too, tmp_path / "key", "--key", open_too.key).code == 0
    answer = open_too.run(*rotate)
    assert answer.code == 0 and "nothing to do" in answer.out


def test_keys_list_names_it(open_too: Machine) -> None:
    """It is no unknown key."""
    (shown,) = (each for each in open_too.run("keys", "list", "--json").json if each["fingerprint"] == "passphrase")
    assert shown["roles"] == ["recipient"] and shown["opens"]
    assert "no public key in this host's key ring" not in open_too.run("keys", "list").out

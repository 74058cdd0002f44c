"""`opskit keys paper`: where the page goes, what is warned of, and what comes back."""

from __future__ import annotations

import errno
import stat
import subprocess
from pathlib import Path

import pytest

from opskit.gpg import ephemeral_keyring
from tests.cli.hosts import Machine, run
from tests.cli.running import opskit


def secret_of(machine: Machine) -> str:
    return machine.key.read_text().split("-----BEGIN PGP PRIVATE KEY BLOCK-----")[1].split("\n")[2]


def test_a_page_and_back(set_up: Machine, tmp_path: Path) -> None:
    """The plain text page, as it stands, gives the same file again, byte for byte, both with mode 0600."""
    page, key = tmp_path / "paper.txt", tmp_path / "back.asc"
    answer = run("keys", "paper", "--key", set_up.key, "--output", page)
    assert answer.code == 0 and "no passphrase" in answer.err
    assert run("keys", "paper", "--read", page, "--output", key).code == 0
    assert key.read_bytes() == set_up.key.read_bytes()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (page, key)] == [0o600, 0o600]


def test_stdin_and_stdout(set_up: Machine) -> None:
    """`-` goes through pipes, with nothing of the key on stderr and nothing but the key on stdout."""
    page = opskit("keys", "paper", "--key", str(set_up.key), "--output", "-", "--format", "text")
    assert page.returncode == 0 and secret_of(set_up) in page.stdout and secret_of(set_up) not in page.stderr
    command = [*page.args[:3], "keys", "paper", "--read", "-", "--output", "-"]
    back = subprocess.run(command, input=page.stdout, capture_output=True, text=True, check=False)
    assert back.returncode == 0 and back.stdout == set_up.key.read_text()


def test_it_goes_only_where_it_is_told_to(set_up: Machine, tmp_path: Path) -> None:
    """Without --output, over a file, or into a folder that is not there: exit 2, nothing written."""
    there = tmp_path / "there"
    there.write_text("mine")
    for output in ([], ["--output", there], ["--output", tmp_path / "none" / "page.html"]):
        answer = run("keys", "paper", "--key", set_up.key, *output)
        assert answer.code == 2 and answer.data == b"", answer
    assert there.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_protected_key_is_not_warned_of(set_up: Machine, tmp_path: Path) -> None:
    """A key with a passphrase is printed as it is, without being asked for, and the page says what it takes."""
    with ephemeral_keyring(None) as keyring:
        made = keyring.generate("P <p@example.org>", passphrase=b"correct horse")
        (tmp_path / "key.asc").write_bytes(keyring.export_secret(made, passphrase=b"correct horse"))
    answer = run("keys", "paper", "--key", tmp_path / "key.asc", "--output", tmp_path / "page.txt")
    assert answer.code == 0 and "passphrase" not in answer.err
    page = (tmp_path / "page.txt").read_text()
    assert "of no use without it" in page and "P <p@example.org>" in page and "correct horse" not in page


def test_what_is_missing_ends_with_three(set_up: Machine, tmp_path: Path) -> None:
    """Half of the lines: exit 3, nothing written, and what is missing is named in JSON, too."""
    page, half = tmp_path / "paper.txt", tmp_path / "half.txt"
    assert run("keys", "paper", "--key", set_up.key, "--output", page).code == 0
    half.write_text("\n".join(row for row in page.read_text().splitlines() if not row.startswith("  12 ")))
    answer = run("keys", "paper", "--read", half, "--output", tmp_path / "back.asc", "--json")
    assert answer.code == 3 and answer.json["problems"] == ["line 12 is missing"] and not answer.json["complete"]
    assert not (tmp_path / "back.asc").exists() and secret_of(set_up) not in answer.out + answer.err


def test_a_key_that_gpg_does_not_take_is_not_given_out(set_up: Machine, tmp_path: Path) -> None:
    """A text without check sums and with a wrong character in the armor: refused, nothing written."""
    typed = tmp_path / "typed.txt"
    secret = secret_of(set_up)
    typed.write_text(set_up.key.read_text().replace(secret, secret[:8] + "AAAA" + secret[12:]))
    answer = run("keys", "paper", "--read", typed, "--output", tmp_path / "back.asc")
    assert answer.code in (3, 13) and not (tmp_path / "back.asc").exists()
    assert secret[:8] not in answer.err


def test_a_full_disk_leaves_nothing_behind(set_up: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the page cannot be written whole, no part of it stays."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    answer = run("keys", "paper", "--key", set_up.key, "--output", tmp_path / "page.html")
    assert answer.code == 1 and "no space left" in answer.err and not [*tmp_path.glob("page*")]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A folder, an absent file, a broken picture, a PDF and a huge text: exit 2, and no key."""
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "huge.txt").write_bytes(b"1 abcd x\n" * 300_000)
    for name in (".", "absent", "bad.png", "a.pdf", "huge.txt"):
        answer = run("keys", "paper", "--read", tmp_path / name, "--output", tmp_path / "back.asc")
        assert answer.code == 2, (name, answer)
    assert not (tmp_path / "back.asc").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["paper", "--output", "x"],
        ["paper", "--read", "--output", "x"],
        ["paper", "a.txt", "--output", "x"],
        ["paper", "--read", "a.txt", "--key", "k", "--output", "x"],
        ["paper", "--key", "k", "--format", "pdf", "--output", "x"],
    ],
)
def test_contradictions_are_told(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that do not go together end with exit 2 and write nothing."""
    monkeypatch.chdir(tmp_path)
    assert run("keys", *arguments).code == 2
    assert not (tmp_path / "x").exists()

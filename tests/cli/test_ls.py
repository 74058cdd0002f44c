"""`opskit ls`: folders of a snapshot, with every kind of name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opskit.cli import main
from opskit.gpg import Keyring
from tests.cli.labs import ODD_NAMES, HostLab, lab, parsed, quietly

__all__ = ["lab"]

Capture = pytest.CaptureFixture[str]


def below(lab: HostLab, name: str = "") -> str:
    """data@latest with a path inside its folder."""
    return f"data@latest:/{os.fsdecode(lab.data)}{name}"


def test_a_folder_lists_its_names_and_no_deeper(lab: HostLab, capsys: Capture) -> None:
    """Bare names, one a line, escaped so that none can steer a terminal or pass for two."""
    assert lab.run("ls", below(lab), "--key", lab.key) == 0
    assert capsys.readouterr().out.splitlines() == [
        "docs",
        r"esc-\x1b[31mred",
        r"latin-\xe9",
        "link",
        r"two\nlines",
    ]


def test_null_gives_the_bytes_as_they_were(lab: HostLab, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """With -0 each name comes raw and ends in a NUL byte."""
    assert lab.run("ls", below(lab), "-0", "--key", lab.key) == 0
    found = capfdbinary.readouterr().out.split(b"\0")
    assert set(ODD_NAMES) < set(found) and found[-1] == b""


def test_recursive_gives_whole_paths(lab: HostLab, capsys: Capture) -> None:
    """With -r everything below comes with its full path, in tree order."""
    assert lab.run("ls", "-r", below(lab, "/docs/"), "--key", lab.key) == 0
    folder = f"/{os.fsdecode(lab.data)}/docs"
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}/{name}" for name in ("Note.TXT", "second.txt", "unchanged")
    ]


def test_long_shows_modes_sizes_and_targets(lab: HostLab, capsys: Capture) -> None:
    """With -l a line begins with the mode and a symbolic link shows its target."""
    assert lab.run("ls", "-l", below(lab), "--key", lab.key) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("drwx") and lines[0].endswith(" docs")
    assert any(line.startswith("lrwx") and line.endswith(" link -> docs/Note.TXT") for line in lines)


def test_json_describes_each_entry(lab: HostLab, capsys: Capture) -> None:
    """With --json an entry has path, type, size, mode and mtime; names that are not UTF-8 survive."""
    assert lab.run("ls", below(lab), "--json", "--key", lab.key) == 0
    items = parsed(capsys)
    assert all(item.keys() >= {"path", "type", "size", "mode", "mtime"} for item in items)
    assert f"/{os.fsdecode(lab.data)}/{os.fsdecode(ODD_NAMES[0])}" in [item["path"] for item in items]


def test_a_name_that_is_not_utf8_can_be_asked_for(lab: HostLab, capsys: Capture) -> None:
    """SNAPSHOT:PATH takes the bytes of a name as the shell gives them; a file lists itself."""
    name = os.fsdecode(ODD_NAMES[0])
    assert lab.run("ls", below(lab, f"/{name}"), "--key", lab.key) == 0
    assert capsys.readouterr().out == "latin-\\xe9\n"


@pytest.mark.parametrize("snapshot", ["data@latest:/nowhere", "0000000000", "dta@latest", "db@1999-01-01"])
def test_what_is_not_there_ends_with_10(lab: HostLab, snapshot: str, capsys: Capture) -> None:
    """An unknown path, id, source or date is "no such snapshot", with a hint."""
    assert lab.run("ls", snapshot, "--key", lab.key) == 10
    assert "opskit: hint:" in capsys.readouterr().err


def test_latest_of_two_sources_is_ambiguous(lab: HostLab, capsys: Capture) -> None:
    """A bare `latest` with two sources is a usage error that says what to type."""
    assert lab.run("ls", "latest", "--key", lab.key) == 2
    assert "data@latest" in capsys.readouterr().err


def test_another_key_does_not_open_it(lab: HostLab, tmp_short: Path, capsys: Capture) -> None:
    """A private key that is no recipient, and no key at all, end with 12 and a hint."""
    with Keyring(tmp_short / "g") as stranger:
        (tmp_short / "key.asc").write_bytes(stranger.export_secret(stranger.generate("stranger")))
    for options in (["--key", tmp_short / "key.asc"], []):
        assert lab.run("ls", "db@latest", *options) == 12
        assert "opskit: hint:" in capsys.readouterr().err


def test_the_key_file_alone_suffices(lab: HostLab, capsys: Capture) -> None:
    """Without config and state a copy and the recovery-key file list the folder."""
    arguments = ["ls", "db@latest", "-r", "--repository", str(lab.root / "b"), "--key", str(lab.key)]
    lab.config.unlink()
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("/db/dump.sql\n")


def test_a_protected_key_takes_its_passphrase_from_a_reference(
    tmp_path: Path, tmp_short: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """--passphrase env:NAME opens a protected key; a wrong one, or none without a terminal, ends with 12."""
    with Keyring(tmp_short / "g") as keyring:
        keyring.create()
        (tmp_short / "g" / "gpg-agent.conf").write_text("s2k-count 65536\n")  # else the agent measures for seconds
        fingerprint = keyring.generate("P <p@example.org>", passphrase=b"correct horse")
        (tmp_short / "pub").write_bytes(keyring.export_public([fingerprint]))
        (tmp_short / "key").write_bytes(keyring.export_secret(fingerprint, passphrase=b"correct horse"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one").write_text("1")
    pairs = ("--source", f"s={tmp_path / 'files'}", "--destination", f"a={tmp_path / 'a'}")
    quietly(tmp_path, "init", "--state-dir", tmp_path / "state", "--recipient", tmp_short / "pub", *pairs)
    quietly(tmp_path, "backup")
    monkeypatch.setenv("PASS", "correct horse")
    monkeypatch.setenv("WRONG", "battery staple")
    listing = ["--config", str(tmp_path / "opskit.yaml"), "ls", "-r", "latest", "--key", str(tmp_short / "key")]
    assert main([*listing, "--passphrase", "env:PASS"]) == 0
    assert capsys.readouterr().out.endswith("/files/one\n")
    assert main([*listing, "--passphrase", "env:WRONG"]) == 12
    assert main(listing) == 12
    assert "no terminal to ask" in capsys.readouterr().err

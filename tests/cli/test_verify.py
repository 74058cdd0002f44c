"""`opskit verify`: the answer in words, in JSON and as an exit code."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from opskit.cli import main
from opskit.gpg import Keyring
from tests.cli.labs import HostLab, lab, parsed

__all__ = ["lab"]

Capture = pytest.CaptureFixture[str]
KINDS = ["damaged", "missing", "behind", "rolled_back", "untrusted"]


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_intact_copies_are_ok(lab: HostLab, capsys: Capture) -> None:
    """Whole copies give one line each and exit 0, and JSON of exactly the contracted shape."""
    assert lab.run("verify") == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["a", "ok"], ["b", "ok"]]
    assert lab.run("verify", "--json") == 0
    found = parsed(capsys)
    assert found.keys() == {"ok", "destinations"} and found["ok"] is True
    files = sum(path.is_file() for path in (lab.root / "a").rglob("*"))
    for copy in ("a", "b"):
        assert list(found["destinations"][copy]) == ["objects", "bytes", *KINDS]
        assert found["destinations"][copy]["objects"] == files


def test_damage_names_the_object_its_users_and_the_good_copy(lab: HostLab, capsys: Capture) -> None:
    """A flipped bit ends with 3; the report names object, sources in need, and the copy that is intact."""
    pack = lab.objects("a", "packs")[0]
    flip(pack)
    assert lab.run("verify") == 3
    out, err = capsys.readouterr()
    assert "1 damaged" in out and pack.name in out and "needed by d" in out and "intact at b" in out
    assert "opskit heal --destination a" in err
    assert lab.run("verify", "--json") == 3
    found = parsed(capsys)
    assert not found["ok"] and found["destinations"]["b"]["damaged"] == []
    assert found["destinations"]["a"]["damaged"] == [f"packs/{pack.name[:2]}/{pack.name}"]


def test_what_was_set_aside_as_wrong_is_not_read(lab: HostLab, capsys: Capture) -> None:
    """Wrong bytes in quarantine prove nothing about the copy, so neither time nor a budget goes into them."""
    assert lab.run("verify", "--json") == 0
    before = parsed(capsys)["destinations"]["a"]
    flip(lab.objects("a", "packs")[0])
    assert lab.run("heal", "--quiet") == 0 and lab.objects("a", "quarantine")
    capsys.readouterr()
    assert lab.run("verify", "--json") == 0
    assert parsed(capsys)["destinations"]["a"] == before


def test_a_missing_object_and_one_nowhere_intact(lab: HostLab, capsys: Capture) -> None:
    """What is gone is missing; where no copy has it the advice is another than to read it elsewhere."""
    key = lab.objects("a", "keys")[0]
    key.unlink()
    flip(lab.root / "b" / "keys" / key.name)
    assert lab.run("verify", "--json") == 3
    found = parsed(capsys)["destinations"]
    assert found["a"]["missing"] == found["b"]["damaged"] == [f"keys/{key.name}"]
    assert lab.run("verify") == 3
    err = capsys.readouterr().err
    assert "intact at no copy at hand" in err and "then opskit heal" in err


def test_the_advice_mends_what_is_damaged_everywhere(lab: HostLab) -> None:
    """A pack damaged in place stays damaged through backups; set aside by heal, backup stores its content anew."""
    for pack in lab.objects("a", "packs") + lab.objects("b", "packs"):
        flip(pack)
    assert lab.run("backup", "--force-read", "--quiet") == 0 and lab.run("verify") == 3
    assert lab.run("heal") == 3 and lab.run("backup", "--quiet") == 3, "older snapshots stay broken"
    target = lab.root / "restored"
    assert lab.run("restore", "data@latest", "--target", target, "--key", lab.key) == 0
    assert (target / str(lab.root)[1:] / "data" / "docs" / "second.txt").read_text() == "a later file\n"


def test_the_advice_mends_what_another_copy_has(lab: HostLab) -> None:
    """An object that was moved away comes back from the other copy with the next backup, which says so once."""
    pack = lab.objects("a", "packs")[0]
    whole = pack.read_bytes()
    pack.rename(lab.root / "somewhere")
    assert lab.run("backup", "--quiet") == 3 and lab.run("backup", "--quiet") == 0
    assert pack.read_bytes() == whole and lab.run("verify") == 0


def test_one_destination_is_held_against_the_others(lab: HostLab, capsys: Capture) -> None:
    """Verify of one copy reads back that one alone, and knows by the others what it lacks and what mends it."""
    pack = lab.objects("a", "packs")[0]
    flip(pack)
    assert lab.run("verify", "--destination", "a") == 3
    out, err = capsys.readouterr()
    assert "intact at b" in out and "opskit heal --destination a" in err and not out.startswith("b ")
    (lab.root / "b" / sorted(lab.objects("b", "snapshots"))[-1]).unlink()
    shutil.rmtree(lab.root / "state" / "heads")
    assert lab.run("verify", "--destination", "b", "--json") == 3
    found = parsed(capsys)["destinations"]
    assert list(found) == ["b"] and len(found["b"]["behind"]) == 1
    (lab.root / "a").rename(lab.root / "away")
    assert lab.run("verify", "--destination", "b") == 0, "a copy that is away and was not asked for is no finding"
    assert lab.run("verify", "--destination", "a") == 20
    assert lab.run("verify", "--destination", "c") == 2


def test_behind_and_rolled_back_are_told_apart(lab: HostLab, capsys: Capture) -> None:
    """A head that was acknowledged and is gone is an alarm (13); one that was never there is behind (3)."""
    shutil.rmtree(lab.root / "b" / "snapshots")
    assert lab.run("verify", "--json") == 13
    found = parsed(capsys)["destinations"]["b"]
    assert len(found["rolled_back"]) == 2 and len(found["behind"]) == 1
    shutil.rmtree(lab.root / "state" / "heads")
    assert lab.run("verify", "--json") == 3
    found = parsed(capsys)["destinations"]["b"]
    assert found["rolled_back"] == [] and len(found["behind"]) == 3


def test_all_copies_emptied_is_a_rollback(lab: HostLab, capsys: Capture) -> None:
    """When every copy lost every manifest the remembered heads still tell: exit 13."""
    for copy in ("a", "b"):
        shutil.rmtree(lab.root / copy / "snapshots")
    assert lab.run("verify", "--json") == 13
    assert len(parsed(capsys)["destinations"]["a"]["rolled_back"]) == 2


def test_a_changed_recovery_program_is_an_alarm(lab: HostLab, capsys: Capture) -> None:
    """A recover.py with another sum is untrusted and ends with 13, by the config and by the key file alone."""
    program = lab.root / "b" / "recover.py"
    program.write_bytes(program.read_bytes() + b"import os\n")
    assert lab.run("verify") == 13
    out, err = capsys.readouterr()
    assert "ALARM" in out and "recover.py" in out and "do not run recover.py" in err
    lab.config.unlink()
    assert main(["verify", "--repository", str(lab.root / "b"), "--key", str(lab.key)]) == 13
    assert main(["verify", "--repository", str(lab.root / "a"), "--key", str(lab.key)]) == 0


def test_a_manifest_by_a_stranger_is_an_alarm(lab: HostLab, tmp_short: Path, capsys: Capture) -> None:
    """A manifest by an unknown signer is untrusted at the copy that holds it: exit 13."""
    with Keyring(tmp_short / "g") as stranger:
        data = stranger.sign(b"{}", stranger.generate("stranger"))
    name = f"20261121T020000Z-data-{hashlib.sha256(data).hexdigest()}.gpg"
    (lab.root / "a" / "snapshots" / name).write_bytes(data)
    assert lab.run("verify", "--json") == 13
    found = parsed(capsys)["destinations"]
    assert name in found["a"]["untrusted"][0] and found["b"]["untrusted"] == []


def test_a_cloned_host_shows_as_two_histories(lab: HostLab, capsys: Capture) -> None:
    """A host and its clone give one number to two snapshots: exit 13, asked about by name, nobody called a stranger."""
    shutil.copytree(
        lab.root,
        lab.root.with_name("clone"),
        symlinks=True,
        ignore=lambda _, names: [n for n in names if n[:2] == "S."],
    )
    clone = HostLab(lab.root.with_name("clone"))
    clone.config.write_text(clone.config.read_text().replace(str(lab.root), str(clone.root)))
    assert lab.run("backup", "data", "--quiet") == clone.run("backup", "data", "--tag", "clone", "--quiet") == 0
    shutil.copytree(clone.root / "b", lab.root / "b", dirs_exist_ok=True)
    assert lab.run("verify") == 13
    out, err = capsys.readouterr()
    assert "b: two histories with one number: was this host cloned or restored from an image?" in out
    assert "not made by anyone you trust" not in out and "do not run recover.py" not in err
    assert "host: label" in err
    assert lab.run("verify", "--json") == 13
    assert len(parsed(capsys)["destinations"]["b"]["untrusted"]) == 2


def test_an_absent_destination_counts_as_not_ok(lab: HostLab, capsys: Capture) -> None:
    """One destination that cannot be opened is shown with its error: exit 3; alone it is the error: exit 20."""
    (lab.root / "b").rename(lab.root / "elsewhere")
    assert lab.run("verify", "--json") == 3
    found = parsed(capsys)
    assert not found["ok"] and "absent" in found["destinations"]["b"]["error"]
    assert lab.run("verify") == 3
    assert "unreachable" in capsys.readouterr().out
    assert lab.run("verify", "--destination", "b") == 20
    assert lab.run("verify", "--destination", "a") == 0


def test_what_other_programs_leave_is_no_alarm(lab: HostLab, capsys: Capture) -> None:
    """A desktop.ini in a folder of a copy is nobody's snapshot: not read, not mistrusted, not in the way."""
    for kind in ("snapshots", "packs", "marks"):
        (lab.root / "a" / kind).mkdir(exist_ok=True)
        (lab.root / "a" / kind / "desktop.ini").write_text("[.ShellClassInfo]\n")
    assert lab.run("verify") == 0 and lab.run("snapshots") == 0 and lab.run("backup") == 0
    assert "desktop.ini" not in capsys.readouterr().err

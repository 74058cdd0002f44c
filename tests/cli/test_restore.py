"""`opskit restore` as a person uses it: what to restore, where to, what may be overwritten, and what it says."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.cli.hosts import Answer, Machine, objects, run, snapshot_of
from tests.cli.running import OPSKIT, clean
from tests.operations.judging import assert_equal
from tests.repositories import noise
from tests.stores.mounts import MEBIBYTE, mounted


def place(machine: Machine, target: Path) -> Path:
    """Where the source is recreated below a target."""
    return target / str(machine.source)[1:]


def test_the_whole_way(backed_up: Machine, tmp_path: Path) -> None:
    """What restore brings back is what was backed up, by rsync and by allocated space; exit 0, nothing on stderr."""
    answer = backed_up.run("restore", "latest", "--target", tmp_path / "r", "--key", backed_up.key)
    assert answer.code == 0 and answer.out.startswith("restored 5 files") and answer.err == ""
    assert_equal(backed_up.source, place(backed_up, tmp_path / "r"))


def test_json_is_as_documented(backed_up: Machine, tmp_path: Path) -> None:
    """The fields of `restore --json`; stdout holds nothing else."""
    answer = backed_up.run("restore", "latest", "--target", tmp_path / "r", "--key", backed_up.key, "--json")
    assert set(answer.json) == {
        "snapshot", "source", "target", "files", "entries", "bytes", "unchanged", "errors", "damage",
    }  # fmt: skip
    assert (answer.json["files"], answer.json["errors"], answer.json["damage"]) == (5, [], {})


def test_which_snapshot(backed_up: Machine, tmp_path: Path) -> None:
    """By id prefix, SOURCE@latest, and date: each is the snapshot meant."""
    listed = {each["id"]: each for each in backed_up.run("snapshots", "--json").json}
    old, new = sorted(listed, key=lambda each: listed[each]["files"])
    wanted = {old[:8]: False, new: True, "data@latest": True, "2099-01-01": True}
    for number, (what, has_later) in enumerate(wanted.items()):
        target = tmp_path / str(number)
        assert backed_up.run("restore", what, "--target", target, "--key", backed_up.key).code == 0
        assert (place(backed_up, target) / "later").exists() is has_later


@pytest.mark.parametrize("what", ["0000000000", "other@latest", "2001-01-01", "latest:srv/nothing"])
def test_no_such_thing(backed_up: Machine, tmp_path: Path, what: str) -> None:
    """A snapshot, source, date or path that is not there is exit 10 with a hint, and no file appears."""
    arguments = ["restore", what, "--target", tmp_path / "r", "--key", backed_up.key]
    answer = backed_up.run(*arguments)
    assert answer.code == 10 and "hint" in answer.err
    assert not (tmp_path / "r").exists()
    plan = backed_up.run(*arguments, "--dry-run")
    assert (plan.code, plan.err, plan.out) == (10, answer.err, "")
    assert backed_up.run(*arguments, "--dry-run", "--json").json["error"]["exit_code"] == 10


def test_every_time_that_is_printed_restores_its_snapshot(backed_up: Machine, tmp_path: Path) -> None:
    """The time in `snapshots --json`, and the minute in what restore reports, name that snapshot."""
    newest = backed_up.run("snapshots", "--json").json[-1]
    common = ["--key", backed_up.key]
    answer = backed_up.run("restore", newest["time"], "--target", tmp_path / "z", *common)
    assert answer.code == 0 and f"of snapshot {newest['id'][:8]} (" in answer.out
    minute = re.search(r"[(](.*UTC)[)]", answer.out)
    assert minute is not None
    again = backed_up.run("restore", f"{minute[1]}:{backed_up.source}/later", "--target", tmp_path / "m", *common)
    assert again.code == 0 and f"restored 1 file, 7 B of snapshot {newest['id'][:8]} (" in again.out


def test_one_file_by_path(backed_up: Machine, tmp_path: Path) -> None:
    """SNAPSHOT:PATH restores that file alone, at its full path."""
    path = f"latest:{backed_up.source}/sub/note.txt"
    assert backed_up.run("restore", path, "--target", tmp_path / "r", "--key", backed_up.key).code == 0
    files = [each for each in (tmp_path / "r").rglob("*") if each.is_file()]
    assert files == [place(backed_up, tmp_path / "r") / "sub" / "note.txt"]
    assert files[0].read_text() == "a note\n"


def test_one_folder_by_path(backed_up: Machine, tmp_path: Path) -> None:
    """SNAPSHOT:FOLDER/ restores what is below the folder and nothing beside it."""
    path = f"latest:{backed_up.source}/sub/"
    assert backed_up.run("restore", path, "--target", tmp_path / "r", "--key", backed_up.key).code == 0
    assert sorted(each.name for each in place(backed_up, tmp_path / "r").iterdir()) == ["sub"]


def test_stdout_of_a_sparse_file(backed_up: Machine) -> None:
    """--stdout gives the bytes of one file, holes as zeros, and nothing else."""
    answer = backed_up.run("restore", f"latest:{backed_up.source}/sparse", "--stdout", "--key", backed_up.key)
    assert answer.code == 0 and answer.err == ""
    assert answer.data == (backed_up.source / "sparse").read_bytes()


@pytest.mark.parametrize("path", ["", "/sub", "/link"])
def test_stdout_of_what_is_no_file(backed_up: Machine, path: str) -> None:
    """--stdout of a folder or link is exit 2 and writes nothing."""
    answer = backed_up.run("restore", f"latest:{backed_up.source}{path}", "--stdout", "--key", backed_up.key)
    assert (answer.code, answer.data) == (2, b"")


def test_include_and_exclude(backed_up: Machine, tmp_path: Path) -> None:
    """Patterns choose entries as in .gitignore; nothing that matches is exit 10."""
    common = ["--key", backed_up.key]
    assert backed_up.run("restore", "latest", "--target", tmp_path / "i", "--include", "*.txt", *common).code == 0
    assert [each.name for each in (tmp_path / "i").rglob("*") if each.is_file()] == ["note.txt"]
    arguments = ["--exclude", "*.bin", "--exclude", "sub/"]
    assert backed_up.run("restore", "latest", "--target", tmp_path / "e", *arguments, *common).code == 0
    assert sorted(each.name for each in place(backed_up, tmp_path / "e").iterdir()) == [
        "later",
        "link",
        "sparse",
        "twin",
    ]
    assert backed_up.run("restore", "latest", "--target", tmp_path / "n", "--include", "*.no", *common).code == 10
    assert not (tmp_path / "n").exists()


def test_a_target_in_use(backed_up: Machine, tmp_path: Path) -> None:
    """A target that is not empty is exit 2, and stays as it was."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine").write_text("mine")
    before = snapshot_of(tmp_path / "r")
    answer = backed_up.run("restore", "latest", "--target", tmp_path / "r", "--key", backed_up.key)
    assert answer.code == 2 and "not empty" in answer.err
    assert snapshot_of(tmp_path / "r") == before


@pytest.mark.parametrize(("target", "code"), [("file", 2), ("file/below", 2), ("full/r", 21)])
def test_a_target_that_cannot_be_used(backed_up: Machine, tmp_path: Path, target: str, code: int) -> None:
    """A file as target is exit 2, no space for it is 21 and says how to go on; neither is called a fault of opskit."""
    (tmp_path / "file").write_text("x")
    arguments = ["restore", "latest", "--target", tmp_path / target, "--key", backed_up.key]
    if code == 2:
        answer = backed_up.run(*arguments)
    else:
        with mounted("tmpfs", tmp_path, size=MEBIBYTE) as full:
            answer = backed_up.run(*arguments[:3], full / "r", *arguments[4:])
        assert "--overwrite if-changed" in answer.err
    assert answer.code == code and "hint:" in answer.err and "fault" not in answer.err


@pytest.mark.parametrize("overwrite", ["if-changed", "always"])
def test_overwrite(backed_up: Machine, tmp_path: Path, overwrite: str) -> None:
    """--overwrite brings changed and lost files back and leaves what is no part of the snapshot."""
    arguments = ["restore", "latest", "--target", tmp_path / "r", "--key", backed_up.key]
    assert backed_up.run(*arguments).code == 0
    there = place(backed_up, tmp_path / "r")
    (there / "later").write_text("edited by mistake")
    (there / "large.bin").unlink()
    (there / "mine").write_text("not in the snapshot")
    untouched = (there / "sparse").stat().st_ino
    answer = backed_up.run(*arguments, "--overwrite", overwrite, "--json")
    assert answer.code == 0
    assert (there / "mine").read_text() == "not in the snapshot"
    assert ((there / "sparse").stat().st_ino == untouched) is (overwrite == "if-changed")
    assert bool(answer.json["unchanged"]) is (overwrite == "if-changed")
    (there / "mine").unlink()
    os.utime(there, ns=(0, backed_up.source.stat().st_mtime_ns))
    assert_equal(backed_up.source, there)
    assert not [each for each in there.rglob(".opskit*")]


def test_in_place(used: Machine) -> None:
    """--in-place needs --overwrite, and brings a lost file back where it was."""
    assert used.run("backup").code == 0
    (used.source / "large.bin").unlink()
    assert used.run("restore", "latest", "--in-place", "--key", used.key).code == 2
    answer = used.run("restore", "latest", "--in-place", "--overwrite", "if-changed", "--key", used.key, "--json")
    assert answer.code == 0 and answer.json["errors"] == []
    assert (used.source / "large.bin").stat().st_size == 1_800_000


def test_a_link_in_the_target_is_not_followed(backed_up: Machine, tmp_path: Path) -> None:
    """A symbolic link inside the target where a folder belongs is never written through."""
    target, outside = tmp_path / "r", tmp_path / "outside"
    outside.mkdir()
    there = place(backed_up, target)
    there.parent.mkdir(parents=True)
    arguments = ["restore", "latest", "--target", target, "--key", backed_up.key, "--overwrite", "always"]
    there.symlink_to(outside)
    assert backed_up.run(*arguments).code == 3
    assert not any(outside.iterdir())
    there.unlink()
    (there / "sub").parent.mkdir()
    (there / "sub").symlink_to(outside)
    (there / "later").symlink_to(outside / "later")
    assert backed_up.run(*arguments).code == 3
    assert not any(outside.iterdir())
    assert not (there / "later").is_symlink() and (there / "later").read_text() == "second\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--target", "x", "--stdout"],
        ["--in-place"],
        ["--target", "x", "--overwrite", "maybe"],
        ["--target", "x", "--from", "nowhere"],
        ["--target", "x", "--repository", "here"],
    ],
)
def test_usage(backed_up: Machine, tmp_path: Path, arguments: list[str]) -> None:
    """Contradictory and incomplete command lines are exit 2."""
    answer = backed_up.run("restore", "latest", *arguments)
    assert answer.code == 2 and answer.err.startswith("opskit: error:")
    assert not (tmp_path / "x").exists()


def test_dry_run_writes_nothing(backed_up: Machine, tmp_path: Path) -> None:
    """--dry-run names what would be restored and makes nothing, not even the target."""
    answer = backed_up.run("restore", "latest", "--target", tmp_path / "r", "--dry-run", "--key", backed_up.key)
    assert answer.code == 0 and f"{backed_up.source}/large.bin" in answer.out.splitlines()
    assert not (tmp_path / "r").exists()
    planned = backed_up.run("restore", "latest", "--dry-run", "--json", "--key", backed_up.key).json
    assert set(planned) == {"snapshot", "entries", "bytes"}


def foreseen(machine: Machine, target: Path, *arguments: object) -> tuple[int, dict[str, str], str]:
    """What --dry-run says over a target: exit code, what becomes of which name below the source, and its messages."""
    common = ["--target", target, "--key", machine.key, "--overwrite", "if-changed", "--dry-run"]
    before = snapshot_of(target)
    answer = machine.run("restore", "latest", *common, *arguments)
    assert snapshot_of(target) == before, "nothing is written"
    lines = [line.split(None, 1) for line in answer.out.splitlines()]
    return answer.code, {path.rpartition("/")[2]: effect for effect, path in lines}, answer.err


def over(machine: Machine, target: Path, *arguments: object) -> Answer:
    """A restore over a target."""
    common = ["--target", target, "--key", machine.key, "--overwrite", "if-changed"]
    return machine.run("restore", "latest", *common, *arguments)


def test_a_plan_over_what_is_there(backed_up: Machine, tmp_path: Path) -> None:
    """--dry-run over files names what would be new, replaced or mended, and the restore does just that."""
    target = tmp_path / "r"
    there = place(backed_up, target)
    first = over(backed_up, target, "--dry-run")
    assert first.code == 0 and f"new       {backed_up.source}/sub/note.txt" in first.out.splitlines()
    assert not target.exists() and "unchanged" not in first.err
    assert over(backed_up, target).code == 0
    code, plan, said = foreseen(backed_up, target)
    assert (code, plan) == (0, {}) and "nothing would be restored" in said and "unchanged" in said, said
    (there / "large.bin").write_bytes(b"mine")
    (there / "later").unlink()
    (there / "link").unlink()
    (there / "link").symlink_to("elsewhere")
    (there / "sparse").chmod(0o600)
    (there / "twin").unlink()
    (there / "twin").write_bytes(b"no link any more")
    os.utime(there, ns=(0, next(iter(there.parent.glob("data"))).stat().st_mtime_ns))
    wanted = {"large.bin": "replaced", "later": "new", "link": "replaced", "sparse": "mended", "twin": "replaced"}
    code, plan, said = foreseen(backed_up, target)
    assert code == 0 and plan == {**wanted, "data": "mended"}, (plan, said)
    assert "(1 new, 3 replaced, 2 mended, " in said
    counted = over(backed_up, target, "--dry-run", "--json").json
    assert [counted[each] for each in ("entries", "new", "replaced", "mended", "errors")] == [6, 1, 3, 2, []]
    before = {path: path.lstat().st_ino for path in there.rglob("*")}
    assert over(backed_up, target).code == 0
    assert_equal(backed_up.source, there)
    changed = {path.name for path in there.rglob("*") if before.get(path) != path.lstat().st_ino}
    assert changed == {name for name, effect in wanted.items() if effect != "mended"}
    assert foreseen(backed_up, target)[1] == {}


def test_a_plan_that_would_fail(backed_up: Machine, tmp_path: Path) -> None:
    """What is in the way of a restore is told by its plan, exit 3, and the restore fails for the same entries."""
    target = tmp_path / "r"
    there = place(backed_up, target)
    assert over(backed_up, target).code == 0
    (there / "later").unlink()
    (there / "later").mkdir()
    shutil.rmtree(there / "sub")
    (there / "sub").symlink_to(tmp_path)
    code, plan, said = foreseen(backed_up, target, "--include", "later", "--include", "note.txt", "--include", "sub/")
    assert code == 3 and plan == {}, plan
    assert f"would fail: {backed_up.source}/later: a folder is there" in said
    assert f"would fail: {backed_up.source}/sub: it is no folder there" in said
    answer = over(backed_up, target, "--include", "later", "--include", "note.txt", "--include", "sub/")
    assert answer.code == 3
    assert {line.split(":")[2] for line in answer.err.splitlines() if str(there)[-9:] in line} == {
        line.split(":")[3] for line in said.splitlines() if "would fail" in line
    }


def test_a_plan_of_replacing_all(backed_up: Machine, tmp_path: Path) -> None:
    """With --overwrite always each file is replaced, also one that looks the same; --in-place looks at the source."""
    plan = foreseen(backed_up, backed_up.source, "--include", "later")[1]
    assert plan == {"later": "new"}, "below the target there is no such path"
    common = ["restore", "latest", "--in-place", "--dry-run", "--key", backed_up.key, "--include", "later"]
    answer = backed_up.run(*common, "--overwrite", "if-changed")
    assert answer.out == "" and "nothing would be restored (1 unchanged)" in answer.err, answer
    answer = backed_up.run(*common, "--overwrite", "always")
    assert answer.out == f"replaced  {backed_up.source}/later\n", answer


def test_a_plan_for_a_target_in_use(backed_up: Machine, tmp_path: Path) -> None:
    """A plan that the restore would refuse is refused: exit 2 for a target that is not empty."""
    (tmp_path / "mine").write_text("here")
    common = ["restore", "latest", "--key", backed_up.key, "--target", tmp_path]
    plan, real = backed_up.run(*common, "--dry-run"), backed_up.run(*common)
    assert (plan.code, plan.err) == (real.code, real.err) == (2, real.err) and "is not empty" in plan.err


def test_the_wrong_key(backed_up: Machine, tmp_path: Path) -> None:
    """Somebody else's key, the host's own gpg, or no key at all is exit 12; nothing is written."""
    other = Machine(tmp_path / "other")
    other.folder.mkdir()
    other.source.mkdir()
    assert other.init().code == 0
    for keys in (["--key", other.key], [], ["--key", tmp_path / "absent"]):
        answer = backed_up.run("restore", "latest", "--target", tmp_path / "r", *keys)
        assert answer.code == 12, answer
    assert not (tmp_path / "r").exists() or not any((tmp_path / "r").iterdir())


def test_by_location_and_key_alone(backed_up: Machine, tmp_path: Path) -> None:
    """--repository with the recovery-key file restores without any config or state."""
    shutil.copytree(backed_up.a, tmp_path / "stick")
    shutil.copy(backed_up.key, tmp_path / "key.asc")
    where = ["--repository", tmp_path / "stick", "--key", tmp_path / "key.asc"]
    answer = run("restore", "latest", *where, "--target", tmp_path / "r")
    assert answer.code == 0, answer
    assert_equal(backed_up.source, place(backed_up, tmp_path / "r"))


def test_from_a_named_copy(used: Machine, tmp_path: Path) -> None:
    """--from reads that copy alone: with its packs gone the restore fails there and works from the other."""
    shutil.rmtree(used.b / "packs")
    assert used.run("restore", "latest", "--from", "b", "--target", tmp_path / "r", "--key", used.key).code != 0
    assert used.run("restore", "latest", "--from", "a", "--target", tmp_path / "q", "--key", used.key).code == 0


def test_a_damaged_copy_is_passed_over(used: Machine, backed_up: Machine, tmp_path: Path) -> None:
    """A pack flipped at one copy comes from the other: exit 0, and the damage is told."""
    for name in objects(used.a, "packs"):
        path = used.a / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.chmod(0o600)
        path.write_bytes(data)
    answer = used.run("restore", "latest", "--target", tmp_path / "r", "--key", used.key)
    assert answer.code == 0 and "; read from another copy\n" in answer.err and "no other" not in answer.err
    assert "to mend it from copies that are intact: opskit heal --destination" in answer.err
    again = used.run("restore", "latest", "--target", tmp_path / "json", "--key", used.key, "--json")
    assert again.json["damage"] and "opskit heal --destination" in again.err, "with --json too"
    assert_equal(backed_up.source, place(backed_up, tmp_path / "r"))


def damage(machine: Machine, copy: str, packs: Iterable[str]) -> None:
    """Flip a bit in each of these packs of a copy."""
    for name in packs:
        path = machine.folder / copy / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.chmod(0o600)
        path.write_bytes(data)


def test_stdout_without_a_path(machine: Machine) -> None:
    """--stdout without a path gives the only file of a snapshot; where there are several, it says what to type."""
    machine.edit_config("sources:", "sources:\n  dump: {command: [echo, hello], filename: d.sql}")
    assert machine.run("backup", "--quiet").code == 0
    answer = machine.run("restore", "dump@latest", "--stdout", "--key", machine.key)
    assert (answer.code, answer.data, answer.err) == (0, b"hello\n", "")
    answer = machine.run("restore", "data@latest", "--stdout", "--key", machine.key)
    assert answer.code == 2 and answer.data == b"" and f"SNAPSHOT:{machine.source}/large.bin" in answer.err, answer


def test_a_new_target_is_private(backed_up: Machine, tmp_path: Path) -> None:
    """A target that restore makes is closed to others, as recover.py makes it; one that is there keeps its mode."""
    common = ["restore", "latest", "--key", backed_up.key, "--include", "later", "--target"]
    (tmp_path / "mine").mkdir(mode=0o755)
    for name, mode in (("new/r", 0o700), ("mine", 0o755)):
        assert backed_up.run(*common, tmp_path / name).code == 0
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["latest", "--key", "/nonexistent/key"], "is the stick with it mounted?"),
        (["2026-13-45", "--key", "{key}"], "expected one like 2026-11-21"),
    ],
)
def test_errors_say_what_to_do_next(backed_up: Machine, tmp_path: Path, arguments: list[str], hint: str) -> None:
    """A key file that is not there, and a date that no calendar has, come with a hint."""
    given = [each.format(key=backed_up.key) for each in arguments]
    answer = backed_up.run("restore", *given, "--target", tmp_path / "r")
    assert answer.code in (2, 12) and "hint: " in answer.err and hint in answer.err, answer


@pytest.mark.parametrize("way", ["--target", "--stdout"])
def test_damage_comes_with_the_command_that_mends_it(
    used: Machine, backed_up: Machine, tmp_path: Path, way: str
) -> None:
    """Each damaged destination is named in a heal command, no whole one is, and that command mends it."""
    damage(used, "a", objects(used.a, "packs"))
    arguments: list[object] = ["--target", tmp_path / "r"] if way == "--target" else ["--stdout"]
    what = "latest" if way == "--target" else f"latest:{backed_up.source}/large.bin"
    answer = used.run("restore", what, *arguments, "--key", used.key)
    assert answer.code == 0 and "; read from another copy\n" in answer.err
    (command,) = re.findall(r"opskit (heal .*)", answer.err)
    assert command == "heal --destination a"
    assert used.run(*command.split()).code == 0 and used.run("verify").code == 0
    again = used.run("restore", what, "--overwrite", "always", *arguments, "--key", used.key)
    assert again.code == 0 and again.err == ""


def test_heal_is_offered_where_it_may_mend(used: Machine, tmp_path: Path) -> None:
    """Two damaged destinations stand in one command while another is away; with all at hand nothing mends them.

    A copy named by --repository has no name to heal it by.
    """
    large = max(objects(used.a, "packs"), key=lambda name: (used.a / name).stat().st_size)
    for copy in ("a", "b"):
        damage(used, copy, [large])
    answer = used.run("restore", "latest", "--target", tmp_path / "r", "--key", used.key)
    assert answer.code == 3 and "opskit heal" not in answer.err
    used.edit_config(f"b: {{path: {used.b}}}", f"b: {{path: {used.b}}}\n  c: {{path: {used.folder}/away}}")
    answer = used.run("restore", "latest", "--target", tmp_path / "p", "--key", used.key)
    assert answer.code == 3 and "opskit heal --destination a --destination b\n" in answer.err
    answer = run("restore", "latest", "--target", tmp_path / "q", "--repository", used.a, "--key", used.key)
    assert answer.code == 3 and "opskit verify" in answer.err and "heal" not in answer.err


@pytest.mark.parametrize("copies", [["a"], ["a", "b"]])
def test_damage_that_nothing_makes_good_is_called_so(used: Machine, tmp_path: Path, copies: list[str]) -> None:
    """Where every copy at hand has an object damaged, each damage is told once, and no other copy is spoken of."""
    large = max(objects(used.a, "packs"), key=lambda name: (used.a / name).stat().st_size)
    for name in copies:
        path = used.folder / name / large
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    chosen = [each for name in copies for each in ("--from", name)]
    answer = used.run("restore", "latest", *chosen, "--target", tmp_path / "r", "--key", used.key)
    assert answer.code == 3 and "read from another copy" not in answer.err
    assert answer.err.count("; no other copy at hand has it whole\n") == len(copies)


def test_what_no_copy_holds_is_reported(used: Machine, tmp_path: Path) -> None:
    """A file whose only packs are gone is named, exit 3; no half file is left, all others are there."""
    large = max(objects(used.a, "packs"), key=lambda name: (used.a / name).stat().st_size)
    for copy in (used.a, used.b):
        (copy / large).unlink()
    answer = used.run("restore", "latest", "--target", tmp_path / "r", "--key", used.key, "--json")
    assert answer.code == 3 and any("large.bin" in each for each in answer.json["errors"])
    names = {path.name: path for path in (tmp_path / "r").rglob("*") if path.is_file()}
    assert "large.bin" not in names
    assert all("lost" in each for each in answer.json["errors"])


def test_owner_by_name(used: Machine, tmp_path: Path) -> None:
    """Ownership is by number; with --owner-by-name by the names of this host, where it has them."""
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    import pwd

    daemon = pwd.getpwnam("daemon")
    os.chown(used.source / "later", daemon.pw_uid, 4242)
    assert used.run("backup").code == 0
    for name, arguments in {"n": [], "b": ["--owner-by-name"]}.items():
        target = tmp_path / name
        assert used.run("restore", "latest", "--target", target, "--key", used.key, *arguments).code == 0
        status = (place(used, target) / "later").stat()
        assert (status.st_uid, status.st_gid) == (daemon.pw_uid, 4242)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted(machine: Machine, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C: 130, and no file is left that is not whole. After kill -9 too, --overwrite if-changed completes it."""
    for each in range(4):
        (machine.source / f"huge-{each}").write_bytes(noise(each, 20_000_000))
    assert machine.run("backup", "--quiet").code == 0
    there = place(machine, tmp_path / "r")
    process = machine.start("restore", "latest", "--target", tmp_path / "r", "--key", machine.key)
    while not any((there / f"huge-{each}").exists() for each in range(4)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert b"interrupted; files restored so far are kept" in err and b"--overwrite if-changed" in err
        for path in there.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert filecmp.cmp(path, machine.source / path.relative_to(there), shallow=False), path.name
    arguments = ["--target", tmp_path / "r", "--key", machine.key, "--overwrite", "if-changed"]
    assert machine.run("restore", "latest", *arguments).code == 0
    assert_equal(machine.source, there)


def test_without_any_rights(backed_up: Machine, tmp_path: Path) -> None:
    """Who may not give files away still gets every content; what could not be set is told, not hidden."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    command = ["setpriv", "--bounding-set=-all", *OPSKIT, "--config", str(backed_up.config), "restore", "latest"]
    arguments = ["--target", str(tmp_path / "r"), "--key", str(backed_up.key)]
    done = subprocess.run([*command, *arguments], env=clean({}), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done
    assert_equal(backed_up.source, place(backed_up, tmp_path / "r"))

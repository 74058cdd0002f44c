"""`opskit sync`, `heal` and `hold`: the answer in words, in JSON and as an exit code, and what is on disk after."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from opskit import wiring
from opskit.config.load import load
from opskit.operations.marking import publish
from opskit.operations.session import open_copies
from opskit.repository import names
from opskit.repository.marks import FORGET, Mark
from tests.cli.hosts import Machine, fill, objects, snapshot_of


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.chmod(0o600)
    path.write_bytes(data)


def everything(copy: Path) -> set[str]:
    """The objects of a copy, its quarantine aside."""
    kinds = ("keys", "packs", "index", "snapshots", "marks")
    return {name for kind in kinds for name in objects(copy, kind)}


@pytest.fixture
def behind(machine: Machine) -> Machine:
    """A host whose copy `b` was away during the last backup."""
    machine.run("backup")
    away = machine.b.with_name("away")
    machine.b.rename(away)
    (machine.source / "late").write_text("late\n")
    assert machine.run("backup").code == 3
    away.rename(machine.b)
    return machine


def test_backup_says_how_to_catch_up(machine: Machine) -> None:
    """The hint of a backup that missed a destination is a command that works when it is back."""
    machine.b.rename(machine.b.with_name("away"))
    answer = machine.run("backup")
    assert answer.code == 3 and "opskit sync b" in answer.err
    machine.b.with_name("away").rename(machine.b)
    assert machine.run("sync", "b").code == 0 and everything(machine.a) == everything(machine.b)


def test_sync_makes_copies_equal_without_the_key(behind: Machine) -> None:
    """The copy that was away gets what it lacks, with the recovery key gone; a second sync has nothing to do."""
    behind.key.unlink()
    assert everything(behind.a) != everything(behind.b)
    answer = behind.run("sync", "--json")
    assert answer.code == 0 and everything(behind.a) == everything(behind.b)
    found = answer.json["destinations"]
    assert found["a"] == {
        "state": "current", "objects": 0, "bytes": 0, "snapshots": [], "lacking": {}, "forgotten": 0,
    }  # fmt: skip
    assert len(found["b"]["snapshots"]) == 1 and found["b"]["bytes"] > 0
    assert "nothing to copy" in behind.run("sync", "b").out
    assert behind.run("verify").code == 0


def test_a_dry_run_writes_nothing(behind: Machine) -> None:
    """`--dry-run` tells what would be copied or mended and leaves every file as it was."""
    flip(max((behind.a / "packs").glob("*/*")))
    before = snapshot_of(behind.a), snapshot_of(behind.b)
    answer = behind.run("sync", "--dry-run")
    assert answer.code == 3 and re.search(r"a +lacks no snapshot\nb +1 snapshot, \d objects, ", answer.out)
    assert behind.run("heal", "--dry-run").code == 3
    assert (snapshot_of(behind.a), snapshot_of(behind.b)) == before


def test_a_dry_run_sees_what_is_there_in_part(behind: Machine) -> None:
    """A snapshot whose manifest is there and whose pack is not is lacked as well, and told: 3."""
    assert behind.run("sync", "b").code == 0 and behind.run("sync", "--dry-run").code == 0
    max((behind.b / "packs").glob("*/*")).unlink()
    answer = behind.run("sync", "--dry-run")
    assert answer.code == 3 and ", 1 object, " in answer.out


def test_names_that_are_wrong_or_away(behind: Machine) -> None:
    """An unknown destination is 2 and lists the known; a named one that is away is its own error; unnamed it is 3."""
    answer = behind.run("sync", "c")
    assert answer.code == 2 and "a, b" in answer.err
    assert behind.run("heal", "--destination", "c").code == 2
    assert behind.run("sync", "--from", "c").code == 2
    shutil.move(behind.b, behind.b.with_name("away"))
    assert behind.run("sync", "b").code == 20 and behind.run("heal", "--destination", "b").code == 20
    assert behind.run("sync").code == 3 and behind.run("heal").code == 3
    alone = behind.run("sync", "a")
    assert alone.code == 3 and "no other copy is at hand" in alone.err


def test_from_names_the_only_giver(behind: Machine) -> None:
    """With --from nothing is taken from any other destination."""
    assert behind.run("sync", "b", "--from", "b").code == 3
    assert everything(behind.a) != everything(behind.b)
    assert behind.run("sync", "b", "--from", "a").code == 0 and everything(behind.a) == everything(behind.b)


def test_heal_of_one_copy_knows_what_the_others_know(machine: Machine) -> None:
    """A damaged manifest does not hide that what it needs is missing: one heal of that copy alone mends all."""
    machine.run("backup")
    (manifest,) = objects(machine.a, "snapshots")
    flip(machine.a / manifest)
    for name in objects(machine.a, "packs"):
        (machine.a / name).unlink()
    assert machine.run("heal", "--destination", "a").code == 0
    assert everything(machine.a) == everything(machine.b) and machine.run("verify").code == 0


def test_sync_says_when_a_mark_was_not_copied(behind: Machine) -> None:
    """A copy that has every snapshot and not every mark is not current."""
    assert behind.run("sync").code == 0
    away = behind.b.with_name("away")
    behind.b.rename(away)
    assert behind.run("hold", "latest").code in (0, 3)
    away.rename(behind.b)
    (behind.b / "marks").write_bytes(b"in the way")
    answer = behind.run("sync", "b", "--json")
    assert answer.code != 0 and answer.json["destinations"]["b"]["state"] == "behind"


def forget(machine: Machine, snapshot: str) -> str:
    """Put a mark that forgets a snapshot to every copy, as a maintainer; returns its name."""
    config = load(machine.config)
    host = wiring.host_of(config)
    copies, _ = open_copies(wiring.stores_of(config), host.repository)
    mark = Mark(FORGET, host.repository, host.label, host.now().replace(microsecond=0), snapshots=[snapshot])
    return publish(host.identity, copies, mark)[0]


@pytest.mark.parametrize("ways", [("flip", "flip"), ("empty", "other size")])
@pytest.mark.parametrize("is_healed", [False, True])
def test_sync_does_not_go_on_without_a_mark(behind: Machine, ways: tuple[str, str], is_healed: bool) -> None:
    """Where a mark that may forget is damaged at every copy, however, nothing is copied; heal does not hide it."""
    newest = (behind.a / next(iter(objects(behind.a, "snapshots") - objects(behind.b, "snapshots")))).name
    mark = forget(behind, newest.rpartition("-")[2].removesuffix(".gpg"))
    assert behind.run("sync", "b").code == 0 and newest not in os.listdir(behind.b / "snapshots")
    for copy, way in zip((behind.a, behind.b), ways, strict=True):
        if way == "flip":
            flip(copy / mark)
        else:
            (copy / mark).write_bytes(b"" if way == "empty" else b"yy")
    shutil.rmtree(behind.state / "cache")
    if is_healed:
        answer = behind.run("heal")
        assert answer.code == 3 and mark in answer.out
    before = everything(behind.b)
    for command in (("sync",), ("sync", "--dry-run")):
        answer = behind.run(*command)
        assert answer.code == 13 and "may forget" in answer.err and everything(behind.b) == before
    behind.run("backup")
    assert newest not in os.listdir(behind.b / "snapshots"), "nor does backup bring it back"


def test_what_somebody_put_among_the_marks_stops_nothing(behind: Machine) -> None:
    """Bytes that fit their name and nobody signed forget nothing: told as forged by all, and sync goes on."""
    junk = b"yy"
    for kind in ("marks", "snapshots"):
        (behind.b / kind).mkdir(exist_ok=True)
        label = "forget" if kind == "marks" else "data"
        (behind.b / kind / f"20261122T100000Z-{label}-{names.sha256(junk)}.gpg").write_bytes(junk)
    assert behind.run("sync").code == 13
    assert objects(behind.a, "snapshots") <= objects(behind.b, "snapshots")
    noted = behind.run("audit", "search", "--op", "sync", "--json").json[-1]["d"]
    assert {each["object"].partition("/")[0] for each in noted["rejected"]} == {"marks", "snapshots"}


def test_a_damaged_hold_stops_nothing(behind: Machine) -> None:
    """The name of a mark tells its kind: one that holds cannot forget, so sync goes on without it."""
    assert behind.run("hold", "latest").code in (0, 3)
    for copy in (behind.a, behind.b):
        for name in objects(copy, "marks"):
            flip(copy / name)
    assert behind.run("sync").code == 3
    assert objects(behind.a, "snapshots") == objects(behind.b, "snapshots")


def test_sync_tells_what_stays_behind(behind: Machine) -> None:
    """A snapshot whose objects are intact nowhere stays away, is named with its source, and the answer is 3."""
    for name in everything(behind.a) - everything(behind.b):
        if name.startswith("packs/"):
            flip(behind.a / name)
    answer = behind.run("sync", "b")
    assert answer.code == 3 and "behind" in answer.out and "data " in answer.err


def test_heal_mends_both_ways_and_keeps_the_wrong_bytes(machine: Machine) -> None:
    """Damage at one copy and a loss at the other are mended from each other; verify is content afterwards."""
    machine.run("backup")
    packs = sorted(objects(machine.a, "packs"))
    right = (machine.a / packs[0]).read_bytes()
    flip(machine.a / packs[0])
    (machine.b / packs[1]).unlink()
    answer = machine.run("heal")
    assert answer.code == 0 and "1 object replaced" in answer.out and "1 put back" in answer.out
    assert (machine.a / packs[0]).read_bytes() == right and len(objects(machine.a, "quarantine")) == 1
    assert machine.run("verify").code == 0
    assert "nothing to mend" in machine.run("heal").out


def test_heal_tells_what_is_lost_and_backup_stores_it_anew(machine: Machine) -> None:
    """What both copies hold damaged is named with those who need it; the next backup has it again."""
    machine.run("backup")
    packs = objects(machine.a, "packs")
    for copy in (machine.a, machine.b):
        for name in packs:
            flip(copy / name)
    answer = machine.run("heal", "--json")
    assert answer.code == 3
    for found in answer.json["destinations"].values():
        assert set(found["lost"]) == packs == set(found["quarantined"]) and found["failed"] == {}
    assert "needed by 1 snapshot" in machine.run("heal").out
    assert machine.run("backup", "--force-read").code in (0, 3)
    target = machine.folder / "restored"
    assert machine.run("restore", "latest", "--target", target, "--key", machine.key).code == 0


def test_verify_and_heal_agree(machine: Machine) -> None:
    """The command that verify names for damage mends it."""
    machine.run("backup")
    flip(machine.a / min(objects(machine.a, "packs")))
    answer = machine.run("verify")
    assert answer.code == 3 and "opskit heal" in answer.err
    assert machine.run("heal").code == 0 and machine.run("verify").code == 0


def test_a_strange_kit_is_an_alarm_and_is_replaced(machine: Machine) -> None:
    """Another recover.py than the known one is put right, and the answer is still that of a forgery."""
    machine.run("backup")
    (machine.b / "recover.py").chmod(0o600)
    (machine.b / "recover.py").write_text("print('send me your key')\n")
    assert machine.run("heal").code == 13
    assert (machine.b / "recover.py").read_bytes() == (machine.a / "recover.py").read_bytes()
    assert machine.run("verify").code == 0


def test_holds_are_made_listed_lifted_and_carried(behind: Machine) -> None:
    """A hold is a mark at every copy at hand, sync carries it on, a release ends it, and a second one is an error."""
    behind.b.rename(behind.b.with_name("away"))
    answer = behind.run("hold", "latest", "--reason", "court case", "--until", "2099-01-01")
    assert answer.code == 3 and "opskit sync" in answer.err
    behind.b.with_name("away").rename(behind.b)
    assert not objects(behind.b, "marks")
    assert behind.run("sync").code == 0 and objects(behind.b, "marks") == objects(behind.a, "marks")
    (held,) = behind.run("hold", "--json").json
    assert (held["reason"], held["until"]) == ("court case", "2099-01-01T00:00:00Z")
    assert "court case" in behind.run("hold").out
    assert behind.run("hold", "latest", "--release").code == 0 and behind.run("hold", "--json").json == []
    assert behind.run("hold", "latest", "--release").code == 10


@pytest.mark.parametrize(
    "arguments",
    [["--reason", "x"], ["--release"], ["latest", "--release", "--reason", "x"], ["latest", "--until", "2000-01-01"]],
)
def test_holds_that_make_no_sense(machine: Machine, arguments: list[str]) -> None:
    """Options without a snapshot, contradictions and times in the past are refused with 2, and no mark is made."""
    machine.run("backup")
    assert machine.run("hold", *arguments).code == 2 and not objects(machine.a, "marks")


def test_only_a_maintainer_holds(machine: Machine) -> None:
    """A host whose key is no maintainer's makes no mark, and is told where to."""
    machine.run("backup")
    text = machine.config.read_text()
    machine.config.write_text(re.sub(r"maintainers: \[.*?\]", f'maintainers: ["{"0" * 40}"]', text))
    answer = machine.run("hold", "latest")
    assert answer.code == 12 and not objects(machine.a, "marks")


@pytest.mark.parametrize("name", ["opskit.json", "copy.json"])
@pytest.mark.parametrize("damage", ["emptied", "rubbish", "gone", "no id", "huge"])
def test_heal_mends_what_a_copy_is_opened_by(machine: Machine, name: str, damage: str) -> None:
    """A copy whose own two objects say nothing is absent until heal writes them anew, the copy id as it was."""
    assert machine.run("backup").code == 0
    kept, path = (machine.b / "copy.json").read_bytes(), machine.b / name
    path.write_bytes({"rubbish": b"rubbish", "no id": b'{"copy":null,"format":1,"id":["x"]}'}.get(damage, b""))
    if damage == "huge":
        os.truncate(path, 1 << 40)
    if damage == "gone":
        path.unlink()
    assert machine.run("verify").code == 3
    if damage != "gone":
        answer = machine.run("status")
        assert name in answer.out and "next: to write it anew: opskit heal --destination b" in answer.out
        assert "opskit heal --destination b" in machine.run("snapshots", "--from", "b").err
    answer = machine.run("heal", "--dry-run")
    assert answer.code == 3 and re.search(rf"(?m)^b +1 object to mend\n +{name}$", answer.out)
    plan = machine.run("heal", "--dry-run", "--destination", "b", "--json")
    assert plan.code == 3 and plan.json == {"dry_run": True, "destinations": {"b": {"wrong": [name]}}}
    answer = machine.run("heal", "--destination", "b")
    assert answer.code == 0 and f"b: {name} written anew" in answer.err
    assert json.loads((machine.b / "copy.json").read_bytes())["copy"] == json.loads(kept)["copy"]
    assert (machine.b / "opskit.json").read_bytes() == (machine.a / "opskit.json").read_bytes()
    assert machine.run("verify").code == 0
    outcome = machine.run("audit", "search", "--op", "heal", "--json").json[-1]["d"]
    assert outcome["identities"] == {"b": [name]}


def test_heal_gives_no_disk_the_id_of_another(machine: Machine) -> None:
    """Of disks in turn at one mount point, one whose copy.json is rotten gets an id of its own, and that is told."""
    assert machine.run("backup").code == 0
    first = machine.b.with_name("first-disk")
    machine.b.rename(first)
    machine.b.mkdir()
    assert machine.run("init", "--destination", f"b={machine.b}").code == 0
    (machine.source / "later").write_text("later")
    assert machine.run("backup").code == 0
    second = json.loads((machine.b / "copy.json").read_bytes())["copy"]
    machine.b.rename(machine.b.with_name("second-disk"))
    first.rename(machine.b)
    (machine.b / "copy.json").write_bytes(b"")
    answer = machine.run("heal", "--destination", "b")
    assert "b has a new copy id" in answer.err, answer
    assert json.loads((machine.b / "copy.json").read_bytes())["copy"] != second
    assert "rolled back" not in machine.run("verify").out


def test_an_older_state_without_its_id_is_told(machine: Machine) -> None:
    """Where copy.json was taken away with the newest snapshot heal writes it, and does not say that all is well."""
    assert machine.run("backup").code == 0
    older = machine.b.with_name("older")
    shutil.copytree(machine.b, older)
    (machine.source / "later").write_text("later")
    assert machine.run("backup").code == 0
    for lost in (("copy.json",), ("copy.json", "opskit.json")):
        shutil.rmtree(machine.b)
        shutil.copytree(older, machine.b)
        for name in lost:
            (machine.b / name).unlink()
        answer = machine.run("verify")
        assert answer.code == 3 and "opskit heal" in answer.err, answer
        answer = machine.run("heal", "--dry-run")
        assert answer.code == 3 and "b would get a new copy id" in answer.err, answer
        answer = machine.run("heal")
        assert answer.code == 3 and "an older state was put back" in answer.err, answer
        noted = machine.run("audit", "search", "--op", "heal", "--json").json[-1]
        assert noted["out"] == "fail" and noted["d"]["new_ids"] == ["b"], noted


def test_a_new_copy_gets_its_id_back(machine: Machine) -> None:
    """A copy without any snapshot is known by its opskit.json: heal writes its copy.json, with the id that it had."""
    kept = (machine.b / "copy.json").read_bytes()
    (machine.b / "copy.json").unlink()
    assert machine.run("heal", "--dry-run").code == 3
    assert machine.run("heal").code == 0
    assert json.loads((machine.b / "copy.json").read_bytes())["copy"] == json.loads(kept)["copy"]


@pytest.mark.parametrize("option", [(), ("--dry-run",), ("--json",), ("--destination", "b")])
def test_heal_of_copies_that_are_all_away(machine: Machine, option: tuple[str, ...]) -> None:
    """Where no copy can be reached heal fails as sync and verify do, and does not end with an answer about nothing."""
    for copy in (machine.a, machine.b):
        copy.rename(copy.with_name(f"{copy.name}-away"))
    assert machine.run("verify").code == machine.run("heal", *option).code == 20


@pytest.mark.parametrize("kind", ["packs", "snapshots", "index"])
def test_a_huge_object_is_damage_and_is_healed(machine: Machine, kind: str) -> None:
    """An object of a terabyte (a broken file system shows such) is damage like any other, and fills no memory."""
    assert machine.run("backup").code == 0
    path = machine.b / min(objects(machine.b, kind))
    path.chmod(0o600)
    os.truncate(path, 1 << 40)
    answer = machine.run("verify", "--json")
    assert answer.code == 3 and answer.json["destinations"]["b"]["damaged"] == [str(path.relative_to(machine.b))]
    assert machine.run("heal").code == 0
    assert path.read_bytes() == (machine.a / path.relative_to(machine.b)).read_bytes()


def test_what_is_not_ours_and_huge_is_not_read(machine: Machine) -> None:
    """Films beside a copy are nobody's damage, and are not read into memory."""
    assert machine.run("backup").code == 0
    (machine.b / "film.mkv").write_bytes(b"")
    os.truncate(machine.b / "film.mkv", 1 << 40)
    for command in ("verify", "heal", "backup", "sync", "verify"):
        assert machine.run(command).code == 0, command


def test_a_memory_that_cannot_be_read_keeps_nothing_from_being_healed(machine: Machine) -> None:
    """What this host remembers helps to find the id of a copy; where that cannot be read, heal goes on without."""
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    kept = (machine.b / "copy.json").read_bytes()
    (machine.b / "copy.json").unlink()
    (path,) = (machine.state / "verified").iterdir()
    path.unlink()
    path.mkdir()
    answer = machine.run("heal")
    assert answer.code == 0 and "b: copy.json written anew" in answer.err, answer
    assert json.loads((machine.b / "copy.json").read_bytes())["copy"] == json.loads(kept)["copy"]


def test_a_cloned_copy_does_not_hide_the_damage_of_the_other(machine: Machine) -> None:
    """Of copies with one id the worst reading is remembered; verify says what they are, and its hint parts them."""
    assert machine.run("backup").code == 0
    shutil.rmtree(machine.b)
    shutil.copytree(machine.a, machine.b)
    flip(machine.a / min(objects(machine.a, "packs")))
    for arguments in (["verify"], ["verify", "--destination", "b"]):
        assert "a and b have one copy id" in machine.run(*arguments).err
        found = machine.run("status", "--json").json["sources"]["data"]
        assert found["destinations"]["a"]["state"] == "damaged", (arguments, found)
    assert machine.run("heal").code == 0
    (machine.b / "copy.json").unlink()
    machine.run("heal", "--destination", "b")
    answer = machine.run("verify")
    assert answer.code == 0 and "one copy id" not in answer.err, answer


def test_heal_says_what_it_could_not_write(machine: Machine) -> None:
    """Where one of the two objects can be written and the other not, both are told, and the log has what was done."""
    assert machine.run("backup").code == 0
    for name in ("opskit.json", "copy.json"):
        (machine.b / name).write_bytes(b"")
    (machine.b / "copy.json").unlink()
    (machine.b / "copy.json").mkdir()
    answer = machine.run("heal", "--destination", "b")
    assert answer.code != 0 and "b: opskit.json written anew" in answer.err and "copy.json" in answer.err
    noted = machine.run("audit", "search", "--op", "heal", "--json").json[-1]["d"]
    assert noted["identities"] == {"b": ["opskit.json"]}


def test_a_copy_without_an_id_is_told(machine: Machine) -> None:
    """Without copy.json nobody could tell a rollback: status, backup and sync say so, until heal writes it anew."""
    assert machine.run("backup").code == 0
    kept = (machine.b / "copy.json").read_bytes()
    (machine.b / "copy.json").unlink()
    for command in ("status", "backup", "sync"):
        answer = machine.run(command)
        said = f"{answer.out}{answer.err}".replace("\n     ", " ")
        assert answer.code == 3 and "copy.json is gone" in said, (command, answer)
    assert machine.run("heal").code == 0
    assert json.loads((machine.b / "copy.json").read_bytes())["copy"] == json.loads(kept)["copy"]


def test_a_rotten_manifest_is_no_rollback(machine: Machine) -> None:
    """A manifest that no copy has right stays where it is: heal says it is lost; nobody is said to have taken it."""
    assert machine.run("backup").code == 0
    for copy in (machine.a, machine.b):
        for name in objects(copy, "snapshots"):
            flip(copy / name)
    assert machine.run("verify").code == 3
    answer = machine.run("heal")
    assert answer.code == 3 and "snapshots/" in answer.out
    assert machine.run("verify").code == 3, "damage, and no rollback"
    found = machine.run("status", "--json").json["sources"]["data"]
    assert found["newest_verified"] is None, "what is rotten everywhere was not verified, whatever a cache knows"
    assert "rolled_back" not in machine.run("audit", "search", "--op", "heal", "--json").json[-1]["d"]


def test_a_lost_memory_of_heads_is_told_by_all(machine: Machine) -> None:
    """Whoever opens the damaged file first, each command says so from then on, until somebody takes it away."""
    assert machine.run("backup").code == 0
    (path,) = (machine.state / "heads").iterdir()
    path.write_text("junk")
    for command, code in (("snapshots", 0), ("stats", 0), ("sync", 3), ("heal", 3), ("verify", 3), ("status", 3)):
        answer = machine.run(command)
        assert "a rollback of a copy before that cannot be seen" in answer.err, (command, answer)
        assert answer.code in (code, 3), (command, answer)
    path.with_suffix(".damaged").unlink()
    assert machine.run("sync").code == 0 and machine.run("verify").code == 0
    path.unlink()
    path.mkdir()  # so that it cannot be read, by root either
    for command in ("sync", "heal", "verify", "status"):
        answer = machine.run(command)
        assert answer.code == 3 and "a rollback of a copy cannot be seen" in answer.err, (command, answer)


def test_heal_takes_over_no_other_repository(machine: Machine) -> None:
    """A copy of another repository, however rotten, or an empty folder is left as it is: that is for people."""
    assert machine.run("backup").code == 0
    other = Machine(machine.folder.with_name("other"))
    fill(other.source)
    assert other.init().code == 0 and other.run("backup").code == 0
    shutil.rmtree(machine.b)
    shutil.copytree(other.b, machine.b)
    for damage in ("", '{"format":1,"id":"ffffffffffffffffffffffffffffffff"}', "rubbish"):
        (machine.b / "opskit.json").write_text(damage)
        for copy_id in ((other.b / "copy.json").read_bytes(), b""):
            (machine.b / "copy.json").write_bytes(copy_id)
            before = snapshot_of(machine.b)
            answer = machine.run("heal", "--destination", "b")
            assert answer.code != 0 and "nothing there says that it is a copy of this repository" in answer.err
            assert snapshot_of(machine.b) == before
    shutil.rmtree(machine.b)
    machine.b.mkdir()
    assert machine.run("heal", "--destination", "b").code != 0 and not any(machine.b.iterdir())


def test_a_changed_opskit_json_is_an_alarm_and_is_replaced(machine: Machine) -> None:
    """Manifests carry the sum of opskit.json: other bytes of the same meaning do not pass, and heal puts it right."""
    assert machine.run("backup").code == 0
    path = machine.b / "opskit.json"
    good = path.read_bytes()
    path.write_bytes(good + b" ")
    answer = machine.run("verify")
    assert answer.code == 13 and "opskit.json" in answer.out
    assert machine.run("heal", "--destination", "b").code == 13 and path.read_bytes() == good
    assert machine.run("verify").code == 0

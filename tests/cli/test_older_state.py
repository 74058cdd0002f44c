"""Copies that went back: an older state put back, manifests removed, disks swapped: who says so, with which code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.hosts import Machine, objects


def keep(copy: Path) -> Path:
    """An image of a copy as it is now, beside it."""
    image = copy.with_name(f"{copy.name}-image")
    shutil.copytree(copy, image)
    return image


def put_back(image: Path, copy: Path) -> None:
    """The image in place of the copy."""
    shutil.rmtree(copy)
    shutil.copytree(image, copy)


def change(machine: Machine, name: str) -> None:
    """Something new to back up."""
    (machine.source / name).write_text(name)


def outcome(machine: Machine, op: str) -> dict[str, Any]:
    """What the newest outcome of an operation has for details."""
    found: dict[str, Any] = machine.run("audit", "search", "--op", op, "--json").json[-1]["d"]
    return found


def heads(copy: Path) -> set[str]:
    """The manifests of a copy."""
    return objects(copy, "snapshots")


@pytest.fixture
def older(machine: Machine) -> Machine:
    """A host whose copy b is, as a whole folder, what it was before the second of two backups."""
    assert machine.run("backup").code == 0
    image = keep(machine.b)
    change(machine, "second")
    assert machine.run("backup").code == 0
    put_back(image, machine.b)
    assert len(heads(machine.a) - heads(machine.b)) == 1
    return machine


def test_status_names_an_older_state(older: Machine) -> None:
    """Status ends with 13 and calls the one copy rolled back, with the snapshot that it lost."""
    (lost,) = heads(older.a) - heads(older.b)
    answer = older.run("status", "--json")
    found = answer.json["sources"]["data"]["destinations"]
    assert answer.code == 13 and (found["a"]["state"], found["b"]["state"]) == ("current", "rolled back")
    digest = lost.rpartition("-")[2].removesuffix(".gpg")
    text = older.run("status").out
    assert f"b once held snapshot {digest[:8]}" in text.replace("\n     ", " ") and "a once held" not in text


def test_verify_names_an_older_state(older: Machine) -> None:
    """Verify ends with 13 and names the manifest that is gone, at the copy that lost it and at no other."""
    answer = older.run("verify", "--json")
    found = answer.json["destinations"]
    assert answer.code == 13 and set(found["b"]["rolled_back"]) == heads(older.a) - heads(older.b)
    assert found["a"]["rolled_back"] == found["b"]["damaged"] == found["b"]["behind"] == []
    assert older.run("verify", "--destination", "b").code == 13, "without the other copy to compare with"


def test_backup_names_an_older_state(older: Machine) -> None:
    """Backup ends with 3, names the copy and its outcome in the log does; the copy has all of it again."""
    lost = heads(older.a) - heads(older.b)
    change(older, "third")
    answer = older.run("backup")
    assert answer.code == 3 and "b: rolled back: it acknowledged snapshot 2 of data" in answer.err
    noted = outcome(older, "backup")
    assert noted["exit"] == 3 and noted["rolled_back"] == [
        {"destination": "b", "host": older.run("snapshots", "--json").json[0]["host"], "source": "data",
         "snapshot": next(iter(lost))},
    ]  # fmt: skip
    assert "rejected" not in noted
    assert lost <= heads(older.b) and older.run("verify").code == 0
    change(older, "fourth")
    assert older.run("backup").code == 0 and "rolled_back" not in outcome(older, "backup")


def test_sync_names_an_older_state(older: Machine) -> None:
    """Sync ends with 3, names the copy and its outcome in the log does; the copy has all of it again."""
    lost = heads(older.a) - heads(older.b)
    answer = older.run("sync")
    assert answer.code == 3 and "b: ROLLED BACK: it had snapshot 2 of data once" in answer.err
    (noted,) = outcome(older, "sync")["rolled_back"]
    assert (noted["destination"], {noted["snapshot"]}) == ("b", lost)
    assert heads(older.b) == heads(older.a)
    assert older.run("sync").code == 0 and "rolled_back" not in outcome(older, "sync")


def test_heal_names_an_older_state(older: Machine) -> None:
    """Heal, which does not judge who put it there, ends with 13 all the same; its outcome in the log names the copy."""
    lost = heads(older.a) - heads(older.b)
    answer = older.run("heal", "--destination", "b")
    assert answer.code == 13 and "went back in time" in answer.err
    (noted,) = outcome(older, "heal")["rolled_back"]
    assert (noted["destination"], {noted["snapshot"]}) == ("b", lost)
    assert older.run("heal", "--destination", "a").code == 0 and "rolled_back" not in outcome(older, "heal")


def test_what_sync_brought_is_acknowledged(machine: Machine) -> None:
    """A copy that got a snapshot by sync alone, and then went back behind it, is rolled back and not merely behind."""
    assert machine.run("backup").code == 0
    image = keep(machine.b)
    machine.b.rename(machine.b.with_name("away"))
    change(machine, "second")
    assert machine.run("backup").code == 3
    machine.b.with_name("away").rename(machine.b)
    assert machine.run("verify").code == 3, "behind, as nobody has seen it hold the second"
    assert machine.run("sync", "b").code == 0 and machine.run("verify").code == 0
    put_back(image, machine.b)
    answer = machine.run("verify", "--json")
    assert answer.code == 13
    assert set(answer.json["destinations"]["b"]["rolled_back"]) == heads(machine.a) - heads(machine.b)


def test_all_copies_in_an_older_state(machine: Machine) -> None:
    """With every copy put back at once this host's memory still tells: status, verify and backup name both."""
    assert machine.run("backup").code == 0
    images = [keep(copy) for copy in (machine.a, machine.b)]
    change(machine, "second")
    assert machine.run("backup").code == 0
    for image, copy in zip(images, (machine.a, machine.b), strict=True):
        put_back(image, copy)
    assert machine.run("status").code == 13 and machine.run("verify").code == 13
    answer = machine.run("backup", "--json")
    assert answer.code == 3 and sum("rolled back" in each for each in answer.json[0]["errors"]) == 2
    assert [each["destination"] for each in outcome(machine, "backup")["rolled_back"]] == ["a", "b"]
    told = machine.run("verify", "--json").json["destinations"]["a"]["removed"]
    assert len(told) == 1 and "number 2 of data" in told[0], "a number that was given once is not given again"


def test_the_newest_manifest_removed_everywhere(used: Machine) -> None:
    """Taken away at all copies it is 13, named at each; after the next backup, with a number of its own, a gap: 3."""
    (gone,) = _remove_everywhere(used, -1)
    answer = used.run("verify", "--json")
    found = answer.json["destinations"]
    assert answer.code == 13 and found["a"]["rolled_back"] == found["b"]["rolled_back"] == [gone]
    assert gone in used.run("verify").out and used.run("status").code == 13
    change(used, "third")
    assert used.run("backup").code == 3
    _is_a_gap(used, "number 2 of data", "though number 3 is")


def test_an_older_manifest_removed_everywhere(used: Machine) -> None:
    """Taken away at all copies it is a gap between numbers, told at each copy: 3."""
    _remove_everywhere(used, 0)
    _is_a_gap(used, "number 1 of data", "though number 2 is")


def _remove_everywhere(machine: Machine, index: int) -> list[str]:
    ordered = sorted(heads(machine.a), key=lambda name: (machine.a / name).stat().st_mtime_ns)
    for copy in (machine.a, machine.b):
        (copy / ordered[index]).unlink()
    return [ordered[index]]


def _is_a_gap(machine: Machine, *words: str) -> None:
    answer = machine.run("verify", "--json")
    assert answer.code == 3
    for copy in ("a", "b"):
        (told,) = answer.json["destinations"][copy]["removed"]
        assert all(each in told for each in words), told
    assert all(each in machine.run("verify").out for each in words)


def test_swapped_disks_are_two_copies(machine: Machine) -> None:
    """Disks in turn at one mount point: the other one is behind, never rolled back, and each backup completes it."""
    assert machine.run("backup").code == 0
    first, second = machine.b.with_name("first-disk"), machine.b.with_name("second-disk")
    machine.b.rename(first)
    machine.b.mkdir()
    assert machine.run("init", "--destination", f"b={machine.b}").code == 0
    change(machine, "on the second disk")
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    newest = heads(machine.b) - heads(first)
    assert len(heads(machine.b)) == 2 and len(newest) == 1

    machine.b.rename(second)
    first.rename(machine.b)
    _is_behind(machine, newest)
    change(machine, "on the first disk again")
    answer = machine.run("backup")
    assert answer.code == 0 and "rolled back" not in answer.err and "rolled_back" not in outcome(machine, "backup")
    assert machine.run("verify").code == 0 and heads(machine.b) == heads(machine.a)

    machine.b.rename(first)
    second.rename(machine.b)
    _is_behind(machine, heads(machine.a) - heads(machine.b))
    (machine.b / next(iter(newest))).unlink()
    assert machine.run("verify").code == 13, "what this very disk acknowledged is gone from it"


def _is_behind(machine: Machine, what: set[str]) -> None:
    answer = machine.run("verify", "--json")
    found = answer.json["destinations"]["b"]
    assert answer.code == 3 and (found["rolled_back"], set(found["behind"])) == ([], what)
    assert machine.run("status", "--json").json["sources"]["data"]["destinations"]["b"]["state"] == "behind"


@pytest.mark.parametrize("command", ["backup", "sync", "status"])
def test_a_torn_manifest_is_no_older_state(machine: Machine, command: str) -> None:
    """A newest manifest that was cut short at one copy is damage, which backup and sync mend: nobody went back."""
    for name in ("first", "second"):
        change(machine, name)
        assert machine.run("backup").code == 0
    newest = max(heads(machine.b), key=lambda name: (machine.b / name).stat().st_mtime_ns)
    (machine.b / newest).write_bytes(b"")
    answer = machine.run(command)
    assert answer.code == 3, answer
    assert "rolled back" not in f"{answer.out}{answer.err}".lower()
    if command != "status":
        assert newest in answer.err
        assert (machine.b / newest).read_bytes() == (machine.a / newest).read_bytes()
        assert "rolled_back" not in outcome(machine, command) and machine.run("verify").code == 0

"""`opskit forget` and `opskit prune`: what goes, what stays, and what is told of it."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from opskit import wiring
from opskit.config.load import load
from opskit.gpg import Keyring
from opskit.operations.marking import publish
from opskit.operations.session import open_copies
from opskit.repository import names
from opskit.repository.marks import CONDEMN, FORGET, Mark
from tests.cli.hosts import Machine, everything


@pytest.fixture
def aged(machine: Machine) -> Machine:
    """A host with six snapshots of today, each with content of its own; retention keeps three."""
    for number in range(6):
        (machine.source / "changing").write_bytes(os.urandom(50_000))
        assert machine.run("backup").code == 0, number
    return machine


def ids(machine: Machine, *arguments: str) -> list[str]:
    return [each["id"] for each in machine.run("snapshots", "--json", *arguments).json]


def age(machine: Machine, days: int) -> None:
    """Make everything at the copies look as if it had been put there some days ago."""
    then = time.time() - days * 86400
    for copy in (machine.a, machine.b):
        for path in copy.rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))


def mark_long_ago(machine: Machine, kind: str, days: int, **fields: object) -> None:
    """A mark that this host's key made some days ago."""
    config = load(machine.config)
    host = wiring.host_of(config)
    with host.identity.keyring:
        found, _ = open_copies(wiring.stores_of(config), host.repository)
        created = (wiring.now() - timedelta(days=days)).replace(microsecond=0)
        publish(host.identity, found, Mark(kind, host.repository, host.label, created, **fields))  # type: ignore[arg-type]
    age(machine, days)


def forget_long_ago(machine: Machine, *numbers: int) -> None:
    """As `opskit forget` did nine days ago, with snapshots of these numbers."""
    shown = {each["sequence"]: each for each in machine.run("snapshots", "--json").json}
    places = {shown[number]["id"]: (shown[number]["host"], "data", number) for number in numbers}
    mark_long_ago(machine, FORGET, 9, snapshots=list(places), places=places)


def test_rules_and_reasons(aged: Machine) -> None:
    """A dry run gives the reason for each snapshot and changes nothing; forgotten ones are hidden, not gone."""
    every, before = ids(aged), everything(aged.a)
    dry = aged.run("forget", "--dry-run", "--json").json
    (chain,) = dry["judged"]
    assert [each["id"] for each in chain["snapshots"] if not each["keep"]] == dry["forgotten"] == every[:3]
    assert "newest complete" in chain["snapshots"][-1]["keep"] and everything(aged.a) == before
    done = aged.run("forget")
    assert done.code == 0 and "3 snapshots forgotten" in done.out and "--undo" in done.err
    assert ids(aged) == every[3:] and ids(aged, "--all") == every
    assert aged.run("forget", "--json").json["forgotten"] == []
    assert aged.run("verify").code == 0 and aged.run("status").code == 3
    assert everything(aged.a) - before == {each for each in everything(aged.a) if each.startswith("marks/")}


def test_what_was_forgotten_restores_until_it_is_deleted(aged: Machine, tmp_path: Path) -> None:
    """By its id, with a warning; `latest` and dates mean those that were not forgotten."""
    every = ids(aged)
    assert aged.run("forget", "--snapshot", every[-1]).code == 0
    key = ["--key", aged.key, "--target"]
    old = aged.run("restore", every[-1][:12], *key, tmp_path / "old")
    assert old.code == 0 and "is forgotten" in old.err
    assert aged.run("restore", "latest", *key, tmp_path / "new", "--json").json["snapshot"] == every[-2]
    assert aged.run("forget", "--undo", every[-1][:12]).code == 0
    assert ids(aged) == every
    assert aged.run("forget", "--undo", every[-1][:12]).code == 10


def test_deleting_after_the_grace(aged: Machine, tmp_path: Path) -> None:
    """What only forgotten snapshots needed is deleted at every copy when the marks are old enough; others restore."""
    every = ids(aged)
    forget_long_ago(aged, 1, 2, 3)
    dry = aged.run("prune", "--dry-run", "--json").json
    assert dry["condemned"] > 6 and dry["destinations"]["a"]["due"] == 3
    first = aged.run("prune", "--json").json
    assert first["destinations"]["b"]["deleted"] == 3 and ids(aged, "--all") == every[3:]
    before = everything(aged.a)
    for path in (aged.a / "marks").iterdir():
        os.utime(path, (time.time() - 9 * 86400,) * 2)
    assert aged.run("prune").code == 0 and everything(aged.a) == before, "the mark itself is not as old as its file"
    doomed = sorted(each for each in before if each.startswith(("packs/", "keys/", "index/")))
    mark_long_ago(aged, CONDEMN, 9, objects=doomed)
    last = aged.run("prune")
    assert last.code == 0 and "pardoned" in last.out, last
    after = everything(aged.a)
    assert len({each for each in before - after if each.startswith("packs/")}) == 5, "but for what the others share"
    assert aged.run("verify").code == 0
    for each in ids(aged):
        target = tmp_path / each[:8]
        assert aged.run("restore", each, "--key", aged.key, "--target", target).code == 0
    (result,) = aged.run("backup", "--json").json
    assert result["errors"] == [] and result["new_bytes"] == 0


def test_what_killed_runs_left(aged: Machine) -> None:
    """Files of puts that were killed are told by a dry run and removed after a day, in a line and in JSON."""
    for name, days in (("77-0123456789abcdef", 2), ("78-0123456789abcdef", 0.9)):
        left = aged.b / ".tmp" / name
        left.write_bytes(b"x" * 5000)
        os.utime(left, (time.time() - days * 86400,) * 2)
    told = aged.run("prune", "--dry-run")
    assert told.code == 0 and "b: 1 file, 5.0 kB would be removed that killed runs had left unfinished" in told.out
    found = aged.run("--json", "prune").json["destinations"]
    assert [(each["unfinished"], each["unfinished_bytes"]) for each in found.values()] == [(0, 0), (1, 5000)]
    assert os.listdir(aged.b / ".tmp") == ["78-0123456789abcdef"]
    assert "unfinished" not in aged.run("prune").out


def test_a_removed_snapshot_is_settled(aged: Machine) -> None:
    """A manifest that somebody deleted everywhere is told until forget names it."""
    gone = ids(aged)[2]
    for copy in (aged.a, aged.b):
        next((copy / "snapshots").glob(f"*{gone}*")).unlink()
    told = aged.run("verify", "--json")
    assert told.code == 3 and told.json["destinations"]["a"]["removed"]
    assert aged.run("forget", "--snapshot", gone).code == 0
    assert aged.run("verify").code == 0


def test_retention_hides_no_removal(aged: Machine) -> None:
    """Beside numbers that were forgotten and deleted, one that somebody took away shows."""
    every = ids(aged)
    forget_long_ago(aged, 1, 3, 4)
    assert aged.run("prune").code == 0 and aged.run("verify").code == 0
    for copy in (aged.a, aged.b):
        next((copy / "snapshots").glob(f"*{every[1]}*")).unlink()
    told = aged.run("verify", "--json")
    assert told.code == 3
    (text,) = told.json["destinations"]["a"]["removed"]
    assert text.startswith("number 2 of data")


def test_what_stays_whatever_is_asked(aged: Machine) -> None:
    """A held snapshot, and the last complete one that is whole, are not forgotten by name; nothing is written."""
    every = ids(aged)
    assert aged.run("hold", every[0], "--reason", "case 12").code == 0
    held = aged.run("forget", "--snapshot", every[0])
    assert held.code == 2 and "held: case 12" in held.err and "--release" in held.err
    assert every[0] not in aged.run("forget", "--json").json["forgotten"]
    rest = ids(aged)
    aged.run("hold", every[0], "--release")
    last = aged.run("forget", *(word for each in rest for word in ("--snapshot", each)))
    assert last.code == 2 and "without a complete snapshot" in last.err
    assert ids(aged) == rest


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["forget", "nosuch"], 10, "no snapshot of a source"),
        (["forget", "--snapshot", "ffff"], 10, "no snapshot with an id"),
        (["forget", "data", "--undo", "ffff"], 2, "expected sources, or"),
        (["forget", "--host", "other", "--snapshot", "latest"], 2, "expected none with --snapshot"),
        (["prune", "--max-delete", "much"], 2, "expected a size"),
        (["forget", "--host", "other"], 10, "of host 'other'"),
    ],
)
def test_what_cannot_be_meant(backed_up: Machine, arguments: list[str], code: int, words: str) -> None:
    """What names nothing, or two things at once, is refused with what was expected."""
    answer = backed_up.run(*arguments)
    assert answer.code == code and words in answer.err


def test_an_absent_disk(aged: Machine) -> None:
    """It is told, exit 3; when it comes back it gets the marks, and keeps its objects for a grace of its own."""
    aged.b.rename(aged.folder / "away")
    assert aged.run("forget").code == 3
    assert aged.run("prune").code == 3
    (aged.folder / "away").rename(aged.b)
    assert aged.run("prune").code == 0
    assert {each for each in everything(aged.a) if each.startswith("marks/")} <= everything(aged.b)


def test_only_a_maintainer(aged: Machine) -> None:
    """A host whose key is no maintainer's is refused, exit 12, and writes nothing."""
    text = aged.config.read_text()
    other = "0" * 40
    lines = [line for line in text.splitlines() if "maintainers" not in line]
    before = everything(aged.a)
    aged.config.write_text("\n".join(lines).replace("keys:", f'keys:\n  maintainers: ["{other}"]') + "\n")
    answer = aged.run("forget")
    assert answer.code == 12 and "maintainer" in answer.err, answer
    assert everything(aged.a) == before


def test_an_absent_disk_keeps_no_places(aged: Machine) -> None:
    """Snapshots that only an absent destination has push out none of those at hand, for it may never come back."""
    every = ids(aged)
    aged.a.rename(aged.folder / "away")
    for number in range(3):
        (aged.source / "changing").write_bytes(os.urandom(5_000))
        assert aged.run("backup").code == 3, number
    aged.b.rename(aged.folder / "broken")
    (aged.folder / "away").rename(aged.a)
    told = aged.run("forget", "--json")
    assert told.code == 3 and told.json["forgotten"] == every[:3]


def test_all_were_forgotten(aged: Machine) -> None:
    """By marks of two machines: the last one stays when the others are deleted, is told, and can be taken back."""
    last = ids(aged)[-1]
    forget_long_ago(aged, 1, 2, 3, 4, 5, 6)
    told = aged.run("prune")
    assert told.code == 0 and f"forgotten snapshot {last[:8]} of data stays" in told.err
    assert ids(aged) == [] and ids(aged, "--all") == [last] and "--all" in aged.run("snapshots").err
    assert aged.run("prune", "--json").json["destinations"]["a"]["last"] == [last]
    assert aged.run("forget", "--undo", last).code == 0 and ids(aged) == [last]


def test_undo_after_the_deletion(aged: Machine) -> None:
    """What prune has deleted cannot be taken back, and is not said to be; where a disk is absent it may have it."""
    gone = ids(aged)[0]
    forget_long_ago(aged, 1)
    assert aged.run("prune").code == 0
    before = everything(aged.a)
    late = aged.run("forget", "--undo", gone)
    assert late.code == 10 and "prune has deleted it" in late.err and everything(aged.a) == before
    aged.b.rename(aged.folder / "away")
    perhaps = aged.run("forget", "--undo", gone)
    assert perhaps.code == 3 and "comes back if" in perhaps.err


def test_a_hold_that_cannot_be_read(aged: Machine) -> None:
    """A mark that may hold snapshots and that no copy has whole keeps all of them: nothing is forgotten."""
    assert aged.run("hold", ids(aged)[0], "--reason", "case 12").code == 0
    for copy in (aged.a, aged.b):
        for mark in (copy / "marks").iterdir():
            mark.write_bytes(b"rotten")
    for path in (aged.state / "cache").iterdir():
        path.unlink()
    before = everything(aged.a)
    for arguments in ([], ["--snapshot", ids(aged)[1]]):
        answer = aged.run("forget", *arguments)
        assert answer.code == 13 and "may hold snapshots" in answer.err, answer
    assert everything(aged.a) == before


def test_a_stranger_stops_prune_until_his_object_is_set_aside(aged: Machine, tmp_short: Path) -> None:
    """The message says what to look at and what to do; what was moved to quarantine/ is in nobody's way."""
    with Keyring(tmp_short / "g") as stranger:
        data = stranger.sign(b"{}", stranger.generate("stranger"))
    name = f"20261121T020000Z-data-{names.sha256(data)}.gpg"
    (aged.a / "snapshots" / name).write_bytes(data)
    told = aged.run("prune")
    assert told.code == 13 and name in told.err and "signed by an unknown key" in told.err
    assert "quarantine/" in told.err and "operations.md" in told.err and "keys.signers" in told.err
    (aged.a / "quarantine").mkdir(exist_ok=True)
    (aged.a / "snapshots" / name).rename(aged.a / "quarantine" / name)
    assert aged.run("prune").code == 0 and aged.run("verify").code == 0

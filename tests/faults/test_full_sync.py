"""Sync and heal at real disks that fill up, and as real processes that are killed by signal 9 at random moments."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from opskit import log
from opskit.errors import StoreFull
from opskit.repository import names
from opskit.stores.local import LocalStore
from tests.cli.hosts import Machine, objects
from tests.fakes import FaultyStore, flipped
from tests.faults.test_full import fill
from tests.faults.test_sync_campaign import Trio, contents, make_trio, right, spoil
from tests.repositories import Keys, apart, assert_restores, memory_copy, memory_store, noise
from tests.stores.mounts import MEBIBYTE, mounted
from tests.telling import Tell

KIBIBYTE = 1024
LONG = partial(pytest.param, marks=pytest.mark.campaign)


@pytest.fixture(scope="module")
def trio(throwaway_keys: Keys, scratch: Path) -> Trio:
    """Three whole copies in memory of about two megabytes; nobody may change them."""
    stores = {name: memory_store(name) for name in "abc"}
    return make_trio(throwaway_keys, apart(scratch, "full-trio"), dict(stores), size=300 * KIBIBYTE)


def place_copy(lab: Trio, folder: Path, *, is_whole: bool) -> LocalStore:
    """Copy `c` on a medium, whole or empty."""
    store = LocalStore(folder / "repository")
    store.create()
    for info in lab.stores["c"].list():
        if is_whole or info.name in names.FIXED:
            store.put(info.name, lab.stores["c"].get(info.name))
    return store


def leftovers(store: LocalStore) -> list[str]:
    """What unfinished puts left at a copy."""
    return [path.name for path in (Path(store.location) / ".tmp").glob("*")]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("leave", [LONG(0), 40 * KIBIBYTE, LONG(700 * KIBIBYTE), 1500 * KIBIBYTE])
def test_sync_to_a_full_disk(leave: int, workers: int, trio: Trio, tmp_path: Path) -> None:
    """A full target ends a sync with StoreFull and whole snapshots or none; with room again the next ends the work."""
    with mounted("tmpfs", tmp_path, size=8 * MEBIBYTE) as place:
        store = place_copy(trio, place, is_whole=False)
        stores = {**trio.stores, "c": store}
        ballast = fill(place, leave)
        result, _ = trio.sync(stores, workers=workers)
        assert result.lacking and all(isinstance(reason, StoreFull) for _, reason in result.lacking), result
        held = right(trio, store)
        assert contents(store).keys() == held and not leftovers(store), "something is half-written"
        shown = {each.name for each in trio.history({"c": store}).snapshots}
        assert shown == trio.needs.keys() - {each.name for each, _ in result.lacking}
        assert all(trio.needs[name] <= held for name in shown)
        ballast.unlink()
        watched = FaultyStore(store)
        result, _ = trio.sync({**stores, "c": watched}, workers=workers)
        assert not result.lacking and contents(store) == trio.truth
        assert held.isdisjoint(name for operation, name in watched.log if operation == "put"), "stored again"
        assert_restores(trio, trio.source, tmp_path / "restored", {"c": store})


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("leave", [0, LONG(40 * KIBIBYTE), 400 * KIBIBYTE])
@pytest.mark.parametrize("is_lost", [False, True])
def test_heal_of_a_full_disk(is_lost: bool, leave: int, workers: int, trio: Trio, tmp_path: Path) -> None:
    """A heal without room says StoreFull and loses no byte, not even of what nobody has right; with room it ends."""
    packs = [name for name in trio.truth if names.is_pack(name)]
    wrong = {name: flipped(trio.truth[name], 77) for name in packs[::2]}
    wrong |= {name: trio.truth[name][: len(trio.truth[name]) // 2] for name in packs[1::2]}
    others = {each: memory_copy(trio.stores[each], lambda name, data: wrong.get(name, data)) for each in "ab"}
    with mounted("tmpfs", tmp_path, size=8 * MEBIBYTE) as place:
        store = place_copy(trio, place, is_whole=True)
        for name, data in wrong.items():
            spoil(store, name, data)
        stores = {**(others if is_lost else trio.stores), "c": store}
        ballast = fill(place, leave)
        _, results = trio.heal(stores, workers=workers)
        failed = results["c"].failed
        assert is_lost or all(isinstance(reason, StoreFull) for reason in failed.values()), failed
        assert not results["c"].is_whole and (is_lost or leave or failed.keys() == wrong.keys())
        assert_nothing_lost(trio, store, wrong)
        ballast.unlink()
        _, results = trio.heal(stores, workers=workers)
        assert results["c"].is_whole is not is_lost
        assert_nothing_lost(trio, store, wrong)
        if not is_lost:
            assert contents(store) == trio.truth
            assert_restores(trio, trio.source, tmp_path / "restored", {"c": store})


def assert_nothing_lost(lab: Trio, store: LocalStore, wrong: dict[str, bytes]) -> None:
    """Wrong bytes lie in their place or in quarantine, whole; all else is right, and nothing is half-written."""
    held = {store.get(info.name) for info in store.list()}
    assert set(wrong.values()) <= held, "wrong bytes are gone"
    for name, data in contents(store).items():
        assert data in (lab.truth[name], wrong.get(name)), f"{name} is half-written"
    for info in store.list("quarantine"):
        assert names.quarantine(names.sha256(store.get(info.name))) == info.name, "quarantine is half-written"
    assert lab.truth.keys() - wrong.keys() <= right(lab, store) and not leftovers(store)


# Killed


@pytest.fixture(autouse=True)
def _log_as_new() -> Iterator[None]:
    """The commands set the log up; the tests after these find it as it was."""
    yield
    log.configure()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Machine]:
    """By command, a host with three copies that has work for it: `c` was away for long, or `a` and `b` are damaged."""
    machine = Machine(tmp_path_factory.mktemp("hosts") / "sync")
    machine.source.mkdir(parents=True)
    assert machine.init("--destination", f"c={machine.folder / 'c'}").code == 0
    assert machine.run("backup").code == 0
    shutil.move(machine.folder / "c", machine.folder / "away")
    for number in range(8):
        (machine.source / f"file-{number}").write_bytes(noise(number, 200_000))
        assert machine.run("backup").code == 3
    shutil.move(machine.folder / "away", machine.folder / "c")
    ill = machine.copy_to(machine.folder.with_name("heal"))
    assert ill.run("sync").code == 0
    needed = sorted(name for kind in ("keys", "packs", "index") for name in objects(ill.a, kind))
    for number, name in enumerate(needed):
        path = (ill.a, ill.b)[number % 2] / name
        path.chmod(0o600)
        path.write_bytes(flipped(path.read_bytes(), 99))
    return {"sync": machine, "heal": ill}


def everything(copy: Path) -> dict[str, bytes]:
    """The objects of a copy, its quarantine aside."""
    kinds = ("keys", "packs", "index", "packlists", "snapshots", "marks")
    return {name: (copy / name).read_bytes() for kind in kinds for name in objects(copy, kind)}


def held(machine: Machine) -> int:
    """How many objects the three copies hold, quarantine included: each step of the work makes that more or less."""
    return sum(len(objects(machine.folder / each, ".")) for each in "abc")


def work(machine: Machine, command: str) -> int:
    """How many objects more the copies hold after the command."""
    before = held(machine)
    assert machine.run(command).code == 0
    return held(machine) - before


def kill_and_go_on(machine: Machine, command: str, steps: int, seconds: float) -> tuple[bool, bool]:
    """Kill a command some time after so many steps and run it again; whether it was running, and amid its work."""
    whole = everything(machine.folder / ("a" if command == "sync" else "c"))
    had, before = {each: everything(machine.folder / each) for each in "abc"}, held(machine)
    with machine.start(command) as process:
        while process.poll() is None and held(machine) < before + steps:
            time.sleep(0.0005)
        time.sleep(seconds)
        was_running = process.poll() is None
        process.kill()
        process.communicate()
    was_working = was_running and held(machine) != before
    assert_never_wrong(machine, whole, had)
    answer = machine.run(command)
    assert answer.code == 0, answer
    assert all(everything(machine.folder / each) == whole for each in "abc")
    for check in (["verify"], ["audit", "verify"]):
        assert machine.run(*check).code == 0, machine.run(*check)
    return was_running, was_working


def assert_never_wrong(machine: Machine, whole: dict[str, bytes], before: dict[str, dict[str, bytes]]) -> None:
    """What lies under final names is right or what lay there before, and what `c` shows has all it needs."""
    for each, had in before.items():
        now = everything(machine.folder / each)
        assert not (half := [name for name, data in now.items() if data not in (whole[name], had.get(name))]), half
    found = machine.run("verify", "--destination", "c", "--json").json["destinations"]["c"]
    assert found["damaged"] == [] == found["missing"], found


def campaign(hosts: dict[str, Machine], command: str, kills: int, seed: int, folder: Path) -> str:
    chance, running, working = random.Random(seed), 0, 0
    most = work(hosts[command].copy_to(folder / "whole"), command)
    for number in range(kills):
        machine = hosts[command].copy_to(folder / f"{number}")
        real = kill_and_go_on(machine, command, chance.randrange(most), chance.uniform(0, 0.003))
        running, working = running + real[0], working + real[1]
        shutil.rmtree(machine.folder)
    return f"{command} killed while running: {running} of {kills}, {working} amid its work"


def test_commands_tell_of_a_full_disk(hosts: dict[str, Machine], tmp_path: Path) -> None:
    """`sync` to a full disk answers 21 and `heal` of one 3; with room again both answer 0, and so does `verify`."""
    machine = hosts["sync"].copy_to(tmp_path / "host")
    with mounted("tmpfs", tmp_path, size=16 * MEBIBYTE) as place:
        shutil.move(machine.folder / "c", place / "c")
        machine.edit_config(str(machine.folder / "c"), str(place / "c"))
        ballast = fill(place, MEBIBYTE)
        assert machine.run("sync", "c").code == 21
        ballast.unlink()
        assert machine.run("sync", "c").code == 0 == machine.run("verify").code
        for path in (place / "c" / "packs").glob("*/*"):
            path.chmod(0o600)
            path.write_bytes(flipped(path.read_bytes(), 5))
        ballast = fill(place, 0)
        answer = machine.run("heal", "--destination", "c", "--json")
        assert answer.code == 21 and answer.json["destinations"]["c"]["failed"].keys() == objects(place / "c", "packs")
        ballast.unlink()
        assert machine.run("heal").code == 0 == machine.run("verify").code


def test_commands_tell_of_what_no_copy_holds(hosts: dict[str, Machine], tmp_path: Path) -> None:
    """`heal` answers 3 and names, for each of three copies, the pack that is wrong at all; it mends the rest."""
    machine = hosts["heal"].copy_to(tmp_path / "host")
    pack = max(objects(machine.a, "packs"))
    for each in "abc":
        path = machine.folder / each / pack
        path.chmod(0o600)
        path.write_bytes(b"nothing like it")
    answer = machine.run("heal", "--json")
    assert answer.code == 3 and len(answer.json["destinations"]) == 3
    for found in answer.json["destinations"].values():
        assert found["lost"] == [pack] == found["quarantined"] and not found["failed"]
    assert everything(machine.a) == everything(machine.b) == everything(machine.folder / "c")
    assert machine.run("verify").code == 3


@pytest.mark.parametrize("command", ["sync", "heal"])
def test_kill(command: str, hosts: dict[str, Machine], tmp_path: Path, tell: Tell) -> None:
    """After kill -9 at a random moment one more run makes three copies equal, and `verify` is content."""
    answer = campaign(hosts, command, 4, 1, tmp_path)
    tell(answer)


@pytest.mark.campaign
@pytest.mark.parametrize("command", ["sync", "heal"])
def test_kill_often(command: str, hosts: dict[str, Machine], tmp_path: Path, tell: Tell) -> None:
    """The same 25 times."""
    answer = campaign(hosts, command, 25, 2, tmp_path)
    tell(answer)

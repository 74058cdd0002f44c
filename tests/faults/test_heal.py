"""Heal: copies put right from one another, what nobody has, and interruptions anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from opskit.errors import ObjectUnreadable, StoreError, StoreFull
from opskit.gpg import verify as check_signature
from opskit.operations.heal import Healed, heal, mend_report
from opskit.operations.session import open_copies
from opskit.operations.verify import CopyReport, verify
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.recovery import kit
from opskit.stores.base import Buffer, Store
from opskit.stores.memory import MemoryStore
from tests.fakes import Crash, Fault, FaultyStore
from tests.operations.judging import lab_in
from tests.repositories import REPOSITORY, Keys, Lab, noise
from tests.telling import Tell

Damage = Callable[[bytes], bytes | None]

DAMAGES: dict[str, Damage] = {
    "flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "empty": lambda data: b"",
    "gone": lambda data: None,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty folder to back up."""
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def pair(throwaway_keys: Keys, source: Path, tmp_path: Path) -> Lab:
    """Two whole copies of three snapshots."""
    lab = lab_in(throwaway_keys, tmp_path, "a", "b")
    for number in range(3):
        (source / f"file-{number}").write_bytes(noise(number, 20_000))
        lab.backup(source)
    return lab


def spoil(store: Store, name: str, damage: Damage) -> None:
    """Change an object where it lies."""
    data = damage(store.get(name))
    store.delete(name)
    if data is not None:
        store.put(name, data)


def objects(lab: Lab, destination: str) -> list[str]:
    """What of a copy can be damaged and known from elsewhere."""
    return [info.name for info in lab.stores[destination].list() if names.digest_in(info.name) or info.name in kit()]


def mend(
    lab: Lab, *targets: str, stores: Mapping[str, Store] | None = None, workers: int = 1
) -> tuple[dict[str, CopyReport], dict[str, Healed]]:
    """Verify all copies and heal some (all unless told)."""
    copies, _ = open_copies(lab.stores if stores is None else stores, REPOSITORY)
    reports = verify(
        copies,
        lambda data: check_signature(data, lab.keys.trusted),
        signers=[lab.keys.host_key],
        repository=REPOSITORY,
    )
    return reports, heal(copies, reports, targets or list(lab.stores), about=lab.about, workers=workers)


def assert_whole(lab: Lab) -> None:
    """Nothing is objected to any more, and quarantine is all that is new."""
    assert {name: report.is_good for name, report in lab.verify().items()} == dict.fromkeys(lab.stores, True)


def test_each_object_damaged_in_each_way_is_healed(pair: Lab, tell: Tell) -> None:
    """Whatever becomes of an object at one copy, heal brings it back, byte for byte, and keeps the wrong bytes."""
    count = 0
    for name in objects(pair, "a"):
        right = pair.stores["a"].get(name)
        for damage in DAMAGES.values():
            if damage(right) == right or (name.startswith("snapshots/") and damage(right) is None):
                continue  # a copy without a manifest is behind, and not damaged: `sync` is for that
            spoil(pair.stores["a"], name, damage)
            _, results = mend(pair, "a")
            assert results["a"].is_whole and [*results["a"].replaced, *results["a"].restored] == [name], name
            assert pair.stores["a"].get(name) == right
            wrong = damage(right)
            if wrong is not None:
                assert pair.stores["a"].get(names.quarantine(names.sha256(wrong))) == wrong
            count += 1
    assert_whole(pair)
    tell(f"{count} damages healed")


def test_copies_damaged_in_different_places_heal_each_other(pair: Lab) -> None:
    """Any division of the damage between two copies is healed as long as no object is wrong at both."""
    chance = random.Random(5)
    for _ in range(5):
        shuffled = objects(pair, "a")
        chance.shuffle(shuffled)
        cut = chance.randrange(len(shuffled))
        manifests = [name for name in shuffled if name.startswith("snapshots/")]
        for destination, some in (("a", shuffled[:cut]), ("b", shuffled[cut:])):
            for name in some:
                ways = [each for each in DAMAGES.values() if name not in manifests or each is not DAMAGES["gone"]]
                spoil(pair.stores[destination], name, chance.choice(ways))
        _, results = mend(pair, workers=3)
        assert all(each.is_whole for each in results.values()), results
        assert_whole(pair)


def test_what_no_copy_has_is_told_and_stored_anew(pair: Lab, source: Path) -> None:
    """An object wrong at both copies is lost and leaves the listing; the next backup stores its content again."""
    newest = pair.history().snapshots[-1].manifest
    pack = next(name for name in newest.object_names() if name.startswith("packs/"))
    for store in pair.stores.values():
        spoil(store, pack, DAMAGES["flipped"])
    reports, results = mend(pair)
    assert all(each.lost == [pack] == each.quarantined and not each.is_whole for each in results.values())
    assert all(report.needed_by[pack] for report in reports.values())
    assert all(pack not in {info.name for info in store.list()} for store in pair.stores.values())
    result = pair.backup(source, force=True)
    assert result.errors == []
    newest = pair.history().snapshots[-1].manifest
    assert pack not in newest.object_names()
    held = [{info.name for info in store.list()} for store in pair.stores.values()]
    assert all(set(newest.object_names()) <= each for each in held)


def test_a_mended_report_says_what_a_new_one_would(pair: Lab) -> None:
    """After a heal the report of before, brought up to date, names exactly what reading everything again would."""
    packs = [name for name in objects(pair, "a") if name.startswith("packs/")]
    for store in pair.stores.values():
        spoil(store, packs[0], DAMAGES["flipped"])
    spoil(pair.stores["a"], packs[1], DAMAGES["flipped"])
    spoil(pair.stores["b"], packs[2], DAMAGES["gone"])
    reports, results = mend(pair)
    for name, fresh in pair.verify().items():
        mend_report(reports[name], results[name])
        assert (reports[name].damaged, reports[name].missing) == (fresh.damaged, fresh.missing)
        assert reports[name].needed_by.keys() == fresh.needed_by.keys()


def test_every_interruption_loses_nothing(pair: Lab, tell: Tell) -> None:
    """Stopped anywhere in any call of the mending, nothing good is lost, and the next heal ends the work."""
    pack = next(name for name in objects(pair, "a") if name.startswith("packs/"))
    manifest = next(name for name in objects(pair, "a") if name.startswith("snapshots/"))
    for name in (pack, manifest):
        spoil(pair.stores["a"], name, DAMAGES["flipped"])
    probe = pair.fork(pair.state.with_name("probe"))
    counting = FaultyStore(probe.stores["a"])
    mend(probe, "a", stores={**probe.stores, "a": counting})
    first = next(number for number, call in enumerate(counting.log, 1) if call[0] == "put") - 1
    for call in range(first, counting.calls + 1):
        for when in ("before", "after", "torn"):
            lab = pair.fork(pair.state.with_name(f"state-{call}-{when}"))
            broken = FaultyStore(lab.stores["a"], crash_at=call, when=when)  # type: ignore[arg-type]
            with pytest.raises(Crash):
                mend(lab, "a", stores={**lab.stores, "a": broken})
            assert mend(lab, "a")[1]["a"].is_whole or mend(lab, "a")[1]["a"].is_whole
            reports = lab.verify()
            assert reports["b"].is_good and not reports["a"].damaged and not reports["a"].missing
    tell(f"{(counting.calls - first + 1) * 3} points")


@pytest.mark.parametrize("error", [StoreFull("full"), StoreError("gone")])
def test_what_cannot_be_set_aside_is_not_deleted(pair: Lab, error: StoreError) -> None:
    """Where quarantine takes no more, the wrong bytes stay where they are and the failure is told."""
    pack = next(name for name in objects(pair, "a") if name.startswith("packs/"))
    spoil(pair.stores["a"], pack, DAMAGES["flipped"])
    before = pair.stores["a"].get(pack)
    probe = FaultyStore(pair.fork(pair.state.with_name("probe")).stores["a"])
    mend(pair.fork(pair.state.with_name("probe2")), "a", stores={"a": probe, "b": pair.stores["b"]})
    call = next(number for number, (operation, _) in enumerate(probe.log, 1) if operation == "put")
    stores = {**pair.stores, "a": FaultyStore(pair.stores["a"], {call: Fault("before", error)})}
    _, results = mend(pair, "a", stores=stores)
    assert results["a"].failed == {pack: error} and pair.stores["a"].get(pack) == before


def test_an_object_that_cannot_be_read_is_replaced_or_left(pair: Lab) -> None:
    """An unreadable object is replaced where another copy has it; where none has, it stays for a better day."""
    pack = next(name for name in objects(pair, "a") if name.startswith("packs/"))
    for has_twin in (True, False):
        lab = pair.fork(pair.state.with_name(f"state-{has_twin}"))
        unreadable = Unreadable(lab.stores["a"], pack)
        stores = {"a": unreadable, **({"b": lab.stores["b"]} if has_twin else {})}
        _, results = mend(lab, "a", stores=stores)
        assert results["a"].is_whole is has_twin
        assert lab.stores["a"].get(pack) == pair.stores["b"].get(pack)


class Unreadable:
    """A store on a medium with a bad sector: one object cannot be read until it is written anew."""

    def __init__(self, inner: Store, name: str, error: StoreError | None = None) -> None:
        self._inner, self._name, self.location = inner, name, inner.location
        self._error = error or ObjectUnreadable("input/output error")
        self.list = inner.list

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        self._inner.put(name, data, replace=replace)
        self._name = "" if name == self._name else self._name

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if name == self._name:
            raise self._error
        return self._inner.get(name, offset=offset, length=length)

    def delete(self, name: str) -> None:
        self._inner.delete(name)
        self._name = "" if name == self._name else self._name


def test_what_cannot_be_read_for_a_while_is_left_alone(pair: Lab) -> None:
    """A good object that a store refuses to give just now is neither deleted nor set aside, whatever others hold."""
    pack = next(name for name in objects(pair, "a") if name.startswith("packs/"))
    for has_twin in (True, False):
        lab = pair.fork(pair.state.with_name(f"passing-{has_twin}"))
        failing = Unreadable(lab.stores["a"], pack, StoreError("503 slow down"))
        _, results = mend(lab, "a", stores={"a": failing, **({"b": lab.stores["b"]} if has_twin else {})})
        assert results["a"].quarantined == [] and results["a"].lost == []
        assert lab.stores["a"].get(pack) == pair.stores["b"].get(pack)
        assert list(lab.stores["a"].list("quarantine")) == []


def test_nothing_is_lost_while_the_good_copy_does_not_answer(pair: Lab) -> None:
    """Damage whose only good copy fails to be read is told as not mended, not as lost, and is not set aside."""
    pack = next(name for name in objects(pair, "a") if name.startswith("packs/"))
    pair.stores["a"].delete(pack)
    pair.stores["a"].put(pack, b"wrong")
    failing = Unreadable(pair.stores["b"], pack, StoreError("503 slow down"))
    _, results = mend(pair, "a", stores={"a": pair.stores["a"], "b": failing})
    assert list(results["a"].failed) == [pack] and results["a"].lost == []
    assert pair.stores["a"].get(pack) == b"wrong"


def test_rotten_bytes_are_set_aside(pair: Lab) -> None:
    """Bytes that an endpoint gives though they are not those that were put go to quarantine, not away."""
    pack = next(name for name in objects(pair, "a") if name.startswith("packs/"))
    for has_twin in (True, False):
        lab = pair.fork(pair.state.with_name(f"rotten-{has_twin}"))
        rotten = Unreadable(lab.stores["a"], pack, ObjectUnreadable("others", found=b"rotten"))
        _, results = mend(lab, "a", stores={"a": rotten, **({"b": lab.stores["b"]} if has_twin else {})})
        assert [lab.stores["a"].get(each.name) for each in lab.stores["a"].list("quarantine")] == [b"rotten"]
        assert results["a"].is_whole is has_twin and (pack in objects(lab, "a")) is has_twin


def test_right_bytes_that_a_store_does_not_stand_by_are_put_again(pair: Lab) -> None:
    """An object with the right bytes and another's hash noted beside it reads as damaged: heal ends that."""
    pack = next(name for name in objects(pair, "a") if name.startswith("packs/"))
    right = pair.stores["a"].get(pack)
    for has_twin in (True, False):
        lab = pair.fork(pair.state.with_name(f"noted-{has_twin}"))
        doubted = Unreadable(lab.stores["a"], pack, ObjectUnreadable("others", found=right))
        _, results = mend(lab, "a", stores={"a": doubted, **({"b": lab.stores["b"]} if has_twin else {})})
        assert results["a"].is_whole and doubted.get(pack) == right
        assert not list(lab.stores["a"].list("quarantine"))


def test_good_bytes_are_never_set_aside() -> None:
    """Whatever anybody believed of an object, one whose bytes are those of its name stays where it is."""
    name, store = names.pack(names.sha256(b"good")), MemoryStore(lambda: 0.0)
    store.put(name, b"good")
    copy = Copy("a", store, "1", "r", {name: 4})
    assert not copy.quarantine(name) and store.get(name) == b"good" and name in copy.objects


def test_a_strange_kit_is_replaced_and_kept(pair: Lab) -> None:
    """Another recover.py than any known one goes to quarantine, and this program's own takes its place."""
    for destination, name in ((each, name) for each in pair.stores for name in kit()):
        pair.stores[destination].put(name, kit()[name])
    spoil(pair.stores["b"], names.RECOVER_PROGRAM, lambda data: b"import os; os.system('evil')")
    reports, results = mend(pair, "b")
    assert reports["b"].is_forged and results["b"].replaced == [names.RECOVER_PROGRAM]
    assert pair.stores["b"].get(names.RECOVER_PROGRAM) == kit()[names.RECOVER_PROGRAM]
    assert_whole(pair)

"""Sync and heal among three copies: stopped at every call, and every object damaged in every way at one copy or more.

The judge is a plain dictionary of the right bytes, taken before anything was damaged.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import get_args

import pytest

from opskit.gpg import verify as check_signature
from opskit.operations.heal import Healed, heal
from opskit.operations.marking import publish
from opskit.operations.session import open_copies
from opskit.operations.sync import Synced, sync
from opskit.operations.torn import drop_torn
from opskit.operations.verify import CopyReport, verify
from opskit.repository import locating, names
from opskit.repository.history import History, load_history
from opskit.repository.marks import HOLD, Mark, load_marks
from opskit.stores.base import Store
from tests.fakes import Crash, Fault, FaultyStore, FaultyStreams, Operation, When, flipped
from tests.repositories import Keys, Lab, apart, assert_restores, memory_copy, memory_store, noise
from tests.telling import Tell

Stores = Mapping[str, Store]
Act = Callable[[Stores], object]
Damage = Callable[[str, Mapping[str, bytes]], bytes | None]

believe = cache(check_signature)
"""A campaign looks at the same few signatures thousands of times."""


@dataclass
class Trio(Lab):
    """Three copies, the folder they are of, and what is right: bytes by name, and what each snapshot needs."""

    source: Path = Path()
    truth: dict[str, bytes] = field(default_factory=dict)
    needs: dict[str, set[str]] = field(default_factory=dict)

    def history(self, stores: Stores | None = None) -> History:
        """As a lab's, with each signature checked once."""
        copies, _ = open_copies(self.stores if stores is None else stores, self.repository)
        return load_history(copies, self._believe, signers=[self.keys.host_key], repository=self.repository)

    def sync(self, stores: Stores, *, target: str = "c", workers: int = 1) -> tuple[Synced, History]:
        """Bring one copy up to date from the others, as the command does."""
        copies, _ = open_copies(stores, self.repository)
        drop_torn(copies)
        history = load_history(copies, self._believe, signers=[self.keys.host_key], repository=self.repository)
        marks = load_marks(copies, self._believe, maintainers=[self.keys.host_key], repository=self.repository)
        (copy,) = (each for each in copies if each.destination == target)
        others = [each for each in copies if each is not copy]
        shown = {name for each in others for name in each.objects}
        result = sync(
            copy,
            others,
            [each for each in history.snapshots if each.name in shown],
            before=[each.name for each in marks.marks if each.name in shown],
            forgotten=marks.forgotten(),
            workers=workers,
        )
        return result, history

    def heal(self, stores: Stores, *, workers: int = 1) -> tuple[dict[str, CopyReport], dict[str, Healed]]:
        """Mend all copies from one another, as the command does."""
        copies, _ = open_copies(stores, self.repository)
        signers = [self.keys.host_key]
        reports = verify(copies, self._believe, signers=signers, repository=self.repository, workers=workers)
        return reports, heal(copies, reports, list(stores), about=self.about, workers=workers)

    def _believe(self, data: bytes) -> object:
        return believe(data, self.keys.trusted)


def make_trio(keys: Keys, folder: Path, stores: dict[str, Store], size: int = 20_000) -> Trio:
    """Copies of four snapshots, of which the last two name their packs in lists, and a hold."""
    (folder / "source").mkdir(parents=True)
    lab = Trio(keys, folder / "state", stores, source=folder / "source")
    lab.create()
    for number in range(4):
        (lab.source / f"file-{number}").write_bytes(noise(number, size))
        (lab.source / "changing").write_bytes(noise(number + 100, size))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(locating, "MAX_INLINE_PACKS", 0 if number > 1 else locating.MAX_INLINE_PACKS)
            lab.backup(lab.source)
    copies, _ = open_copies(stores, lab.repository)
    snapshots = lab.history().snapshots
    created = datetime(2026, 11, 20, tzinfo=UTC)
    publish(keys.identity(), copies, Mark(HOLD, lab.repository, "lab", created, snapshots=[snapshots[0].id]))
    lab.truth = contents(stores["a"])
    for each in snapshots:
        lab.needs[each.name] = {each.name, *locating.objects_of(each.manifest, lab.truth.__getitem__, names.key)}
    assert all(contents(store) == lab.truth for store in stores.values())
    return lab


@pytest.fixture(scope="module")
def trio(throwaway_keys: Keys, scratch: Path) -> Trio:
    """Three whole copies in memory; nobody may change them."""
    return make_trio(throwaway_keys, apart(scratch, "trio"), {name: memory_store(name) for name in "abc"})


def contents(store: Store) -> dict[str, bytes]:
    """What can be damaged and known: all but the fixed objects and quarantine."""
    return {info.name: store.get(info.name) for info in store.list() if names.digest_in(info.name)}


def right(lab: Trio, store: Store) -> set[str]:
    """The names under which a copy holds the right bytes."""
    return {name for name, data in contents(store).items() if lab.truth[name] == data}


def forked(stores: Stores) -> dict[str, Store]:
    """The same copies anew."""
    return {name: memory_copy(store) for name, store in stores.items()}


def lacking(lab: Trio, missing: set[str]) -> dict[str, Store]:
    """The copies, of which `c` has not the objects named."""
    lean = memory_copy(lab.stores["c"], lambda name, data: None if name in missing else data)
    return {**forked(lab.stores), "c": lean}


def behind(lab: Trio, state: str) -> dict[str, Store]:
    """The copies, of which `c` is "empty" or lacks the "newest" snapshot with all that it alone needs."""
    *older, newest = lab.needs
    return lacking(
        lab, set(lab.truth) if state == "empty" else lab.needs[newest].difference(*map(lab.needs.get, older))
    )


class OneProcess(FaultyStore):
    """One of the stores of a process: their calls are counted together, in `life`, and all of them end at once."""

    def __init__(self, inner: Store, life: FaultyStore) -> None:
        super().__init__(inner)
        self._life = life

    def _next(self, operation: Operation, name: str) -> Fault:
        return self._life._next(operation, name)

    def _fail(self, fault: Fault) -> None:
        self._life._fail(fault)


class OneStreaming(OneProcess, FaultyStreams):
    """The same of a store that knows pieces."""


Kind = type[OneProcess]
KINDS: dict[str, Kind] = {"whole": OneProcess, "in pieces": OneStreaming}


def points(act: Act, stores: Stores, kind: Kind = OneProcess, *, only_changing: bool = False) -> list[tuple[int, When]]:
    """Every call that an act makes to any store, before, after and torn; `only_changing`: from just before a put on."""
    life = FaultyStore(memory_store())
    act({name: kind(store, life) for name, store in forked(stores).items()})
    first = next(number for number, (operation, _) in enumerate(life.log, 1) if operation == "put") - 1
    return [
        (call, when)
        for call, (operation, _) in enumerate(life.log, 1)
        for when in get_args(When)
        if (when != "torn" or operation in ("put", "list") or (kind is OneStreaming and operation == "get"))
        and (call >= first or not only_changing)
    ]


def stopped(act: Act, stores: Stores, point: tuple[int, When], kind: Kind = OneProcess) -> dict[str, Store]:
    """What the stores hold after the process died in an act."""
    left = forked(stores)
    call, when = point
    life = FaultyStore(memory_store(), crash_at=call, when=when)
    with pytest.raises(Crash):
        act({name: kind(store, life) for name, store in left.items()})
    for thread in threading.enumerate():  # a real process would have taken them along
        if thread.name.startswith(("sync-", "heal-", "verify")):
            thread.join()
    return left


def assert_honest(lab: Trio, store: Store, why: object) -> set[str]:
    """Each snapshot that a copy shows is there with all it needs, and the right bytes; returns their names."""
    good = right(lab, store)
    shown = {snapshot.name for snapshot in lab.history({"c": store}).snapshots}
    for name in shown:
        assert lab.needs[name] <= good, (why, name, lab.needs[name] - good)
    return shown


# Stopped anywhere


def strike_sync(lab: Trio, state: str, workers: int, kind: Kind, folder: Path) -> int:
    """Stop a sync at each point, go on with the next one, and hold everything against what must be."""
    stores = behind(lab, state)
    act = partial(lab.sync, workers=workers)
    found = points(act, stores, kind)
    for point in found:
        left = stopped(act, stores, point, kind)
        assert_honest(lab, left["c"], point)
        held, good = set(contents(left["c"])), right(lab, left["c"])
        watched = FaultyStore(left["c"])
        result, _ = lab.sync({**left, "c": watched}, workers=workers)
        puts = Counter(name for operation, name in watched.log if operation == "put" and names.digest_in(name))
        assert not result.lacking and puts.keys() == lab.truth.keys() - good, (point, result.lacking)
        assert all(count == 1 or name in held - good for name, count in puts.items()), (point, puts)
        assert contents(left["c"]) == lab.truth, point
        assert contents(left["a"]) == contents(left["b"]) == lab.truth, f"{point}: a source was changed"
        assert all({info.name for info in left[each].list("quarantine")} == set() for each in "ab"), point
        assert_restores(lab, lab.source, folder, {"c": left["c"]}, point)
    return len(found)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("state", ["empty", "newest"])
@pytest.mark.parametrize("way", KINDS)
def test_sync_crash(way: str, state: str, workers: int, trio: Trio, tmp_path: Path, tell: Tell) -> None:
    """Stopped in any call to any store, a sync leaves an honest copy, and the next copies the rest, nothing twice."""
    count = strike_sync(trio, state, workers, KINDS[way], tmp_path)
    tell(f"crash points of sync: {count} ({state}, {way}, {workers} workers)")


def damaged_differently(lab: Trio) -> tuple[dict[str, Store], dict[str, dict[str, bytes]]]:
    """The copies with damage of each kind at `a` and at `b`, nowhere the same object; and the wrong bytes there are."""
    stores, wrong = forked(lab.stores), dict[str, dict[str, bytes]]()
    for kind in sorted({name.split("/")[0] for name in lab.truth}):
        objects = [name for name in lab.truth if name.startswith(f"{kind}/")]
        for destination, name in zip("ab", objects, strict=False):
            way = "flipped" if destination == "a" or kind in LOOSE else "cut"
            data = DAMAGES[way](name, lab.truth)
            spoil(stores[destination], name, data)
            wrong.setdefault(destination, {})[name] = data or b""
    pack = next(name for name in reversed(lab.truth) if names.is_pack(name))
    stores["a"].delete(pack)
    return stores, wrong


def strike_heal(lab: Trio, workers: int, folder: Path, *, only_changing: bool) -> int:
    """Stop a heal at each point, go on with the next one, and hold everything against what must be."""
    stores, wrong = damaged_differently(lab)
    act = partial(lab.heal, workers=workers)
    had = {name: right(lab, store) for name, store in stores.items()}
    listed = {name: {info.name for info in store.list()} for name, store in stores.items()}
    found = points(act, stores, only_changing=only_changing)
    for point in found:
        left = stopped(act, stores, point)
        for destination, store in left.items():
            good = right(lab, store)
            assert had[destination] <= good, f"{point}: right bytes are gone"
            assert listed[destination] <= {info.name for info in store.list()}, f"{point}: an object was absent"
            held = {store.get(info.name) for info in store.list()}
            assert set(wrong.get(destination, {}).values()) <= held, f"{point}: wrong bytes are gone"
        good = {name: right(lab, store) for name, store in left.items()}
        watched = {name: FaultyStore(store) for name, store in left.items()}
        _, results = lab.heal(watched, workers=workers)
        assert all(result.is_whole for result in results.values()), (point, results)
        for destination, store in watched.items():
            again = [name for operation, name in store.log if operation == "put" and name in good[destination]]
            assert again == [], f"{point}: stored again"
        assert all(contents(store) == lab.truth for store in left.values()), point
        for destination, store in left.items():
            kept = {store.get(info.name) for info in store.list("quarantine")}
            # Where a put can tear, quarantine may hold half of what it should: nothing is lost that was right.
            assert point[1] == "torn" or set(wrong.get(destination, {}).values()) <= kept, point
            assert_restores(lab, lab.source, folder, {destination: store}, point)
    return len(found)


LOOSE = ("snapshots", "marks")
"""Kinds that no snapshot needs: one that is cut short counts as absent, and `heal` leaves that to `sync`."""


def test_heal_crash(trio: Trio, tmp_path: Path, tell: Tell) -> None:
    """Stopped in any call while it changes things, a heal of two copies loses no bytes, and the next one ends it."""
    tell(f"crash points of heal: {strike_heal(trio, 1, tmp_path, only_changing=True)}")


@pytest.mark.campaign
@pytest.mark.parametrize("workers", [1, 3])
def test_heal_crash_everywhere(workers: int, trio: Trio, tmp_path: Path, tell: Tell) -> None:
    """The same in any call to any of the three stores, those of reading back included."""
    count = strike_heal(trio, workers, tmp_path, only_changing=False)
    tell(f"crash points of heal: {count} ({workers} workers)")


# Damaged anywhere


def sibling(name: str, truth: Mapping[str, bytes]) -> bytes:
    """The bytes of the next object of the kind; of the next of all where it is the only one."""
    kind = [each for each in truth if each.split("/")[0] == name.split("/")[0]]
    among = kind if len(kind) > 1 else list(truth)
    return truth[among[(among.index(name) + 1) % len(among)]]


DAMAGES: dict[str, Damage] = {
    "flipped": lambda name, truth: flipped(truth[name], 4 * len(truth[name]) + 1),
    "cut": lambda name, truth: truth[name][: len(truth[name]) // 2],
    "gone": lambda name, truth: None,
    "swapped": sibling,
}


def spoil(store: Store, name: str, data: bytes | None) -> None:
    """Change an object where it lies."""
    store.delete(name)
    if data is not None:
        store.put(name, data)


def cases(lab: Trio) -> Iterator[tuple[str, str]]:
    """(object, damage) of everything."""
    return ((name, damage) for name in lab.truth for damage in DAMAGES)


def test_sync_takes_it_from_the_other_copy(trio: Trio, tell: Tell) -> None:
    """Whatever is wrong with one object at one source, an empty copy becomes whole, byte for byte, from the other."""
    empty, count = behind(trio, "empty"), 0
    for name, damage in cases(trio):
        for bad in "ab":
            stores = forked(empty)
            spoil(stores[bad], name, DAMAGES[damage](name, trio.truth))
            before = contents(stores[bad])
            result, _ = trio.sync(stores, workers=2)
            assert not result.lacking and contents(stores["c"]) == trio.truth, (name, damage, result.lacking)
            assert contents(stores[bad]) == before, "sync changed a source"
            count += 1
    tell(f"damages at one source that did not spread: {count}")


def test_sync_stays_behind_where_both_are_damaged(trio: Trio, tell: Tell) -> None:
    """What is wrong at both sources is not copied, the snapshots that need it stay away and are told, others arrive."""
    empty, count = behind(trio, "empty"), 0
    for name, damage in cases(trio):
        stores = forked(empty)
        for bad in "ab":
            spoil(stores[bad], name, DAMAGES[damage](name, trio.truth))
        result, history = trio.sync(stores, workers=2)
        want = {snapshot for snapshot, needed in trio.needs.items() if name not in needed}
        case = (name, damage)
        assert assert_honest(trio, stores["c"], case) == want, case
        assert contents(stores["c"]).keys() == right(trio, stores["c"]), (case, "wrong bytes were spread")
        told = {snapshot.name for snapshot, _ in result.lacking} | {each for _, each, _ in history.rejected}
        unseen = {name} if damage in ("gone", "cut") else set[str]()  # a torn manifest counts as absent, with a warning
        assert trio.needs.keys() - want <= told | unseen, (case, told)
        assert {snapshot.name for snapshot in result.snapshots} == want, case
        count += 1
    tell(f"damages at both sources that did not spread: {count}")


def test_heal_mends_two_copies_from_each_other(trio: Trio, tell: Tell) -> None:
    """Any damage at one copy and another at the next, the third damaged elsewhere or intact, are mended everywhere."""
    objects, kinds, count = list(trio.truth), list(DAMAGES), 0
    for number, (name, damage) in enumerate(cases(trio)):
        stores = forked(trio.stores)
        spoilt = {"a": (name, damage)}
        for place, destination in enumerate("bc"[: 1 + number % 2], 1):
            other = objects[(objects.index(name) + place) % len(objects)]
            spoilt[destination] = (other, kinds[(number // 2 + place) % len(kinds)])
        for destination, (each, way) in spoilt.items():
            spoil(stores[destination], each, DAMAGES[way](each, trio.truth))
        _, results = trio.heal(stores)
        assert all(result.is_whole for result in results.values()), (spoilt, results)
        for destination, (each, way) in spoilt.items():
            result, is_absent = results[destination], way == "gone" and each.split("/")[0] in LOOSE
            assert [*result.replaced, *result.restored] == ([] if is_absent else [each]), (spoilt, result)
            if is_absent:
                trio.sync(stores, target=destination)
            wrong = DAMAGES[way](each, trio.truth)
            assert wrong is None or stores[destination].get(names.quarantine(names.sha256(wrong))) == wrong, spoilt
        assert all(contents(store) == trio.truth for store in stores.values()), spoilt
        count += len(spoilt)
    tell(f"damages healed among three copies: {count}")


def test_heal_tells_what_no_copy_holds(trio: Trio, tell: Tell) -> None:
    """An object wrong or absent at all three is told with the snapshots that need it, and no other object changes."""
    kinds, count = list(DAMAGES), 0
    for number, (name, _) in enumerate(cases(trio)):
        ways = {each: kinds[(number + place) % len(kinds)] for place, each in enumerate("abc")}
        stores = forked(trio.stores)
        for destination, way in ways.items():
            spoil(stores[destination], name, DAMAGES[way](name, trio.truth))
        reports, results = trio.heal(stores)
        needing = {snapshot for snapshot, needed in trio.needs.items() if name in needed and name != snapshot}
        for destination, way in ways.items():
            result, report = results[destination], reports[destination]
            is_seen = way != "gone" or name.split("/")[0] not in LOOSE
            assert result.lost == ([name] if is_seen else []) and result.is_whole is not is_seen, (name, ways, result)
            stays = way == "gone" or name.startswith("snapshots/")  # a manifest that is delisted looks like a rollback
            assert result.quarantined == ([] if stays else [name]), (name, ways, result)
            assert {each.name for each in report.needed_by.get(name, [])} == needing, (name, ways)
            assert right(trio, stores[destination]) == trio.truth.keys() - {name}
            listed = contents(stores[destination]).keys()
            assert listed == trio.truth.keys() - ({name} if way == "gone" or not stays else set()), (name, ways)
            count += is_seen
    tell(f"losses told: {count}")


def test_half_of_everything_damaged_at_each_of_two(trio: Trio) -> None:
    """Two copies, each with half of all objects wrong, and a third that has lost everything, become whole."""
    stores = behind(trio, "empty")
    objects: Sequence[str] = list(trio.truth)
    for number, destination in enumerate("ab"):
        for name in objects[number::2]:
            spoil(stores[destination], name, DAMAGES["flipped"](name, trio.truth))
    trio.heal(stores, workers=3)
    result, _ = trio.sync(stores, workers=3)
    assert not result.lacking and all(contents(store) == trio.truth for store in stores.values())

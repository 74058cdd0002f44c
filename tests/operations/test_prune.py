"""Prune: nothing that somebody needs is deleted, what nobody needs is, and only after the grace."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opskit.errors import ClocksApart, Forged, NoKey, OpskitError, StoreError, StoreRefused
from opskit.gpg import verify as check_signature
from opskit.operations.backup import Job, Options, backup
from opskit.operations.forget import forget_mark, judge_chains, remember_mark, require_forgettable
from opskit.operations.marking import publish
from opskit.operations.pruning import Limits, Pruned, prune
from opskit.operations.pruning.needs import last_at
from opskit.operations.pruning.prune import LOOK_IS_GOOD_FOR, Look
from opskit.operations.session import open_copies
from opskit.operations.sync import LookingAgain, sync
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.history import load_history
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import CONDEMN, HOLD, Mark, Marks, load_marks
from opskit.repository.retention import Rules
from opskit.sources.base import Entry, Problem
from opskit.sources.files import FileSource
from opskit.stores.base import Store, Swept
from opskit.stores.memory import MemoryStore
from opskit.stores.wrappers.retry import Retrying
from tests.fakes import Crash, Fault, FaultyStore, When
from tests.repositories import HOST, LONG_AGO, REPOSITORY, SOURCE, Lab, noise, picture, restored_below
from tests.telling import Tell

GRACE = timedelta(days=3)
DAY = 24 * 60


@pytest.fixture
def two(lab: Lab, source: Path) -> Iterator[Lab]:
    """Two copies whose clocks are the lab's, with five snapshots a day apart, each with a file of its own."""
    lab.stores = {name: MemoryStore(lambda: lab.now().timestamp(), location=name) for name in ("a", "b")}
    lab.create()
    for number in range(5):
        (source / "changing").write_bytes(noise(number, 3000))
        lab.backup(source)
        lab.minutes += DAY
    yield lab


def forked(lab: Lab) -> Lab:
    """An independent lab whose stores remember when each object came."""
    twin = Lab(lab.keys, lab.state, {}, lab.minutes)
    for name, store in lab.stores.items():
        assert isinstance(store, MemoryStore)
        copy = MemoryStore(lambda: twin.now().timestamp(), location=name)
        copy._objects = dict(store._objects)
        twin.stores[name] = copy
    return twin


class Locking:
    """A store that does not let objects of one kind be deleted."""

    def __init__(self, inner: Store, prefix: str) -> None:
        self.location, self._inner, self._prefix = inner.location, inner, prefix
        self.put, self.get, self.list = inner.put, inner.get, inner.list

    def delete(self, name: str) -> None:
        if name.startswith(self._prefix):
            raise StoreRefused("locked until next year")
        self._inner.delete(name)


class Leaving(MemoryStore):
    """A store beside whose objects killed puts left files, since `since` (epoch seconds) by its clock."""

    def __init__(self, now: Callable[[], float], *, location: str, since: Sequence[float]) -> None:
        super().__init__(now, location=location)
        self.since = list(since)
        self.losses = 0

    def sweep(self, *, now: float, older_than: float, dry_run: bool = False) -> Swept:
        old = [each for each in self.since if now - each >= older_than]
        for each in () if dry_run else old:
            self.since.remove(each)
            if self.losses:
                self.losses -= 1
                raise StoreError("the connection broke")
        return Swept(len(old), 10 * len(old))


def look(lab: Lab, stores: dict[str, Store] | None = None) -> Look:
    """What the copies show, without any memory of this host."""
    copies, absent = open_copies(lab.stores if stores is None else stores, REPOSITORY)
    assert not absent
    return Look(copies, history_of(lab, copies), marks_of(lab, copies))


def history_of(lab: Lab, copies: list[Copy]):  # type: ignore[no-untyped-def]
    return load_history(
        copies, lambda data: check_signature(data, lab.keys.trusted),
        signers=[lab.keys.host_key], repository=REPOSITORY,
    )  # fmt: skip


def marks_of(lab: Lab, copies: list[Copy]) -> Marks:
    return load_marks(
        copies, lambda data: check_signature(data, lab.keys.trusted),
        maintainers=[lab.keys.host_key], repository=REPOSITORY,
    )  # fmt: skip


def run(lab: Lab, stores: dict[str, Store] | None = None, *, most: int | None = None, dry: bool = False) -> Pruned:
    """One prune now."""
    return prune(
        lambda: look(lab, stores), lab.keys.identity(), Limits(GRACE, most),
        repository=REPOSITORY, host=HOST, now=lab.now, boottime=lab.boottime, dry_run=dry,
    )  # fmt: skip


def forget(lab: Lab, *snapshots: Snapshot) -> None:
    """Mark snapshots as forgotten at every copy."""
    copies, _ = open_copies(lab.stores, REPOSITORY)
    _, failures = publish(lab.keys.identity(), copies, forget_mark(REPOSITORY, HOST, lab.now(), snapshots, "test"))
    assert not failures


def everything(lab: Lab, destination: str) -> set[str]:
    return {info.name for info in lab.stores[destination].list()}


def assert_all_restore(lab: Lab) -> None:
    """Every snapshot that each copy shows restores from that copy alone to what was backed up."""
    for destination, store in lab.stores.items():
        for snapshot in lab.history({destination: store}).snapshots:
            target = lab.state.with_name(f"out-{destination}-{snapshot.id[:8]}")
            assert not lab.restore(snapshot, target, {destination: store}).problems
            assert picture(restored_below(target, lab.state.with_name("source"))) == lab.pictures[snapshot.name]
            shutil.rmtree(target)


def data(lab: Lab, destination: str = "a") -> set[str]:
    return {each for each in everything(lab, destination) if each.partition("/")[0] in ("packs", "keys", "index")}


def test_two_phases(two: Lab) -> None:
    """What only forgotten snapshots need is condemned at once, deleted after the grace, and nothing else goes, ever."""
    snapshots = two.history().snapshots
    before = data(two)
    forget(two, *snapshots[:3])
    first = run(two)
    assert first.plan.condemn and not first.plan.where["a"].delete
    assert data(two) == before and len(two.history().snapshots) == 5
    two.minutes += 3 * DAY - 5
    assert not run(two).plan.where["a"].delete
    two.minutes += 10
    last = run(two)
    assert last.deleted["a"].objects == last.deleted["b"].objects > 3
    assert [each.id for each in two.history().snapshots] == [each.id for each in snapshots[3:]]
    gone = before - data(two)
    assert {each.partition("/")[0] for each in gone} == {"packs", "keys", "index"}
    assert gone == set(first.plan.condemn)
    assert_all_restore(two)
    assert run(two).plan.where["a"].delete == {} and not run(two).plan.condemn


def test_taking_back_within_the_grace(two: Lab) -> None:
    """Until the grace is over a release brings snapshots back whole, and pardons what they need."""
    snapshots = two.history().snapshots
    forget(two, *snapshots[:2])
    run(two)
    two.minutes += 2 * DAY
    copies, _ = open_copies(two.stores, REPOSITORY)
    mark = remember_mark(REPOSITORY, HOST, two.now(), marks_of(two, copies), [snapshots[1]])
    publish(two.keys.identity(), copies, mark)
    two.minutes += 2 * DAY
    result = run(two)
    assert result.plan.pardon and result.deleted["a"].objects
    assert [each.id for each in two.history().snapshots] == [each.id for each in snapshots[1:]]
    assert_all_restore(two)
    two.minutes += 9 * DAY
    assert not run(two).plan.where["a"].delete


def test_leftovers_go_after_a_day_by_a_clock_that_can_be_trusted(two: Lab) -> None:
    """Of each copy what is a day old goes, nothing younger; none where the store's clock is not this host's."""
    now, hour = two.now().timestamp(), 3600
    times = (now - 25 * hour, now - 23 * hour)
    stores = {}
    for name, slow in (("a", 0), ("b", 6 * hour)):
        leaving = Leaving(lambda slow=slow: two.now().timestamp() - slow, location=name, since=times)  # type: ignore[misc]
        kept = two.stores[name]
        assert isinstance(kept, MemoryStore)
        leaving._objects = dict(kept._objects)
        stores[name] = leaving
    both: dict[str, Store] = {**stores}
    told = run(two, both, dry=True)
    assert told.swept == {"a": (1, 10), "b": (1, 10)} and all(each.since == list(times) for each in stores.values())
    done = run(two, both)
    assert done.swept == {"a": (1, 10)} and stores["a"].since == [times[1]]
    assert isinstance(done.deleted["b"].failure, ClocksApart) and stores["b"].since == list(times)
    assert everything(two, "a") == {info.name for info in stores["a"].list()}, "the question for the time is gone"


def test_a_line_that_breaks_amid_the_sweep_fails_no_destination(two: Lab) -> None:
    """A loss that passes is tried again there as everywhere: all that was left goes and is told, and nothing failed."""
    leaving = Leaving(lambda: two.now().timestamp(), location="a", since=[two.now().timestamp() - 2 * 86400] * 3)
    kept = two.stores["a"]
    assert isinstance(kept, MemoryStore)
    leaving._objects, leaving.losses = dict(kept._objects), 1
    store = Retrying(leaving, lambda _error: True, sleep=lambda _seconds: None, chance=lambda: 0.5)
    done = run(two, {"a": store, "b": two.stores["b"]})
    assert done.swept == {"a": (3, 30)} and leaving.since == []
    assert done.deleted["a"].failure is None


def test_what_is_young_is_not_condemned(two: Lab) -> None:
    """Objects without a manifest are left alone until they are older than the grace: a backup may be under way."""
    name = "packs/ab/ab" + "0" * 62
    two.stores["a"].put(name, b"a pack of a run that goes on")
    assert name not in run(two).plan.condemn
    two.minutes += 3 * DAY + 1
    assert name in run(two).plan.condemn


def test_a_mark_counts_from_when_a_copy_had_it(two: Lab) -> None:
    """A copy that comes back after the grace gets the marks, and keeps everything for a grace of its own."""
    snapshots = two.history().snapshots
    copies, _ = open_copies({"a": two.stores["a"]}, REPOSITORY)
    publish(two.keys.identity(), copies, forget_mark(REPOSITORY, HOST, two.now(), snapshots[:3], "test"))
    only_a: dict[str, Store] = {"a": two.stores["a"]}
    run(two, only_a)
    two.minutes += 4 * DAY
    result = run(two)
    assert result.deleted["a"].objects and not result.deleted["b"].objects
    assert snapshots[0].name in everything(two, "b") and snapshots[0].name not in everything(two, "a")
    two.minutes += DAY
    assert not run(two).deleted["b"].objects, "by its own date the mark is old, but it is not that long at the copy"
    two.minutes += 3 * DAY
    assert run(two).deleted["b"].objects == result.deleted["a"].objects


def test_a_snapshot_made_meanwhile_needs_nothing_condemned(two: Lab, source: Path) -> None:
    """A backup treats what is condemned as absent: it stores the same content again, and survives the deletion."""
    snapshots = two.history().snapshots
    (source / "changing").write_bytes(noise(0, 3000))  # what only the first snapshot has
    forget(two, snapshots[0])
    run(two)
    result = two.backup(source)
    assert result.new_bytes >= 3000
    two.minutes += 4 * DAY
    assert run(two).deleted["a"].objects
    assert_all_restore(two)


def test_a_snapshot_made_before_the_mark_pardons(two: Lab, source: Path) -> None:
    """What a snapshot needs that another copy brings back is pardoned, however long it was condemned."""
    snapshots = two.history().snapshots
    forget(two, snapshots[0])
    two.minutes += 4 * DAY
    assert run(two).plan.condemn
    assert_all_restore(two)


@pytest.mark.parametrize("kind", ["snapshots", "marks"])
def test_what_cannot_be_believed_stops_everything(two: Lab, kind: str) -> None:
    """A manifest or mark that no copy has right may stand for data that is needed: nothing is condemned or deleted."""
    forget(two, *two.history().snapshots[:2])
    name = next(each for each in sorted(everything(two, "a")) if each.startswith(kind))
    for store in two.stores.values():
        store.put(name, b"rotten", replace=True)
    before = everything(two, "a")
    with pytest.raises(Forged, match="nothing is deleted while"):
        run(two)
    assert everything(two, "a") == before


@pytest.mark.parametrize("when", ["before", "torn"])
def test_a_listing_that_fails_deletes_nothing(two: Lab, when: When) -> None:
    """An error of a listing, at its beginning or in its midst, ends the prune before anything is touched."""
    forget(two, *two.history().snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    before = everything(two, "a"), everything(two, "b")
    shown = look(two)
    shown.copies[1].store = faulty = FaultyStore(two.stores["b"], {1: Fault(when, StoreError("the medium fails"))})
    with pytest.raises(StoreError, match="the medium fails"):
        prune(
            lambda: shown, two.keys.identity(), Limits(GRACE),
            repository=REPOSITORY, host=HOST, now=two.now, boottime=two.boottime,
        )  # fmt: skip
    assert faulty.log == [("list", "")]
    assert (everything(two, "a"), everything(two, "b")) == before


def test_every_interruption_is_harmless(two: Lab, tell: Tell) -> None:
    """Stopped before, after or in the midst of any call, what is shown restores, and the next prune ends the work."""
    forget(two, *two.history().snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    probe = forked(two)
    counting = FaultyStore(probe.stores["a"])
    run(probe, {"a": counting, "b": probe.stores["b"]})
    left = everything(probe, "a")
    points = 0
    for call in range(1, counting.calls + 1):
        for when in ("before", "after", "torn"):
            lab = forked(two)
            with suppress(Crash):  # a listing not read to its end has no end to fail at
                run(lab, {"a": FaultyStore(lab.stores["a"], crash_at=call, when=when), "b": lab.stores["b"]})  # type: ignore[arg-type]
            for snapshot in lab.history({"a": lab.stores["a"]}).snapshots:
                assert set(snapshot.manifest.object_names()) <= everything(lab, "a"), (call, when)
            run(lab)
            assert data(lab) == {each for each in left if each.partition("/")[0] in ("packs", "keys", "index")}
            points += 1
    tell(f"prune: {points} fault points")
    assert points > 80


def test_a_prune_that_slept_looks_again(two: Lab) -> None:
    """Deletions follow a look of at most an hour ago: what became needed while the machine slept stays."""
    snapshots = two.history().snapshots
    forget(two, *snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    looks = 0

    def looked() -> Look:
        nonlocal looks
        looks += 1
        if looks == 2:  # somebody took it back while this host slept
            copies, _ = open_copies(two.stores, REPOSITORY)
            mark = remember_mark(REPOSITORY, HOST, two.now(), marks_of(two, copies), snapshots[:3])
            publish(two.keys.identity(), copies, mark)
        return look(two)

    times = iter([0.0, LOOK_IS_GOOD_FOR + 1, LOOK_IS_GOOD_FOR + 2])
    result = prune(
        looked, two.keys.identity(), Limits(GRACE),
        repository=REPOSITORY, host=HOST, now=two.now, boottime=lambda: next(times, LOOK_IS_GOOD_FOR + 3),
    )  # fmt: skip
    assert looks == 2 and not result.deleted["a"].objects
    assert_all_restore(two)


def test_clocks_that_are_apart(two: Lab) -> None:
    """Where one store's clock is not this host's, this host's may be wrong: nothing is deleted anywhere."""
    forget(two, *two.history().snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    store = two.stores["b"]
    assert isinstance(store, MemoryStore)
    store._now = lambda: two.now().timestamp() + 600
    before = everything(two, "a"), everything(two, "b")
    result = run(two)
    assert "apart" in str(result.deleted["a"].failure) and "apart" in str(result.deleted["b"].failure)
    assert (everything(two, "a"), everything(two, "b")) == before


def test_a_clock_that_is_behind(two: Lab) -> None:
    """Where objects came in the future nothing is condemned: once the clock is set the mark would be old at once."""
    forget(two, *two.history().snapshots[:3])
    two.minutes -= 3 * DAY
    before = everything(two, "a")
    with pytest.raises(ClocksApart, match="expected a time in the past"):
        run(two)
    assert everything(two, "a") == before


def test_the_limit_of_bytes(two: Lab) -> None:
    """With a limit the rest waits for the next time; manifests go first, so nothing is left half."""
    forget(two, *two.history().snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    result = run(two, most=9_000)
    assert result.deleted["a"].is_capped and 0 < result.deleted["a"].total_bytes <= 9_000
    assert_all_restore(two)
    assert not run(two).deleted["a"].is_capped


def test_objects_that_the_store_keeps(two: Lab) -> None:
    """A manifest that may not be deleted yet keeps what it needs; a pack that may not is left, and the rest goes."""
    forget(two, *two.history().snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    inner = two.stores["a"]
    two.stores["a"] = Locking(inner, "packs/")
    result = run(two)
    assert result.deleted["a"].locked and result.deleted["a"].objects and result.deleted["a"].failure is None
    two.stores["a"] = inner
    assert run(two).deleted["a"].objects == result.deleted["a"].locked


def test_only_maintainers(two: Lab) -> None:
    """A host whose key is no maintainer's deletes nothing."""
    forget(two, *two.history().snapshots[:3])
    identity = two.keys.identity()
    identity = type(identity)(
        identity.keyring, identity.host_key, identity.recipients, identity.signers, identity.trusted, ()
    )
    with pytest.raises(NoKey, match="maintainer"):
        prune(
            lambda: look(two), identity, Limits(GRACE),
            repository=REPOSITORY, host=HOST, now=two.now, boottime=two.boottime,
        )  # fmt: skip


def test_rules_and_what_is_whole(two: Lab) -> None:
    """The rules forget what they do not keep; a newest snapshot that no copy has whole does not let the others go."""
    shown = look(two)
    (chain,) = judge_chains(shown.copies, shown.history.snapshots, shown.marks, Rules(last=2), now=two.now())
    assert [each.manifest.sequence for each in chain.forgotten] == [1, 2, 3]
    newest = shown.history.snapshots[-1]
    for pack in newest.manifest.runs[-1].packs:
        for store in two.stores.values():
            store.delete(f"packs/{pack[:2]}/{pack}")
    shown = look(two)
    (chain,) = judge_chains(shown.copies, shown.history.snapshots, shown.marks, Rules(last=1), now=two.now())
    kept = [each.snapshot.manifest.sequence for each in chain.judged if each.reasons]
    assert kept == [4, 5]
    with pytest.raises(Exception, match="without a complete snapshot"):
        require_forgettable(
            shown.copies, shown.history.snapshots, shown.marks, shown.history.snapshots[:4],
            now=two.now(), proved={},
        )  # fmt: skip


def test_dry(two: Lab) -> None:
    """A dry run says the same and writes nothing."""
    forget(two, *two.history().snapshots[:3])
    before = everything(two, "a")
    told = run(two, dry=True)
    assert everything(two, "a") == before
    assert told.plan.condemn == run(two).plan.condemn


def test_datetimes_are_utc(two: Lab) -> None:
    """The date that is told for what waits is the mark's own age plus the grace."""
    forget(two, *two.history().snapshots[:1])
    at = two.now()
    due = run(two).plan.where["a"].next_due
    assert due is not None and abs(due - (at + GRACE)) < timedelta(minutes=1) and due.tzinfo is not None
    assert isinstance(at, datetime) and at.tzinfo is UTC


def test_a_copy_keeps_its_last_good_snapshot(two: Lab, source: Path) -> None:
    """Marks may reach a copy before newer snapshots do: until then what it has last stays there, whole."""
    snapshots = two.history().snapshots
    (source / "changing").write_bytes(noise(9, 3000))
    two.backup(source, {"a": two.stores["a"]})
    two.minutes += 4 * DAY  # so that all of it is old enough to be condemned
    forget(two, *snapshots)
    assert set(snapshots[-1].manifest.object_names()) & set(run(two).plan.condemn)
    two.minutes += 4 * DAY
    result = run(two, {"b": two.stores["b"]})
    assert [each.id for each in result.plan.where["b"].last] == [snapshots[-1].id]
    assert [each.id for each in two.history({"b": two.stores["b"]}).snapshots] == [snapshots[-1].id]
    assert_all_restore(two)
    run(two)
    assert [each.manifest.sequence for each in two.history({"a": two.stores["a"]}).snapshots] == [6]
    two.backup(source)
    run(two)
    assert [each.manifest.sequence for each in two.history({"b": two.stores["b"]}).snapshots] == [6, 7]
    assert_all_restore(two)


def test_a_last_snapshot_that_is_not_whole_keeps_nothing_from_going(two: Lab) -> None:
    """What stays where all were forgotten is the newest that is whole there, and no other."""
    snapshots = two.history().snapshots
    run_of_last = snapshots[-1].manifest.runs[-1].packs[0]
    two.stores["b"].delete(f"packs/{run_of_last[:2]}/{run_of_last}")
    forget(two, *snapshots)
    run(two)
    two.minutes += 4 * DAY
    run(two)
    assert [each.manifest.sequence for each in two.history({"a": two.stores["a"]}).snapshots] == [5]
    assert [each.manifest.sequence for each in two.history({"b": two.stores["b"]}).snapshots] == [4]
    assert_all_restore(two)


def test_what_is_held_and_forgotten_stays(two: Lab) -> None:
    """A hold that reached the copies later than the mark that forgets is stronger."""
    snapshots = two.history().snapshots
    forget(two, *snapshots[:2])
    run(two)
    two.minutes += 4 * DAY
    copies, _ = open_copies(two.stores, REPOSITORY)
    publish(
        two.keys.identity(), copies, Mark(HOLD, REPOSITORY, HOST, two.now().replace(microsecond=0), [snapshots[0].id])
    )
    run(two)
    assert [each.id for each in two.history().snapshots] == [snapshots[0].id, *(each.id for each in snapshots[2:])]
    assert_all_restore(two)


def test_a_mark_that_is_rotten_at_a_copy(two: Lab) -> None:
    """Who backs up there could not read it: nothing is deleted by it there, and others get it from a copy that can."""
    forget(two, *two.history().snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    store = two.stores["a"]
    assert isinstance(store, MemoryStore)
    for name in [each for each in everything(two, "a") if each.startswith("marks/")]:
        store._objects[name] = (b"rotten", store._objects[name][1])
    two.stores["c"] = MemoryStore(lambda: two.now().timestamp(), location="c")
    two.create()
    before = everything(two, "a")
    result = run(two)
    assert isinstance(result.deleted["a"].failure, Forged) and result.deleted["b"].objects and not result.unmarked
    assert everything(two, "a") == before
    assert {each for each in everything(two, "c") if each.startswith("marks/")}


def test_a_look_that_takes_too_long(two: Lab) -> None:
    """Where every look is too old before anything was deleted by it, that is told; it does not go on for ever."""
    forget(two, *two.history().snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    seconds = iter(range(0, 10**9, 4000))
    with pytest.raises(StoreError, match="takes longer"):
        prune(
            lambda: look(two), two.keys.identity(), Limits(GRACE),
            repository=REPOSITORY, host=HOST, now=two.now, boottime=lambda: float(next(seconds)),
        )  # fmt: skip


class Meanwhile(FileSource):
    """A source during whose reading something else happens."""

    def __init__(self, root: Path, meanwhile: Callable[[], None]) -> None:
        super().__init__([root])
        self._meanwhile = meanwhile

    def entries(self) -> Iterator[Entry | Problem]:
        yield from super().entries()
        self._meanwhile()


def assert_nothing_condemned_is_needed(lab: Lab) -> None:
    """No snapshot refers to what may be deleted at any moment."""
    copies, _ = open_copies(lab.stores, REPOSITORY)
    condemned = marks_of(lab, copies).condemned_by().keys()
    assert condemned
    for each in lab.history().snapshots[5:]:
        assert not condemned & set(each.manifest.object_names()), each.manifest.source


def test_a_second_source_after_a_long_one(two: Lab, source: Path) -> None:
    """What was condemned while the first source was read is stored anew for the second, as it is at the next run."""
    forget(two, two.history().snapshots[0])
    other = source.with_name("other")
    other.mkdir()
    (other / "file").write_bytes(noise(0, 3000))  # what only the first snapshot has

    def meanwhile() -> None:
        run(two)
        two.minutes += 4 * DAY

    jobs = [Job(SOURCE, Meanwhile(source, meanwhile)), Job("other", FileSource([other]))]
    with two.session() as session:
        first, second = backup(session, jobs, Options(workers=1), clock_ns=lambda: time.time_ns() + LONG_AGO)
    assert first.snapshot and second.new_bytes >= 3000
    assert_nothing_condemned_is_needed(two)


def test_a_commit_that_takes_long(two: Lab, source: Path) -> None:
    """While older snapshots are copied to a disk that came back, days may pass: what was condemned then is seen."""
    forget(two, two.history().snapshots[0])
    two.backup(source, {"a": two.stores["a"]})
    (source / "changing").write_bytes(noise(0, 3000))  # what only the first snapshot has
    inner, calls = two.stores["b"], []

    class Slow:
        location = inner.location
        get, list, delete = inner.get, inner.list, inner.delete

        def put(self, name: str, data: bytes, *, replace: bool = False) -> None:
            inner.put(name, data, replace=replace)
            if name.startswith("snapshots/") and not calls:
                calls.append(name)
                run(two, {"a": two.stores["a"], "b": inner})
                two.minutes += 4 * DAY

    with pytest.raises(OpskitError, match="condemned"):
        two.backup(source, {"a": two.stores["a"], "b": Slow()})
    assert calls and len(two.history().snapshots) == 6
    assert_nothing_condemned_is_needed(two)
    two.backup(source)
    assert_nothing_condemned_is_needed(two)


def test_a_sync_that_takes_long(two: Lab) -> None:
    """What was condemned while objects were copied keeps the manifest from the copy."""
    (newest,) = two.history().snapshots[-1:]
    two.stores["c"] = MemoryStore(lambda: two.now().timestamp(), location="c")
    two.create()
    copies, _ = open_copies(two.stores, REPOSITORY)
    needed = set(newest.manifest.object_names())
    result = sync(copies[2], copies[:2], [newest], look_again=lambda: needed)
    assert "condemned" in str(result.lacking[0][1]) and newest.name not in everything(two, "c")
    known = sync(copies[2], copies[:2], [newest], condemned=needed)
    assert "condemned" in str(known.lacking[0][1]) and newest.name not in everything(two, "c")
    assert sync(copies[2], copies[:2], [newest], look_again=set).snapshots == [newest]


def test_looking_again_only_after_an_hour(two: Lab) -> None:
    """A sync hears of marks that came meanwhile, and what is gone meanwhile is listed no more."""
    copies, _ = open_copies(two.stores, REPOSITORY)
    seconds = [0.0]
    looking = LookingAgain(copies, lambda: marks_of(two, copies), lambda: seconds[0], listed=0.0)
    forget(two, *two.history().snapshots[:3])
    made = run(two).plan.condemn
    gone = next(each for each in made if each.startswith("packs/"))
    two.stores["a"].delete(gone)
    assert not looking() and gone in copies[0].objects
    seconds[0] = 3601.0
    assert looking() == set(made) and gone not in copies[0].objects


def test_what_a_manifest_that_stays_names_is_not_deleted(two: Lab) -> None:
    """Forgotten today, with objects that were condemned long ago: it can be taken back whole as long as any other."""
    snapshots = two.history().snapshots
    copies, _ = open_copies(two.stores, REPOSITORY)
    objects = list(snapshots[0].manifest.object_names())
    publish(
        two.keys.identity(), copies,
        Mark(CONDEMN, REPOSITORY, HOST, two.now().replace(microsecond=0), objects=objects),
    )  # fmt: skip
    two.minutes += 4 * DAY
    forget(two, *snapshots)
    before = data(two)
    run(two)
    assert data(two) == before
    assert_all_restore(two)


def test_a_manifest_that_the_store_keeps(two: Lab) -> None:
    """What a manifest needs that may not be deleted yet stays with it, though it was condemned long ago."""
    forget(two, *two.history().snapshots[:3])
    run(two)
    two.minutes += 4 * DAY
    inner = two.stores["a"]
    two.stores["a"] = Locking(inner, "snapshots/")
    before = data(two)
    result = run(two)
    assert data(two) == before and result.deleted["a"].locked == 1 and result.deleted["b"].objects
    assert_all_restore(two)


def test_what_a_snapshot_at_an_absent_copy_needs(two: Lab, source: Path) -> None:
    """Snapshots that this host remembers and no copy at hand shows count, too: nothing they need is condemned."""
    forget(two, two.history().snapshots[0])
    (source / "changing").write_bytes(noise(0, 3000))  # what only the first snapshot has
    two.backup(source, {"b": two.stores["b"]})
    away = two.history().snapshots[-1]
    here: dict[str, Store] = {"a": two.stores["a"]}
    needed = set(away.manifest.object_names())
    assert needed & set(run(two, here, dry=True).plan.condemn)
    shown = look(two, here)
    result = prune(
        lambda: Look(shown.copies, shown.history, shown.marks, [away]), two.keys.identity(), Limits(GRACE),
        repository=REPOSITORY, host=HOST, now=two.now, boottime=two.boottime,
    )  # fmt: skip
    assert not needed & set(result.plan.condemn)


def test_wrong_bytes_are_kept_for_a_time(two: Lab) -> None:
    """What lies in quarantine goes after 90 days, and nothing that people put beside it."""
    store = two.stores["a"]
    aside, beside = names.quarantine(names.sha256(b"wrong")), "quarantine/20261121T020000Z-data-stranger.gpg"
    store.put(aside, b"wrong")
    store.put(beside, b"a stranger's")
    two.minutes += 89 * DAY
    found = run(two)
    assert found.plan.where["a"].aside == {aside: 5} and not found.plan.where["b"].aside
    assert {aside, beside} <= everything(two, "a")
    two.minutes += DAY
    assert run(two).deleted["a"].objects == 1 and everything(two, "a") & {aside, beside} == {beside}


def test_wrong_bytes_stay_while_anything_is_lost(two: Lab) -> None:
    """Where a copy lacks what a snapshot needs, they may be what is left of it."""
    aside = names.quarantine(names.sha256(b"wrong"))
    two.stores["a"].put(aside, b"wrong")
    lost = next(info.name for info in two.stores["a"].list("packs"))
    content = two.stores["a"].get(lost)
    two.stores["a"].delete(lost)
    two.minutes += 100 * DAY
    assert not run(two).plan.where["a"].delete and aside in everything(two, "a")
    two.stores["a"].put(lost, content)
    assert run(two).plan.where["a"].delete.keys() == {aside}


def test_a_copy_that_is_behind_keeps_an_incomplete_snapshot(two: Lab) -> None:
    """Of a source that is never complete, too, a copy keeps the last whole snapshot until it has a newer one."""
    snapshots = [
        replace(each, manifest=replace(each.manifest, complete=False, unreadable=1)) for each in two.history().snapshots
    ]
    newest = snapshots[-1]
    two.stores["b"].delete(newest.name)
    copies, _ = open_copies(two.stores, REPOSITORY)
    forgotten = {each.id for each in snapshots[:-1]}
    assert last_at(copies[0], copies, snapshots, forgotten) == set()
    assert last_at(copies[1], copies, snapshots, forgotten) == {snapshots[-2].name}

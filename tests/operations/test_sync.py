"""Sync: order, faults, what is believed, and what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakSet

import pytest

from opskit.errors import StoreError
from opskit.gpg import verify as check_signature
from opskit.operations.session import open_copies
from opskit.operations.sync import lacking, sync
from opskit.operations.torn import drop_torn
from opskit.repository import marks as marking
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import FORGET, HOLD, RELEASE, Mark, Marks, load_marks
from opskit.stores.base import Store
from tests.fakes import Crash, Fault, FaultyStore, FaultyStreams, When
from tests.repositories import REPOSITORY, Keys, Lab, memory_store, noise


class Held(FaultyStore):
    """A source that keeps alive nothing it gave, and counts how many of its objects others hold at once."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.most = 0
        self._given: WeakSet[Given] = WeakSet()

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        given = Given(super().get(name, offset=offset, length=length))
        self._given.add(given)
        self.most = max(self.most, len(self._given))
        return given  # type: ignore[return-value]


class Given(bytearray):
    """Bytes that can be watched."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def opened(lab: Lab) -> tuple[Copy, Copy]:
    """The copy that is behind, and the one that is whole."""
    (target, source), _ = open_copies({"b": lab.stores["b"], "a": lab.stores["a"]}, REPOSITORY)
    return target, source


@pytest.mark.parametrize("workers", [1, 3])
def test_memory_holds_an_object_a_worker(workers: int, throwaway_keys: Keys, tmp_path: Path) -> None:
    """However much is copied, no more objects are in memory at once than there are workers (and one just let go)."""
    lab = Lab(throwaway_keys, tmp_path / "state", {"a": memory_store(), "b": memory_store()}).create()
    (tmp_path / "source").mkdir()
    for number in range(12):
        (tmp_path / "source" / "file").write_bytes(noise(number, 5000))
        lab.backup(tmp_path / "source", stores={"a": lab.stores["a"]})
    target, source = opened(lab)
    source.store = held = Held(source.store)
    assert sync(target, [source], lab.history().snapshots, workers=workers).objects > 40
    assert 1 <= held.most <= workers + 1


def mark(lab: Lab, kind: str, *destinations: str, day: int = 1, **fields: object) -> str:
    """Sign a mark as the maintainer and put it into copies."""
    made = Mark(kind, REPOSITORY, "web", datetime(2026, 11, day, tzinfo=UTC), **fields)  # type: ignore[arg-type]
    data = lab.keys.host.sign(marking.encode(made), lab.keys.host_key)
    name = names.mark(made.created, kind, names.sha256(data))
    for destination in destinations:
        lab.stores[destination].put(name, data)
    return name


def marks_of(lab: Lab, maintainers: Sequence[str] | None = None) -> Marks:
    """The marks all copies show."""
    copies, _ = open_copies(lab.stores, REPOSITORY)
    maintainers = [lab.keys.host_key] if maintainers is None else maintainers
    return load_marks(
        copies, lambda data: check_signature(data, lab.keys.trusted), maintainers=maintainers, repository=REPOSITORY
    )


def assert_whole(lab: Lab, snapshots: Sequence[Snapshot], destination: str = "b") -> None:
    """A copy holds the snapshots with all they need, with the right bytes."""
    held = {info.name for info in lab.stores[destination].list()}
    for snapshot in snapshots:
        for name in (snapshot.name, *snapshot.manifest.object_names()):
            assert name in held and names.sha256(lab.stores[destination].get(name)) == names.digest_in(name)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_copy_becomes_whole_in_order(two: Lab, workers: int) -> None:
    """It receives what it lacks and nothing else, each snapshot's objects before its manifest, oldest first."""
    target, source = opened(two)
    watched = FaultyStore(target.store)
    target.store = watched
    snapshots = two.history().snapshots
    result = sync(target, [target, source], snapshots, workers=workers)
    puts = [name for operation, name in watched.log if operation == "put"]
    assert [name for name in puts if name.startswith("snapshots/")] == [each.name for each in snapshots[1:]]
    assert (result.objects, result.snapshots, result.lacking) == (len(puts), snapshots[1:], [])
    assert result.total_bytes == sum(len(two.stores["a"].get(name)) for name in puts)
    seen = {info.name for info in two.stores["b"].list()} - set(puts)
    for name in puts:
        for snapshot in snapshots:
            if snapshot.name == name:
                assert set(snapshot.manifest.object_names()) <= seen
        seen.add(name)
    assert all(not lacking(target, each, source.get) for each in snapshots)
    assert_whole(two, snapshots)
    assert sync(target, [source], snapshots).objects == 0


def test_every_interruption_leaves_a_shorter_history(two: Lab) -> None:
    """Stopped anywhere in any call, no manifest lacks anything, and the next sync ends the work."""
    probe = two.fork(two.state.with_name("probe"))
    target, source = opened(probe)
    counting = FaultyStore(target.store)
    target.store = counting
    sync(target, [source], probe.history().snapshots, workers=1)
    for call in range(1, counting.calls + 1):
        for when in ("before", "after", "torn"):
            lab = two.fork(two.state.with_name(f"state-{call}-{when}"))
            target, source = opened(lab)
            target.store = FaultyStore(target.store, crash_at=call, when=when)  # type: ignore[arg-type]
            with pytest.raises(Crash):
                sync(target, [source], lab.history().snapshots, workers=1)
            target, source = opened(lab)
            drop_torn([target, source])
            assert_none_lacks(lab, target)
            assert sync(target, [source], lab.history().snapshots).lacking == []
            assert_whole(lab, lab.history().snapshots)


def assert_none_lacks(lab: Lab, target: Copy) -> None:
    """What a copy shows, torn objects left out, is there with all it needs."""
    for snapshot in lab.history({"b": lab.stores["b"]}).snapshots:
        assert set(snapshot.manifest.object_names()) <= target.objects.keys()


@pytest.mark.parametrize("kind", [FaultyStore, FaultyStreams])
def test_a_failing_target_keeps_its_failure(kind: type[FaultyStore], two: Lab) -> None:
    """A write error ends the work, stays on the copy, and every snapshot that is lacking says why."""
    for call in range(1, 6):
        lab = two.fork(two.state.with_name(f"state-{call}"))
        target, source = opened(lab)
        error = StoreError("full")
        target.store = kind(target.store, {call: Fault("before" if call % 2 else "after", error)})
        result = sync(target, [source], lab.history().snapshots, workers=2)
        assert result.lacking and target.failed is error and {reason for _, reason in result.lacking} == {error}
        assert_none_lacks(lab, target)


@pytest.mark.parametrize("when", ["before", "torn", "after"])
def test_a_failing_source_is_not_the_failure_of_the_target(when: When, two: Lab) -> None:
    """Where reading in pieces fails, before, amid or after them, the object is read anew, and the target works on."""
    target, source = opened(two)
    fault = Fault(when, StoreError("unplugged"))
    source.store = FaultyStreams(source.store, dict.fromkeys((1, 3, 5, 8), fault))
    result = sync(target, [source], two.history().snapshots, workers=1)
    assert result.lacking == [] and target.failed is None
    assert_whole(two, two.history().snapshots)


def test_no_object_is_held_whole_where_both_stores_know_pieces(two: Lab) -> None:
    """All but the lists that name other objects passes through in pieces, and is counted as it would be else."""
    other = two.fork(two.state.with_name("other"))
    target, source = opened(two)
    source.store = watched = Whole(source.store)
    result = sync(target, [source], two.history().snapshots)
    assert watched.gets == [] and result.objects > 5
    assert_whole(two, two.history().snapshots)
    copied, plain = opened(other)
    plain.store = FaultyStore(plain.store)
    expected = sync(copied, [plain], other.history().snapshots)
    assert (result.objects, result.total_bytes) == (expected.objects, expected.total_bytes)
    assert (target.objects, target.put_bytes) == (copied.objects, copied.put_bytes)


class Whole(FaultyStreams):
    """A source that notes what is read from it whole."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.gets: list[str] = []

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.gets.append(name)
        return super().get(name, offset=offset, length=length)


def test_what_is_damaged_everywhere_is_not_copied(two: Lab) -> None:
    """A snapshot whose pack is wrong at the only copy that has it stays away, and is named; others arrive."""
    first, second, third = two.history().snapshots
    only = next(iter(set(second.manifest.object_names()) - set(first.manifest.object_names())))
    data = two.stores["a"].get(only)
    two.stores["a"].delete(only)
    two.stores["a"].put(only, data[:-1])
    target, source = opened(two)
    result = sync(target, [source], [first, second, third])
    lacking = [snapshot for snapshot, _ in result.lacking]
    assert second in lacking and target.failed is None
    assert (third in lacking) is (only in set(third.manifest.object_names()))
    assert only not in {info.name for info in two.stores["b"].list()}


def test_torn_objects_are_replaced(two: Lab) -> None:
    """An object of the wrong size at the target counts as absent; its bytes go to quarantine and the right ones in."""
    wanted = [name for name in two.history().snapshots[0].manifest.object_names() if name.startswith("packs/")]
    for name in wanted:
        data = two.stores["b"].get(name)
        two.stores["b"].delete(name)
        two.stores["b"].put(name, data[: len(data) // 2])
    target, source = opened(two)
    assert [name for _, name, _ in drop_torn([target, source])] == wanted
    assert sync(target, [source], two.history().snapshots).lacking == []
    assert_whole(two, two.history().snapshots)
    assert len(list(two.stores["b"].list("quarantine"))) == len(wanted)


def test_forgotten_snapshots_do_not_come_back(two: Lab) -> None:
    """What a maintainer's mark forgets is not copied, and the mark goes first; a signer's mark forgets nothing."""
    second = two.history().snapshots[1]
    name = mark(two, FORGET, "a", snapshots=[second.id])
    assert marks_of(two, maintainers=["0" * 40]).forgotten() == frozenset()
    marks = marks_of(two)
    target, source = opened(two)
    watched = FaultyStore(target.store)
    target.store = watched
    result = sync(
        target,
        [source],
        two.history().snapshots,
        before=[each.name for each in marks.marks],
        forgotten=marks.forgotten(),
    )
    puts = [name for operation, name in watched.log if operation == "put"]
    assert puts[0] == name and result.forgotten == 1
    shown = {each.id for each in two.history({"b": two.stores["b"]}).snapshots}
    assert shown == {each.id for each in two.history().snapshots} - {second.id}


def test_a_backup_brings_nothing_back_that_was_forgotten(two: Lab, source: Path) -> None:
    """A disk that was away when a snapshot was forgotten gets the mark from the next backup, and not the snapshot."""
    second, third = two.history().snapshots[1:]
    name = mark(two, FORGET, "a", snapshots=[second.id])
    result = two.backup(source)
    assert result.errors == [] and result.destinations == {"a": "ok", "b": "ok"}
    held = {info.name for info in two.stores["b"].list()}
    assert name in held and third.name in held and second.name not in held


def test_holds_end_by_time_and_by_release_alone(two: Lab) -> None:
    """A hold counts until its time or until a release names it, in whatever order the marks were made."""
    first, second = (each.id for each in two.history().snapshots[:2])
    now = datetime(2026, 11, 20, tzinfo=UTC)
    held = mark(two, HOLD, "a", day=9, snapshots=[first], reason="court")
    mark(two, HOLD, "b", snapshots=[second], until=datetime(2026, 11, 19, tzinfo=UTC))
    assert set(marks_of(two).holds(now)) == {first}
    assert set(marks_of(two).holds(datetime(2026, 11, 18, tzinfo=UTC))) == {first, second}
    digest = names.digest_in(held)
    mark(two, RELEASE, "b", day=2, lifts=[digest])
    assert marks_of(two).holds(now) == {}


@pytest.mark.parametrize("day", [1, 2])
def test_marks_survive_and_strangers_do_not(two: Lab, day: int) -> None:
    """A mark read back says what was written; one renamed, of another repository or no mark at all is not believed."""
    name = mark(two, HOLD, "a", day=day, snapshots=["ab" * 32], reason="why", until=datetime(2027, 1, 1, tzinfo=UTC))
    (found,) = marks_of(two).marks
    assert (found.name, found.mark.reason, found.mark.snapshots) == (name, "why", ["ab" * 32])
    data = two.stores["a"].get(name)
    two.stores["b"].put(names.mark(found.mark.created, FORGET, names.sha256(data)), data)
    manifest = next(info.name for info in two.stores["a"].list("snapshots"))
    as_mark = two.stores["a"].get(manifest)
    two.stores["b"].put(names.mark(found.mark.created, HOLD, names.sha256(as_mark)), as_mark)
    elsewhere = two.keys.host.sign(marking.encode(replace(found.mark, repository="0" * 32)), two.keys.host_key)
    two.stores["b"].put(names.mark(found.mark.created, HOLD, names.sha256(elsewhere)), elsewhere)
    marks = marks_of(two)
    assert len(marks.marks) == 1 and len(marks.rejected) == 3


@pytest.mark.parametrize("kind", [FaultyStore, FaultyStreams])
def test_an_absurdly_large_object_is_not_read(kind: type[FaultyStore], two: Lab) -> None:
    """What is larger than any object of opskit is damage before a byte of it is read."""
    target, source = opened(two)
    third = two.history().snapshots[2]
    name = next(each for each in third.manifest.object_names() if each not in target.objects)
    source.objects[name] = 1 << 40
    watched = kind(source.store)
    source.store = watched
    assert third in [snapshot for snapshot, _ in sync(target, [source], two.history().snapshots).lacking]
    assert ("get", name) not in watched.log


def test_between_empty_hands_nothing_happens() -> None:
    """Without snapshots and marks there is nothing to do."""
    target = Copy("b", memory_store(), "", REPOSITORY)
    assert sync(target, [target], []).objects == 0

"""Opening the copies: what counts as reachable, known and live, and how a copy that was away comes up to date."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opskit.errors import Damaged, NotMounted, RepositoryNotFound, StoreError
from opskit.operations.retiring import retire
from opskit.operations.session import open_copies, open_session
from opskit.repository import copy as copies
from opskit.repository import names, threads
from opskit.repository.copy import get_from
from opskit.repository.locating import packs_of
from opskit.sources.files import FileSource
from opskit.stores.base import Store
from tests.fakes import Fault, FaultyStore
from tests.operations.judging import found, lab_in, restored, run
from tests.repositories import REPOSITORY, Keys, Lab, memory_copy, memory_store, noise


def test_what_cannot_be_opened_is_told(lab: Lab) -> None:
    """An absent repository, a failing store and another repository are named with their reasons."""
    other = memory_store("other")
    copies.create(other, copies.identity("f" * 32, lab.now()), copy_id="x", kit={}, now=lab.now())
    broken = FaultyStore(memory_store(), {1: Fault("before", NotMounted("not mounted"))})
    stores = {"good": lab.stores["a"], "empty": memory_store(), "broken": broken, "other": other}
    opened, absent = open_copies(stores, REPOSITORY)
    assert [each.destination for each in opened] == ["good"]
    kinds = {name: type(error) for name, error in absent.items()}
    assert kinds == {"empty": RepositoryNotFound, "broken": NotMounted, "other": Damaged}
    with pytest.raises(RepositoryNotFound):
        open_session(lab.host(), {"empty": memory_store()})


class Far:
    """A store that waits before each answer; one of an endpoint gains from several requests at once."""

    def __init__(self, kept: Store, wait: Callable[[], object], *, at_once: int = 3) -> None:
        self.location, self.at_once, self._kept, self._wait = "far", at_once, kept, wait

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        self._wait()
        return getattr(self._kept, name)


def test_endpoints_are_opened_side_by_side(two: Lab) -> None:
    """None waits for another to be opened, a folder neither, and the results come in the order of the config."""
    meeting = threading.Barrier(3, timeout=20)

    def at_first(act: Callable[[], object]) -> Callable[[], None]:
        """Act when called for the first time; the other requests to the same store need not wait."""
        once = iter([act])

        def wait() -> None:
            next(once, lambda: None)()

        return wait

    stores: dict[str, Store] = {
        "z": Far(two.stores["b"], at_first(meeting.wait)),
        "none": Far(memory_store(), at_first(meeting.wait)),
        "a": Far(two.stores["a"], at_first(meeting.wait), at_once=1),
    }
    opened, absent = open_copies(stores, REPOSITORY)
    assert [each.destination for each in opened] == ["z", "a"] and list(absent) == ["none"]


def test_an_interruption_leaves_behind_what_hangs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while an endpoint does not answer ends the opening, although the request goes on."""
    monkeypatch.setattr(threads, "PATIENCE", 0.05)
    asked, answer = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        answer.wait(60)

    def interrupt() -> None:
        asked.wait(60)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            open_copies({"a": lab.stores["a"], "far": Far(memory_store(), hang)}, REPOSITORY)
        assert not answer.is_set()
    finally:
        answer.set()
        thread.join()


def test_a_listing_that_breaks_off_is_no_short_listing(lab: Lab) -> None:
    """A copy whose listing fails in the middle is absent, never a copy with fewer objects."""
    counting = FaultyStore(lab.stores["a"])
    open_copies({"a": counting}, REPOSITORY)
    call = next(number for number, (operation, _) in enumerate(counting.log, 1) if operation == "list")
    torn = FaultyStore(lab.stores["a"], {call: Fault("torn", StoreError("gone"))})
    opened, absent = open_copies({"a": torn}, REPOSITORY)
    assert not opened and isinstance(absent["a"], StoreError)


def test_an_object_comes_from_whoever_has_it_intact(two: Lab) -> None:
    """The first copy with the right bytes answers; when none has them the last failure is raised."""
    name = next(info.name for info in two.stores["b"].list("packs"))
    two.stores["a"].delete(name)
    two.stores["a"].put(name, b"wrong")
    opened, _ = open_copies(two.stores, REPOSITORY)
    assert get_from(opened, name) == two.stores["b"].get(name)
    two.stores["b"].delete(name)
    with pytest.raises(StoreError):
        get_from(opened, name)
    with pytest.raises(StoreError):
        get_from(opened, "packs/00/" + "0" * 64)


def test_many_small_packs_are_stored_together(
    throwaway_keys: Keys, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a source's small packs are many, the next run stores their chunks again, in few packs."""
    monkeypatch.setattr("opskit.operations.retiring.MANY_SMALL_PACKS", 5)
    lab = lab_in(throwaway_keys, tmp_path)
    results = []
    for number in range(7):
        (source / f"file-{number}").write_bytes(noise(number, 5000))
        results.append(run(lab, FileSource([source])))
    counts = [sum(len(each.packs) for each in found(lab, result).manifest.runs) for result in results]
    assert max(counts) > 5 and min(counts[1:]) < max(counts)
    assert counts[counts.index(max(counts)) + 1] <= 3
    for number, result in enumerate(results):
        assert restored(lab, result, tmp_path / str(number)).problems == []


def test_small_packs_stay_few_however_many_older_snapshots_have_the_same_chunks(
    lab: Lab, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was gathered is not taken from the older packs again in which it lay before, run after run."""
    monkeypatch.setattr("opskit.operations.retiring.MANY_TINY_PACKS", 6)
    counts = []
    for number in range(16):
        (source / f"file-{number}").write_bytes(noise(number, 5000))
        run(lab, FileSource([source]))
        counts.append(sum(len(each.packs) for each in lab.history().snapshots[-1].manifest.runs))
    assert max(counts) <= 6 + 2 and counts.count(2) >= 3, counts


def test_small_index_objects_are_merged(
    lab: Lab, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest names few index objects that describe all its packs, though each run writes one of its own."""
    monkeypatch.setattr("opskit.operations.storing.MANY_SMALL_INDEXES", 3)
    monkeypatch.setattr("opskit.operations.retiring.MANY_TINY_PACKS", 1000)
    monkeypatch.setattr("opskit.operations.retiring.MANY_SMALL_PACKS", 1000)
    for number in range(9):
        (source / f"file-{number}").write_bytes(noise(number, 5000))
        result = run(lab, FileSource([source]))
        snapshot = lab.history().snapshots[-1]
        assert sum(len(each.indexes) for each in snapshot.manifest.runs) <= 3 + 1
        without_packs = memory_copy(lab.stores["a"], lambda name, data: None if names.is_pack(name) else data)
        reader = lab.reader(snapshot, {"a": without_packs})
        assert {each.pack for each in reader.indexed_packs()} == set(reader.pack_runs) and not reader.damage
    assert len(snapshot.manifest.runs) == 9
    assert restored(lab, result, tmp_path / "target").problems == []


def test_an_index_object_that_cannot_be_read_is_not_merged(
    lab: Lab, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays named beside the merged one, so that its packs are described as soon as it is healed."""
    monkeypatch.setattr("opskit.operations.storing.MANY_SMALL_INDEXES", 2)
    for number in range(2):
        (source / f"file-{number}").write_bytes(noise(number, 5000))
        run(lab, FileSource([source]))
    broken = next(lab.stores["a"].list("index"))
    lab.stores["a"].put(broken.name, bytes(broken.size), replace=True)
    (source / "last").write_bytes(noise(7, 5000))
    result = run(lab, FileSource([source]))
    named = {names.index(digest) for each in lab.history().snapshots[-1].manifest.runs for digest in each.indexes}
    assert broken.name in named and len(named) == 2
    assert restored(lab, result, tmp_path / "target").problems == []


def test_small_packs_behind_pack_lists_are_gathered_too(
    lab: Lab, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small packs are stored together also where only pack lists name them."""
    monkeypatch.setattr("opskit.operations.retiring.MANY_SMALL_PACKS", 5)
    monkeypatch.setattr("opskit.repository.locating.MAX_INLINE_PACKS", 1)
    counts = []
    for number in range(7):
        (source / f"file-{number}").write_bytes(noise(number, 5000))
        run(lab, FileSource([source]))
        newest = lab.history().snapshots[-1].manifest
        counts.append(sum(len(list(packs_of(each, lab.stores["a"].get))) for each in newest.runs))
    assert counts[counts.index(max(counts)) + 1] <= 3


def test_small_packs_without_an_index_are_described_not_dropped(
    lab: Lab, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packs whose index a crash kept from the copy are adopted by the next run, however many small ones there are."""
    (source / "file").write_bytes(noise(1, 20_000))
    run(lab, FileSource([source]))
    monkeypatch.setattr("opskit.operations.retiring.MANY_SMALL_PACKS", 0)
    with lab.session() as session:
        newest = lab.history().snapshots[-1].manifest
        session.unindexed = list(session.live)
        retire(session, [newest])
        assert session.unindexed and all(number in session.live for number in session.unindexed)
        session.unindexed = []
        retire(session, [newest])
        assert not session.live

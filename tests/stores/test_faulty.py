"""The fault-injecting store of the tests does what a campaign believes it does."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from opskit.errors import ObjectNotFound, StoreFull
from opskit.stores.base import Store
from opskit.stores.memory import MemoryStore
from tests.fakes import Crash, Fault, FaultyStore, When


@pytest.fixture
def inner() -> MemoryStore:
    """A store with three objects."""
    store = MemoryStore(itertools.count(0.0).__next__)
    for name in "abc":
        store.put(name, b"12345678")
    return store


def _names(store: Store) -> list[str]:
    return [info.name for info in store.list()]


@pytest.mark.parametrize(("when", "left"), [("before", None), ("after", b"87654321"), ("torn", b"8765")])
def test_crash_in_a_put_leaves_what_was_asked_for(inner: MemoryStore, when: When, left: bytes | None) -> None:
    """Before, after or in the middle of a put, the medium holds nothing, all or the first half of it."""
    store = FaultyStore(inner, crash_at=2, when=when)
    store.put("x", b"fine")
    with pytest.raises(Crash):
        store.put("y", b"87654321")
    assert inner.get("x") == b"fine"
    if left is None:
        with pytest.raises(ObjectNotFound):
            inner.get("y")
    else:
        assert inner.get("y") == left


@pytest.mark.parametrize(("when", "left"), [("before", ["a", "b", "c"]), ("after", ["b", "c"])])
def test_crash_at_a_delete_removes_or_not(inner: MemoryStore, when: When, left: list[str]) -> None:
    """A delete is done after the act and not before it."""
    with pytest.raises(Crash):
        FaultyStore(inner, crash_at=1, when=when).delete("a")
    assert _names(inner) == left


@pytest.mark.parametrize(("when", "seen"), [("before", []), ("torn", ["a"]), ("after", ["a", "b", "c"])])
def test_failing_list_is_never_just_short(inner: MemoryStore, when: When, seen: list[str]) -> None:
    """However many objects a list yielded, its failure is raised."""
    found: list[str] = []
    with pytest.raises(Crash):
        found.extend(info.name for info in FaultyStore(inner, crash_at=1, when=when).list())
    listing = FaultyStore(inner, crash_at=1, when=when).list()
    assert [info.name for _, info in zip(seen, listing, strict=False)] == seen


@pytest.mark.parametrize(
    "call",
    [lambda s: s.put("z", b""), lambda s: s.get("a"), lambda s: list(s.list()), lambda s: s.delete("a")],
    ids=["put", "get", "list", "delete"],
)
def test_dead_process_does_nothing_more(inner: MemoryStore, call: Callable[[Store], object]) -> None:
    """After a crash every later call crashes, changes nothing and is not counted; no `except Exception` stops it."""
    store = FaultyStore(inner, crash_at=1)
    with pytest.raises(Crash):
        store.get("a")
    with pytest.raises(Crash):
        call(store)
    assert not issubclass(Crash, Exception)
    assert (store.calls, store.is_dead, _names(inner)) == (1, True, ["a", "b", "c"])


def test_planned_error_strikes_once(inner: MemoryStore) -> None:
    """An error of the plan is raised at its call alone, and every call is counted and logged in order."""
    store = FaultyStore(inner, {2: Fault(error=StoreFull("full"))})
    store.put("x", b"1")
    with pytest.raises(StoreFull):
        store.put("y", b"2")
    store.put("y", b"3")
    assert _names(store) == ["a", "b", "c", "x", "y"]
    store.delete("a")
    assert store.get("y") == b"3"
    assert store.calls == 6
    assert store.log == [("put", "x"), ("put", "y"), ("put", "y"), ("list", ""), ("delete", "a"), ("get", "y")]


def test_flip_turns_one_bit_of_one_answer(inner: MemoryStore) -> None:
    """A flipped get differs in that bit alone, and only this once; the object itself is as it was."""
    store = FaultyStore(inner, {1: Fault(flip=8)})
    assert store.get("a") == b"13345678"
    assert store.get("a") == b"12345678"


def test_medium_that_loses_data_says_nothing(inner: MemoryStore) -> None:
    """A torn put without an error is a success to the caller and a truncated object to the reader."""
    FaultyStore(inner, {1: Fault(when="torn", kept=0.25)}).put("x", b"87654321")
    assert inner.get("x") == b"87"


def test_delay_alone_changes_nothing(inner: MemoryStore) -> None:
    """A slow call does what it should."""
    FaultyStore(inner, {1: Fault(delay=0.001)}).put("x", b"1")
    assert inner.get("x") == b"1"

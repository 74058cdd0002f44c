"""What the wrappers add: which failures are tried again and when, what a limit costs, what read-only refuses."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import NotMounted, ObjectExists, ObjectNotFound, StoreError, StoreFull, StoreRefused
from opskit.stores.base import ObjectInfo, Store, Streaming, Swept, sweepable
from opskit.stores.memory import MemoryStore
from opskit.stores.wrappers.limits import Limited
from opskit.stores.wrappers.readonly import ReadOnly
from opskit.stores.wrappers.retry import FINAL, Retrying
from tests.fakes import Fault, FaultyStore

NAMES = [f"packs/{number}" for number in range(9)]


class Passing(StoreError):
    """A failure that another try may outlive."""


def memory() -> MemoryStore:
    """An empty store."""
    return MemoryStore(itertools.count(1.0).__next__)


class Paused(Retrying):
    """Retrying that notes its pauses; only Passing passes."""

    def __init__(self, inner: FaultyStore, **options: float) -> None:
        self.pauses: list[float] = []
        super().__init__(
            inner,
            lambda error: isinstance(error, Passing),
            sleep=self.pauses.append,
            chance=lambda: 0.0,
            **options,  # type: ignore[arg-type]
        )


def filled(plan: dict[int, Fault]) -> tuple[FaultyStore, Paused]:
    """A store with NAMES, the faults of `plan` before it, and the wrapper before that."""
    inner = memory()
    for name in NAMES:
        inner.put(name, name.encode())
    faulty = FaultyStore(inner, plan)
    return faulty, Paused(faulty)


def test_a_wrapper_hides_pieces_that_would_go_around_it() -> None:
    """No limit, refusal or other try is passed by because the store behind it knows pieces."""
    inner = memory()
    limited = Limited(inner, clock=lambda: 0.0, sleep=lambda _seconds: None)
    wrapped: list[Store] = [limited, ReadOnly(inner), Paused(FaultyStore(inner)), FaultyStore(inner)]
    assert isinstance(inner, Streaming) and not any(isinstance(each, Streaming) for each in wrapped)


def test_every_call_outlives_passing_failures() -> None:
    """Put, get, list and delete each succeed after failures that pass, with growing pauses."""
    for act in (
        lambda store: store.put("new", b"x"),
        lambda store: store.get("packs/1"),
        lambda store: list(store.list()),
        lambda store: store.delete("packs/1"),
    ):
        faulty, store = filled({1: Fault(error=Passing("1")), 2: Fault(error=Passing("2"))})
        act(store)
        assert faulty.calls == 3 and store.pauses == [0.25, 0.5]


class Dusty(MemoryStore):
    """A store with files that killed puts left, whose line breaks after each that it removes, `breaks` times."""

    def __init__(self, files: int, breaks: int) -> None:
        super().__init__(lambda: 0.0)
        self.files, self.breaks = files, breaks

    def sweep(self, *, now: float, older_than: float, dry_run: bool = False) -> Swept:
        found = self.files
        while self.files and not dry_run:
            self.files -= 1
            if self.breaks:
                self.breaks -= 1
                raise Passing("the connection broke")
        return Swept(found, found)


def test_a_sweep_outlives_passing_failures_behind_any_wrapper() -> None:
    """What sweeps a store tries again what passes, and raises what goes on; a store that cannot be swept has nobody."""
    dusty = Dusty(files=5, breaks=2)
    store = Paused(FaultyStore(Limited(dusty, clock=lambda: 0.0, sleep=lambda _seconds: None)))
    for outer in (store, ReadOnly(store)):
        assert sweepable(outer) is store
    assert store.sweep(now=0, older_than=0, dry_run=True) == (5, 5) and dusty.files == 5
    store.sweep(now=0, older_than=0)
    assert dusty.files == 0 and store.pauses == [0.25, 0.5]
    with pytest.raises(Passing):
        Paused(FaultyStore(Dusty(files=9, breaks=4))).sweep(now=0, older_than=0)
    assert sweepable(filled({})[1]) is None and filled({})[1].sweep(now=0, older_than=0) == (0, 0)


def test_a_failure_that_goes_on_is_raised_after_the_last_attempt() -> None:
    """The last of the allowed attempts raises its own error, and no pause follows it."""
    faulty, store = filled({number: Fault(error=Passing(str(number))) for number in range(1, 20)})
    with pytest.raises(Passing, match="4"):
        store.get("packs/1")
    assert faulty.calls == 4 and store.pauses == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("kind", [*FINAL, StoreError])
def test_what_cannot_pass_is_raised_at_once(kind: type[StoreError]) -> None:
    """A refusal, a full or absent medium, a taken name, an absent object are never tried again, whoever asks for it."""
    faulty, _ = filled({1: Fault(error=kind("no"))})
    store = Retrying(faulty, lambda error: type(error) is not StoreError, sleep=pytest.fail, chance=lambda: 0.0)
    with pytest.raises(kind, match="no"):
        store.get("packs/1")
    assert faulty.calls == 1
    assert set(FINAL) == {NotMounted, ObjectExists, ObjectNotFound, StoreFull, StoreRefused}


@given(failures=st.integers(1, 12), chance=st.floats(0, 1), pause=st.floats(0.01, 5))
def test_pauses_stay_within_their_bounds(failures: int, chance: float, pause: float) -> None:
    """Each pause lies between half and all of its doubled length, and never above the longest."""
    slept: list[float] = []
    faulty = FaultyStore(memory(), {number: Fault(error=Passing("")) for number in range(1, failures + 1)})
    store = Retrying(
        faulty, lambda _error: True, sleep=slept.append, chance=lambda: chance, attempts=13, pause=pause, longest=7
    )
    store.put("a", b"x")
    assert len(slept) == failures
    for number, seconds in enumerate(slept):
        whole = min(7, pause * 2**number)
        assert whole / 2 <= seconds <= whole


def test_a_put_whose_answer_was_lost_has_succeeded() -> None:
    """A taken name at a later try is the own object where its bytes are the same, and a stranger's otherwise."""
    faulty, store = filled({1: Fault("after", Passing("lost"))})
    store.put("new", memoryview(b"mine"))
    assert faulty.inner.get("new") == b"mine"
    faulty, store = filled({1: Fault("before", Passing("lost"))})
    with pytest.raises(ObjectExists):
        store.put("packs/1", b"other")
    faulty, store = filled({})
    with pytest.raises(ObjectExists):
        store.put("packs/1", b"packs/1")


def test_a_delete_whose_answer_was_lost_has_succeeded() -> None:
    """An object that is gone at a later try was deleted; one that was never there is not found."""
    faulty, store = filled({1: Fault("after", Passing("lost"))})
    store.delete("packs/1")
    with pytest.raises(ObjectNotFound):
        faulty.inner.get("packs/1")
    with pytest.raises(ObjectNotFound):
        store.delete("packs/1")


@given(plan=st.dictionaries(st.integers(1, 6), st.floats(0, 1)))
def test_a_listing_that_breaks_off_goes_on_where_it_was(plan: dict[int, float]) -> None:
    """However often a listing breaks off, each object is given once and in order, or it is an error."""
    _, store = filled({call: Fault("torn", Passing("cut"), kept) for call, kept in plan.items()})
    seen: list[str] = []
    try:
        seen.extend(info.name for info in store.list("packs"))
    except Passing:
        assert len(plan) >= 4
        return
    assert seen == NAMES


def test_read_only_reads_and_changes_nothing() -> None:
    """Get and list pass; put and delete are refused before the store is reached."""
    faulty, _ = filled({})
    store = ReadOnly(faulty)
    assert store.get("packs/1", offset=1, length=2) == b"ac"
    assert [info.name for info in store.list("packs")] == NAMES
    with pytest.raises(StoreRefused, match="read-only") as caught:
        store.put("packs/new", b"x")
    assert caught.value.hint
    with pytest.raises(StoreRefused, match="delete packs/1"):
        store.delete("packs/1")
    with pytest.raises(ValueError, match="not an object name"):
        store.put("../x", b"")
    assert {operation for operation, _ in faulty.log} == {"get", "list"}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self.now += seconds


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=20), rate=st.integers(1, 3000))
def test_the_rate_holds_at_every_moment(sizes: list[int], rate: int) -> None:
    """After any number of puts, or gets, no more than rate · time plus the object under way has moved."""
    clock = Clock()
    store = Limited(memory(), upload_rate=rate, download_rate=rate, clock=clock, sleep=clock.sleep)
    for is_put in (True, False):
        since, moved = clock.now, 0
        for number, size in enumerate(sizes):
            if is_put:
                store.put(str(number), bytes(size))
            else:
                assert len(store.get(str(number))) == size
            assert moved <= rate * (clock.now - since) + max(sizes) + 1e-6
            moved += size
        assert sum(sizes[:-1]) <= rate * (clock.now - since) + 1e-6 * len(sizes) or not is_put


def test_each_direction_has_its_own_limit_and_none_is_none() -> None:
    """An upload does not slow a download; without a rate nothing sleeps; a rate of 0 is a mistake."""
    clock = Clock()
    store = Limited(memory(), upload_rate=10, clock=clock, sleep=clock.sleep)
    store.put("a", bytes(100))
    assert store.get("a") == bytes(100) and store.get("a") == bytes(100) and clock.now == 0
    store.put("b", b"x")
    assert clock.now == 10
    store.delete("a")
    assert [info.name for info in store.list()] == ["b"]
    with pytest.raises(ValueError, match="above 0"):
        Limited(memory(), upload_rate=0, clock=clock, sleep=clock.sleep)


def test_wrappers_show_where_they_lead() -> None:
    """Each wrapper has the location of what it wraps, and gives it as `inner`."""
    inner = memory()
    wrapped = [
        Retrying(inner, lambda _error: True, sleep=pytest.fail, chance=lambda: 0.0),
        ReadOnly(inner),
        Limited(inner, clock=lambda: 0.0, sleep=pytest.fail),
    ]
    assert {each.location for each in wrapped} == {"memory"} and all(each.inner is inner for each in wrapped)


def test_a_listing_is_lazy_where_the_store_is() -> None:
    """The wrapper asks for an object when it is asked for one: a listing of millions is never held."""
    given_out: list[str] = []

    class Lazy(MemoryStore):
        def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
            for name in NAMES:
                given_out.append(name)
                yield ObjectInfo(name, 0, 0.0)

    store = Retrying(Lazy(lambda: 0.0), lambda _error: True, sleep=pytest.fail, chance=lambda: 0.0)
    next(iter(store.list()))
    assert given_out == NAMES[:1]

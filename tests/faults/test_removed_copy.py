"""A copy that is taken away while it is read or written: a disk pulled out, a share unmounted, a folder removed.

From some call on the store gives nothing but NotMounted. Every point is tried: whatever is said of that copy afterwards
must be true, and no other copy may suffer.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from opskit.errors import NotMounted
from opskit.operations.session import open_copies
from opskit.operations.verify import CopyReport, verify
from opskit.stores.base import Buffer, ObjectInfo, Store
from opskit.stores.local import LocalStore
from tests.faults.test_sync_campaign import (
    Trio,
    assert_honest,
    behind,
    believe,
    contents,
    damaged_differently,
    forked,
    make_trio,
    right,
)
from tests.repositories import Keys, memory_store
from tests.telling import Tell


class Unplugged:
    """A store whose medium is gone from call number `after` + 1 on."""

    def __init__(self, inner: Store, after: int | None = None) -> None:
        self.inner, self.location, self.calls = inner, inner.location, 0
        self._after = after
        self._lock = threading.Lock()

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        self._call()
        self.inner.put(name, data, replace=replace)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self._call()
        return self.inner.get(name, offset=offset, length=length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._call()
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self._call()
        self.inner.delete(name)

    def _call(self) -> None:
        with self._lock:
            self.calls += 1
            if self._after is not None and self.calls > self._after:
                raise NotMounted(f"{self.location}: not mounted")


@pytest.fixture(scope="module")
def trio(throwaway_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Three whole copies in memory; nobody may change them."""
    folder = tmp_path_factory.mktemp("trio")
    return make_trio(throwaway_keys, folder, {name: memory_store(name) for name in "abc"})


def moments(make: Callable[[], dict[str, Store]], which: str, act: Callable[[Mapping[str, Store]], object]) -> range:
    """After how many calls of an act a copy may go, from the first after it was opened to the last but one."""
    stores = make()
    watched = Unplugged(stores[which])
    open_copies({which: watched}, None)
    opened, watched.calls = watched.calls, 0
    act({**stores, which: watched})
    return range(opened, watched.calls)


def read_back(lab: Trio, stores: Mapping[str, Store], workers: int = 1) -> dict[str, CopyReport]:
    copies, _ = open_copies(stores, lab.repository)
    return verify(
        copies, lambda data: believe(data, lab.keys.trusted),
        signers=[lab.keys.host_key], repository=lab.repository, workers=workers,
    )  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
def test_verify_of_a_copy_that_goes(workers: int, trio: Trio, tell: Tell) -> None:
    """Verify says that it was not read to its end, calls nothing of it damaged or missing, and the others whole."""
    found = moments(lambda: forked(trio.stores), "a", lambda stores: read_back(trio, stores, workers))
    for after in found:
        reports = read_back(trio, {**trio.stores, "a": Unplugged(trio.stores["a"], after)}, workers)
        gone = reports.pop("a")
        assert isinstance(gone.failure, NotMounted) or gone.objects == len(trio.truth) + 2, (after, gone)
        assert not gone.damaged + gone.missing + gone.untrusted, (after, gone)
        assert all(report.is_good for report in reports.values()), after
    tell(f"moments in which a copy went from verify: {len(found)} ({workers} workers)")


@pytest.mark.parametrize("which", ["a", "c"])
@pytest.mark.parametrize("workers", [1, 3])
def test_sync_with_a_copy_that_goes(which: str, workers: int, trio: Trio, tell: Tell) -> None:
    """Sync takes from the other copy what one that goes cannot give; a target that goes is left honest, and told."""
    found = moments(lambda: behind(trio, "empty"), which, lambda stores: trio.sync(stores, workers=workers))
    for after in found:
        stores = behind(trio, "empty")
        result, _ = trio.sync({**stores, which: Unplugged(stores[which], after)}, workers=workers)
        if which == "a":
            assert not result.lacking and not result.loose and contents(stores["c"]) == trio.truth, after
        else:
            assert result.lacking or result.loose, after
            assert_honest(trio, stores["c"], after)
        assert all(contents(stores[each]) == trio.truth for each in "ab"), after
    tell(f"moments in which a copy went from sync: {len(found)} ({which}, {workers} workers)")


@pytest.mark.parametrize("which", ["a", "c"])
def test_heal_with_a_copy_that_goes(which: str, trio: Trio, tell: Tell) -> None:
    """Heal loses no right bytes by it, mends the others from what is left, and says what it could not mend."""
    make = lambda: damaged_differently(trio)[0]  # noqa: E731
    found = moments(make, which, trio.heal)
    for after in found:
        stores, wrong = damaged_differently(trio)
        had = {name: right(trio, store) for name, store in stores.items()}
        reports, results = trio.heal({**stores, which: Unplugged(stores[which], after)})
        for name, store in stores.items():
            assert had[name] <= right(trio, store), f"{after}: right bytes are gone"
        assert results["b"].is_whole or (which == "c" and results["b"].failed), (after, results["b"])
        if which == "a":
            assert contents(stores["b"]) == trio.truth, after
            assert reports["a"].failure or results["a"].failed or contents(stores["a"]) == trio.truth, after
            assert wrong["a"].keys() & right(trio, stores["a"]) <= set(results["a"].replaced), after
    tell(f"moments in which a copy went from heal: {len(found)} ({which})")


def test_a_folder_that_is_removed_while_it_is_read(trio: Trio, tmp_path: Path) -> None:
    """The same with a real folder that somebody removes half-way: a failure of that copy, and no damage."""
    folder = tmp_path / "copy"
    store = LocalStore(folder)
    store.create()
    for info in trio.stores["a"].list():
        store.put(info.name, trio.stores["a"].get(info.name))

    class Removed(Unplugged):
        def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
            if name.startswith("packs/") and folder.exists():
                folder.rename(tmp_path / "away")
            return self.inner.get(name, offset=offset, length=length)

    reports = read_back(trio, {**trio.stores, "a": Removed(store)})
    assert reports["a"].failure is not None and not reports["a"].damaged
    assert reports["b"].is_good and reports["c"].is_good
    shutil.rmtree(tmp_path / "away")

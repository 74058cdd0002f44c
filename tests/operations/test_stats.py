"""Numbers of copies: everything is counted once, and what is dead is what no snapshot needs."""

from __future__ import annotations

import pytest

from opskit.operations.session import open_copies
from opskit.operations.stats import KINDS, CopyStats, kind_of, stats
from opskit.repository import names
from opskit.stores.base import Store
from tests.repositories import REPOSITORY, SOURCE, Keys, Lab, memory_copy, memory_store, noise


@pytest.fixture(scope="module")
def made(throwaway_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two copies of three snapshots of a file that stays and one that changes; nobody may change them."""
    folder = tmp_path_factory.mktemp("stats")
    source = folder / "source"
    source.mkdir()
    (source / "stays").write_bytes(noise(1, 300_000))
    lab = Lab(throwaway_keys, folder / "state", {"a": memory_store(), "b": memory_store()}).create()
    for number in range(3):
        (source / "file").write_bytes(noise(number + 2, 1000))
        lab.backup(source)
    return lab


def numbers(
    lab: Lab, stores: dict[str, Store] | None = None, forgotten: frozenset[str] = frozenset()
) -> dict[str, CopyStats]:
    stores = lab.stores if stores is None else stores
    copies, _ = open_copies(stores, REPOSITORY)
    return stats(copies, lab.history(stores), forgotten)


def test_everything_is_counted_once(made: Lab) -> None:
    """Kinds, and live with dead, add up to all objects and bytes of the store."""
    for name, found in numbers(made).items():
        listed = list(made.stores[name].list())
        expected = (len(listed), sum(each.size for each in listed))
        assert (found.total.objects, found.total.total_bytes) == expected
        kinds = found.kinds.values()
        assert (sum(each.objects for each in kinds), sum(each.total_bytes for each in kinds)) == expected


def test_whole_copies_have_nothing_dead(made: Lab) -> None:
    """Of copies as backup left them all is needed; runs, snapshots and logical bytes are those of the backups."""
    for found in numbers(made).values():
        assert found.dead.objects == 0 and found.runs == 3 and found.unread_lists == 0
        assert found.sources[SOURCE].snapshots == found.snapshots == 3
        assert found.logical_bytes == 3 * 301_000
        assert found.ratio and 2 < found.ratio < 3


def test_what_no_snapshot_needs_is_dead(made: Lab) -> None:
    """Without its manifest what only the last run stored is dead, wherever the manifest is gone from all copies."""
    last = made.history().snapshots[-1]
    stores: dict[str, Store] = {
        name: memory_copy(store, lambda each, data: None if each == last.name else data)
        for name, store in made.stores.items()
    }
    own = {names.key(run.key) for run in last.manifest.runs} - _needed_by_others(made)
    found = numbers(made, stores)["a"]
    assert found.dead.objects > len(own) > 0 and found.snapshots == 2 and found.runs == 2
    stores["b"] = made.stores["b"]
    assert numbers(made, stores)["a"].dead.objects == 0  # another copy shows the snapshot that needs it


def _needed_by_others(made: Lab) -> set[str]:
    return {name for each in made.history().snapshots[:-1] for name in each.manifest.object_names()}


def test_forgotten_snapshots_need_nothing(made: Lab) -> None:
    """A snapshot that was forgotten counts as if it were not there, its manifest included."""
    every = frozenset(each.id for each in made.history().snapshots)
    found = numbers(made, forgotten=every)["a"]
    assert found.live.objects == found.kinds["kit"].objects and found.snapshots == 0 and found.ratio is None


def test_strange_objects_are_dead(made: Lab) -> None:
    """Quarantine and what opskit never named are counted apart, and as dead."""
    store = memory_copy(made.stores["a"])
    store.put(names.quarantine("0" * 64), b"12345")
    store.put("notes.txt", b"123")
    found = numbers(made, {"a": store})["a"]
    assert (found.kinds["quarantine"].total_bytes, found.kinds["other"].total_bytes) == (5, 3)
    assert (found.dead.objects, found.dead.total_bytes) == (2, 8)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (names.REPOSITORY, "kit"),
        (names.pack("ab" * 32), "packs"),
        (names.key("ab" * 32), "keys"),
        (names.index("ab" * 32), "index"),
        (names.packlist("ab" * 32), "packlists"),
        (f"evidence/20261121T020000Z-drill-{'ab' * 32}.gpg", "evidence"),
        ("packs/00/" + "ab" * 32, "other"),
        ("packs/x", "other"),
        ("kit", "other"),
        ("other/x", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    """The kind of an object follows from its name, and a name that opskit does not give is of no kind."""
    assert kind_of(name) == kind and kind in KINDS

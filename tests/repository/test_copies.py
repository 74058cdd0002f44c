"""Copies, what feeds them all, and what their manifests together say."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opskit import encoding
from opskit.errors import Damaged, Forged, NoKey, ObjectNotFound, RepositoryNotFound, StoreError, StoreFull
from opskit.gpg import verify
from opskit.repository import copy as copies
from opskit.repository import manifest, names
from opskit.repository.cache import Cache
from opskit.repository.copy import Copy, open_copy
from opskit.repository.fanout import Fanout
from opskit.repository.filter import Filter
from opskit.repository.history import load_history
from opskit.repository.manifest import Snapshot
from opskit.repository.reader import SnapshotReader
from opskit.stores.base import Filling, Store
from opskit.stores.local import LocalStore
from opskit.stores.memory import MemoryStore
from opskit.stores.wrappers.readonly import ReadOnly
from tests.fakes import Fault, FaultyStore
from tests.repositories import REPOSITORY, Keys, Lab, memory_store, noise

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ABOUT = copies.identity(REPOSITORY, NOW)


def made(name: str = "a", store: MemoryStore | FaultyStore | None = None) -> Copy:
    store = store or memory_store(name)
    copies.create(store, ABOUT, copy_id=name, kit={"recover.py": b"kit"}, now=NOW)
    return open_copy(name, store)


def test_a_copy_is_made_once() -> None:
    """Created it opens, with its own id and what it has; created again nothing changes."""
    store = memory_store()
    with pytest.raises(RepositoryNotFound):
        open_copy("a", store)
    assert copies.create(store, ABOUT, copy_id="one", kit={"recover.py": b"kit"}, now=NOW)
    assert not copies.create(store, ABOUT, copy_id="two", kit={"recover.py": b"other"}, now=NOW)
    opened = open_copy("a", store)
    assert (opened.id, opened.repository) == ("one", REPOSITORY)
    assert set(opened.objects) == {"opskit.json", "copy.json", "recover.py"} and store.get("recover.py") == b"kit"


def test_another_repository_is_refused() -> None:
    """A store that holds another repository stays as it was."""
    copy = made()
    with pytest.raises(Damaged):
        copies.create(copy.store, copies.identity("f" * 32, NOW), copy_id="x", kit={"new": b""}, now=NOW)
    assert open_copy("a", copy.store).repository == REPOSITORY and "new" not in open_copy("a", copy.store).objects


@pytest.mark.parametrize("crash_at", range(1, 8))
def test_a_half_made_copy_is_no_repository(crash_at: int) -> None:
    """Wherever making a copy stops, it is no repository yet or a whole one, and the next attempt completes it."""
    store = memory_store()
    faulty = FaultyStore(store, {crash_at: Fault("before", StoreError("gone"))})
    try:
        made(store=faulty)
    except (StoreError, RepositoryNotFound):
        assert {"copy.json", "recover.py"} <= {info.name for info in store.list()} or "opskit.json" not in {
            info.name for info in store.list()
        }
    assert set(made(store=store).objects) == {"opskit.json", "copy.json", "recover.py"}


def test_a_newer_format_is_refused() -> None:
    """A repository of format 2 is told as such."""
    store = memory_store()
    store.put("opskit.json", encoding.encode({"format": 2, "id": "x"}))
    with pytest.raises(Damaged, match="format 2"):
        open_copy("a", store)


def test_bytes_are_compared_with_their_name() -> None:
    """Getting an object whose bytes are not what its name says is Damaged."""
    copy, name = made(), names.pack("ab" * 32)
    copy.store.put(name, b"other bytes")
    with pytest.raises(Damaged):
        copy.get(name)
    with pytest.raises(ObjectNotFound):
        copy.get(names.pack("cd" * 32))


@pytest.mark.parametrize("is_local", [True, False])
def test_bytes_in_given_memory_are_compared_too(tmp_path: Path, is_local: bool) -> None:
    """Read straight into memory, from a folder opened read-only too, or copied there: right bytes, or Damaged."""
    right, wrong = names.pack(names.sha256(b"right")), names.pack(names.sha256(b"what it was"))
    store: Store = LocalStore(tmp_path) if is_local else memory_store()
    for name in (right, wrong):
        store.put(name, b"right")
    copy = Copy("a", ReadOnly(store), "b" * 32, REPOSITORY)
    copy.refresh()
    memory = memoryview(bytearray(9))
    assert copy.get_into(right, lambda size: memory[:size]) == b"right"
    assert isinstance(copy.store, Filling) == is_local
    with pytest.raises(Damaged, match="expected SHA-256"):
        copy.get_into(wrong, lambda size: memory[:size])


def test_putting_mends_what_is_wrong() -> None:
    """An object that is there with the right bytes is left; with wrong ones it is replaced, and those are kept."""
    copy, data = made(), b"right"
    name = names.key(names.sha256(data))
    copy.store.put(name, b"torn")
    copy.put(name, data)
    assert copy.get(name) == data and copy.store.get(names.quarantine(names.sha256(b"torn"))) == b"torn"
    before = [info.name for info in copy.store.list()]
    copy.put(name, data)
    assert [info.name for info in copy.store.list()] == before


# Fan-out


def test_every_copy_gets_everything_in_order() -> None:
    """All copies hold all objects, each in the order they were given."""
    stores = [FaultyStore(memory_store(name)) for name in "abc"]
    with Fanout([made(name, store) for name, store in zip("abc", stores, strict=True)]) as fanout:
        given = [f"keys/{number}" for number in range(20)]
        for name in given:
            fanout.put(name, b"x")
        fanout.wait()
    for store in stores:
        assert [name for operation, name in store.log if operation == "put" and "keys" in name] == given


def test_a_copy_that_fails_gets_nothing_more() -> None:
    """After its first failure a copy receives no further object, and keeps its reason; the others receive all."""
    good, bad = made("good"), made("bad")
    store = FaultyStore(bad.store, {3: Fault("before", StoreFull("full"))})
    bad.store = store
    with Fanout([good, bad]) as fanout:
        for number in range(10):
            fanout.put(f"keys/{number}", b"x")
        fanout.wait()
    assert isinstance(bad.failed, StoreFull) and good.failed is None
    assert store.calls == 3 and sum(name.startswith("keys/") for name in good.objects) == 10
    assert sum(name.startswith("keys/") for name in bad.objects) == 2


def test_the_last_failure_is_raised() -> None:
    """When no copy works any more, putting and waiting raise the first copy's error; a broken contract counts."""
    copy = made()
    copy.store = FaultyStore(copy.store, {1: Fault("before", RuntimeError("a bug in a store"))})
    with Fanout([copy]) as fanout, pytest.raises(StoreError, match="RuntimeError"):
        fanout.put("keys/1", b"x")
        fanout.wait()


def test_a_slow_copy_does_not_stop_a_fast_one() -> None:
    """A copy that hangs holds the others up only when it is several objects behind."""
    fast, slow, gate = made("fast"), made("slow"), threading.Event()

    class Hanging(FaultyStore):
        def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
            gate.wait(60)
            super().put(name, data, replace=replace)

    slow.store = Hanging(slow.store)
    with Fanout([fast, slow]) as fanout:
        fanout.put("keys/1", b"x")
        fanout.put("keys/2", b"x")
        gate.set()
        fanout.wait()
    assert {"keys/1", "keys/2"} <= fast.objects.keys() & slow.objects.keys()


def test_the_filter_never_denies_what_was_added() -> None:
    """A chunk that was added is always in the filter; hardly any other is."""
    added, others = ([noise(seed + number, 32) for number in range(3000)] for seed in (0, 10_000))
    some = Filter()
    for each in added:
        some.update([each])
    assert all(each in some for each in added)
    assert sum(each in some for each in others) < 60


# History


@pytest.fixture
def lab(throwaway_keys: Keys, tmp_path: Path) -> Lab:
    """Three snapshots at two copies, the newest at one of them only."""
    source = tmp_path / "source"
    source.mkdir()
    made_lab = Lab(throwaway_keys, tmp_path / "state", {"a": memory_store("a"), "b": memory_store("b")}).create()
    for number in range(3):
        (source / f"f{number}").write_bytes(noise(number, 9000))
        made_lab.backup(source, made_lab.stores if number < 2 else {"a": made_lab.stores["a"]})
    return made_lab


def put_manifest(lab: Lab, signer: object, fingerprint: str, **changes: object) -> str:
    """A manifest like the newest one, changed, signed by this key, under a proper name."""
    newest = lab.history().snapshots[-1].manifest
    value = {**encoding.decode_object(manifest.encode(newest), what="manifest"), **changes}
    data = signer.sign(encoding.encode(value), fingerprint)  # type: ignore[attr-defined]
    name = names.snapshot(newest.started, newest.source, names.sha256(data))
    lab.stores["a"].put(name, data)
    return name


def test_the_chain_and_its_holders(lab: Lab) -> None:
    """Snapshots come in sequence, with the copies that have each."""
    history = lab.history()
    assert [each.manifest.sequence for each in history.snapshots] == [1, 2, 3]
    assert [history.holders[each.name] for each in history.snapshots] == [["a", "b"], ["a", "b"], ["a"]]
    assert history.rejected == []


def test_a_stranger_is_not_believed(lab: Lab) -> None:
    """A well-formed manifest by another key, or of another repository, is rejected by name; the rest stays."""
    stranger = put_manifest(lab, lab.keys.recipients[0], lab.keys.recipient_keys[0], sequence=99)
    foreign = put_manifest(lab, lab.keys.host, lab.keys.host_key, repository="e" * 32)
    history = lab.history()
    assert {name for _, name, error in history.rejected if isinstance(error, Forged)} == {stranger, foreign}
    assert len(history.snapshots) == 3


def test_a_manifest_under_another_time_is_not_believed(lab: Lab) -> None:
    """A good manifest copied to a name with a later time or another source is rejected."""
    data = lab.stores["a"].get(lab.history().snapshots[0].name)
    for when, source in ((datetime(2099, 1, 1, tzinfo=UTC), "data"), (datetime(2026, 1, 1, tzinfo=UTC), "other")):
        lab.stores["a"].put(names.snapshot(when, source, names.sha256(data)), data)
    assert len(lab.history().rejected) == 2 and len(lab.history().snapshots) == 3


def test_one_damaged_manifest_hides_nothing(lab: Lab) -> None:
    """Damaged at one copy, a manifest comes from the other; damaged at all, only that snapshot is gone."""
    name = lab.history().snapshots[1].name
    for count, copy in enumerate("ab"):
        data = lab.stores[copy].get(name)
        lab.stores[copy].delete(name)
        lab.stores[copy].put(name, data[:-9])
        history = lab.history()
        assert len(history.rejected) == count + 1
        assert [each.manifest.sequence for each in history.snapshots] == ([1, 3] if count else [1, 2, 3])


def test_the_cache_is_asked_first_and_roles_still_count(lab: Lab, tmp_path: Path) -> None:
    """A manifest verified before is not verified again, unless its signer lost the role."""
    cache, calls = Cache(tmp_path / "c.sqlite", REPOSITORY), 0

    def counted(data: bytes) -> object:
        nonlocal calls
        calls += 1
        return verify(data, lab.keys.trusted)

    opened = [open_copy(name, store) for name, store in lab.stores.items()]
    for expected in (3, 3):
        load_history(opened, counted, signers=[lab.keys.host_key], repository=REPOSITORY, cache=cache)  # type: ignore[arg-type]
        assert calls == expected
    without = load_history(opened, counted, signers=["0" * 40], repository=REPOSITORY, cache=cache)  # type: ignore[arg-type]
    assert without.snapshots == [] and len(without.rejected) >= 3
    cache.close()


# Reader


def newest(lab: Lab) -> Snapshot:
    return lab.history().snapshots[-1]


def test_a_tree_is_read_in_order(lab: Lab) -> None:
    """All entries come once; below a path only those."""
    reader = lab.reader(newest(lab))
    paths = [node.path for node in reader.nodes(reader.root())]
    assert [path[-2:] for path in paths[-3:]] == [b"f0", b"f1", b"f2"] and len(set(paths)) == len(paths)
    assert [node.path for node in reader.nodes(reader.root(), paths[-2])] == [paths[-2]]
    assert list(reader.nodes(reader.root(), paths[-2][:-1])) == []


def test_packs_that_the_manifest_does_not_name_are_not_read(lab: Lab) -> None:
    """A pack of another snapshot cannot be smuggled in."""
    first = lab.history().snapshots[0]
    with pytest.raises(Damaged):
        lab.reader(first).get_pack(newest(lab).manifest.tree_pack)


def test_without_index_objects_packs_are_opened(lab: Lab) -> None:
    """Index objects that are gone or wrong cost time only: the packs say the same themselves."""
    expected = {each.pack: each.ids for each in lab.reader(newest(lab)).indexed_packs()}
    for store in lab.stores.values():
        for number, info in enumerate([*store.list("index")]):
            store.delete(info.name)
            if number % 2:
                store.put(info.name, b"rubbish")
    assert {each.pack: each.ids for each in lab.reader(newest(lab)).indexed_packs()} == expected


def test_a_key_object_that_is_gone(lab: Lab) -> None:
    """Without a run's key object nothing of it opens: an error that says so, not a wrong answer."""
    for store in lab.stores.values():
        for info in [*store.list("keys")]:
            store.delete(info.name)
    with pytest.raises((ObjectNotFound, StoreError, NoKey)):
        lab.reader(newest(lab))


def test_any_key_object_that_holds_the_run_will_do(lab: Lab) -> None:
    """Run keys merged into another object are found although the manifest hints at the old one."""
    keys: dict[str, object] = {}
    for info in [*lab.stores["a"].list("keys")]:
        keys |= encoding.decode_object(lab.keys.decrypt(lab.stores["a"].get(info.name)), what="keys")
        lab.stores["a"].delete(info.name)
    merged = lab.keys.host.encrypt(encoding.encode(keys), list(lab.keys.recipient_keys))
    lab.stores["a"].put(names.key(names.sha256(merged)), merged)
    reader = SnapshotReader(newest(lab).manifest, [open_copy("a", lab.stores["a"])], lab.keys.decrypt, lab.keys.trusted)
    assert len(list(reader.nodes(reader.root()))) > 3

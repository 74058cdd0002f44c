"""Rekey: who could not read before can, who could cannot; nothing is lost, and nobody need have a private key after."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from opskit import encoding
from opskit.errors import Forged, NoKey, StoreRefused
from opskit.gpg import decrypt_with_passphrase, owners, recipients_of
from opskit.operations.backup import Job, Options, backup
from opskit.operations.heal import heal
from opskit.operations.marking import publish
from opskit.operations.pruning import Limits, Pruned, prune
from opskit.operations.pruning.prune import Look
from opskit.operations.rekeying import merging
from opskit.operations.session import open_copies
from opskit.repository import consent, names
from opskit.repository import copy as copies_module
from opskit.repository import marks as marking
from opskit.repository.identity import Identity
from opskit.repository.marks import SUPERSEDE, Mark
from opskit.sources.base import Entry, Problem
from opskit.sources.files import FileSource
from opskit.stores.base import Store
from opskit.stores.memory import MemoryStore
from tests.rekeying import (
    Cast,
    copies_of,
    history_of,
    key_names,
    marks_of,
    opens,
    rotate,
    sync_all,
    verify_all,
)  # fmt: skip
from tests.repositories import HOST, LONG_AGO, REPOSITORY, SOURCE, Keys, Lab, memory_store, noise

OLD, NEW = 0, 1


@pytest.fixture
def cast(throwaway_keys: Keys) -> Cast:
    return Cast(throwaway_keys)


@pytest.fixture
def two(cast: Cast, source: Path, tmp_path: Path) -> Lab:
    """Two copies with three runs, all encrypted to the old recipient; the next run is for the new one."""
    stores: dict[str, Store] = {}
    lab = Lab(cast.having(OLD), tmp_path / "state", stores)
    stores |= {name: MemoryStore(lambda: lab.now().timestamp(), location=name) for name in "ab"}
    lab.create()
    for number in range(3):
        (source / f"file-{number}").write_bytes(noise(number, 9000))
        lab.backup(source)
    lab.keys = cast.having(NEW)
    return lab


def only_new_opens(lab: Lab, cast: Cast, *names: str) -> None:
    """At each of the stores the new key opens everything and the old one nothing."""
    for name in names or lab.stores:
        assert set(opens(lab, cast.reader(NEW), lab.stores[name]).values()) == {True}, name
        assert set(opens(lab, cast.reader(OLD), lab.stores[name]).values()) == {False}, name


def pruned(lab: Lab, stores: dict[str, Store] | None = None) -> Pruned:
    def look() -> Look:
        copies = copies_of(lab, stores)
        return Look(copies, history_of(lab, copies), marks_of(lab, copies))

    return prune(
        look, lab.keys.identity(), Limits(timedelta(days=2)),
        repository=REPOSITORY, host=HOST, now=lab.now, boottime=lab.boottime,
    )  # fmt: skip


def test_the_new_key_opens_everything_and_the_old_nothing(two: Lab, cast: Cast) -> None:
    """One new key object takes the place of all others at every copy; a second rotation writes nothing."""
    result = rotate(two, cast.holder(OLD))
    assert result.is_complete and result.runs == 3 and len(result.made) == 1 and result.untried
    assert key_names(two.stores["a"]) == key_names(two.stores["b"]) == {names.key(each) for each in result.made}
    only_new_opens(two, cast)
    before = {name: [*store.list()] for name, store in two.stores.items()}
    for number in (OLD, NEW):
        again = rotate(two, cast.holder(number))
        assert again.is_complete and not again.groups and not again.mark
    assert {name: [*store.list()] for name, store in two.stores.items()} == before


def test_the_next_backup_stores_nothing_again(two: Lab, cast: Cast, source: Path) -> None:
    """A host without any private key follows the mark: all its packs are live, and new manifests hint at the heir."""
    result = rotate(two, cast.holder(OLD))
    done = two.backup(source)
    assert done.new_bytes == 0 and set(done.destinations.values()) == {"ok"} and not done.errors
    newest = two.history().of("data")[-1]
    assert {run.key for run in newest.manifest.runs} == set(result.made)
    (two.state / "cache" / f"{REPOSITORY}.sqlite").unlink()
    done = two.backup(source)
    assert done.new_bytes < 500, (
        "but for a root: a cache that was lost is built from index objects that hint at the old key objects"
    )
    only_new_opens(two, cast)


def test_a_keyless_look_misses_nothing(two: Lab, cast: Cast) -> None:
    """Verify finds nothing missing, heal has nothing to bring back."""
    rotate(two, cast.holder(OLD))
    reports = verify_all(two)
    assert all(not (each.damaged or each.missing or each.untrusted or each.behind) for each in reports.values())
    copies = copies_of(two)
    heal(copies, reports, ["a", "b"], about=two.about)
    only_new_opens(two, cast)


def test_heal_brings_the_heir_and_not_the_old_objects(two: Lab, cast: Cast) -> None:
    """A copy that lost its new key object gets that one back, though another copy still has the old ones."""
    rotate(two, cast.holder(OLD), {"a": two.stores["a"]})
    sync_all(two)
    (heir,) = key_names(two.stores["a"])
    assert key_names(two.stores["b"]) > {heir}, "it was away, and lost nothing by syncing"
    two.stores["a"].delete(heir)
    reports = verify_all(two)
    assert reports["a"].missing == [heir] and not reports["b"].missing
    heal(copies_of(two), reports, ["a"], about=two.about)
    assert key_names(two.stores["a"]) == {heir}


def test_a_copy_that_was_away_restores_by_either_key_until_it_is_finished(two: Lab, cast: Cast, source: Path) -> None:
    """It gets heir and mark first; the next rotation, or prune, takes the old objects away there."""
    b = two.stores["b"]
    old = key_names(b)
    rotate(two, cast.holder(OLD), {"a": two.stores["a"]})
    done = two.backup(source)
    assert done.destinations == {"a": "ok", "b": "ok"} and done.new_bytes == 0
    assert key_names(b) > old
    assert set(opens(two, cast.reader(NEW), b).values()) == {True}
    two.minutes += 60
    assert pruned(two).objects == 3
    only_new_opens(two, cast)


def test_a_repeated_rotation_finishes_a_copy_that_was_away(two: Lab, cast: Cast) -> None:
    """Whoever repeats it need not hold the old key: nothing is to be opened."""
    rotate(two, cast.holder(OLD), {"a": two.stores["a"]})
    result = rotate(two, cast.holder(NEW))
    assert result.is_complete and not result.made and len(result.finished["b"].deleted) == 3
    only_new_opens(two, cast)


def test_sync_fills_an_empty_copy_without_old_objects(two: Lab, cast: Cast) -> None:
    """A new copy gets heir and mark before any snapshot, and nothing that was superseded, even from one that has it."""
    rotate(two, cast.holder(OLD), {"a": two.stores["a"]})
    two.stores["c"] = memory_store("c")
    copies_module.create(two.stores["c"], two.about, copy_id="c" * 32, kit={}, now=two.now())
    order: list[str] = []
    put = two.stores["c"].put
    two.stores["c"].put = lambda name, data, **more: (order.append(name), put(name, data, **more))[1]  # type: ignore[method-assign]
    result = sync_all(two)["c"]
    assert not result.lacking and not result.loose
    assert [name.partition("/")[0] for name in order[:2]] == ["keys", "marks"]
    assert key_names(two.stores["c"]) == key_names(two.stores["a"])
    only_new_opens(two, cast, "a", "c")


def test_a_lost_heir_does_not_hide_the_old_object(two: Lab, cast: Cast) -> None:
    """Where no copy has the heir any more, the old object of a copy that was away counts, is kept and is synced."""
    rotate(two, cast.holder(OLD), {"a": two.stores["a"]})
    a, b = two.stores["a"], two.stores["b"]
    (mark,) = (info.name for info in a.list("marks"))
    b.put(mark, a.get(mark))
    for name in key_names(a):
        a.delete(name)
    old = key_names(b)
    two.minutes += 100 * 60
    pruned(two)
    assert key_names(b) == old
    sync_all(two)
    assert key_names(a) == old and set(opens(two, cast.reader(OLD), a).values()) == {True}
    assert rotate(two, cast.holder(OLD)).is_complete, "what it stood for is made anew"
    only_new_opens(two, cast)


def test_two_rotations_while_a_copy_is_away(two: Lab, cast: Cast, source: Path) -> None:
    """A succession of several steps is followed from any of them."""
    a = {"a": two.stores["a"]}
    rotate(two, cast.holder(OLD), a)
    two.backup(source, a)
    two.keys = cast.having(OLD, NEW)
    (source / "later").write_bytes(noise(9, 9000))
    two.backup(source, a)
    assert rotate(two, cast.holder(NEW), a).is_complete
    done = two.backup(source)
    assert done.new_bytes == 0 and set(done.destinations.values()) == {"ok"}
    assert rotate(two, cast.holder(NEW)).is_complete
    assert key_names(two.stores["a"]) == key_names(two.stores["b"]) and len(key_names(two.stores["a"])) == 1
    assert not any(each.missing for each in verify_all(two).values())
    assert set(opens(two, cast.reader(OLD), two.stores["b"]).values()) == {True}


def test_two_hosts_that_rotate_at_once_lose_nothing(two: Lab, cast: Cast, source: Path) -> None:
    """Each supersedes the same objects by one of its own; whatever either deletes, the other's stays."""
    twin = two.fork(two.state.with_name("twin"))
    made = [rotate(lab, cast.holder(OLD)).made for lab in (two, twin)]
    for name, store in two.stores.items():
        for info in twin.stores[name].list():
            if info.name.startswith(("keys/", "marks/")) and info.name not in {each.name for each in store.list()}:
                store.put(info.name, twin.stores[name].get(info.name))
    assert not any(each.missing for each in verify_all(two).values())
    one, other = (names.key(next(iter(each))) for each in made)
    two.stores["a"].delete(one)
    two.stores["b"].delete(other)
    only_new_opens(two, cast)
    assert not any(each.missing for each in verify_all(two).values())
    assert two.backup(source).new_bytes == 0
    assert rotate(two, cast.holder(NEW)).is_complete
    assert len(key_names(two.stores["a"])) == 1
    only_new_opens(two, cast)


def test_prune_leaves_heirs_and_takes_nothing_else(two: Lab, cast: Cast, source: Path) -> None:
    """No manifest names the heir by its name: it is needed all the same, however old it grows."""
    rotate(two, cast.holder(OLD))
    before = {name: {each.name for each in store.list()} for name, store in two.stores.items()}
    for _ in range(3):
        two.minutes += 100 * 60
        assert pruned(two).objects == 0
    assert {name: {each.name for each in store.list()} for name, store in two.stores.items()} == before


def test_prune_keeps_every_key_object_where_a_mark_is_lost(two: Lab, cast: Cast) -> None:
    """An heir that nothing vouches for any more is no rubbish while some run's key is under no known name."""
    rotate(two, cast.holder(OLD))
    for store in two.stores.values():
        for info in [*store.list("marks")]:
            store.delete(info.name)
    keys = key_names(two.stores["a"])
    for _ in range(3):
        two.minutes += 100 * 60
        pruned(two)
    assert key_names(two.stores["a"]) == keys
    only_new_opens(two, cast)


@pytest.mark.parametrize("what", ["nothing", "host", "other map", "other repository", "stranger"])
def test_a_mark_without_its_consent_is_never_followed(two: Lab, cast: Cast, source: Path, what: str) -> None:
    """A maintainer alone supersedes nothing, by whatever he adds; it is told, and prune deletes nothing."""
    olds = sorted(names.digest_in(name) or "" for name in key_names(two.stores["a"]))
    created, said = two.now().replace(microsecond=0), {"ab" * 32: olds}
    words = consent.words(REPOSITORY, created, said)
    ring, key = cast.reader(OLD), cast.keys.recipient_keys[OLD]
    consents = {
        "nothing": [],
        "host": [two.keys.host.sign(words, two.keys.host_key)],
        "other map": [ring.sign(consent.words(REPOSITORY, created, {"cd" * 32: olds}), key)],
        "other repository": [ring.sign(consent.words("f" * 32, created, said), key)],
        "stranger": [b"not even a message"],
    }[what]
    copies, _ = open_copies(two.stores, REPOSITORY)
    publish(two.keys.identity(), copies, Mark(SUPERSEDE, REPOSITORY, HOST, created, supersedes=said, consents=consents))
    marks = marks_of(two, copies)
    assert not marks.marks and len(marks.rejected) == 2 and isinstance(marks.rejected[0][2], Forged)
    assert not marks.succession.is_superseded(olds[0])
    assert all("recipient" in each.untrusted[0] for each in verify_all(two).values())
    with pytest.raises(Forged):
        pruned(two)
    done = two.backup(source)
    assert done.new_bytes == 0 and any("recipient" in each for each in done.errors)
    assert rotate(two, cast.holder(OLD)).is_complete, "who holds the keys can go on"
    only_new_opens(two, cast)


def test_a_recipient_alone_supersedes_nothing(two: Lab, cast: Cast) -> None:
    """A mark that a recipient signed, with his consent, is no mark."""
    ring, key = cast.reader(OLD), cast.keys.recipient_keys[OLD]
    olds = sorted(names.digest_in(name) or "" for name in key_names(two.stores["a"]))
    created, said = two.now().replace(microsecond=0), {"ab" * 32: olds}
    consents = [ring.sign(consent.words(REPOSITORY, created, said), key)]
    data = ring.sign(
        marking.encode(Mark(SUPERSEDE, REPOSITORY, HOST, created, supersedes=said, consents=consents)), key
    )
    two.stores["a"].put(names.mark(created, SUPERSEDE, names.sha256(data)), data)
    marks = marks_of(two, copies_of(two))
    assert not marks.marks and len(marks.rejected) == 1


def test_a_release_does_not_bring_superseded_objects_back(two: Lab, cast: Cast) -> None:
    """A maintainer alone cannot make the heir look superfluous either."""
    rotate(two, cast.holder(OLD))
    copies = copies_of(two)
    (mark,) = marks_of(two, copies).superseding()
    publish(two.keys.identity(), copies, Mark("release", REPOSITORY, HOST, two.now(), lifts=[mark.id]))
    assert not any(each.missing for each in verify_all(two).values())
    for _ in range(3):
        two.minutes += 100 * 60
        assert pruned(two).objects == 0


def test_what_the_key_does_not_open_is_left_and_told(two: Lab, cast: Cast, source: Path) -> None:
    """Only what was opened is superseded."""
    before = key_names(two.stores["a"])
    result = rotate(two, cast.holder(NEW))
    assert not result.is_complete and not result.made and len(result.left) == 3
    assert set().union(*result.left.values()) == {cast.keys.recipient_keys[OLD]}
    assert key_names(two.stores["a"]) == before


def test_a_forged_key_object_spoils_nothing(two: Lab, cast: Cast, source: Path) -> None:
    """Anybody can encrypt to the recipients: what contradicts a run's true key object is left where it is, and told."""
    opened = {
        run: key
        for name in key_names(two.stores["a"])
        for run, key in encoding.decode_object(
            cast.reader(OLD).decrypt(two.stores["a"].get(name)).payload, what=""
        ).items()
    }
    trick = two.keys.host.encrypt(encoding.encode({run: "0" * 64 for run in opened}), [cast.keys.recipient_keys[OLD]])
    two.stores["a"].put(names.key(names.sha256(trick)), trick)
    result = rotate(two, cast.holder(OLD))
    assert result.contradicting == [names.sha256(trick)] and len(result.made) == 1
    assert names.key(names.sha256(trick)) in key_names(two.stores["a"])
    assert set(opens(two, cast.reader(NEW), two.stores["a"]).values()) == {True}
    assert two.backup(source).new_bytes == 0


def test_a_run_that_was_killed_is_rekeyed_apart(two: Lab, cast: Cast) -> None:
    """A key object that nothing signed names may be of a run under way: its keys go over too, apart from the others."""
    stray = two.keys.host.encrypt(encoding.encode({"9" * 32: "1" * 64}), [cast.keys.recipient_keys[OLD]])
    two.stores["a"].put(names.key(names.sha256(stray)), stray)
    result = rotate(two, cast.holder(OLD))
    assert result.is_complete and len(result.made) == 2
    only_new_opens(two, cast)


def test_new_objects_are_for_the_recipients_and_nobody_else(two: Lab, cast: Cast) -> None:
    """Their packets name each recipient once; who is a recipient and has his key here tries them."""
    two.keys = cast.having(OLD, NEW)
    result = rotate(two, cast.holder(OLD))
    assert not result.untried and result.is_complete
    (digest,) = result.made
    ids = recipients_of(two.stores["a"].get(names.key(digest)))
    assert sorted(owners(ids, two.keys.host.keys())) == sorted(two.keys.recipient_keys)


def test_an_expired_recipient_stops_it(two: Lab, cast: Cast) -> None:
    """Nobody loses access because a key cannot be encrypted to for now."""
    two.keys = dataclasses.replace(cast.having(NEW), recipient_keys=[*cast.having(NEW).recipient_keys, "F" * 40])
    before = {each.name for each in two.stores["a"].list()}
    with pytest.raises(NoKey, match="encrypted to"):
        rotate(two, cast.holder(OLD))
    assert {each.name for each in two.stores["a"].list()} == before


def test_a_dry_run_writes_nothing(two: Lab, cast: Cast) -> None:
    """It tells how much there is to do."""
    before = {each.name for each in two.stores["a"].list()}
    result = rotate(two, cast.holder(OLD), dry_run=True)
    assert result.runs == 3 and len(result.groups) == 1 and not result.made
    assert {each.name for each in two.stores["a"].list()} == before


class Locked:
    """A store that does not let key objects be deleted."""

    def __init__(self, inner: Store) -> None:
        self.location, self.inner = inner.location, inner
        self.put, self.get, self.list = inner.put, inner.get, inner.list

    def delete(self, name: str) -> None:
        if name.startswith("keys/"):
            raise StoreRefused("locked until next year")
        self.inner.delete(name)


def test_a_lock_keeps_old_objects_and_that_is_told(two: Lab, cast: Cast, source: Path) -> None:
    """They are superseded, and stay readable there; everything else goes on."""
    result = rotate(two, cast.holder(OLD), {"a": Locked(two.stores["a"]), "b": two.stores["b"]})
    assert len(result.finished["a"].locked) == 3 and not result.finished["b"].locked and not result.is_complete
    assert set(opens(two, cast.reader(NEW), two.stores["a"]).values()) == {True}
    assert two.backup(source).new_bytes == 0
    assert rotate(two, cast.holder(NEW)).is_complete
    only_new_opens(two, cast)


def test_runs_are_merged_up_to_a_limit(two: Lab, cast: Cast) -> None:
    """No object is parted, none has more than the limit, and a second round over the outcome does nothing."""
    assert len(rotate(two, cast.holder(OLD), most=2).made) == 2
    again = rotate(two, cast.holder(NEW), most=2)
    assert again.is_complete and not again.made


def test_bins_do_not_fit_together() -> None:
    """First fit leaves no two that could be one."""
    sizes = {f"{number:02}": number % 7 + 1 for number in range(40)}
    made = merging.bins(sizes, 10)
    filled = [sum(sizes[each] for each in group) for group in made]
    assert sum(filled) == sum(sizes.values()) and max(filled) <= 10
    assert all(one + other > 10 for at, one in enumerate(filled) for other in filled[:at])


class Interrupted(FileSource):
    """A source during whose reading something else happens."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__([root])
        self._meanwhile = meanwhile

    def entries(self) -> Iterator[Entry | Problem]:
        yield from super().entries()
        self._meanwhile()


def test_a_backup_that_runs_meanwhile_stays_restorable(two: Lab, cast: Cast, source: Path) -> None:
    """It listed the old key objects, hints at them, and commits after they are gone."""

    (source / "meanwhile").write_bytes(noise(77, 9000))
    with two.session() as session:
        job = Job(SOURCE, Interrupted(source, lambda: rotate(two, cast.holder(OLD))))
        (result,) = backup(session, [job], Options(workers=1), clock_ns=lambda: time.time_ns() + LONG_AGO)
    assert set(result.destinations.values()) == {"ok"}
    only_new_opens(two, cast)
    assert not any(each.missing for each in verify_all(two).values())
    assert two.backup(source).new_bytes == 0


def test_another_passphrase_is_taken_in_however_many_objects_are_full(two: Lab, cast: Cast, source: Path) -> None:
    """Full key objects are never merged; each that the passphrase of today does not open is made anew."""
    known = [b"the first passphrase"]

    class KeysAndPassphrase(Keys):
        def identity(self) -> Identity:
            return dataclasses.replace(super().identity(), passphrase=lambda: known[0])

    two.keys = KeysAndPassphrase(**vars(cast.having(OLD)))
    for number in range(6):
        (source / f"more-{number}").write_text(f"run {number}")
        two.backup(source)
    for phrase in (b"the first passphrase", b"quite another one"):
        known[0] = phrase
        assert rotate(two, cast.holder(OLD), most=1).is_complete
        (copy, *_) = copies_of(two)
        objects = [name for name in copy.objects if name.startswith("keys/")]
        assert len(objects) == 9 and all(decrypt_with_passphrase(copy.get(name), phrase) for name in objects)
        assert not rotate(two, cast.holder(OLD), most=1).made

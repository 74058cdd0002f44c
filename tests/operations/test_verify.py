"""Verify beyond single objects: forks, gaps and replaced links of a chain, the kit, unreadable media."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from opskit.errors import ObjectNotFound, ObjectUnreadable, StoreError, StoreRefused
from opskit.gpg import verify as check_signature
from opskit.operations.session import open_copies
from opskit.operations.verify import CopyReport, verify
from opskit.repository import manifest as manifests
from opskit.repository import names
from opskit.repository.heads import Heads
from opskit.repository.manifest import Manifest, Snapshot
from opskit.repository.recovery import kit
from opskit.stores.base import ObjectInfo, Store
from tests.repositories import REPOSITORY, SOURCE, Keys, Lab, memory_copy, memory_store


@pytest.fixture
def lab(throwaway_keys: Keys, tmp_path: Path) -> Lab:
    """Two copies of three snapshots, the same objects at each."""
    source = tmp_path / "source"
    source.mkdir()
    made = Lab(throwaway_keys, tmp_path / "state", {"a": memory_store(), "b": memory_store()}).create()
    for number in range(3):
        (source / "file").write_text(f"{number}")
        made.backup(source)
    return made


def judge(
    lab: Lab, *, heads: bool = False, kit: dict[str, str] | None = None, forgotten: Collection[str] = ()
) -> dict[str, CopyReport]:
    """What verify says of the lab's stores."""
    copies, _ = open_copies(lab.stores, REPOSITORY)
    return verify(
        copies,
        lambda data: check_signature(data, lab.keys.trusted),
        signers=[lab.keys.host_key],
        repository=REPOSITORY,
        kit=kit,
        heads=Heads(lab.state / "heads" / f"{REPOSITORY}.json") if heads else None,
        forgotten=forgotten,
    )


def publish(lab: Lab, manifest: Manifest, *destinations: str) -> str:
    """Sign a manifest with the host's key and put it into copies, as an intruder on the host can."""
    data = lab.keys.host.sign(manifests.encode(manifest), lab.keys.host_key)
    name = names.snapshot(manifest.started, manifest.source, names.sha256(data))
    for destination in destinations:
        lab.stores[destination].put(name, data)
    return name


def remove(lab: Lab, snapshot: Snapshot, *destinations: str) -> None:
    """Delete a manifest."""
    for destination in destinations:
        lab.stores[destination].delete(snapshot.name)


def test_whole_copies_are_good(lab: Lab) -> None:
    """Nothing is objected to in copies as backup left them, with heads too."""
    assert all(report.is_good and report.objects > 6 for report in judge(lab, heads=True).values())


def test_two_texts_of_one_number_are_a_fork(lab: Lab) -> None:
    """A second, different manifest with a number that is taken is a fork wherever either of the two lies."""
    last = lab.history().snapshots[-1]
    other = publish(lab, replace(last.manifest, tags=("other",)), "b")
    reports = judge(lab)
    assert [last.name in text and "fork" in text for text in reports["a"].forks] == [True]
    assert {text.partition(":")[0] for text in reports["b"].forks} == {last.name, other}


def test_the_same_text_wrapped_anew_is_no_fork(lab: Lab) -> None:
    """Anyone can compress a signed manifest again: another name, the same text and signature, and nothing is wrong."""
    last = lab.history().snapshots[-1]
    data = lab.stores["a"].get(last.name)
    assert data[:2] == b"\xa3\x01"  # a compressed packet to the end, ZIP
    packer = zlib.compressobj(1, wbits=-15)
    again = data[:2] + packer.compress(zlib.decompress(data[2:], -15)) + packer.flush()
    assert again != data
    for store in lab.stores.values():
        store.put(names.snapshot(last.manifest.started, SOURCE, names.sha256(again)), again)
    assert len(lab.history().snapshots) == 4
    assert all(not report.is_forged for report in judge(lab).values())


def test_a_number_that_no_copy_has_was_removed(lab: Lab) -> None:
    """A manifest removed from all copies shows as a gap below the next one, with the id that one names."""
    first, second, _ = lab.history().snapshots
    remove(lab, second, "a", "b")
    for report in judge(lab).values():
        (text,) = report.removed
        assert second.id[:8] in text and "number 2 of data" in text
        assert not report.is_good and not report.missing, "no object is missing: each snapshot there is whole"
    remove(lab, first, "a", "b")
    assert all("number 1 to 2 of" in report.removed[0] for report in judge(lab).values())


def test_what_was_forgotten_may_be_gone(lab: Lab) -> None:
    """Of a snapshot that a mark forgets nothing is removed, behind or rolled back, wherever it is gone."""
    first, second, third = lab.history().snapshots
    remove(lab, second, "a", "b")
    assert not any(report.is_good for report in judge(lab).values())
    assert all(report.is_good for report in judge(lab, forgotten={second.id}, heads=True).values())
    remove(lab, first, "b")
    remove(lab, third, "a")
    assert (judge(lab, heads=True)["a"].rolled_back, judge(lab)["b"].behind) == ([third.name], [first.name])
    everything = {first.id, second.id, third.id}
    assert all(report.is_good for report in judge(lab, forgotten=everything, heads=True).values())


def test_a_number_that_one_copy_lacks_is_only_behind(lab: Lab) -> None:
    """What another copy fills is behind, not removed, and no alarm where a later head is there."""
    second = lab.history().snapshots[1]
    remove(lab, second, "b")
    reports = judge(lab, heads=True)
    assert reports["a"].is_good
    assert (reports["b"].behind, reports["b"].removed, reports["b"].is_forged) == ([second.name], [], False)


def test_a_replaced_predecessor_is_untrusted(lab: Lab) -> None:
    """A manifest put in the place of one that a later one follows does not pass, though a signer made it."""
    second, third = lab.history().snapshots[1:]
    remove(lab, second, "a", "b")
    publish(lab, replace(second.manifest, files=0), "a", "b")
    for report in judge(lab).values():
        assert any(third.name in text and second.id[:8] in text for text in report.untrusted)


def test_a_head_of_a_chain_that_is_gone_everywhere(lab: Lab) -> None:
    """When no copy shows any manifest, the acknowledged head still tells that there was one."""
    last = lab.history().snapshots[-1]
    for snapshot in lab.history().snapshots:
        remove(lab, snapshot, "a", "b")
    assert all(report.rolled_back == [last.name] for report in judge(lab, heads=True).values())


def test_rubbish_under_its_true_name_is_untrusted(lab: Lab) -> None:
    """Bytes that match their name and yet are no signed manifest are not passed over as mere damage."""
    name = f"snapshots/20261121T020000Z-data-{names.sha256(b'rubbish')}.gpg"
    lab.stores["a"].put(name, b"rubbish")
    reports = judge(lab)
    assert name in reports["a"].untrusted[0] and reports["a"].damaged == []
    assert reports["b"].is_good


def test_the_kit_may_be_of_any_known_version(lab: Lab) -> None:
    """A kit object is believed with this program's sum, one from outside, or one of any manifest; else untrusted."""
    name = names.RECOVER_PROGRAM
    lab.stores["a"].put(name, kit()[name])
    lab.stores["b"].put(name, b"an older version")
    digest = names.sha256(b"an older version")
    assert [report.is_good for report in judge(lab).values()] == [True, False]
    assert all(report.is_good for report in judge(lab, kit={name: digest}).values())
    last = lab.history().snapshots[-1]
    publish(lab, replace(last.manifest, sequence=4, previous=last.id, kit={name: digest}), "a", "b")
    assert all(report.is_good for report in judge(lab).values())
    lab.stores["b"].delete(name)
    assert judge(lab)["b"].missing == [name]


def test_damage_tells_who_needs_it_and_who_has_it(lab: Lab) -> None:
    """For a damaged object the report names the snapshots that need it and the copies that have it intact."""
    oldest = lab.history().snapshots[0]
    name = names.pack(oldest.manifest.tree_pack)
    lab.stores["a"] = memory_copy(lab.stores["a"], lambda each, data: data[:-1] if each == name else data)
    report = judge(lab)["a"]
    assert report.damaged == [name] and report.elsewhere == {name: ["b"]}
    assert [each.id for each in report.needed_by[name]] == [oldest.id]


class Flaky:
    """A store some of whose reads fail."""

    def __init__(self, inner: Store, fail: Callable[[str], Exception | None]) -> None:
        self.location, self._inner, self._fail = inner.location, inner, fail

    def put(self, name: str, data: bytes, *, replace: bool = False) -> None:
        self._inner.put(name, data, replace=replace)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        error = self._fail(name)
        if error is not None:
            raise error
        return self._inner.get(name, offset=offset, length=length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, name: str) -> None:
        self._inner.delete(name)


def test_one_unreadable_object_does_not_hide_the_others(lab: Lab) -> None:
    """A read error of the medium counts as damage of that object, and the rest is read all the same."""
    name = names.pack(lab.history().snapshots[0].manifest.tree_pack)
    lab.stores["a"] = Flaky(lab.stores["a"], lambda each: ObjectUnreadable("rotten") if each == name else None)
    reports = judge(lab)
    assert reports["a"].damaged == [name] and reports["a"].failure is None
    assert reports["a"].objects == reports["b"].objects


def test_a_passing_failure_is_no_damage(lab: Lab) -> None:
    """What a store did not give this time says nothing of the object, and hides neither damage nor the rest."""
    first, *others = sorted(each.name for each in lab.stores["a"].list("packs"))
    lab.stores["a"].delete(others[-1])
    lab.stores["a"].put(others[-1], b"wrong")
    lab.stores["a"] = Flaky(lab.stores["a"], lambda each: StoreError("throttled") if each == first else None)
    report = judge(lab)["a"]
    assert report.damaged == [others[-1]] and str(report.failure) == "throttled" and not report.is_good


def test_a_store_that_gives_nothing_is_not_asked_for_all(lab: Lab) -> None:
    """After ten failures in a row a copy's reading ends: an endpoint that is down is not asked a thousand times."""
    asked: list[str] = []

    def refuse(name: str) -> StoreError | None:
        asked.append(name)
        time.sleep(0.005)
        return StoreError("down") if name.startswith("packs/") else None

    for number in range(60):
        lab.stores["a"].put(names.pack(names.sha256(b"%d" % number)), b"%d" % number)
    lab.stores["a"] = Flaky(lab.stores["a"], refuse)
    assert judge(lab)["a"].failure is not None
    assert sum(name.startswith("packs/") for name in asked) < 40


def test_an_object_that_vanishes_is_missing(lab: Lab) -> None:
    """What was listed and cannot be found when it is read is missing, not damaged."""
    name = names.pack(lab.history().snapshots[0].manifest.tree_pack)
    lab.stores["a"] = Flaky(lab.stores["a"], lambda each: ObjectNotFound("gone") if each == name else None)
    report = judge(lab)["a"]
    assert (report.missing, report.damaged) == ([name], [])


def test_a_store_that_refuses_is_a_failure_of_the_copy(lab: Lab) -> None:
    """Where reading is not permitted nothing is called damaged: the copy could not be read."""
    lab.stores["a"] = Flaky(lab.stores["a"], lambda each: StoreRefused("no") if each.startswith("packs/") else None)
    reports = judge(lab)
    assert isinstance(reports["a"].failure, StoreRefused) and reports["a"].damaged == []
    assert not reports["a"].is_good and reports["b"].is_good

"""What status sees of real copies: each state, and what is remembered of a copy that is away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from opskit.config.model import LocalDestination, S3Bucket, S3Destination
from opskit.errors import NotMounted
from opskit.operations import verified
from opskit.operations.status.look import look
from opskit.operations.status.places import Original, device_of, original_command, original_files, place_of
from opskit.operations.status.states import CopyState, Destination, Seen, gaps_of, states_of
from opskit.operations.verified import Verified
from opskit.repository import manifest as manifests
from opskit.repository import marks, names
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import Mark
from opskit.repository.verification import Verification
from opskit.stores.base import Buffer, ObjectInfo
from tests.repositories import HOST, REPOSITORY, SOURCE, Keys, Lab, memory_copy, memory_store

NAMES = ("a", "b")


class Unplugged:
    """A store whose medium is not there."""

    location = "/mnt/usb"

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        raise NotMounted("not mounted at /mnt/usb")

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        raise NotMounted("not mounted at /mnt/usb")

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        raise NotMounted("not mounted at /mnt/usb")

    def delete(self, name: str) -> None:
        raise NotMounted("not mounted at /mnt/usb")


@pytest.fixture(scope="module")
def made(throwaway_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Path]:
    """Two copies of three snapshots, the same objects at each, and their source; nobody may change the copies."""
    folder = tmp_path_factory.mktemp("status")
    source = folder / "source"
    source.mkdir()
    lab = Lab(throwaway_keys, folder / "state", {name: memory_store() for name in NAMES}).create()
    for number in range(3):
        (source / "file").write_text(f"{number}")
        lab.backup(source)
    return lab, source


@pytest.fixture
def lab(made: tuple[Lab, Path], tmp_path: Path) -> Lab:
    """The same copies and state, of this test's own."""
    return made[0].fork(tmp_path / "state")


@pytest.fixture
def source(made: tuple[Lab, Path]) -> Path:
    """The source, which tests may change."""
    return made[1]


def seen(lab: Lab) -> Seen:
    return look(lab.host(), lab.stores, [SOURCE], [lab.keys.host_key])


def states(lab: Lab) -> dict[str, CopyState]:
    """What a fresh look says of each destination."""
    destinations = [Destination(name, is_removable=name == "b") for name in NAMES]
    return {each.destination.name: each for each in states_of(seen(lab), SOURCE, HOST, destinations)}


def memory(lab: Lab) -> Verified:
    return Verified(verified.place(lab.state, REPOSITORY))


def verify(lab: Lab) -> None:
    """Read the copies back and remember it, as the command does."""
    found, remembered = seen(lab), memory(lab)
    reports = lab.verify()
    for copy in found.copies:
        made = verified.verification_of(copy, reports[copy.destination], found.history, lab.now())
        assert made is not None
        remembered.record(copy.id, made)
    remembered.save()


def test_whole_copies_are_current(lab: Lab) -> None:
    """Copies as backup left them are current, with all snapshots, and the newest is the last one."""
    last = lab.history().snapshots[-1]
    for state in states(lab).values():
        assert (state.state, state.snapshots, state.counts) == ("current", 3, True)
        assert state.newest and (state.newest.id, state.newest.time) == (last.id, last.manifest.started)
        assert state.lacks == () and state.verified is None and state.newest_verified is None


def test_a_copy_that_missed_a_backup_is_behind(lab: Lab, source: Path) -> None:
    """A snapshot that only the other copy has is lacked, by its id, and the copy does not count."""
    (source / "file").write_text("more")
    lab.backup(source, {"a": lab.stores["a"]})
    last = lab.history().snapshots[-1]
    found = states(lab)
    assert found["a"].state == "current" and found["b"].state == "behind" and not found["b"].counts
    assert [each.id for each in found["b"].lacks] == [last.id]


def test_what_only_an_absent_copy_has_is_lacked_by_the_others(lab: Lab, source: Path) -> None:
    """A snapshot acknowledged by a copy that is away makes those at hand behind: they are not the newest state."""
    (source / "file").write_text("more")
    lab.backup(source, {"b": lab.stores["b"]})
    last = lab.history().snapshots[-1]
    states(lab)  # which sees what is where
    lab.stores["b"] = Unplugged()
    found = states(lab)
    assert found["a"].state == "behind" and [each.id for each in found["a"].lacks] == [last.id]
    assert not found["a"].counts


def test_an_absent_copy_is_remembered(lab: Lab) -> None:
    """Of a medium that is away the reason is told; once it was seen, its last snapshot and last verify too."""
    copy = lab.stores["b"]
    lab.stores["b"] = Unplugged()
    first = states(lab)["b"]
    assert (first.state, first.copy_id, first.newest) == ("absent", None, None)
    lab.stores["b"] = copy
    verify(lab)
    states(lab)
    lab.stores["b"] = Unplugged()
    last, found = lab.history({"a": lab.stores["a"]}).snapshots[-1], states(lab)["b"]
    assert found.state == "absent" and found.is_offline and not found.counts
    assert found.newest and (found.newest.id, found.newest.time) == (last.id, last.manifest.started)
    assert found.verified and found.newest_verified and found.newest_verified.id == last.id
    assert "not mounted" in str(found.error)


def test_swapped_disks_are_not_taken_for_each_other(lab: Lab) -> None:
    """Memory goes by copy id: a verified copy that moves to another destination takes its verification with it."""
    stores = dict(lab.stores)
    lab.stores = {"a": stores["a"], "b": memory_store()}
    verify_one = Lab(lab.keys, lab.state, {"a": stores["a"]})
    verify(verify_one)
    lab.stores = {"a": stores["b"], "b": stores["a"]}
    found = states(lab)
    assert found["a"].verified is None and found["b"].verified is not None


def test_a_head_that_is_gone_is_rolled_back(lab: Lab) -> None:
    """A copy that acknowledged a snapshot and shows it no more went backwards, and does not count."""
    last = lab.history().snapshots[-1]
    verify(lab)
    lab.stores["b"].delete(last.name)
    found = states(lab)["b"]
    assert found.newest_verified is None  # what it was verified to hold is not there any more
    assert (found.state, found.counts) == ("rolled back", False) and found.lost and found.lost.id == last.id


def test_missing_objects_make_a_copy_damaged(lab: Lab) -> None:
    """A snapshot whose objects are not all listed is shown and not held, whatever its manifest says."""
    last = lab.history().snapshots[-1]
    lab.stores["b"].delete(names.pack(last.manifest.tree_pack))
    found = states(lab)["b"]
    assert (found.state, found.snapshots, found.objects_missing) == ("damaged", 3, 1)
    assert [each.id for each in found.lacks] == [last.id] and not found.counts


def test_what_the_copies_have_together_is_not_lost(lab: Lab) -> None:
    """Copies that lack different objects still have the newest snapshot between them; what none has is lost."""
    last = lab.history().snapshots[-1]
    pack, key = names.pack(last.manifest.tree_pack), names.key(last.manifest.runs[-1].key)
    lab.stores["a"].delete(pack)
    lab.stores["b"].delete(key)
    for found in states(lab).values():
        assert (found.state, found.objects_missing, found.objects_lost) == ("damaged", 1, 0)
        assert found.newest is not None and found.newest.id == last.id and not found.counts
    lab.stores["b"].delete(pack)
    both = states(lab)
    assert [both[name].objects_lost for name in ("a", "b")] == [1, 1]
    assert all(found.newest is not None and found.newest.id != last.id for found in both.values())


@pytest.mark.parametrize("what", ["pack", "manifest"])
def test_torn_objects_make_a_copy_damaged(lab: Lab, what: str) -> None:
    """An object shorter than at the other copy is as good as missing, and no rollback where it is a manifest."""
    last = lab.history().snapshots[-1]
    name = names.pack(last.manifest.tree_pack) if what == "pack" else last.name
    lab.stores["b"] = memory_copy(lab.stores["b"], lambda each, data: data[:-1] if each == name else data)
    found = states(lab)
    assert (found["b"].state, found["b"].snapshots, found["b"].objects_missing) == (
        "damaged", 3 if what == "pack" else 2, 1,
    )  # fmt: skip
    assert found["a"].state == "current"


def test_damage_inside_is_known_from_verify_alone(lab: Lab) -> None:
    """Rot is not seen in a listing; once verify found it, the copy counts no more until it is read back whole."""
    name, whole = names.pack(lab.history().snapshots[0].manifest.tree_pack), lab.stores["b"]
    lab.stores["b"] = memory_copy(whole, lambda each, data: data[:-1] + b"?" if each == name else data)
    assert states(lab)["b"].state == "current"
    verify(lab)
    found = states(lab)["b"]
    assert (found.state, found.counts) == ("damaged", False) and found.verified and found.verified.damaged == 1
    assert found.newest_verified and found.newest_verified.sequence == 3
    assert states(lab)["a"].state == "current"
    lab.stores["b"] = whole
    verify(lab)
    assert states(lab)["b"].state == "current"


def test_a_damaged_snapshot_was_not_verified(lab: Lab) -> None:
    """Where the newest snapshot is damaged, the newest that can be relied on is the one before."""
    name = names.pack(lab.history().snapshots[-1].manifest.tree_pack)
    lab.stores["b"] = memory_copy(lab.stores["b"], lambda each, data: data[:-1] + b"?" if each == name else data)
    verify(lab)
    found = states(lab)
    numbers = {name: each.newest_verified and each.newest_verified.sequence for name, each in found.items()}
    assert numbers == {"a": 3, "b": 2}


def test_one_number_twice_is_a_fork(lab: Lab) -> None:
    """Copies that hold either of two texts with one number are forked."""
    last = lab.history().snapshots[-1]
    data = lab.keys.host.sign(manifests.encode(replace(last.manifest, tags=("other",))), lab.keys.host_key)
    lab.stores["b"].put(names.snapshot(last.manifest.started, SOURCE, names.sha256(data)), data)
    assert {each.state for each in states(lab).values()} == {"forked"}


def test_an_empty_copy_and_no_copy(lab: Lab) -> None:
    """A repository without snapshots is empty, and so is a folder without a repository, which says so."""
    fixed = memory_copy(lab.stores["b"], lambda name, data: data if name in names.FIXED else None)
    (lab.state / "heads" / f"{REPOSITORY}.json").unlink()
    lab.stores["b"] = fixed
    assert (states(lab)["b"].state, states(lab)["b"].error) == ("empty", None)
    lab.stores["b"] = memory_store()
    assert states(lab)["b"].state == "empty" and states(lab)["b"].error is not None


def test_no_copy_at_all_is_an_answer_too(lab: Lab) -> None:
    """When nothing can be reached every state is absent; that is no exception."""
    lab.stores = {name: Unplugged() for name in NAMES}
    found = states(lab)
    assert {each.state for each in found.values()} == {"absent"}
    assert (found["a"].is_offline, found["b"].is_offline) == (False, True)  # only what is meant to be unplugged is


def forget(lab: Lab, snapshot: Snapshot) -> None:
    """Put a mark that forgets a snapshot into copy a."""
    mark = Mark("forget", REPOSITORY, HOST, snapshot.manifest.finished, [snapshot.id])
    data = lab.keys.host.sign(marks.encode(mark), lab.keys.host_key)
    lab.stores["a"].put(names.mark(mark.created, mark.kind, names.sha256(data)), data)


def test_a_forgotten_snapshot_is_not_lacked(lab: Lab) -> None:
    """What a maintainer forgot makes no copy behind; without the mark it would."""
    oldest = lab.history().snapshots[0]
    lab.stores["b"].delete(oldest.name)
    assert states(lab)["b"].state == "behind"
    forget(lab, oldest)
    found = states(lab)
    assert (found["a"].state, found["b"].state, found["a"].snapshots) == ("current", "current", 2)


def test_a_snapshot_that_is_gone_everywhere_leaves_a_gap(lab: Lab) -> None:
    """A number that no copy has is seen though every copy is whole, until a mark forgets that snapshot."""
    middle = lab.history().snapshots[1]
    lab.stores["b"].delete(middle.name)
    assert not gaps_of(seen(lab), SOURCE, HOST), "another copy has it"
    lab.stores["a"].delete(middle.name)
    assert [(gap.first, gap.last) for gap in gaps_of(seen(lab), SOURCE, HOST)] == [(2, 2)]
    assert {each.state for each in states(lab).values()} == {"current"}
    away = replace(seen(lab), copies=[copy for copy in seen(lab).copies if copy.destination == "a"])
    assert not gaps_of(away, SOURCE, HOST), "a copy that is not here, and acknowledged a later one, may have it"
    forget(lab, middle)
    assert not gaps_of(seen(lab), SOURCE, HOST)


def test_a_damaged_memory_costs_the_memory(lab: Lab) -> None:
    """A memory file of rubbish is set aside and told; the copies are seen all the same, as never verified."""
    verify(lab)
    path = verified.place(lab.state, REPOSITORY)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes()[:-5])
    assert any("was damaged" in note for note in seen(lab).notes)
    assert path.with_suffix(".damaged").exists()
    assert all(each.state == "current" and each.verified is None for each in states(lab).values())
    assert seen(lab).notes == []


def test_the_memory_comes_back_as_it_was(tmp_path: Path, lab: Lab) -> None:
    """What was recorded is read back equal; a copy without an id, of which nothing can be said, is not recorded."""
    path = tmp_path / "memory" / "r.json"
    one = Verification(lab.now().replace(microsecond=0), 7, 900, 1, 2, 3, {"h/s": "snapshots/x"})
    written = Verified(path)
    written.record("id", one)
    written.record("", one)
    written.seen("usb", "id")
    written.save()
    read = Verified(path)
    assert (read.get("id"), read.get(""), read.get(None), read.copy_at("usb")) == (one, None, None, "id")
    assert not one.is_good and replace(one, damaged=0, missing=0, untrusted=0).is_good
    assert read.lost is None and b'"":' not in path.read_bytes()


def test_two_memories_are_both_kept(lab: Lab) -> None:
    """What one process notes while another holds an older reading of the file is not lost when that one saves."""
    path = lab.state / "verified" / "two.json"
    first, second = Verified(path), Verified(path)
    reading = Verification(lab.history().snapshots[0].manifest.finished, 1, 2)
    first.record("one", reading)
    first.save()
    second.seen("a", "two")
    second.save()
    assert (Verified(path).get("one"), Verified(path).copy_at("a")) == (reading, "two")


def test_a_copy_that_was_not_read_to_its_end_is_not_verified(lab: Lab) -> None:
    """A store that stops answering leaves no memory of a complete verify."""
    reports, found = lab.verify(), seen(lab)
    reports["a"].failure = NotMounted("gone")
    assert verified.verification_of(found.copies[0], reports["a"], found.history, lab.now()) is None


def test_places_are_devices_and_buckets(tmp_path: Path) -> None:
    """Two folders of one file system are one place, memory is another, nothing is none; buckets go by endpoint."""
    assert device_of(tmp_path) == device_of(tmp_path.parent) != device_of(Path("/proc"))
    assert device_of(tmp_path / "none") == ""
    assert place_of(LocalDestination(path=tmp_path)) == device_of(tmp_path)
    endpoints = (None, "https://s3.eu-central-1.amazonaws.com", "https://S3.example.org:9000/")
    places = [place_of(S3Destination(s3=S3Bucket(bucket="b", prefix=f"p{each}", endpoint=each))) for each in endpoints]
    assert places == ["s3 amazonaws.com/b", "s3 amazonaws.com/b", "s3 s3.example.org:9000/b"]


def test_originals(tmp_path: Path) -> None:
    """An original is live while all of it is there, links that lead nowhere included."""
    (tmp_path / "link").symlink_to("nowhere")
    assert original_files([tmp_path, tmp_path / "link"]) == Original(frozenset({device_of(tmp_path)}))
    assert original_files([tmp_path, tmp_path / "gone"]).gone == (str(tmp_path / "gone"),)
    assert original_command(["sh", "-c", "true"]).is_live and not original_command(["no-such-program"]).is_live


def test_looking_again_writes_nothing(lab: Lab) -> None:
    """A second look leaves the memory file as it is, and the clock of a look does not matter."""
    states(lab)
    path = verified.place(lab.state, REPOSITORY)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    lab.minutes += int(timedelta(days=1) / timedelta(minutes=1))
    states(lab)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before

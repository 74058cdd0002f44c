"""Restoring, below the command line: what may be written where, and what happens when a piece is missing."""

from __future__ import annotations

import io
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

import pytest

from opskit.errors import OpskitError, SnapshotNotFound, StoreError, StoreRefused, UsageError
from opskit.operations.outcome import Result
from opskit.operations.restore import Overwrite, RestoreOptions, files_of, restore, write_file
from opskit.operations.restoring.filling import Filler
from opskit.operations.restoring.pieces import Want, pieces, spans
from opskit.operations.restoring.place import open_target
from opskit.operations.restoring.plan import Plan
from opskit.operations.restoring.target import Owners, Target
from opskit.repository import pack
from opskit.repository.index import IndexedPack
from opskit.repository.tree import Node
from opskit.sources.files import FileSource
from opskit.stores.base import Buffer, ObjectInfo, Store
from tests.fakes import Fault, FaultyStore
from tests.operations.judging import assert_equal, found, is_root, lab_in, restored, run
from tests.repositories import Keys, Lab, make_source, noise, restored_below

OVERWRITES: tuple[Overwrite, ...] = ("never", "if-changed", "always")
CHANGED = RestoreOptions(overwrite="if-changed")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, if they were there."""
    if not is_root():
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_round_trip(lab: Lab, tmp_path: Path) -> None:
    """One of everything comes back equal, with one worker and with several."""
    source = make_source(tmp_path / "all")
    result = run(lab, FileSource([source]))
    for workers in (1, 4):
        target = tmp_path / str(workers)
        done = restored(lab, result, target, RestoreOptions(workers=workers))
        assert done.problems == [] and (done.files, done.total_bytes) == (result.files, result.bytes)
        assert_equal(source, restored_below(target, source))


class FarAway:
    """A store whose answers take their time, and which gains from several requests at once; it notes how many."""

    at_once = 3

    def __init__(self, inner: Store) -> None:
        self._kept = inner
        self.location = inner.location
        self.most = self._under_way = 0
        self._lock = threading.Lock()

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        time.sleep(0.01)
        with self._lock:
            self._under_way -= 1
        return self._kept.get(name, offset=offset, length=length)

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        self._kept.put(name, data, replace=replace)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._kept.list(prefix)

    def delete(self, name: str) -> None:
        self._kept.delete(name)


@pytest.fixture
def far_away(throwaway_keys: Keys, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lab, Result]:
    """Two copies in many packs, the first of them far away."""
    monkeypatch.setattr(pack, "_ROOM", 300_000)
    lab = lab_in(throwaway_keys, tmp_path / "lab", "a", "b")
    for number in range(40):
        (source / f"{number:02d}").write_bytes(noise(number, 100_000))
    result = run(lab, FileSource([source]))
    lab.stores["a"] = FarAway(lab.stores["a"])
    return lab, result


def test_packs_from_far_away(far_away: tuple[Lab, Result], source: Path, tmp_path: Path) -> None:
    """Where a store gains from it, packs are fetched ahead, as many at once as it says and no more."""
    lab, result = far_away
    assert restored(lab, result, tmp_path / "r").problems == []
    assert_equal(source, restored_below(tmp_path / "r", source))
    store = lab.stores["a"]
    assert isinstance(store, FarAway) and 2 <= store.most <= FarAway.at_once


def test_damage_far_away(far_away: tuple[Lab, Result], source: Path, tmp_path: Path) -> None:
    """A pack that was fetched ahead and is damaged is taken from the next copy; one that is nowhere costs its files."""
    lab, result = far_away
    near, far = lab.stores["b"], lab.stores["a"]
    packs = [each.name for each in near.list("packs") if each.size > 100_000]
    for name in packs[:5]:
        far.delete(name)
        far.put(name, b"wrong")
    near.delete(packs[0])
    answer = restored(lab, result, tmp_path / "r")
    assert 0 < len(answer.problems) <= 4 and all("lost" in problem for _, problem in answer.problems)
    assert answer.files == result.files - len(answer.problems)


def test_an_interruption_far_away(
    far_away: tuple[Lab, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while packs are fetched ahead ends the restore, and leaves no thread behind."""
    lab, result = far_away
    fill, filled = Filler.fill, list[str]()

    def interrupted(filler: Filler, name: str, wants: list[Want]) -> None:
        fill(filler, name, wants)
        filled.append(name)
        if len(filled) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Filler, "fill", interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        restored(lab, result, tmp_path / "r")
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


def test_a_target_that_is_a_file(lab: Lab, source: Path, tmp_path: Path) -> None:
    """A target that is no folder, or lies below a file, is the caller's mistake; nothing is touched."""
    result = run(lab, FileSource([source]))
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    for target in ("file", "file/below", "dangling"):
        for overwrite in OVERWRITES:
            with pytest.raises(UsageError, match="not a folder") as caught:
                restored(lab, result, tmp_path / target, RestoreOptions(overwrite=overwrite))
            assert caught.value.hint
    assert (tmp_path / "file").read_text() == "x" and not (tmp_path / "nowhere").exists()


def test_a_target_that_cannot_be_made(tmp_path: Path) -> None:
    """Where no folder may be made the target is refused with a hint, as any other failure of a place."""
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    with as_nobody(), pytest.raises(StoreRefused) as caught:
        open_target(closed / "r", empty=True)
    assert caught.value.hint and "permission denied" in str(caught.value).lower()
    with pytest.raises(UsageError):
        open_target(tmp_path / ("n" * 300), empty=True)


def test_nothing_wanted_makes_nothing(lab: Lab, source: Path, tmp_path: Path) -> None:
    """When no entry is wanted the target is not made; one that is not empty is refused all the same."""
    result = run(lab, FileSource([source]))
    options = RestoreOptions(wanted=lambda node: False)
    assert restored(lab, result, tmp_path / "new" / "r", options).entries == 0
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="not empty"):
        restored(lab, result, tmp_path, options)


# What lies in the target already


def test_hard_links_twice(lab: Lab, source: Path, tmp_path: Path) -> None:
    """Over links that are there already, restore leaves nothing of its own; changed content reaches every name."""
    (source / "a").write_text("old")
    for name in ("b", "c"):
        os.link(source / "a", source / name)
    result = run(lab, FileSource([source]))
    there = restored_below(tmp_path / "r", source)
    for overwrite in OVERWRITES:
        assert restored(lab, result, tmp_path / "r", RestoreOptions(overwrite=overwrite)).problems == []
        assert_equal(source, there)
    (source / "a").write_text("new content")
    result = run(lab, FileSource([source]))
    assert restored(lab, result, tmp_path / "r", CHANGED).problems == []
    assert_equal(source, there)


def test_a_link_left_half_way(lab: Lab, source: Path, tmp_path: Path) -> None:
    """What a killed restore left under temporary names is in nobody's way; names with old content become links."""
    (source / "a").write_text("new")
    os.link(source / "a", source / "b")
    (source / "s").symlink_to("a")
    result = run(lab, FileSource([source]))
    there = restored_below(tmp_path / "r", source)
    assert restored(lab, result, tmp_path / "r").problems == []
    for name in ("b", "s"):
        (there / f".opskit-restore-{crc32(name.encode()):08x}-{name}").write_text("left")
    (there / "b").unlink()
    (there / "b").write_text("an old file")
    assert restored(lab, result, tmp_path / "r", CHANGED).problems == []
    os.utime(there, ns=(0, source.stat().st_mtime_ns))
    assert_equal(source, there)


@pytest.mark.parametrize("kind", ["symlink", "folder"])
def test_another_type_is_a_change(lab: Lab, source: Path, tmp_path: Path, kind: str) -> None:
    """Something else of a file's size and time is not the file: a link is replaced, a folder is told of and stays."""
    there = restored_below(tmp_path / "r", source)
    there.mkdir(parents=True)
    if kind == "symlink":
        (there / "f").symlink_to("x" * 8)
    else:
        (there / "f").mkdir()
    status = (there / "f").lstat()
    (source / "f").write_bytes(bytes(status.st_size))
    os.utime(source / "f", ns=(0, status.st_mtime_ns))
    done = restored(lab, run(lab, FileSource([source])), tmp_path / "r", CHANGED)
    assert bool(done.problems) is (there / "f").is_dir() is (kind == "folder")
    assert [path.name for path in there.iterdir()] == ["f"]
    assert kind == "folder" or not (there / "f").is_symlink()


def test_equal_content_is_mended(lab: Lab, source: Path, tmp_path: Path) -> None:
    """Of a file whose content is as it was, if-changed sets owner, mode and attributes right without writing it."""
    (source / "f").write_text("content")
    os.setxattr(source / "f", "user.kept", b"1")
    if is_root():
        os.chown(source / "f", 1234, 4321)
    (source / "f").chmod(0o640)
    result = run(lab, FileSource([source]))
    assert restored(lab, result, tmp_path / "r").problems == []
    file = restored_below(tmp_path / "r", source) / "f"
    number = file.stat().st_ino
    file.chmod(0o777)
    os.setxattr(file, "user.kept", b"2")
    if is_root():
        os.chown(file, 1, 1)
    done = restored(lab, result, tmp_path / "r", CHANGED)
    assert (done.problems, done.skipped, file.stat().st_ino) == ([], 1, number)
    assert_equal(source, file.parent)


@pytest.mark.skipif(not is_root(), reason="only root can give files away")
def test_privileges_are_for_restored_content(lab: Lab, source: Path, tmp_path: Path) -> None:
    """Somebody's own file of the right size and time does not become setuid: its content is replaced."""
    (source / "f").write_text("program")
    (source / "f").chmod(0o4755)
    result = run(lab, FileSource([source]))
    there = restored_below(tmp_path / "r", source)
    there.mkdir(parents=True)
    (there / "f").write_text("exploit")
    os.utime(there / "f", ns=(0, (source / "f").stat().st_mtime_ns))
    os.chown(there / "f", 65534, 65534)
    assert restored(lab, result, tmp_path / "r", CHANGED).problems == []
    assert (there / "f").read_text() == "program"
    assert restored(lab, result, tmp_path / "r", CHANGED).skipped == 1


@pytest.mark.skipif(not is_root(), reason="only root can become nobody")
@pytest.mark.parametrize("kind", ["file", "dir", "fifo"])
def test_no_setuid_of_another(tmp_path: Path, kind: str) -> None:
    """Whoever cannot give an entry its owner does not give it setuid and setgid either, but all other bits."""
    os.chown(tmp_path, 65534, 65534)
    root = os.open(tmp_path, os.O_RDONLY)
    node = Node(b"f", kind, 0o7755, 1, 1, mtime=0)
    with as_nobody():
        target = Target(root, Owners(by_name=False), replace=False)
        if kind == "file":
            descriptor = target.create_file(b"f")
            target.finish_file(node, descriptor)
            os.close(descriptor)
        elif kind == "dir":
            target.make_folder(node)
            target.finish_folder(node, touch=True)
        else:
            target.make_other(node)
        target.close()
    os.close(root)
    status = (tmp_path / "f").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (65534, 0o1755)


def test_a_device_exchanged_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody puts in a new FIFO's place, a link or a file, gets neither its mode nor its owner."""
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    (tmp_path / "r").mkdir()
    root = os.open(tmp_path / "r", os.O_RDONLY)
    target = Target(root, Owners(by_name=False), replace=True)
    make = os.mknod

    def exchanged(name: bytes, *arguments: int, dir_fd: int) -> None:
        make(name, *arguments, dir_fd=dir_fd)
        os.unlink(name, dir_fd=dir_fd)
        if name == b"s":
            os.symlink(outside, name, dir_fd=dir_fd)
        else:
            os.link(outside, name, dst_dir_fd=dir_fd)

    monkeypatch.setattr(os, "mknod", exchanged)
    for name in (b"s", b"h"):
        with pytest.raises(OSError, match="replaced"):
            target.make_other(Node(name, "fifo", 0o666, os.geteuid(), os.getegid(), mtime=0))
    target.close()
    os.close(root)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600


@pytest.mark.parametrize("part", ["below", "wanted"])
def test_folders_above_a_part(lab: Lab, source: Path, tmp_path: Path, part: str) -> None:
    """Folders made on the way to a part are as they were; those that were there are not touched."""
    deep = source / "one" / "two" / "three"
    deep.mkdir(parents=True)
    (deep / "f").write_text("x")
    (source / "other").mkdir()
    for number, folder in enumerate((deep, deep.parent, deep.parent.parent, source)):
        folder.chmod(0o751 + number)
        if is_root():
            os.chown(folder, 1000 + number, 2000)
        os.utime(folder, ns=(0, 10**18 + number))
    result = run(lab, FileSource([source]))
    there = restored_below(tmp_path / "r", source)
    (there / "one").mkdir(parents=True)
    before = [(each.stat().st_mode, each.stat().st_uid) for each in (there, there / "one")]
    below = os.fsencode(deep / "f")[1:]
    chosen = {
        "below": RestoreOptions(below=below, overwrite="if-changed"),
        "wanted": RestoreOptions(wanted=lambda node: node.path == below, overwrite="if-changed"),
    }
    done = restored(lab, result, tmp_path / "r", chosen[part])
    assert (done.problems, done.entries, (there / "other").exists()) == ([], 1, False)
    assert before == [(each.stat().st_mode, each.stat().st_uid) for each in (there, there / "one")]
    assert_equal(deep.parent, there / "one" / "two")


def test_a_folder_stands_where_a_file_belongs(lab: Lab, source: Path, tmp_path: Path) -> None:
    """With overwrite, a folder in an entry's place is that entry's problem; it stays alone, the rest is restored."""
    for name in ("a", "b"):
        (source / name).write_text(name)
    (source / "long").write_bytes(noise(1, 3_000_000))
    (source / "symlink").symlink_to("a")
    os.link(source / "b", source / "twin")
    result = run(lab, FileSource([source]))
    there = restored_below(tmp_path / "r", source)
    in_the_way = ["a", "long", "symlink", "twin"]
    for name in in_the_way:
        (there / name).mkdir(parents=True)
        (there / name / "keep").write_text("keep")
    done = restored(lab, result, tmp_path / "r", RestoreOptions(overwrite="always", workers=1))
    assert [os.fsdecode(path.rpartition(b"/")[2]) for path, _ in done.problems] == in_the_way
    assert all((there / name / "keep").read_text() == "keep" for name in in_the_way)
    assert (there / "b").read_text() == "b" and len(list(there.iterdir())) == 5


def test_a_copy_that_fails_while_read(throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """Objects that one copy refuses come from the other, one by one, and the failures are noted."""
    lab = lab_in(throwaway_keys, tmp_path / "lab", "a", "b")
    (source / "large").write_bytes(noise(1, 3_000_000))
    result = run(lab, FileSource([source]))
    faulty = FaultyStore(lab.stores["a"], {n: Fault("before", StoreError("read error")) for n in range(5, 60)})
    reader = lab.reader(found(lab, result), {"a": faulty, "b": lab.stores["b"]})
    assert restore(reader, tmp_path / "r", RestoreOptions(workers=2)).problems == []
    assert reader.damage
    assert_equal(source, restored_below(tmp_path / "r", source))


def test_a_flipped_bit_on_the_way(lab: Lab, source: Path, tmp_path: Path) -> None:
    """A bit turned in any one object that a restore reads is never written as if it were right."""
    (source / "file").write_bytes(noise(1, 700_000))
    snapshot = found(lab, run(lab, FileSource([source])))
    counting = FaultyStore(lab.stores["a"])
    restore(lab.reader(snapshot, {"a": counting}), tmp_path / "count", RestoreOptions(workers=1))
    for call in (number for number, (operation, _) in enumerate(counting.log, 1) if operation == "get"):
        target = tmp_path / str(call)
        faulty = FaultyStore(lab.stores["a"], {call: Fault("before", flip=4001)})
        with suppress(OpskitError):
            restore(lab.reader(snapshot, {"a": faulty}), target, RestoreOptions(workers=1))
        for path in target.rglob("file"):
            assert path.read_bytes() == (source / "file").read_bytes(), counting.log[call - 1]


def test_below_a_path(lab: Lab, source: Path, tmp_path: Path) -> None:
    """A path takes the entry and what is below it, not its neighbours with the same beginning."""
    for name in ("a", "a-b", "a.txt"):
        (source / name).mkdir()
        (source / name / "f").write_text(name)
    result = run(lab, FileSource([source]))
    below = os.fsencode(source / "a")[1:]
    reader = lab.reader(found(lab, result))
    assert [node.path for node in files_of(reader, RestoreOptions(below=below))] == [below, below + b"/f"]


def test_write_file(lab: Lab, source: Path) -> None:
    """The bytes of one file go to a stream: many chunks, holes, none at all."""
    (source / "large").write_bytes(noise(1, 9_000_000))
    (source / "empty").write_bytes(b"")
    with (source / "holes").open("wb") as file:
        for offset in (2_000_000, 2_500_000):
            file.seek(offset)
            file.write(noise(offset, 5000))
        file.truncate(4_000_000)
    reader = lab.reader(found(lab, run(lab, FileSource([source]))))
    for name in ("large", "empty", "holes"):
        output = io.BytesIO()
        write_file(reader, os.fsencode(source / name)[1:], output)
        assert output.getvalue() == (source / name).read_bytes()
    with pytest.raises(SnapshotNotFound):
        write_file(reader, b"no/such", io.BytesIO())
    with pytest.raises(UsageError):
        write_file(reader, os.fsencode(source)[1:], io.BytesIO())


# The plan


def file_node(chunks: list[tuple[bytes, int]], holes: list[tuple[int, int]]) -> Node:
    size = sum(length for _, length in chunks) + sum(length for _, length in holes)
    return Node(b"f", "file", 0o600, 0, 0, mtime=0, size=size, chunks=chunks, holes=holes)


@pytest.mark.parametrize(
    "holes", [[], [(0, 7)], [(5, 3)], [(10, 4)], [(25, 5)], [(0, 1), (3, 1), (12, 1), (14, 10)], [(2, 1), (20, 9)]]
)
def test_pieces_and_spans_fill_what_is_no_hole(holes: list[tuple[int, int]]) -> None:
    """The spans of all chunks are the file without its holes, each byte once and in order."""
    chunks = [(bytes([number]) * 32, length) for number, length in enumerate((10, 5, 10))]
    node = file_node(chunks, holes)
    data = iter(range(25))
    written: dict[int, int] = {}
    for _, position, length in pieces(node):
        for start, count in spans(node, position, length):
            for offset in range(start, start + count):
                assert offset not in written
                written[offset] = next(data)
    empty = {offset for start, length in holes for offset in range(start, start + length)}
    assert list(written) == [offset for offset in range(node.size) if offset not in empty]
    assert list(written.values()) == list(range(25))


def test_the_plan_opens_each_pack_once() -> None:
    """However files and packs interleave, each pack comes once, with all that is wanted from it."""
    plan = Plan()
    ids = [bytes([number]) * 32 for number in range(6)]
    for number in range(3):
        node = file_node([(ids[number], 10), (ids[number + 3], 10)], [])
        plan.add(node, whole=False)
    chosen = {"p": ids[::2], "q": ids[1:5:2]}
    packs = [IndexedPack(name, "r", "k", 0, 0, b"".join(held)) for name, held in chosen.items()]
    plan.locate(packs)
    found_packs = {name: [want.chunk_id for want in wants] for name, wants in plan.by_pack()}
    assert {name: set(wants) for name, wants in found_packs.items()} == {"p": set(ids[::2]), "q": set(ids[1:5:2])}
    assert [want.chunk_id for want in plan.unlocated()] == [ids[5]]
    plan.close()

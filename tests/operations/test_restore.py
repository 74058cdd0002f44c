"""Restoring, below the command line: what may be written where, and what happens when a piece is missing."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path

import pytest

from opskit.errors import OpskitError, SnapshotNotFound, StoreError, UsageError
from opskit.operations.restore import RestoreOptions, files_of, restore, write_file
from opskit.operations.restoring.plan import Plan, pieces, spans
from opskit.repository.index import IndexedPack
from opskit.repository.tree import Node
from opskit.sources.files import FileSource
from tests.fakes import Fault, FaultyStore
from tests.operations.judging import assert_equal, found, lab_in, restored, run
from tests.repositories import Keys, Lab, make_source, noise, restored_below


def test_round_trip(lab: Lab, tmp_path: Path) -> None:
    """One of everything comes back equal, with one worker and with several."""
    source = make_source(tmp_path / "all")
    result = run(lab, FileSource([source]))
    for workers in (1, 4):
        target = tmp_path / str(workers)
        done = restored(lab, result, target, RestoreOptions(workers=workers))
        assert done.problems == [] and done.files == result.files - 1, "a hard link is not written twice"
        assert_equal(source, restored_below(target, source))


def test_a_target_that_is_a_file(lab: Lab, source: Path, tmp_path: Path) -> None:
    """A target that is no folder is refused before anything is read."""
    result = run(lab, FileSource([source]))
    (tmp_path / "file").write_text("x")
    with pytest.raises((OSError, OpskitError)):
        restored(lab, result, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_stands_where_a_file_belongs(lab: Lab, source: Path, tmp_path: Path) -> None:
    """With overwrite, a folder in a file's place is that entry's problem; it stays, and the rest is restored."""
    for name in ("a", "b"):
        (source / name).write_text(name)
    result = run(lab, FileSource([source]))
    there = restored_below(tmp_path / "r", source)
    (there / "a").mkdir(parents=True)
    (there / "a" / "keep").write_text("keep")
    done = restored(lab, result, tmp_path / "r", RestoreOptions(overwrite="always", workers=1))
    assert [path.rpartition(b"/")[2] for path, _ in done.problems] == [b"a"]
    assert (there / "a" / "keep").read_text() == "keep" and (there / "b").read_text() == "b"


def test_a_copy_that_fails_while_read(throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """Objects that one copy refuses come from the other, one by one, and the failures are noted."""
    lab = lab_in(throwaway_keys, tmp_path, "a", "b")
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

"""The parts of a restore: the plan in memory and on disk, packs opened early, and what is told of what failed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from opskit.errors import Damaged
from opskit.operations import restore as restoring
from opskit.operations.restore import RestoreOptions, restore
from opskit.operations.restoring import plan as plans
from opskit.operations.restoring.filling import Filler
from opskit.operations.restoring.ledger import Ledger, Restored
from opskit.operations.restoring.pieces import Want
from opskit.operations.restoring.plan import Plan
from opskit.operations.restoring.target import Owners, Target
from opskit.repository.index import IndexedPack
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node
from opskit.sources.files import FileSource
from opskit.stores.base import Store
from tests.operations.judging import assert_equal, found, restored, run
from tests.repositories import Lab, make_source, memory_copy, noise, restored_below
from tests.stores.mounts import MEBIBYTE, mounted

IDS = [bytes([number]) * 32 for number in range(8)]


def file_node(path: str, *ids: bytes, hardlink: str | None = None) -> Node:
    chunks = [(chunk_id, 10) for chunk_id in ids]
    return Node(path.encode(), "file", 0o640, 1, 2, "u", "g", 3, 10 * len(ids), chunks, hardlink)


def indexed(name: str, *ids: bytes) -> IndexedPack:
    return IndexedPack(name, "r", "k", 0, 0, b"".join(ids))


def only_tree(lab: Lab, reader: SnapshotReader) -> Store:
    """A store that has lost the packs with contents."""
    kept = reader.manifest.tree_pack
    return memory_copy(
        lab.stores["a"], lambda name, data: data if kept in name or not name.startswith("packs/") else None
    )


@pytest.mark.parametrize("in_memory", [1, 2, 3, 100])
def test_the_plan_is_the_same_on_disk(in_memory: int) -> None:
    """Wherever the plan is kept it names each pack once, with the same pieces in tree order, and what no pack holds."""
    plan = Plan(in_memory)
    plan.add(file_node("a", IDS[0], hardlink="h"), whole=True)
    plan.add(file_node("b", IDS[1], IDS[5], IDS[7], IDS[1]), whole=False)
    plan.add(file_node("c", IDS[0]), whole=True)
    plan.add(file_node("d", IDS[4]), whole=True)
    packs = [indexed("p", IDS[2], IDS[0]), indexed("q", IDS[1], IDS[4]), indexed("r", IDS[5], IDS[0]), indexed("s")]
    plan.locate(packs)
    wants = {"q": plan.wants("q"), **dict(plan.by_pack(without=["q"]))}
    plan_rows = {
        name: [(want.node.path, want.chunk_id, want.position, want.length, want.file, want.whole) for want in pieces]
        for name, pieces in wants.items()
    }
    assert plan_rows == {
        "p": [(b"a", IDS[0], 0, 10, 0, True), (b"c", IDS[0], 0, 10, 2, True)],
        "q": [(b"b", IDS[1], 0, 10, 1, False), (b"b", IDS[1], 30, 10, 1, False), (b"d", IDS[4], 0, 10, 3, True)],
        "r": [(b"b", IDS[5], 10, 10, 1, False)],
    }
    assert [(want.node.path, want.chunk_id) for want in plan.unlocated()] == [(b"b", IDS[7])]
    assert wants["p"][0].node == Node(b"a", "file", 0o640, 1, 2, "u", "g", 3, 10, hardlink="h")
    plan.close()


def test_the_packs_that_come_first() -> None:
    """The first packs are those of the first pieces, each once, up to the number asked for or to an unknown piece."""
    plan = Plan()
    for number, chunk_id in enumerate((IDS[3], IDS[2], IDS[0], IDS[7], IDS[1])):
        plan.add(file_node(str(number), chunk_id), whole=True)
    packs = [indexed("p", IDS[0], IDS[2]), indexed("q", IDS[3]), indexed("r", IDS[1])]
    assert plan.first_packs(packs, 1) == ["q"]
    assert plan.first_packs(packs, 3) == ["q", "p"]
    plan.close()


def test_a_large_restore(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of everything comes back equal when packs are opened before the plan is made, and the plan is on disk."""
    monkeypatch.setattr(restoring, "_EARLY_FILES", 1)
    source = make_source(tmp_path / "all")
    for number in range(300):
        (source / f"small {number}").write_bytes(noise(number, 300))
    result = run(lab, FileSource([source]))
    for number, in_memory in enumerate((10**6, 7)):
        monkeypatch.setattr(plans.Plan.__init__, "__defaults__", (in_memory,))
        done = restored(lab, result, tmp_path / str(number), RestoreOptions(workers=2))
        assert done.problems == [] and done.files == result.files
        assert done.total_bytes > 300 * 300
        assert_equal(source, restored_below(tmp_path / str(number), source))


def test_a_pack_opened_early(lab: Lab, source: Path, tmp_path: Path) -> None:
    """A pack may be opened before it is known what is wanted from it; a restore that ends before waits for nobody."""
    (source / "f").write_text("content")
    reader = lab.reader(found(lab, run(lab, FileSource([source]))))
    (name,) = {each.pack for each in reader.indexed_packs()} - {reader.manifest.tree_pack}
    node = next(each for each in reader.nodes(reader.root()) if each.type == "file")
    plan = Plan()
    plan.add(node, whole=True)
    plan.locate(reader.indexed_packs())
    root = os.open(tmp_path, os.O_RDONLY)
    ledger = Ledger(Restored())
    filler = Filler(reader, lambda: Target(root, Owners(by_name=False), replace=False), ledger, 1)
    filler.open_early(name)
    filler.fill(name, plan.wants(name))
    filler.close()
    assert (tmp_path / os.fsdecode(node.path)).read_text() == "content"
    assert (ledger.result.files, ledger.result.total_bytes) == (1, 7)
    stopped = Filler(reader, lambda: Target(root, Owners(by_name=False), replace=False), ledger, 1)
    stopped.open_early(name)
    waiting = stopped.threads.submit(lambda: None)
    stopped.abort(KeyboardInterrupt())
    assert waiting.done() or waiting.cancelled()
    os.close(root)


def test_a_tree_damaged_after_packs_were_opened(
    lab: Lab, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning that fails when packs are open already ends the restore with its own reason."""
    monkeypatch.setattr(restoring, "_EARLY_FILES", 1)
    for number in range(50):
        (source / f"{number:02}").write_bytes(noise(number, 300))
    reader = lab.reader(found(lab, run(lab, FileSource([source]))))

    def wanted(node: Node) -> bool:
        if node.path.endswith(b"/49"):
            raise Damaged("the tree ends here")
        return True

    with pytest.raises(Damaged, match="ends here"):
        restore(reader, tmp_path / "r", RestoreOptions(wanted=wanted))


def test_no_link_to_what_was_there_before(lab: Lab, source: Path, tmp_path: Path) -> None:
    """When the content of hard links is lost, no name becomes a link to another name's old file; each is told of."""
    (source / "a").write_text("new")
    os.link(source / "a", source / "b")
    snapshot = found(lab, run(lab, FileSource([source])))
    there = restored_below(tmp_path / "r", source)
    there.mkdir(parents=True)
    for name in ("a", "b"):
        (there / name).write_text(f"old {name}")
    poor = only_tree(lab, lab.reader(snapshot))
    done = restore(lab.reader(snapshot, {"a": poor}), tmp_path / "r", RestoreOptions(overwrite="always"))
    assert [os.fsdecode(path.rpartition(b"/")[2]) for path, _ in done.problems] == ["a", "b"]
    assert [(there / name).read_text() for name in ("a", "b")] == ["old a", "old b"]
    assert (there / "b").stat().st_nlink == 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_modes_under_any_umask(tmp_path: Path, umask: int) -> None:
    """A file has its recorded mode in the end, whatever the umask takes from new files."""
    former = os.umask(umask)
    try:
        root = os.open(tmp_path, os.O_RDONLY)
        target = Target(root, Owners(by_name=False), replace=False)
        for mode in (0o644, 0o600, 0o666, 0o755, 0o400, 0o000, 0o1644, 0o4755, 0o2755, 0o6777):
            node = Node(b"%o" % mode, "file", mode, os.geteuid(), os.getegid(), mtime=1)
            made = target.first_mode(node)
            descriptor = target.create_file(node.path, made)
            assert not os.fstat(descriptor).st_mode & stat.S_ISUID
            assert target.finish_file(node, descriptor, made) == []
            assert stat.S_IMODE(os.fstat(descriptor).st_mode) == mode
            os.close(descriptor)
        target.close()
        os.close(root)
    finally:
        os.umask(former)


def test_modes_below_a_default_acl(tmp_path: Path) -> None:
    """Where new files inherit another mode than they are made with, they are not made with their own."""
    root = os.open(tmp_path, os.O_RDONLY)
    acl = "0200000001000700ffffffff04000500ffffffff20000500ffffffff"  # version 2; user rwx, group r-x, others r-x
    try:
        os.setxattr(root, "system.posix_acl_default", bytes.fromhex(acl))
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        pytest.skip("no ACLs on this file system")
    target = Target(root, Owners(by_name=False), replace=False)
    assert target.first_mode(Node(b"f", "file", 0o644, os.geteuid(), os.getegid(), mtime=1)) is None
    target.close()
    os.close(root)


IN_A_NAMESPACE = """
import os, sys
from opskit.operations.restoring.target import Owners, Target
from opskit.repository.tree import Node
root = os.open(sys.argv[1], os.O_RDONLY)
target = Target(root, Owners(by_name=False), replace=False)
descriptor = target.create_file(b"f")
print(target.finish_file(Node(b"f", "file", 0o4755, 12345, 12345, mtime=1), descriptor))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare(1) here")
def test_an_owner_a_namespace_does_not_have(tmp_path: Path) -> None:
    """In a user namespace an owner that it does not have is told of, and the file is there all the same."""
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", IN_A_NAMESPACE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert done.stdout == "['owner 12345:12345 could not be set']\n", done.stderr
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o755


FILL_THE_SPOOL = """
from opskit.errors import OpskitError
from opskit.operations.restoring.plan import Plan
from opskit.repository.tree import Node
plan = Plan(1)
try:
    for number in range(100_000):
        node = Node(b"n" * 4000, "file", 0o640, 1, 2, "u", "g", 3, 1, [(bytes(32), 1)])
        plan.add(node, whole=True)
except OpskitError as error:
    print(error, error.hint)
plan.close()
"""


def test_a_full_spool_is_told(tmp_path: Path) -> None:
    """A plan that finds no room in its temporary file ends with an error that says where to make some."""
    with mounted("tmpfs", tmp_path, size=MEBIBYTE) as place:
        answer = subprocess.run(  # SQLite asks for its folder once a process
            [sys.executable, "-c", FILL_THE_SPOOL],
            env={**os.environ, "SQLITE_TMPDIR": str(place)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert "temporary file" in answer.stdout and "full" in answer.stdout and "SQLITE_TMPDIR" in answer.stdout


def test_owners_where_files_belong_to_others_at_birth(lab: Lab, source: Path, tmp_path: Path) -> None:
    """On a mount where files inherit the group of their folder, restored files have the group they had."""
    (source / "folder").mkdir()
    for path in (source / "file", source / "folder" / "file"):
        path.write_text("x")
        path.chmod(0o640)
    result = run(lab, FileSource([source]))
    with mounted("ext4", tmp_path) as place:
        if subprocess.run(["mount", "-o", "remount,grpid", place], capture_output=True).returncode:
            pytest.skip("this kernel does not remount ext4 with grpid")
        (place / "t").mkdir()
        os.chown(place / "t", -1, 100)
        (place / "t" / "probe").touch()
        assert (place / "t" / "probe").stat().st_gid == 100, "the mount is not as wanted"
        (place / "t" / "probe").unlink()
        assert restored(lab, result, place / "t").problems == []
        assert_equal(source, restored_below(place / "t", source))


@pytest.mark.timeout(60)
def test_interrupted_while_a_pack_waits_for_its_wants(
    lab: Lab, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal at the very moment when an early pack is told what is wanted ends the restore instead of hanging it."""
    for number in range(30):
        (source / str(number)).write_bytes(noise(number, 3000))
    result = run(lab, FileSource([source]))
    monkeypatch.setattr(restoring, "_EARLY_FILES", 5)
    fill = Filler.fill

    def interrupted(filler: Filler, name: str, wants: list[Want]) -> None:
        for early in filler._early.values():
            monkeypatch.setattr(early, "set_result", Interrupting())
        fill(filler, name, wants)

    opened = []
    open_early = Filler.open_early
    monkeypatch.setattr(Filler, "open_early", lambda filler, name: (opened.append(name), open_early(filler, name)))
    monkeypatch.setattr(Filler, "fill", interrupted)
    wait_for_index(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        restored(lab, result, tmp_path / "r", RestoreOptions(workers=2))
    assert opened


class Interrupting:
    def __call__(self, *_: object) -> None:
        raise KeyboardInterrupt


def wait_for_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tree not be read faster than the index, so that packs are surely opened early."""
    original = restoring._Restore._open_early

    def patient(self: restoring._Restore) -> bool:  # type: ignore[name-defined]
        if self._index is not None:
            self._index.exception()
        return original(self)

    monkeypatch.setattr(restoring._Restore, "_open_early", patient)


def test_interrupted_while_a_long_file_is_finished(
    lab: Lab, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the finishing of a long file that replaces another leaves the old file, and no temporary one."""
    (source / "long").write_bytes(noise(1, 12_000_000))
    result = run(lab, FileSource([source]))
    target = tmp_path / "r"
    old = restored_below(target, source) / "long"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    monkeypatch.setattr(Target, "finish_file", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        restored(lab, result, target, RestoreOptions(overwrite="always"))
    assert [path.name for path in old.parent.iterdir()] == ["long"] and old.read_text() == "old"


def test_bytes_of_a_lost_file_are_not_counted(lab: Lab, source: Path, tmp_path: Path) -> None:
    """What was written of a file that turns out to be lost in part counts neither as file nor as bytes."""
    (source / "kept").write_bytes(noise(5, 1000))
    run(lab, FileSource([source]))
    (source / "long").write_bytes(noise(6, 40_000_000))
    result = run(lab, FileSource([source]))
    manifest = found(lab, result).manifest
    packs = [name for name in manifest.object_names() if name.startswith("packs/") and manifest.tree_pack not in name]
    large = [name for name in packs if len(lab.stores["a"].get(name)) > 1_000_000]
    assert len(large) == 2
    for name in large:  # one of them comes last, when the other's part is written
        data = lab.stores["a"].get(name)
        lab.stores["a"].delete(name)
        done = restored(lab, result, tmp_path / name[-4:])
        assert (done.files, done.total_bytes) == (1, 1000) and len(done.problems) == 1
        lab.stores["a"].put(name, data)

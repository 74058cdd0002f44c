"""What a backup notices, records and refuses; what it stores, and what not again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from opskit.errors import NoKey, SourceError, StoreError, StoreFull
from opskit.gpg import Keyring
from opskit.operations.backup import Job, Options, backup
from opskit.operations.retiring import SMALL_PACK
from opskit.repository import pack
from opskit.repository.writer import FIRST_PACK
from opskit.sources.base import Entry, Metadata, OpenFile, Problem, Small
from opskit.sources.command import CommandSource
from opskit.sources.files import FileSource
from tests.fakes import Fault, FaultyStore
from tests.gpg.keys import dated_key, private_folder
from tests.operations.judging import back_and_forth, differences, found, lab_in, restored, run, stored_names
from tests.repositories import Keys, Lab, make_keys, noise, restored_below


class Meddler:
    """A source that something happens to when a file is opened: each act once, at the file of that name."""

    def __init__(
        self, inner: FileSource, acts: dict[str, Callable[[Path], object]], *, after_open: bool = True
    ) -> None:
        self._inner, self._acts, self._after_open = inner, dict(acts), after_open

    def entries(self) -> Iterator[Entry | Problem]:
        return self._inner.entries()

    def open(self, entry: Entry) -> OpenFile | Problem:
        path = Path(os.fsdecode(b"/" + entry.path))
        act = self._acts.pop(path.name, lambda path: None)
        if not self._after_open:
            act(path)
            return self._inner.open(entry)
        opened = self._inner.open(entry)
        act(path)
        return opened

    def read_small(self, entry: Entry, buffer: memoryview) -> Small | None:
        path = Path(os.fsdecode(b"/" + entry.path))
        act = self._acts.pop(path.name, lambda path: None)
        if not self._after_open:
            act(path)
            return self._inner.read_small(entry, buffer)
        small = self._inner.read_small(entry, buffer)
        act(path)
        return None if small is None else small._replace(after=path.stat())

    def metadata(self, entry: Entry, opened: OpenFile | None = None) -> Metadata:
        return self._inner.metadata(entry, opened)

    def close(self) -> None:
        self._inner.close()


def node_of(lab: Lab, snapshot: str, name: str) -> object:
    (each,) = (each for each in lab.history().snapshots if each.id == snapshot)
    reader = lab.reader(each)
    return {node.path.rpartition(b"/")[2].decode(): node for node in reader.nodes(reader.root())}.get(name)


# What has changed


def test_an_edit_that_hides_is_noticed(lab: Lab, source: Path, tmp_path: Path) -> None:
    """Same size, same inode, modification time put back: the change time still tells."""
    file = source / "file"
    file.write_bytes(b"before")
    run(lab, FileSource([source]))
    status = file.stat()
    time.sleep(0.02)  # past the tick of the kernel's clock
    with file.open("r+b") as opened:
        opened.write(b"after!")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    _, place = back_and_forth(lab, FileSource([source]), source, tmp_path / "r")
    assert (place / "file").read_bytes() == b"after!"


def test_unchanged_files_are_not_opened(lab: Lab, source: Path) -> None:
    """A second run opens nothing, and stores nothing at all."""
    (source / "file").write_bytes(b"x")
    (source / "large").write_bytes(noise(1, 2_000_000))
    run(lab, FileSource([source]))
    before = stored_names(lab, "packs")
    opened: list[Path] = []
    result = run(lab, Meddler(FileSource([source]), {"file": opened.append, "large": opened.append}))
    assert not opened and result.new_bytes == 0 and result.stored_bytes == 0
    assert stored_names(lab, "packs") == before


def test_force_read_reads_all_and_stores_nothing(lab: Lab, source: Path) -> None:
    """--force-read opens what is unchanged; what is the same is not stored again."""
    (source / "file").write_bytes(noise(1, 3000))
    run(lab, FileSource([source]))
    opened: list[Path] = []
    result = run(lab, Meddler(FileSource([source]), {"file": opened.append}), force=True)
    assert opened and result.new_bytes == 0


def test_what_changed_just_now_is_read_again(lab: Lab, source: Path) -> None:
    """A file whose change time lies within the clock's tick of the read is never remembered as unchanged."""
    file = source / "file"
    file.write_bytes(b"x")
    opened: list[Path] = []
    behind = time.time_ns() - file.stat().st_ctime_ns + 10**9  # the run's clock then stands before the change
    run(lab, FileSource([source]), ahead=-behind)
    run(lab, Meddler(FileSource([source]), {"file": opened.append}))
    assert opened == [file]


def test_an_attribute_alone_is_a_change(lab: Lab, source: Path, tmp_path: Path) -> None:
    """A new attribute or mode, without a new content, is in the next snapshot, and stores no content."""
    (source / "file").write_bytes(noise(1, 400_000))
    run(lab, FileSource([source]))
    time.sleep(0.02)
    os.setxattr(source / "file", "user.new", b"1")
    (source / "file").chmod(0o604)
    result, place = back_and_forth(lab, FileSource([source]), source, tmp_path / "r")
    assert os.getxattr(place / "file", "user.new") == b"1"
    assert differences(source, place) == ""
    assert result.new_bytes < 20_000


def test_equal_content_is_stored_once(lab: Lab, source: Path) -> None:
    """Ten equal files, small or large, take the room of one; a moved file takes none."""
    for number in range(10):
        (source / f"large-{number}").write_bytes(noise(1, 1_500_000))
        (source / f"small-{number}").write_bytes(noise(2, 40_000))
    assert run(lab, FileSource([source])).stored_bytes < 1_700_000
    (source / "large-0").rename(source / "moved")
    assert run(lab, FileSource([source])).stored_bytes < 30_000


def test_an_insertion_moves_few_borders(lab: Lab, source: Path) -> None:
    """A byte put into the front of a large file stores one or two chunks again, not the file."""
    content = noise(1, 12_000_000)
    (source / "large").write_bytes(content)
    run(lab, FileSource([source]))
    (source / "large").write_bytes(b"!" + content)
    assert run(lab, FileSource([source])).new_bytes < 9_000_000


# What happens while it reads


@pytest.mark.parametrize(
    ("before", "after"), [(900, 2000), (2000, 900), (900_000, 2_000_000), (2_000_000, 900_000), (600, 0)]
)
def test_a_file_that_changes_while_read(lab: Lab, source: Path, tmp_path: Path, before: int, after: int) -> None:
    """A file that grows or shrinks under the reader is recorded, complained of, restorable, and read anew next time."""
    (source / "file").write_bytes(noise(1, before))
    (source / "other").write_bytes(b"calm")
    meddler = Meddler(FileSource([source]), {"file": lambda path: path.write_bytes(noise(1, after))})
    result = run(lab, meddler)
    assert len(result.errors) == 1 and "changed while it was read" in result.errors[0]
    assert not result.is_good
    assert restored(lab, result, tmp_path / "r").problems == []
    content = (restored_below(tmp_path / "r", source) / "file").read_bytes()
    assert noise(1, max(before, after)).startswith(content)
    again, place = back_and_forth(lab, FileSource([source]), source, tmp_path / "again")
    assert again.is_good and differences(source, place) == ""


def test_a_file_that_vanishes(lab: Lab, source: Path, tmp_path: Path) -> None:
    """A file gone between listing and opening is left out of the snapshot, and the complaint names it."""
    (source / "gone").write_bytes(b"x")
    (source / "here").write_bytes(b"y")
    result = run(lab, Meddler(FileSource([source]), {"gone": Path.unlink}, after_open=False))
    assert len(result.errors) == 1 and "gone" in result.errors[0]
    assert restored(lab, result, tmp_path / "r").problems == []
    assert os.listdir(restored_below(tmp_path / "r", source)) == ["here"]


def test_a_file_replaced_by_a_link(lab: Lab, source: Path, tmp_path: Path) -> None:
    """A file exchanged for a symbolic link between listing and opening is never read through that link."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"do not read me")
    (source / "file").write_bytes(b"x")

    def exchange(path: Path) -> None:
        path.unlink()
        path.symlink_to(secret)

    result = run(lab, Meddler(FileSource([source]), {"file": exchange}, after_open=False))
    assert len(result.errors) == 1
    for each in lab.history().snapshots:
        reader = lab.reader(each)
        assert all(node.size != len(b"do not read me") for node in reader.nodes(reader.root()))


def test_a_folder_that_vanishes(lab: Lab, source: Path) -> None:
    """A folder gone with all that is in it does not end the run."""
    (source / "a").write_bytes(b"first")
    (source / "b" / "c").mkdir(parents=True)
    (source / "b" / "c" / "file").write_bytes(b"x")
    (source / "z").write_bytes(b"last")
    result = run(lab, Meddler(FileSource([source]), {"a": lambda path: shutil.rmtree(path.parent / "b")}))
    assert node_of(lab, result.snapshot, "z") is not None


# What it refuses


def test_a_source_that_is_gone(lab: Lab, source: Path) -> None:
    """An absent source is a failure of that source, and no snapshot says otherwise."""
    assert isinstance(run(lab, FileSource([source / "not here"])).failure, SourceError)
    assert not lab.history().snapshots


@pytest.mark.parametrize(
    "command", [["sh", "-c", "head -c 3000000 /dev/zero; exit 3"], ["sh", "-c", "echo x; kill -9 $$"]]
)
def test_a_command_that_fails_commits_nothing(lab: Lab, command: list[str]) -> None:
    """Output of a failed command is never a snapshot, however much of it there was; the next good one is."""
    assert isinstance(run(lab, CommandSource(command, "dump.sql", time.time_ns())).failure, SourceError)
    assert not lab.history().snapshots
    run(lab, CommandSource(["echo", "good"], "dump.sql", time.time_ns()))
    assert len(lab.history().snapshots) == 1


def test_output_of_a_command(lab: Lab, tmp_path: Path) -> None:
    """The output of a command, large and small, is a file of the given name."""
    command = ["head", "-c", "3000000", "/dev/zero"]
    result = run(lab, CommandSource(command, "zeros", time.time_ns()))
    assert restored(lab, result, tmp_path / "r").problems == []
    assert (tmp_path / "r" / "zeros").read_bytes() == bytes(3_000_000)


def test_one_copy_that_fails(throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """A copy that loses one write gets no manifest; the other commits; the next run brings the first up to date."""
    lab = lab_in(throwaway_keys, tmp_path, "a", "b")
    (source / "file").write_bytes(noise(1, 5000))
    good = lab.stores["a"]
    calls = FaultyStore(good)
    run(lab, FileSource([source]), stores={"a": calls, "b": lab.stores["b"]})
    first_put = next(number for number, (operation, _) in enumerate(calls.log, 1) if operation == "put")
    (source / "file").write_bytes(noise(2, 5000))
    broken = FaultyStore(good, {first_put: Fault("before", StoreFull("no space"))})
    result = run(lab, FileSource([source]), stores={"a": broken, "b": lab.stores["b"]})
    assert result.destinations == {"a": "failed", "b": "ok"}
    assert len(lab.history({"a": good}).snapshots) == 1
    assert run(lab, FileSource([source])).destinations == {"a": "ok", "b": "ok"}
    assert len(lab.history({"a": good}).snapshots) == 3


def test_no_copy_works(lab: Lab, source: Path) -> None:
    """When the last copy fails the run ends with that copy's error."""
    (source / "file").write_bytes(b"x")
    every = {number: Fault("before", StoreFull("no space")) for number in range(4, 100)}
    with pytest.raises(StoreError):
        run(lab, FileSource([source]), stores={"a": FaultyStore(lab.stores["a"], every)})
    assert not lab.history().snapshots


def test_the_config_and_keys_travel_with_a_snapshot(lab: Lab, source: Path) -> None:
    """What a lost host needs stands in the root, encrypted; tags stand in the manifest."""
    result = run(lab, FileSource([source]), tags=("weekly", "a=b"))
    snapshot = found(lab, result)
    root = lab.reader(snapshot).root()
    assert (root.config, root.keys) == ("{}", "none")
    assert list(snapshot.manifest.tags) == ["weekly", "a=b"]
    for name in stored_names(lab, "packs") | stored_names(lab, "snapshots"):
        assert b"source" not in lab.stores["a"].get(name).replace(b'"source":"data"', b"")


def test_manifests_chain(lab: Lab, source: Path) -> None:
    """Sequence numbers count from 1 and each manifest names the one before."""
    ids = [run(lab, FileSource([source])).snapshot for _ in range(3)]
    manifests = [each.manifest for each in lab.history().snapshots]
    assert [each.sequence for each in manifests] == [1, 2, 3]
    assert [each.previous for each in manifests] == [None, *ids[:2]]


def test_sources_share_a_run_and_packs(lab: Lab, source: Path, tmp_path: Path) -> None:
    """Two sources in one invocation: one key object, equal content stored once, two chains, both restorable."""
    other = tmp_path / "other"
    other.mkdir()
    for folder in (source, other):
        (folder / "file").write_bytes(noise(1, 300_000))
    with lab.session() as session:
        jobs = [Job("one", FileSource([source])), Job("two", FileSource([other]))]
        results = list(backup(session, jobs, Options(workers=1), clock_ns=time.time_ns))
    assert len(stored_names(lab, "keys")) == 1
    assert results[1].new_bytes < 20_000
    for result, folder in zip(results, (source, other), strict=True):
        assert not restored(lab, result, tmp_path / result.source).problems
        assert differences(folder, restored_below(tmp_path / result.source, folder)) == ""


def test_a_tree_of_several_packs(lab: Lab, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root names the packs of its pieces also while they are still being sealed."""
    monkeypatch.setattr(pack, "_ROOM", 300_000)
    for number in range(3000):
        (source / f"{number:04d}-{'n' * 200}").touch()
    result = run(lab, FileSource([source]))
    reader = lab.reader(found(lab, result))
    assert len({chunk.pack for chunk in reader.root().chunks}) > 2
    assert restored(lab, result, tmp_path / "r").problems == []
    assert differences(source, restored_below(tmp_path / "r", source)) == ""


def test_the_first_pack_is_sealed_early(lab: Lab, source: Path) -> None:
    """Sealing begins long before a whole pack is read, once a run, with a pack too large to be gathered again."""
    for number in range(20):
        (source / f"{number:02d}").write_bytes(noise(number, 1024 * 1024))
    run(lab, FileSource([source]))
    (store,) = lab.stores.values()
    sizes = sorted(each.size for each in store.list("packs") if each.size > 1024 * 1024)
    assert len(sizes) == 2
    assert SMALL_PACK <= FIRST_PACK <= sizes[0] < 1.25 * FIRST_PACK


# Recipients


@pytest.fixture
def with_expired(tmp_short: Path) -> Iterator[tuple[Keys, str]]:
    """A host of this test's own, which knows a recipient that expired years ago."""
    keys = make_keys(tmp_short)
    with Keyring(private_folder(tmp_short / "old")) as old:
        assert old.home is not None
        expired = dated_key(old.home, "old", "20200101", "1d")
        keys.host.import_keys(old.export_public([expired]))
    yield keys, expired
    for each in (keys.host, *keys.recipients):
        each.close()


def test_an_expired_recipient_among_valid_ones(with_expired: tuple[Keys, str], source: Path, tmp_path: Path) -> None:
    """The valid recipients are used and the expired one is complained of."""
    (source / "file").write_bytes(b"x")
    keys, expired = with_expired
    lab = lab_in(replace(keys, recipient_keys=[*keys.recipient_keys, expired]), tmp_path)
    result = run(lab, FileSource([source]))
    assert [error for error in result.errors if expired in error and "expired" in error]
    assert not result.is_good and set(result.destinations.values()) == {"ok"}
    assert restored(lab, result, tmp_path / "r").problems == []


def test_only_expired_recipients(with_expired: tuple[Keys, str], source: Path, tmp_path: Path) -> None:
    """Nobody could restore: NoKey, and nothing is stored."""
    (source / "file").write_bytes(b"x")
    keys, expired = with_expired
    lab = lab_in(replace(keys, recipient_keys=[expired]), tmp_path)
    with pytest.raises(NoKey, match="expired"):
        run(lab, FileSource([source]))
    assert not stored_names(lab, "packs") | stored_names(lab, "keys") | stored_names(lab, "snapshots")


def test_a_clock_that_is_behind(throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """Where all keys seem made in the future nothing is stored, and the hint is about the clock, not about keys."""
    (source / "file").write_bytes(b"x")
    lab = replace(lab_in(throwaway_keys, tmp_path), minutes=-60 * 24 * 365 * 40)
    with pytest.raises(NoKey, match="in the future") as caught:
        run(lab, FileSource([source]))
    assert "check the clock" in (caught.value.hint or "") and not stored_names(lab, "packs")


def test_every_recipient_can_restore(throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """Each recipient alone opens the snapshot; the host that made it does not."""
    (source / "file").write_bytes(b"x")
    lab = lab_in(throwaway_keys, tmp_path)
    snapshot = found(lab, run(lab, FileSource([source])))
    for number, recipient in enumerate(throwaway_keys.recipients):
        mine = replace(lab, keys=replace(throwaway_keys, recipients=[recipient]))
        assert not mine.restore(snapshot, tmp_path / str(number)).problems
    with pytest.raises(NoKey):
        replace(lab, keys=replace(throwaway_keys, recipients=[throwaway_keys.host])).reader(snapshot)


def test_a_clock_that_went_back(lab: Lab, source: Path) -> None:
    """A host whose clock jumped back still makes the next snapshot the newest."""
    (source / "file").write_bytes(b"1")
    lab.minutes = 60 * 24 * 365
    run(lab, FileSource([source]))
    lab.minutes = 0
    (source / "file").write_bytes(b"2")
    second = run(lab, FileSource([source]))
    assert lab.history().snapshots[-1].id == second.snapshot
    assert found(lab, second).manifest.started < lab.history().snapshots[0].manifest.started


def test_nothing_stays_open(lab: Lab, source: Path) -> None:
    """A backup leaves no descriptor open, however the reading ended."""
    (source / "folder").mkdir()
    (source / "folder" / "file").write_bytes(b"x")
    run(lab, FileSource([source]))
    before = len(os.listdir("/proc/self/fd"))
    (source / "folder" / "file").write_bytes(b"another")
    run(lab, FileSource([source]))
    run(lab, FileSource([source / "absent"]))
    assert len(os.listdir("/proc/self/fd")) == before

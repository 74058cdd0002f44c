"""What LocalStore owes beyond the contract of every Store: the folder, the medium, and whoever meddles with them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from opskit.errors import NotMounted, ObjectExists, ObjectNotFound, StoreError, StoreFull, StoreRefused
from opskit.stores.local import LocalStore, publish
from opskit.stores.local.publish import WAYS
from tests.stores.mounts import after_power_cut, mounted

Act = Callable[[LocalStore], object]
ACTS: dict[str, Act] = {
    "put": lambda store: store.put("packs/ab/new", b"x"),
    "put in pieces": lambda store: store.put_pieces("packs/ab/newer", [b"x", b"y"]),
    "get": lambda store: store.get("packs/ab/one"),
    "get in pieces": lambda store: list(store.pieces("packs/ab/one")),
    "get a piece": lambda store: _first_piece(store),
    "list": lambda store: list(store.list()),
    "list below": lambda store: list(store.list("packs")),
    "delete": lambda store: store.delete("packs/ab/one"),
    "sweep": lambda store: store.sweep(now=0, older_than=0),
}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store with one object."""
    store = LocalStore(tmp_path / "copy")
    store.create()
    store.put("packs/ab/one", b"one")
    return store


def _first_piece(store: LocalStore) -> None:
    with closing(store.pieces("packs/ab/one")) as pieces:
        next(pieces)


def _everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# The folder


def test_create_makes_private_folders_and_may_be_repeated(tmp_path: Path) -> None:
    """The folder and absent parents are made for the owner alone; a second time changes nothing."""
    tmp_path.chmod(0o755)
    store = LocalStore(tmp_path / "deep" / "copy")
    store.create()
    store.put("opskit.json", b"{}")
    store.create()
    assert [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("deep", "deep/copy", ".")] == [
        0o700,
        0o700,
        0o755,
    ]
    assert store.get("opskit.json") == b"{}"


def test_create_refuses_a_file(tmp_path: Path) -> None:
    """A file where the folder should be is refused and stays."""
    (tmp_path / "copy").write_bytes(b"mine")
    with pytest.raises(StoreRefused, match="expected a folder, got a file"):
        LocalStore(tmp_path / "copy").create()
    assert (tmp_path / "copy").read_bytes() == b"mine"


def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """Objects are 0600 and folders 0700, also for a process that leaves everything open."""
    before = os.umask(0)
    try:
        store = LocalStore(tmp_path / "copy")
        store.create()
        store.put("packs/ab/one", b"x")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"copy": 0o700, ".tmp": 0o700, "packs": 0o700, "ab": 0o700, "one": 0o600}


@pytest.mark.parametrize("act", ACTS)
def test_absent_folder_is_an_error_not_an_empty_store(tmp_path: Path, act: str) -> None:
    """Nothing is found, listed or made where the folder is absent: exit code 20, and a hint."""
    with pytest.raises(StoreError, match="the folder is absent") as caught:
        ACTS[act](LocalStore(tmp_path / "copy"))
    assert type(caught.value) is StoreError
    assert caught.value.hint
    assert _everything(tmp_path) == []


def test_root_may_be_reached_through_a_symlink(tmp_path: Path, store: LocalStore) -> None:
    """The operator may name the folder by a symlink of his own."""
    (tmp_path / "link").symlink_to("copy")
    assert LocalStore(tmp_path / "link").get("packs/ab/one") == b"one"


def test_no_descriptor_outlives_a_call(store: LocalStore) -> None:
    """A medium can be unmounted between calls: nothing below it stays open, after failures too."""
    before = set(os.listdir("/proc/self/fd"))
    for act in ACTS.values():
        act(store)
    for name in ("packs/ab/absent", "absent/one", "packs"):
        with pytest.raises(ObjectNotFound):
            store.get(name)
    assert set(os.listdir("/proc/self/fd")) == before


def test_object_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path, store: LocalStore) -> None:
    """Pieces never end early in silence: a file that somebody cuts short meanwhile raises StoreError."""
    store.put("packs/ab/large", bytes(5 << 20))
    with closing(store.pieces("packs/ab/large")) as pieces:
        next(pieces)
        os.truncate(tmp_path / "copy/packs/ab/large", 3 << 20)
        with pytest.raises(StoreError, match="expected 2097152 more bytes, got the end of the file"):
            list(pieces)


def test_large_objects_are_handed_to_the_medium_while_they_are_written(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a put and in pieces, each part once and in order; small ones, and those that need not last, are left alone."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _descriptor, start, size, _advice: told.append((start, size)))
    store.put("packs/ab/large", bytes(10_000_000))
    ends = [start + size for start, size in told]
    assert [start for start, _ in told] == [0, *ends[:-1]] and 0 < ends[-1] < 10_000_000 and len(told) > 1
    seen = list(told)
    told.clear()
    store.put_pieces("packs/ab/larger", [bytes(10_000_000)])
    assert told == seen
    store.put("packs/ab/small", bytes(1_000_000))
    LocalStore(Path(store.location), durable=False).put("packs/ab/scratch", bytes(10_000_000))
    assert told == seen


# Things that do not belong


def test_foreign_files_are_no_objects(tmp_path: Path, store: LocalStore) -> None:
    """Hidden files, unfinished puts, names that cannot be objects and special files are passed over by a list."""
    root = tmp_path / "copy"
    for folder in ("lost+found", "System Volume Information", ".Trash-0", "a/b/c/d/e"):
        (root / folder).mkdir(parents=True)
        (root / folder / "f").write_bytes(b"x")
    for file in (".hidden", "has space", "ümlaut", ".tmp/123-abc", "packs/.DS_Store"):
        (root / file).write_bytes(b"x")
    os.mkfifo(root / "packs" / "fifo")
    (root / "packs" / "link").symlink_to("/etc/passwd")
    (root / "packs" / "folder-link").symlink_to("/etc")
    assert [info.name for info in store.list()] == ["packs/ab/one"]


@pytest.mark.parametrize("target", ["/etc/passwd", "one", "nowhere"])
def test_symlink_in_place_of_an_object_is_refused(tmp_path: Path, store: LocalStore, target: str) -> None:
    """A planted symlink is neither followed, nor written through, nor taken for an object, nor removed."""
    link = tmp_path / "copy" / "packs" / "ab" / "new"
    link.symlink_to(target)
    for act in (store.get, store.delete, lambda name: store.put(name, b"x"), lambda name: list(store.list(name))):
        with pytest.raises(StoreRefused, match=r"packs/ab/new: expected .*, got a symlink"):
            act("packs/ab/new")
    assert os.readlink(link) == target


@pytest.mark.parametrize("place", ["packs", "packs/ab"])
def test_symlink_in_place_of_a_folder_is_refused(tmp_path: Path, store: LocalStore, place: str) -> None:
    """A folder replaced by a symlink, even to where the objects are, leads nowhere."""
    folder = tmp_path / "copy" / place
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    before = _everything(tmp_path / "elsewhere")
    for act in ("put", "get", "delete"):
        with pytest.raises(StoreRefused, match="expected a folder, got a symlink"):
            ACTS[act](store)
    with pytest.raises(StoreRefused):
        list(store.list("packs/ab"))
    assert _everything(tmp_path / "elsewhere") == before


def test_symlink_in_place_of_the_hidden_folder_is_refused(tmp_path: Path) -> None:
    """Unfinished bytes are not written, nor swept, where a planted symlink points."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_bytes(b"x")
    store = LocalStore(tmp_path / "copy")
    store.create()
    (tmp_path / "copy" / ".tmp").symlink_to(tmp_path / "victim")
    for act in ("put", "sweep"):
        with pytest.raises(StoreRefused, match="expected a folder, got a symlink"):
            ACTS[act](store)
    assert _everything(tmp_path / "victim") == ["file"]


def test_fifo_in_place_of_an_object_does_not_hang(tmp_path: Path, store: LocalStore) -> None:
    """A FIFO is refused at once, not opened."""
    os.mkfifo(tmp_path / "copy" / "packs" / "fifo")
    for act in (store.get, store.delete, lambda name: store.put(name, b"x")):
        with pytest.raises(StoreRefused, match="got a special file"):
            act("packs/fifo")


def test_folder_in_place_of_an_object_is_refused(store: LocalStore) -> None:
    """A put on the name of a folder says so, and does not claim that an object is there."""
    with pytest.raises(StoreRefused, match="packs/ab: expected a free name, got a folder"):
        store.put("packs/ab", b"x")


AS_NOBODY = """
import os, pathlib, sys
from opskit.errors import StoreRefused
from opskit.stores.local import LocalStore, publish
if os.geteuid() == 0:
    os.setuid(65534)
try:
    print([info.name for info in LocalStore(pathlib.Path(sys.argv[1])).list()])
except StoreRefused as error:
    print("refused:", error)
"""


def test_unreadable_folder_makes_the_list_fail() -> None:
    """A folder that cannot be read is an error, never a list without its objects."""
    # Not below the temporary folder of the tests, which only its owner may enter.
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        for folder in ("packs/aa", "packs/bb", "packs/cc"):
            Path(top, folder).mkdir(parents=True)
            Path(top, folder, "one").write_bytes(b"x")
        os.chmod(f"{top}/packs/bb", 0)
        answer = subprocess.run([sys.executable, "-c", AS_NOBODY, top], capture_output=True, text=True, check=True)
        assert answer.stdout == f"refused: {top}: cannot list: Permission denied\n"
        os.chmod(f"{top}/packs/bb", 0o700)


# The medium


def test_full_medium_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    """A put that does not fit raises StoreFull, leaves no file behind, and smaller objects still go in."""
    with mounted("tmpfs", tmp_path, size=1 << 20) as place:
        store = LocalStore(place)
        store.put("packs/ab/one", bytes(500_000))
        with pytest.raises(StoreFull, match="cannot write packs/ab/two: No space left") as caught:
            store.put("packs/ab/two", bytes(900_000))
        assert caught.value.hint
        with pytest.raises(StoreFull, match="cannot write packs/ab/two: No space left"):
            store.put_pieces("packs/ab/two", (bytes(100_000) for _ in range(9)))
        assert _everything(place) == [".tmp", "packs", "packs/ab", "packs/ab/one"]
        store.put("packs/ab/three", bytes(100_000))
        assert store.get("packs/ab/one") == bytes(500_000)


def test_read_only_medium_is_refused_but_read(tmp_path: Path) -> None:
    """On a read-only mount puts and deletes raise StoreRefused, and reading goes on."""
    with mounted("tmpfs", tmp_path) as place:
        store = LocalStore(place)
        store.put("packs/ab/one", b"one")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        for act in ("put", "put in pieces", "delete"):
            with pytest.raises(StoreRefused, match="Read-only file system"):
                ACTS[act](store)
        assert [store.get(info.name) for info in store.list()] == [b"one"]


@pytest.mark.parametrize("act", ACTS)
def test_unmounted_medium_is_not_mistaken_for_its_mount_point(act: str) -> None:
    """With must_be_mounted nothing is done in a folder of the system's own file system."""
    # A path below "/" alone: the temporary folder of the tests may be a mount of its own.
    root = Path("/opskit-test-no-such-medium/copy")
    for act_on in (ACTS[act], LocalStore.create):
        with pytest.raises(NotMounted, match=r"not mounted at /$"):
            act_on(LocalStore(root, must_be_mounted=True))
    assert not root.parent.exists()


@pytest.mark.parametrize("below", ["", "deep/copy"])
def test_mounted_medium_is_recognised_at_or_above_the_folder(tmp_path: Path, below: str) -> None:
    """The mount point may be the folder itself or lie above it; a symlink to it will do."""
    with mounted("tmpfs", tmp_path) as place:
        (tmp_path / "stick").symlink_to(place)
        store = LocalStore(tmp_path / "stick" / below, must_be_mounted=True)
        store.create()
        store.put("one", b"1")
        assert (place / below / "one").read_bytes() == b"1"


@pytest.mark.parametrize("must_be_mounted", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_medium_that_falls_off_during_a_run_stops_it(tmp_path: Path, act: str, must_be_mounted: bool) -> None:
    """When the medium goes, whatever stands under its mount point is neither written to nor read as the copy."""
    with mounted("tmpfs", tmp_path) as lower:
        with mounted("tmpfs", lower) as place:
            store = LocalStore(place / "copy", must_be_mounted=must_be_mounted)
            store.create()
            store.put("packs/ab/one", b"one")
        LocalStore(lower / "mnt-tmpfs" / "copy").create()
        with pytest.raises(NotMounted):
            ACTS[act](store)
        assert _everything(lower / "mnt-tmpfs") == ["copy"]


# ext2 and vfat have no journal: there each folder must have been fsynced for itself.
@pytest.mark.parametrize("kind", ["ext4", "ext2", "xfs", "vfat"])
@pytest.mark.parametrize("ways", range(len(WAYS)))
def test_power_cut_after_a_put_loses_nothing(tmp_path: Path, kind: str, ways: int) -> None:
    """What a put has acknowledged is on the medium, with the folders that lead to it; so is a delete."""
    with mounted(kind, tmp_path) as place:
        store = LocalStore(place / "copy")
        store._ways = WAYS[ways:]
        store.create()
        store.put("packs/aa/gone", b"x")
        for folder in ("aa", "ab"):
            store.put(f"packs/{folder}/object", folder.encode() * 100_000)
        store.put_pieces("packs/ac/object", (b"ac" * 2500 for _ in range(40)))
        store.delete("packs/aa/gone")
        with after_power_cut(kind, tmp_path) as survivor:
            found = LocalStore(survivor / "copy")
            assert [info.name for info in found.list()] == ["packs/aa/object", "packs/ab/object", "packs/ac/object"]
            assert all(found.get(f"packs/{name}/object") == name.encode() * 100_000 for name in ("aa", "ab", "ac"))


class _WithoutFolderSync(LocalStore):
    """A writer that is killed just after it named its object."""

    def _sync_folder(self, folder: int) -> None:
        pass


@pytest.mark.parametrize("kind", ["ext4", "ext2", "xfs"])
def test_taken_name_is_durable_before_it_is_reported(tmp_path: Path, kind: str) -> None:
    """An object named by a run that was killed before its fsync is on the medium once a put says ObjectExists."""
    with mounted(kind, tmp_path) as place:
        LocalStore(place).put("packs/aa/durable", b"x")
        _WithoutFolderSync(place).put("packs/aa/object", b"theirs")
        with pytest.raises(ObjectExists):
            LocalStore(place).put("packs/aa/object", b"ours")
        with after_power_cut(kind, tmp_path) as survivor:
            assert LocalStore(survivor).get("packs/aa/object") == b"theirs"


@pytest.mark.parametrize("ways", range(len(WAYS)))
def test_everything_is_synced_in_an_order_that_survives_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ways: int
) -> None:
    """Bytes before their name, a name that is gone before the one that came, and every folder that leads there."""
    # Journals make up for much of this, and a machine without vfat cannot show it, so the calls are watched.
    acts: list[str] = []
    sync = os.fsync

    def watched_sync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        acts.append("bytes" if path.parent.name == ".tmp" else str(path.relative_to(tmp_path)))
        sync(descriptor)

    def watched_way(unfinished: int, temporary: str, folder: int, leaf: str) -> bool:
        acts.append("name")
        return WAYS[ways](unfinished, temporary, folder, leaf)

    monkeypatch.setattr(os, "fsync", watched_sync)
    for folder in ("packs/aa", "packs/ab"):
        (tmp_path / folder).mkdir(parents=True)
    store = LocalStore(tmp_path)
    store._ways = (watched_way,)
    store.put("packs/aa/one", b"1")
    renamed = [".tmp"] if ways else []
    # The folders were found in place; a killed run may have made them without syncing the one above.
    assert acts == ["bytes", ".", "packs", "name", *renamed, "packs/aa"]
    acts.clear()
    store.put("packs/ab/two", b"2")
    assert acts == ["bytes", "name", *renamed, "packs/ab"]
    acts.clear()
    store.put("packs/ac/three", b"3")
    assert acts == ["bytes", "packs", "name", *renamed, "packs/ac"]
    acts.clear()
    # However early a medium is told to begin, all is fsynced when the last piece was written.
    store.put_pieces("packs/ad/four", (acts.append("piece") or bytes(3 << 20) for _ in range(4)))
    assert acts == [*["piece"] * 4, "bytes", "packs", "name", *renamed, "packs/ad"]
    acts.clear()
    store.delete("packs/ac/three")
    assert acts == ["packs/ac"]


def test_file_system_that_cannot_sync_folders_is_used(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINVAL for the fsync of a folder (CIFS) is no failure; any other error of it is."""
    sync, number = os.fsync, errno.EINVAL

    def refusing_sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing_sync)
    store.put("packs/ab/new", b"new")
    assert store.get("packs/ab/new") == b"new"
    number = errno.EIO
    with pytest.raises(StoreError, match="Input/output error"):
        store.put("packs/ab/newer", b"newer")


# Ways to name a file, and errors of the medium


def _failing(number: int) -> Callable[[int, str, int, str], bool]:
    def way(unfinished: int, temporary: str, folder: int, leaf: str) -> bool:
        raise OSError(number, os.strerror(number))

    return way


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, StoreRefused),
        (errno.EPERM, StoreRefused),
        (errno.EROFS, StoreRefused),
        (errno.EIO, StoreError),
        (errno.ENODEV, StoreError),
    ],
)
def test_error_of_the_medium_has_its_kind(
    tmp_path: Path, store: LocalStore, number: int, kind: type[StoreError]
) -> None:
    """Each errno becomes its kind of StoreError, with place, object, reason and hint, and leaves no file behind."""
    store._ways = (_failing(number),)
    with pytest.raises(StoreError) as caught:
        store.put("packs/ab/new", b"x")
    assert type(caught.value) is kind
    assert str(caught.value) == f"{tmp_path}/copy: cannot write packs/ab/new: {os.strerror(number)}"
    assert caught.value.hint
    assert _everything(tmp_path / "copy") == [".tmp", "packs", "packs/ab", "packs/ab/one"]


@pytest.mark.parametrize(
    ("way", "number"),
    [("link", number) for number in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)]
    + [("rename", number) for number in (errno.EINVAL, errno.ENOSYS)],
)
def test_operation_a_file_system_lacks_is_replaced_and_not_asked_for_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, way: str, number: int
) -> None:
    """Where link, or renameat2 too, is answered with "no such thing", the next way is used from then on."""
    asked: list[str] = []

    def no_link(*_: object, **__: object) -> None:
        asked.append("link")
        raise OSError(number if way == "link" else errno.EPERM, "no links")

    def no_exclusive_rename(*_: object) -> int:
        asked.append("rename")
        return number

    monkeypatch.setattr(os, "link", no_link)
    if way == "rename":
        monkeypatch.setattr(publish, "_rename_noreplace", no_exclusive_rename)
    store.put("packs/ab/new", b"new")
    store.put("packs/ab/newer", b"newer")
    assert asked == (["link"] if way == "link" else ["link", "rename"])
    assert [store.get(info.name) for info in store.list()] == [b"new", b"newer", b"one"]


@pytest.mark.parametrize("ways", range(len(WAYS)))
def test_every_way_refuses_a_name_taken_meanwhile(tmp_path: Path, store: LocalStore, ways: int) -> None:
    """A name that was free at first and is taken when the bytes are written is not replaced."""

    def late(unfinished: int, temporary: str, folder: int, leaf: str) -> bool:
        (tmp_path / "copy" / "packs" / "ab" / leaf).write_bytes(b"theirs")
        return WAYS[ways](unfinished, temporary, folder, leaf)

    store._ways = (late,)
    with pytest.raises(ObjectExists, match="packs/ab/new"):
        store.put("packs/ab/new", b"ours")
    assert store.get("packs/ab/new") == b"theirs"
    assert _everything(tmp_path / "copy" / ".tmp") == []


# Sweeping


def test_sweeps_old_unfinished_puts_only(tmp_path: Path, store: LocalStore) -> None:
    """Files of the hidden folder go once they are old enough; young ones and every object stay."""
    hidden = tmp_path / "copy" / ".tmp"
    for name, modified in (("old", 1_000), ("young", 1_050)):
        (hidden / name).write_bytes(b"x")
        os.utime(hidden / name, (modified, modified))
    assert store.sweep(now=1_100, older_than=60, dry_run=True) == (1, 1) and len(_everything(hidden)) == 2
    assert store.sweep(now=1_100, older_than=60) == (1, 1)
    assert _everything(hidden) == ["young"]
    assert [info.name for info in store.list()] == ["packs/ab/one"]


def test_sweeping_a_store_never_written_to_does_nothing(tmp_path: Path) -> None:
    """Without a hidden folder there is nothing to sweep, and none is made."""
    assert LocalStore(tmp_path).sweep(now=0, older_than=0) == (0, 0)
    assert _everything(tmp_path) == []

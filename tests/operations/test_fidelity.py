"""What a file system can hold comes back as it was, from a first backup and from an unchanged second one."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opskit.operations.outcome import Result
from opskit.repository.chunker import MAX_CHUNK, MIN_CHUNK
from opskit.repository.pack import PACK_BYTES
from opskit.sources.files import FileSource
from tests.operations.judging import assert_equal, differences, found, is_root, lab_in, restored, run
from tests.repositories import Keys, noise, picture, restored_below

ODD_NAMES = [b"latin-\xe9", b"\xff", b"new\nline", b"\x01\x1b[31m", b" ", b"-n", b"a\\b", b"*", b"n" * 255]
BORDERS = [0, 1, MIN_CHUNK - 1, MIN_CHUNK, MIN_CHUNK + 1, MAX_CHUNK, PACK_BYTES - 1, PACK_BYTES, PACK_BYTES + 1]
SECOND = 10**9


@dataclass(frozen=True)
class Trip:
    """The original, and what the first and the second (unchanged) backup of it restore to."""

    original: Path
    restored: dict[str, Path]
    results: dict[str, Result]
    unchanged: int


def fill(root: Path) -> None:
    (root / "odd").mkdir()
    for number, name in enumerate(ODD_NAMES):
        Path(os.fsdecode(os.fsencode(root / "odd") + b"/" + name)).write_bytes(b"%d" % number)
    (root / "borders").mkdir()
    content = noise(1, max(BORDERS))
    for size in BORDERS:
        (root / "borders" / str(size)).write_bytes(content[:size])
    (root / "one").write_bytes(b"one inode, three names")
    (root / "deep").joinpath(*["d" * 120] * 20).mkdir(parents=True)
    (root / "empty folder").mkdir(0o711)
    for place in ("two", "deep/three"):
        os.link(root / "one", root / place)
    os.symlink("nowhere", root / "link")
    os.link(root / "link", root / "second name of the link", follow_symlinks=False)
    os.symlink(b"\xff/" + b"long/" * 500, os.fsencode(root / "long link"))
    os.mkfifo(root / "fifo", 0o623)
    with (root / "sparse").open("wb") as file:
        for offset in (1_000_000, 5_000_000, 5_100_000):
            file.seek(offset)
            file.write(noise(offset, 10_000))
        file.truncate(9_000_000)
    with (root / "all hole").open("wb") as file:
        file.truncate(150_000_000)
    (root / "setuid").write_bytes(b"#!")
    (root / "setuid").chmod(0o6755)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o3777)
    (root / "closed").write_bytes(b"nobody may read this")
    (root / "closed").chmod(0)
    times = {
        "old": -7 * SECOND - 1,
        "zero": 0,
        "fine": 1_700_000_000 * SECOND + 1,
        "far": 2**33 * SECOND,
        "farther": 10**10 * SECOND,
    }
    for name, when in times.items():
        (root / name).touch()
        os.utime(root / name, ns=(0, when))
    os.utime(root / "link", ns=(5, 1_234_567_891), follow_symlinks=False)
    (root / "attributes").write_bytes(b"")
    os.setxattr(root / "attributes", "user.empty", b"")
    os.setxattr(root / "attributes", "user.bytes", bytes(range(256)))
    os.setxattr(root / "empty folder", "user.on a folder", b"yes")
    os.utime(root / "sticky", ns=(0, 42))


@pytest.fixture(scope="module")
def trip(throwaway_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trip]:
    """Fill, back up and restore; then back up again, unchanged, and restore that."""
    folder = tmp_path_factory.mktemp("trip")
    root = folder / "source"
    root.mkdir()
    fill(root)
    if is_root():
        _fill_as_root(root)
    lab = lab_in(throwaway_keys, folder)
    places, results = {}, {}
    for which in ("first", "second"):
        results[which] = run(lab, FileSource([root]))
        assert restored(lab, results[which], folder / which).problems == []
        places[which] = restored_below(folder / which, root)
    yield Trip(root, places, results, results["second"].unchanged)
    shutil.rmtree(folder)


def _fill_as_root(root: Path) -> None:
    os.mknod(root / "char", stat.S_IFCHR | 0o640, os.makedev(5, 4095))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    for name, owner in {"theirs": (1234, 5678), "large": (4_000_000_000, 4_000_000_001)}.items():
        (root / name).touch()
        os.chown(root / name, *owner)
    os.chown(root / "link", 77, 78, follow_symlinks=False)
    os.setxattr(root / "link", "trusted.of a link", b"1", follow_symlinks=False)
    shutil.copy("/bin/true", root / "capable")
    for command in (
        ["setcap", "cap_net_raw+ep", str(root / "capable")],
        ["setfacl", "-m", "u:1234:rwx,g:77:r", str(root / "attributes")],
        ["setfacl", "-d", "-m", "u:1234:rwx", str(root / "empty folder")],
    ):
        if shutil.which(command[0]):
            subprocess.run(command, check=True)


both = pytest.mark.parametrize("which", ["first", "second"])


@both
def test_rsync_finds_no_difference(trip: Trip, which: str) -> None:
    """The outside judge: contents, types, links, owners, modes, times, attributes, ACLs, devices, and space taken."""
    assert_equal(trip.original, trip.restored[which])


@both
def test_pictures_are_equal(trip: Trip, which: str) -> None:
    """The same by the system's own answers, to the nanosecond and with trusted and security attributes."""
    (trip.original / "all hole").unlink(missing_ok=True)
    (trip.restored[which] / "all hole").unlink(missing_ok=True)  # hashing zeros proves nothing
    for root in (trip.original, trip.restored[which]):
        os.utime(root, ns=(0, 0))
    assert picture(trip.restored[which]) == picture(trip.original)


def test_the_second_was_not_read(trip: Trip) -> None:
    """The second snapshot came from the last tree, all but the parents of the source, and stored nothing but a root."""
    assert trip.results["second"].unchanged >= trip.results["second"].files
    assert trip.results["second"].new_bytes == 0


@both
def test_hard_links_are_one_inode(trip: Trip, which: str) -> None:
    """Names of one inode are names of one inode again, symbolic links too."""
    root = trip.restored[which]
    assert len({(root / name).stat().st_ino for name in ("one", "two", "deep/three")}) == 1
    assert (root / "one").stat().st_nlink == 3
    assert (root / "link").lstat().st_ino == (root / "second name of the link").lstat().st_ino


@both
def test_holes_stay_holes(trip: Trip, which: str) -> None:
    """A sparse file has its data where it was, and takes no more space."""
    root = trip.restored[which]
    assert (root / "sparse").stat().st_blocks <= (trip.original / "sparse").stat().st_blocks + 8
    assert (root / "sparse").read_bytes() == (trip.original / "sparse").read_bytes()


@pytest.mark.skipif(not is_root(), reason="only root may set capabilities and ACLs for others")
@both
def test_capabilities_and_acls(trip: Trip, which: str) -> None:
    """What getcap and getfacl say is what was set."""
    for command in (["getcap", "-n"], ["getfacl", "-cpn"]):
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        for name in ("capable", "attributes", "empty folder"):
            said = [
                subprocess.run([*command, name], cwd=root, capture_output=True, check=True).stdout
                for root in (trip.original, trip.restored[which])
            ]
            assert said[0] == said[1]


def test_a_socket_is_noted(throwaway_keys: Keys, tmp_path: Path) -> None:
    """A socket is no error, stands in the tree, and is left out by a restore; what lies beside it comes back."""
    root = tmp_path / "s"
    root.mkdir()
    (root / "beside").write_bytes(b"b")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(root, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/sock")  # the path may be too long for a socket
        os.close(folder)
        lab = lab_in(throwaway_keys, tmp_path)
        result = run(lab, FileSource([root]))
    reader = lab.reader(found(lab, result))
    kinds = {node.path.rpartition(b"/")[2]: node.type for node in reader.nodes(reader.root())}
    assert kinds[b"sock"] == "socket"
    assert not result.errors and not restored(lab, result, tmp_path / "r").problems
    assert "sock" in differences(root, restored_below(tmp_path / "r", root))
    assert os.listdir(restored_below(tmp_path / "r", root)) == ["beside"]


def test_several_paths_and_a_single_file(throwaway_keys: Keys, tmp_path: Path) -> None:
    """A source of several folders and one file is recreated, each at its full path below the target."""
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "single").write_text("s")
    paths = [tmp_path / "a" / "b", tmp_path / "c", tmp_path / "single"]
    lab = lab_in(throwaway_keys, tmp_path)
    assert not restored(lab, run(lab, FileSource(paths)), tmp_path / "r").problems
    for path in paths:
        assert differences(path, restored_below(tmp_path / "r", path)) == ""

"""Reading entries: every kind of file, attributes, owners, holes; and files that change or may not be read."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.sources.base import OpenFile, OwnerNames, Problem, data_regions, printable, problem_of
from opskit.sources.files import FileSource
from tests.sources.walking import (
    IS_ROOT,
    content,
    entry_of,
    make,
    needs_program,
    needs_root,
    ordinary_user,
    walk,
)
from tests.stores.mounts import mounted


def opened_file(source: FileSource, path: Path) -> OpenFile:
    """The content of one path, which must be readable."""
    opened = source.open(entry_of(source, path))
    assert not isinstance(opened, Problem), opened
    return opened


def test_content_is_read_whole(tmp_path: Path) -> None:
    """Empty, small and larger files give exactly their bytes."""
    for name, data in (("empty", b""), ("small", b"x"), ("large", os.urandom(300_000))):
        (tmp_path / name).write_bytes(data)
        source = FileSource([tmp_path])
        assert content(source.open(entry_of(source, tmp_path / name)), 4096) == data
        source.close()


def test_every_kind_of_file_is_told_apart(tmp_path: Path) -> None:
    """Files, folders, links, FIFOs and sockets are entries of their kind, with attributes that can be read."""
    make(tmp_path, "dir/", "file")
    (tmp_path / "link").symlink_to("some\nwhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        source = FileSource([tmp_path])
        entries, problems = walk(source)
        kinds = {os.fsdecode(entry.path.rpartition(b"/")[2]): entry.kind for entry in entries[1:]}
        details = {entry.kind: source.metadata(entry) for entry in entries[1:]}
        source.close()
    assert kinds == {"dir": "dir", "file": "file", "link": "symlink", "fifo": "fifo", "socket": "socket"}
    assert problems == [] and {detail.problem for detail in details.values()} == {None}
    assert details["symlink"].target == b"some\nwhere" and details["file"].target == b""


@needs_root
def test_devices_keep_their_numbers(tmp_path: Path) -> None:
    """Character and block devices are recorded with their numbers, without being opened."""
    os.mknod(tmp_path / "char", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(tmp_path / "block", 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    entries, _ = walk(FileSource([tmp_path]))
    assert [(entry.kind, entry.stat.st_rdev) for entry in entries[1:]] == [
        ("block", os.makedev(7, 200)),
        ("char", os.makedev(1, 3)),
    ]


def test_hard_links_share_their_inode(tmp_path: Path) -> None:
    """Every name of a file shows the same device and inode and the count of names."""
    make(tmp_path, "a")
    os.link(tmp_path / "a", tmp_path / "b")
    entries, _ = walk(FileSource([tmp_path]))
    assert len({(entry.stat.st_dev, entry.stat.st_ino) for entry in entries[1:]}) == 1
    assert [entry.stat.st_nlink for entry in entries[1:]] == [2, 2]


def set_xattr(path: Path, name: str, value: bytes) -> None:
    """Set an attribute, or skip by name where the file system has none."""
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip(f"{path}: this file system has no {name.partition('.')[0]}.* attributes")


def test_extended_attributes_are_read(tmp_path: Path) -> None:
    """Attributes of files and folders come with any bytes, with and without an open file."""
    make(tmp_path, "dir/", "file", "plain")
    for name in ("dir", "file"):
        set_xattr(tmp_path / name, "user.binary", b"\x00\xff\n")
        set_xattr(tmp_path / name, "user.empty", b"")
    expected = {b"user.binary": b"\x00\xff\n", b"user.empty": b""}
    source = FileSource([tmp_path])
    opened = opened_file(source, tmp_path / "file")
    ours = {name: _ours(source, tmp_path / name) for name in ("dir", "file", "plain")}
    assert ours == {"dir": expected, "file": expected, "plain": {}}
    assert _ours(source, tmp_path / "file", opened) == expected
    opened.close()
    source.close()


def _ours(source: FileSource, path: Path, opened: OpenFile | None = None) -> dict[bytes, bytes]:
    """Attributes but those a security module of this machine may add."""
    found = source.metadata(entry_of(source, path), opened)
    assert found.problem is None
    return {name: value for name, value in found.xattrs.items() if name != b"security.selinux"}


@needs_root
def test_attributes_of_links_are_their_own(tmp_path: Path) -> None:
    """An attribute on a link is read, that of its target is not."""
    make(tmp_path, "file")
    (tmp_path / "link").symlink_to("file")
    set_xattr(tmp_path / "file", "user.a", b"1")
    set_xattr(tmp_path / "link", "trusted.link", b"2")
    source = FileSource([tmp_path])
    assert _ours(source, tmp_path / "link") == {b"trusted.link": b"2"}
    source.close()


@needs_program("setfacl")
def test_acls_are_attributes(tmp_path: Path) -> None:
    """Access and default ACLs are among the attributes."""
    make(tmp_path, "dir/", "file")
    answer = subprocess.run(["setfacl", "-m", "u:12345:r", str(tmp_path / "file")], capture_output=True, check=False)
    if answer.returncode:
        pytest.skip(f"setfacl: {answer.stderr.decode().strip()}")
    subprocess.run(["setfacl", "-d", "-m", "g:12345:rx", str(tmp_path / "dir")], check=True)
    source = FileSource([tmp_path])
    assert list(_ours(source, tmp_path / "file")) == [b"system.posix_acl_access"]
    assert list(_ours(source, tmp_path / "dir")) == [b"system.posix_acl_default"]
    source.close()


@needs_root
@needs_program("setcap")
def test_capabilities_are_attributes(tmp_path: Path) -> None:
    """File capabilities are among the attributes."""
    make(tmp_path, "file")
    answer = subprocess.run(["setcap", "cap_net_raw+ep", str(tmp_path / "file")], capture_output=True, check=False)
    if answer.returncode:
        pytest.skip(f"setcap: {answer.stderr.decode().strip()}")
    source = FileSource([tmp_path])
    assert list(_ours(source, tmp_path / "file")) == [b"security.capability"]
    source.close()


@contextmanager
def place_without_xattrs(folder: Path) -> Iterator[Path]:
    """A folder on a file system that has no attributes; skips by name where this machine has none."""
    for path in ("/sys/kernel/debug", "/sys/fs/bpf"):
        try:
            os.listxattr(path)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                yield Path(path)
                return
    if not IS_ROOT:
        pytest.skip("no file system without extended attributes here, and mounting one needs root")
    with mounted("vfat", folder) as place:
        yield place


def test_a_file_system_without_attributes_is_no_problem(tmp_path: Path) -> None:
    """Where attributes are not supported at all the answer is empty, and no Problem."""
    with place_without_xattrs(tmp_path) as place:
        source = FileSource([place])
        entry = entry_of(source, place)
        found = [source.metadata(entry), source.metadata(entry)]
        source.close()
    assert all(each.xattrs == {} and each.problem is None for each in found)


def test_owners_have_names(tmp_path: Path) -> None:
    """The names of owner and group are those of the system; unknown numbers have none."""
    source = FileSource([make(tmp_path, "file")])
    found = source.metadata(entry_of(source, tmp_path / "file"))
    source.close()
    by_id = subprocess.run(["stat", "-c", "%U %G", str(tmp_path / "file")], capture_output=True, check=True, text=True)
    assert f"{found.user} {found.group}" == by_id.stdout.strip()
    assert (OwnerNames().user(3_999_999_999), OwnerNames().group(3_999_999_999)) == ("", "")


@given(pieces=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=6), tail=st.integers(0, 20))
def test_data_regions_hold_all_data(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int]], tail: int
) -> None:
    """Regions are ordered, within the file, and everything outside them reads as zeros."""
    path = tmp_path_factory.mktemp("sparse") / "file"
    with path.open("wb") as file:
        for hole, data in pieces:
            file.seek(hole * 4096, os.SEEK_CUR)
            file.write(b"x" * (data * 1000))
        file.truncate(file.tell() + tail * 4096)
    whole = path.read_bytes()
    with path.open("rb") as file:
        regions = data_regions(file.fileno(), len(whole))
    rebuilt = bytearray(len(whole))
    ends = 0
    for offset, length in regions:
        assert offset >= ends and length > 0
        ends = offset + length
        rebuilt[offset:ends] = whole[offset:ends]
    assert ends <= len(whole) and bytes(rebuilt) == whole


def test_holes_are_seen(tmp_path: Path) -> None:
    """A file that is almost all hole is not one region, and one that is all hole has none."""
    for name, size, data in (("all", 1 << 20, b""), ("some", 1 << 20, b"x" * 4096)):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(size // 2)
            file.write(data)
        with path.open("rb") as file:
            regions = data_regions(file.fileno(), size)
        if regions == [(0, size)]:
            pytest.skip(f"{path}: this file system does not tell where holes are")
        assert sum(length for _, length in regions) <= 65536
        assert bool(regions) == bool(data)
        with path.open("rb") as file:
            assert data_regions(file.fileno(), 4096) == []  # the data lies beyond what was asked for


@pytest.mark.parametrize("replacement", ["link", "link to itself", "fifo", "folder", "file", "nothing", "socket"])
def test_only_the_file_that_was_seen_is_opened(tmp_path: Path, replacement: str) -> None:
    """A file replaced after the walk saw it is a Problem: never followed, never blocking, never another's content."""
    path, secret = make(tmp_path, "file", "secret") / "file", tmp_path / "secret"
    source = FileSource([tmp_path])
    entry = entry_of(source, path)
    path.rename(tmp_path / "away")
    if replacement == "link":
        path.symlink_to(secret)
    elif replacement == "link to itself":  # the inode is the right one, and still it is a link
        path.symlink_to(tmp_path / "away")
    elif replacement == "fifo":
        os.mkfifo(path)
    elif replacement == "folder":
        path.mkdir()
    elif replacement == "file":
        path.write_text("another")
    elif replacement == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    answer = source.open(entry)
    assert isinstance(answer, Problem)
    assert answer.kind == ("vanished" if replacement == "nothing" else "changed")
    source.close()


def test_a_folder_swapped_for_a_link_does_not_lead_elsewhere(tmp_path: Path) -> None:
    """Opening or describing an entry whose folder became a link fails, also where the link leads to the same file."""
    root = make(tmp_path / "root", "a/file")
    (root / "a/link").symlink_to("x")
    source = FileSource([root])
    entries = [entry_of(source, root / "a/file"), entry_of(source, root / "a/link")]
    (root / "a").rename(tmp_path / "away")
    (root / "a").symlink_to(tmp_path / "away")
    answer = source.open(entries[0])
    assert isinstance(answer, Problem) and answer.kind == "changed"
    for entry in entries:
        problem = source.metadata(entry).problem
        assert problem is not None and problem.kind == "changed"
    source.close()


def test_metadata_of_what_vanished_says_so(tmp_path: Path) -> None:
    """The Problem of an entry that is gone has the kind "vanished"."""
    make(tmp_path, "d/")
    (tmp_path / "link").symlink_to("x")
    source = FileSource([tmp_path])
    entries = [entry_of(source, tmp_path / "d"), entry_of(source, tmp_path / "link")]
    (tmp_path / "d").rmdir()
    (tmp_path / "link").unlink()
    for entry in entries:
        problem = source.metadata(entry).problem
        assert problem is not None and problem.kind == "vanished"
    source.close()


def test_an_unreadable_file_is_a_problem() -> None:
    """A file this user may not read gives a Problem that says why; its owner and link target are still there."""
    with ordinary_user() as root:
        make(root, "closed", "open")
        (root / "closed").chmod(0)
        source = FileSource([root])
        entry = entry_of(source, root / "closed")
        answer = source.open(entry)
        assert isinstance(answer, Problem) and answer.kind == "unreadable" and "permission denied" in answer.message
        assert source.metadata(entry).user != "root"
        assert content(source.open(entry_of(source, root / "open"))) == b"open"
        source.close()


@pytest.mark.skipif(not IS_ROOT, reason="needs root: a readable file of another user")
def test_files_of_others_are_read_without_noatime() -> None:
    """O_NOATIME is refused on files of others; they are read all the same, and so is the next file."""
    with ordinary_user() as root:
        make(root, "a", "b")
        os.seteuid(0)
        os.chown(root / "a", 0, 0)
        os.seteuid(65534)
        source = FileSource([root])
        for name in ("a", "b", "a"):
            assert content(source.open(entry_of(source, root / name))) == name.encode()
        source.close()


def test_reading_leaves_the_access_time(tmp_path: Path) -> None:
    """A backup of one's own files does not touch their access times."""
    path = make(tmp_path, "file") / "file"
    os.utime(path, ns=(1_000_000_000, path.stat().st_mtime_ns))
    source = FileSource([tmp_path])
    content(source.open(entry_of(source, path)))
    source.close()
    assert path.stat().st_atime_ns == 1_000_000_000


def test_a_leased_file_is_waited_for(tmp_path: Path) -> None:
    """A file under a lease, as Samba takes them, is read once its holder lets go."""
    path = make(tmp_path, "file") / "file"
    source = FileSource([tmp_path])
    entry = entry_of(source, path)
    holder = os.open(path, os.O_RDWR)
    before = signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK))
    try:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert content(source.open(entry)) == b"file"
    finally:
        os.close(holder)
        signal.signal(signal.SIGIO, before)
        source.close()


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    """Several threads opening entries of different folders at once each get the right content."""
    make(tmp_path, *[f"{folder}/{name}" for folder in range(8) for name in range(20)])
    source = FileSource([tmp_path])
    files = [entry for entry in walk(source)[0] if entry.kind == "file"]
    wrong: list[bytes] = []

    def read(step: int) -> None:
        for entry in files[::step]:
            if not entry.path.endswith(b"/" + content(source.open(entry))):
                wrong.append(entry.path)

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 3, 7, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.close()
    assert wrong == []


def test_paths_and_errors_are_printable() -> None:
    """What people see of a path has no control characters, and a Problem says what the system said."""
    assert printable(b"srv/a\nb\xff\x1b[0m\xc3\xa9") == "/srv/a\\nb\\xff\\x1b[0mé"
    assert problem_of(b"a", OSError(errno.EIO, "Input/output error")) == Problem(
        b"a", "input/output error", "unreadable"
    )

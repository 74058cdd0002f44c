"""One repository with everything a file system can hold, made once; tests that damage it take a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.recovery.lab import Lab


class Made(NamedTuple):
    """A laboratory, the folder that was backed up, and its snapshot."""

    lab: Lab
    source: Path
    snapshot: str


def populate(source: Path) -> None:
    """A small tree with every kind of entry that this user can make."""
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "small.txt").write_text("small\n")
    (source / "same.txt").write_text("small\n")
    (source / "empty").write_bytes(b"")
    (source / "large").write_bytes(b"".join(b"%d squared is %d\n" % (n, n * n) for n in range(150_000)))
    os.link(source / "small.txt", source / "sub" / "linked")
    os.symlink("../large", source / "sub" / "pointer")
    os.symlink(b"\xff dangling", source / "sub" / "dangling")
    os.mkfifo(source / "pipe", 0o640)
    with open(source / "sparse", "wb") as file:
        file.truncate(40 << 20)
        for offset in (5 << 20, 21 << 20):
            os.pwrite(file.fileno(), b"".join(b"%d of %d\n" % (n, offset) for n in range(40_000)), offset)
    for name in (b"not \xff utf-8", b"new\nline", b"-rf", b"tab\t\x1b[31m"):
        (source / "sub" / os.fsdecode(name)).write_bytes(name)
    os.setxattr(source / "small.txt", "user.note", b"\x00binary")
    os.chmod(source / "sub" / "deep", 0o555)
    os.chmod(source / "same.txt", 0o4750)
    if os.geteuid() == 0:
        os.mknod(source / "zero", 0o20600, os.makedev(1, 5))
        os.chown(source / "same.txt", 12345, 54321)
        os.chmod(source / "same.txt", 0o4750)
        os.lchown(source / "sub" / "pointer", 77, 78)
    if shutil.which("setfacl"):
        subprocess.run(["setfacl", "-m", "u:12:rx,d:u:13:r", source / "sub"], check=False)
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number), follow_symlinks=False)


@pytest.fixture(scope="session")
def keys() -> Iterator[Path]:
    """Room for key rings with a path short enough for gpg."""
    folder = Path(tempfile.mkdtemp(prefix="ok-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Made]:
    """The shared repository: read it, do not change it."""
    folder = tmp_path_factory.mktemp("recovery")
    source = folder / "source"
    source.mkdir()
    populate(source)
    lab = Lab(folder, keys / "made")
    yield Made(lab, source, lab.back_up({"data": source})[0])
    lab.close()


@pytest.fixture
def lab(tmp_path: Path, keys: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty repository of this test's own."""
    made = Lab(tmp_path, keys / f"own-{abs(hash(request.node.name)) % 10**8}")
    yield made
    made.close()

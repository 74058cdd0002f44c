"""Crafted snapshots: a restore writes nothing outside its target, and fails in no other way than opskit's own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from opskit import encoding
from opskit.errors import OpskitError
from opskit.operations.restore import Overwrite, Restored, RestoreOptions, restore
from opskit.repository.reader import SnapshotReader
from tests.faults.crafting import Crafted, bomb, compressed, in_tar, tar_of, write
from tests.repositories import Keys, Lab, memory_store, picture

CONTENT = b"content of a chunk\n" * 9
ID = sha256(CONTENT).digest()
HALF_GIBIBYTE = 512 * 1024  # in KiB, as ru_maxrss counts


def entry(kind: str, path: str, **fields: Any) -> dict[str, Any]:
    """A tree entry as JSON; a file holds CONTENT unless told otherwise."""
    value: dict[str, Any] = {"type": kind, "path": path, "mode": 0o755, "uid": os.getuid(), "gid": os.getgid()}
    if kind == "file":
        value |= {"size": len(CONTENT), "chunks": [[ID.hex(), len(CONTENT)]], "mtime": 10**18}
    return value | fields


def crafted(*entries: dict[str, Any]) -> Crafted:
    return Crafted(b"".join(json.dumps(each).encode() + b"\n" for each in entries), {ID: CONTENT})


HUGE = 2**62
UP = "../outside/"
TREES = {
    "parent": crafted(entry("file", "../outside/new")),
    "parent in the middle": crafted(entry("dir", "d"), entry("file", "d/../../outside/new")),
    "parent at the end": crafted(entry("dir", "d/..")),
    "absolute": crafted(entry("file", "/tmp/opskit-crafted")),
    "empty path": crafted(entry("dir", "")),
    "empty component": crafted(entry("file", "d//new")),
    "dot": crafted(entry("file", "./new")),
    "NUL": crafted(entry("file", "d\0new")),
    "path in base64": crafted({**entry("file", ""), "path": None, "path64": "Li4vb3V0c2lkZS9uZXc="}),
    "path of another type": crafted({**entry("file", ""), "path": ["..", "outside"]}),
    "no path": crafted({"type": "file"}),
    "very long name": crafted(entry("file", "n" * 5000)),
    "very deep path": crafted(entry("file", "/".join(["d" * 40] * 120))),
    "file below a symlink": crafted(entry("symlink", "s", target="../outside"), entry("file", "s/new")),
    "file below an absolute symlink": crafted(entry("symlink", "s", target="/tmp"), entry("file", "s/opskit-crafted")),
    "folder over a symlink": crafted(entry("symlink", "s", target="../outside"), entry("dir", "s", mode=0)),
    "file over a symlink": crafted(entry("symlink", "s", target="../outside/new"), entry("file", "s")),
    "long file over a symlink": crafted(
        entry("symlink", "s", target="../outside/canary"), entry("file", "s", size=99_999, holes=[[171, 99_828]])
    ),
    "FIFO over a symlink": crafted(entry("symlink", "s", target="../outside/new"), entry("fifo", "s")),
    "symlink over a folder": crafted(
        entry("dir", "d"), entry("file", "d/a"), entry("symlink", "d", target="../outside"), entry("file", "d/b")
    ),
    "hard link to what a symlink shows": crafted(
        entry("symlink", "s", target="../outside/canary", hardlink="x"), entry("file", "t", hardlink="x")
    ),
    "hard link through a symlink": crafted(
        entry("symlink", "s", target="../outside"),
        entry("file", "s/canary", hardlink="x"),
        entry("file", "t", hardlink="x"),
    ),
    "hard link outside": crafted(entry("file", "../outside/canary", hardlink="x"), entry("file", "t", hardlink="x")),
    "hard link to a folder": crafted(entry("dir", "d", hardlink="x"), entry("file", "t", hardlink="x")),
    "duplicates": crafted(entry("file", "f"), entry("file", "f"), entry("dir", "f"), entry("file", "f", chunks=[])),
    "duplicate long files": crafted(*[entry("file", "f", size=999, holes=[[171, 828]])] * 2),
    "file and folder": crafted(entry("file", "f"), entry("file", "f/g"), entry("dir", "f")),
    "unsorted": crafted(entry("file", "z"), entry("file", "a/b/c"), entry("dir", "a"), entry("file", "a/a")),
    "symlink without target": crafted(entry("symlink", "s")),
    "empty symlink": crafted(entry("symlink", "s", target="")),
    "symlink with NUL": crafted(entry("symlink", "s", target="a\0b")),
    "device without numbers": crafted(entry("char", "c")),
    "device of huge numbers": crafted(entry("block", "b", device=[HUGE, HUGE])),
    "huge owner": crafted(entry("file", "f", uid=HUGE, gid=-5), entry("dir", "d", uid=2**32, gid=2**31)),
    "huge times": crafted(
        entry("file", "f", mtime=2**80), entry("dir", "d", mtime=-(2**80)), entry("fifo", "p", mtime=2**80)
    ),
    "odd mode": crafted(entry("file", "f", mode=-1), entry("dir", "d", mode=HUGE)),
    "attributes": crafted(
        entry("file", "f", xattrs=[["", ""], ["dXNlci4A", "AA=="], ["c2VjdXJpdHkuY2FwYWJpbGl0eQ==", "AAAA"]])
    ),
    "attributes of another type": crafted(entry("file", "f", xattrs={"a": 1})),
    "size below the content": crafted(entry("file", "f", size=1)),
    "size above the content": crafted(entry("file", "f", size=10**6)),
    "negative size": crafted(entry("file", "f", size=-1)),
    "huge size": crafted(entry("file", "f", size=HUGE, holes=[[171, HUGE - 171]])),
    "larger than any number": crafted(entry("file", "f", size=2**63, holes=[[171, 2**63 - 171]])),
    "size that is no number": crafted(entry("file", "f", size="many")),
    "size that is a fraction": crafted(entry("file", "f", size=1.5)),
    "holes overlap": crafted(entry("file", "f", size=2000, holes=[[0, 1000], [500, 1000], [100, 1800]])),
    "holes beyond the end": crafted(entry("file", "f", size=200, holes=[[10**12, 10**12]])),
    "hole at a huge offset": crafted(entry("file", "f", size=200, holes=[[0, HUGE]])),
    "hole past all numbers": crafted(entry("file", "f", size=200, holes=[[0, 2**63]])),
    "negative hole": crafted(entry("file", "f", holes=[[-5, 3]])),
    "chunk length lies": crafted(entry("file", "f", size=5, chunks=[[ID.hex(), 5]])),
    "chunk of no length": crafted(entry("file", "f", chunks=[[ID.hex(), 0], [ID.hex(), len(CONTENT)]])),
    "chunk that is nowhere": crafted(entry("file", "f", chunks=[["ab" * 32, 5]])),
    "chunk id too short": crafted(entry("file", "f", chunks=[["ab", 5]])),
    "chunks of another type": crafted(entry("file", "f", chunks=5)),
    "continues nothing": crafted({"type": "more", "path": "f", "chunks": []}),
    "continues another": crafted(entry("file", "f"), {"type": "more", "path": "g", "chunks": []}),
    "continues a folder": crafted(
        entry("dir", "f"), {"type": "more", "path": "f", "chunks": [[ID.hex(), len(CONTENT)]]}
    ),
    "unknown type": crafted(entry("door", "f")),
    "not an object": Crafted(b"[]\n", {ID: CONTENT}),
    "not JSON": Crafted(b"\xff\xfe{", {ID: CONTENT}),
    "nested for ever": Crafted(b'{"a":' * 100_000, {ID: CONTENT}),
    "temporary name": crafted(
        entry("file", ".opskit-restore-"), entry("symlink", ".opskit-restore-1-f", target="../outside/canary")
    ),
}

ONE_FILE = crafted(entry("file", "f")).lines
TWO_PIECES = crafted(entry("file", "f", size=2 * len(CONTENT), chunks=[[ID.hex(), len(CONTENT)]] * 2)).lines


def member(size: bytes, name: bytes = ID.hex().encode()) -> Crafted:
    """A pack whose only member has a header that says this."""
    return Crafted(ONE_FILE, {}, packed=compressed(in_tar(name, size, CONTENT)))


def root(chunk: dict[str, Any], *packs: str) -> Crafted:
    """A root of one tree chunk."""
    value = {"chunks": [chunk], "packs": list(packs), "problems": [], "config": "", "keys": ""}
    return Crafted(ONE_FILE, {ID: CONTENT}, root=encoding.encode(value))


PACKS = {
    "content of another id": Crafted(ONE_FILE, {ID: b"x" * len(CONTENT)}),
    "content of another id in a long file": Crafted(TWO_PIECES, {ID: b"x" * len(CONTENT)}),
    "content too short": Crafted(ONE_FILE, {ID: CONTENT[:-1]}),
    "no members": Crafted(ONE_FILE, {}),
    "index tells of chunks that are not there": Crafted(ONE_FILE, {}, described=[ID, bytes(32)]),
    "index forgets": Crafted(ONE_FILE, {ID: CONTENT}, described=[]),
    "not zstd": Crafted(ONE_FILE, {}, packed=b"no frame at all, but long enough to be one"),
    "empty": Crafted(ONE_FILE, {}, packed=b""),
    "half a frame": Crafted(ONE_FILE, {}, packed=compressed(tar_of({ID: CONTENT}))[:-9]),
    "two frames": Crafted(ONE_FILE, {}, packed=compressed(tar_of({ID: CONTENT})) * 2),
    "not tar": Crafted(ONE_FILE, {}, packed=compressed(b"\x80" * 2048)),
    "member longer than the pack": member(b"77777777777"),
    "member of negative length": member(b"-0000000777"),
    "member of binary length": member(b"\x80" + b"\xff" * 11),
    "member of no length": member(b""),
    "member named as a path": member(b"00000000005", b"../../outside/new".ljust(64, b"x")),
    "bomb that says so": Crafted(ONE_FILE, {}, packed=bomb(32768 * 128 * 1024)),
    "bomb that says nothing": Crafted(ONE_FILE, {}, packed=bomb(None)),
    "bomb that lies": Crafted(ONE_FILE, {}, packed=bomb(1024)),
    "bomb within the limit, and less": Crafted(ONE_FILE, {}, packed=bomb(2**27, blocks=1)),
    "root of nonsense": Crafted(ONE_FILE, {ID: CONTENT}, root=b'{"chunks":5}'),
    "root of negative lengths": root({"id": "0" * 64, "length": -1, "first": ""}),
    "root into other packs": root({"id": "0" * 64, "length": 1, "first": "", "pack": 0}, "../../../etc/passwd"),
    "root into no pack": root({"id": "0" * 64, "length": 1, "first": "", "pack": 7}),
}


@pytest.fixture
def lab(throwaway_keys: Keys, tmp_path: Path) -> Lab:
    """An empty repository."""
    return Lab(throwaway_keys, tmp_path / "state", {"a": memory_store()}).create()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """A folder with an inner one that must never change; its `target` is where to restore."""
    outside = tmp_path / "ground" / "outside"
    outside.mkdir(parents=True)
    (outside / "canary").write_bytes(b"alive")
    (outside / "canary").chmod(0o640)
    seen, elsewhere = picture(outside), set(os.listdir("/tmp"))
    try:
        yield tmp_path / "ground"
        assert picture(outside) == seen
        assert (outside / "canary").stat().st_nlink == 1
        assert "opskit-crafted" not in set(os.listdir("/tmp")) - elsewhere
        assert {path.name for path in (tmp_path / "ground").iterdir()} <= {"outside", "target", "full"}
    finally:
        # Thousands of folders in one another: neither pytest's clean-up nor Python's rmtree could remove them.
        subprocess.run(["rm", "-rf", str(tmp_path / "ground")], check=True)


def attempt(reader: SnapshotReader, target: Path, overwrite: Overwrite) -> Restored | OpskitError:
    """Restore a crafted snapshot; anything but an OpskitError is the test's failure."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return restore(reader, target, RestoreOptions(workers=1, overwrite=overwrite))
    except OpskitError as error:
        return error
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < HALF_GIBIBYTE


@pytest.mark.parametrize("name", TREES)
def test_tree(lab: Lab, ground: Path, name: str) -> None:
    """A crafted tree restores nothing outside the target, not over symbolic links that lie in wait either."""
    reader = lab.reader(write(lab, TREES[name]))
    attempt(reader, ground / "target", "never")
    full = ground / "full"
    full.mkdir()
    for trap in ("s", "d", "f", ".opskit-restore-1-f"):
        (full / trap).symlink_to("../outside")
    (full / "t").symlink_to("../outside/canary")
    attempt(reader, full, "always")


@pytest.mark.parametrize("name", PACKS)
def test_pack(lab: Lab, ground: Path, name: str) -> None:
    """A crafted pack or root never restores anything but what was asked for, and says so; memory stays bounded."""
    done = attempt(lab.reader(write(lab, PACKS[name])), ground / "target", "never")
    found = ground / "target" / "f"
    if name == "index forgets" and found.exists():
        assert found.read_bytes() == CONTENT
    else:
        assert isinstance(done, OpskitError) or done.problems
        assert not found.exists() or found.read_bytes() in (CONTENT, CONTENT * 2)

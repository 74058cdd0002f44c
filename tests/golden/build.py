"""Makes the golden files: `python -m tests.golden.build`, in the project's folder.

`repository-v1` is a small repository as a release of this format leaves it on a disk; `repository-v1.key.asc` opens
it (a test key, made for this alone); `repository-v1.json` says what it restores to. `vectors.json` pins the chunk
borders and the header of a pack's member. Run it only when the format changes on purpose: what was released must
restore forever, so a later form gets new names beside these.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

from opskit.repository import pack
from opskit.repository.chunker import MIN_CHUNK, Chunker
from tests.recovery.lab import Lab

HERE = Path(__file__).resolve().parent
SOURCE = Path("/tmp/opskit-golden/data")
"""Part of what is restored, hence fixed."""

RECIPES = [
    "noise 0",
    "noise 1",
    f"noise {MIN_CHUNK - 1}",
    f"noise {MIN_CHUNK}",
    "noise 12000000",
    "zeros 20000000",
    "ledger 6000000",
]


def content_of(recipe: str) -> bytes:
    """Bytes that need not be kept, since they can be made again: noise, zeros, or lines that differ a little."""
    kind, size = recipe.split()
    length = int(size)
    if kind == "noise":
        return hashlib.shake_256(b"opskit golden vector").digest(length)
    if kind == "zeros":
        return bytes(length)
    line = "entry {:010d} of the ledger: " + "nothing else happened on this day, as on the day before; " * 2 + "\n"
    return "".join(line.format(number * 7919) for number in range(length // 100)).encode()[:length]


def cuts_of(content: bytes) -> list[list[object]]:
    """[length, SHA-256] of each chunk."""
    stream = io.BytesIO(content)
    return [[len(chunk), hashlib.sha256(chunk).hexdigest()] for chunk in Chunker().chunks(stream.readinto)]


def vectors() -> dict[str, object]:
    """Chunk borders, and the 512 bytes before a member of 12,345 bytes."""
    return {
        "chunks": {recipe: cuts_of(content_of(recipe)) for recipe in RECIPES},
        "header": {"id": bytes(range(32)).hex(), "length": 12345, "bytes": pack.header(bytes(range(32)), 12345).hex()},
    }


def populate(source: Path) -> None:
    """The tree that is backed up."""
    (source / "folder" / "empty folder").mkdir(parents=True)
    (source / "letter.txt").write_text("Dear reader,\nthis file is older than you think.\n")
    (source / "empty").write_bytes(b"")
    (source / "large").write_bytes(content_of("ledger 3500000"))
    os.link(source / "letter.txt", source / "folder" / "hard link")
    os.symlink("../letter.txt", source / "folder" / "symbolic link")
    os.mkfifo(source / "folder" / "pipe", 0o620)
    (source / "folder" / os.fsdecode(b"caf\xe9 in Latin-1")).write_text("bytes, not text")
    (source / "folder" / "line\nend").write_text("a name of two lines")
    with open(source / "sparse", "wb") as file:
        file.truncate(10_000_000)
        os.pwrite(file.fileno(), b"an island", 5_000_000)
    os.setxattr(source / "letter.txt", "user.origin", b"golden\x00")
    os.chmod(source / "letter.txt", 0o640)
    os.chmod(source / "folder", 0o2750)
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_500_000_000_987_654_321 + number * 10**9), follow_symlinks=False)


def described(top: Path) -> dict[str, dict[str, object]]:
    """What a folder holds, by path relative to it; names that are not UTF-8 in base64 behind a colon."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        entry: dict[str, object] = {"mode": oct(status.st_mode), "mtime": status.st_mtime_ns}
        if stat.S_ISREG(status.st_mode):
            entry |= {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "size": status.st_size,
                "links": status.st_nlink,
            }
            entry["sparse"] = status.st_blocks * 512 < status.st_size
        if stat.S_ISLNK(status.st_mode):
            entry["target"] = os.readlink(path)
        found[_text(os.fsencode(path.relative_to(top)))] = entry
    return found


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return ":" + base64.b64encode(name).decode()


def build(out: Path) -> None:
    """Write all golden files below `out`, replacing what is there."""
    shutil.rmtree(SOURCE.parent, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    populate(SOURCE)
    expected = {"source": str(SOURCE.relative_to("/")), "entries": described(SOURCE)}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir="/dev/shm") as keys:
        lab = Lab(Path(folder), Path(keys) / "home", owner="opskit golden test key, no secret:", with_kit=False)
        lab.back_up({"golden": SOURCE}, label="golden")
        lab.close()
        shutil.rmtree(out / "repository-v1", ignore_errors=True)
        shutil.copytree(lab.copy, out / "repository-v1")
        shutil.copyfile(lab.key, out / "repository-v1.key.asc")
    (out / "repository-v1.json").write_text(json.dumps(expected, indent=1) + "\n")
    (out / "vectors.json").write_text(json.dumps(vectors(), indent=1) + "\n")
    shutil.rmtree(SOURCE.parent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the golden files anew.")
    parser.add_argument("--out", type=Path, default=HERE)
    build(parser.parse_args().out)

"""The last tree of a source on the host: what makes an unchanged file cost one stat.

A record holds an entry's signature (size, mtime, ctime, inode, device), the numbers of the packs its
chunks lie in, its path and its tree line(s). Records stand in tree order, in blocks with a checksum, so a
run merges them with its walk in one pass and flat memory. The file is disposable and never trusted: a
block whose checksum is wrong ends the reading, and everything after it counts as changed.

The pack numbers are those of the cache file; both carry a token that is new for every run. This file
holds names and content hashes in the clear: it stays on the host, mode 0600.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from opskit import encoding
from opskit.errors import Damaged, OpskitError

Signature = bytes
"""size, mtime ns, ctime ns, inode, device as five 64-bit numbers: compared and stored, never taken apart."""

NEVER: Signature = b"\xff" * 8 + bytes(32)
"""A signature no entry has: read it again next time."""

_SIGNATURE = struct.Struct("<qqqQQ")
_64_BITS = 2**64 - 1


def signature_of(status: os.stat_result) -> Signature:
    """What an entry is recognised by."""
    size, mtime, ctime = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    try:
        return _SIGNATURE.pack(size, mtime, ctime, status.st_ino, status.st_dev)
    except struct.error:  # ext4 has times beyond 64 bits: modulo 585 years they still tell a change
        times = (value & _64_BITS for value in (mtime, ctime))
        return struct.pack("<qQQQQ", size, *times, status.st_ino, status.st_dev)


_MAGIC = b"opskit last tree 1\n"
_BLOCK_HEAD = struct.Struct("<II")
_RECORD_HEAD = struct.Struct("<40sIII")
_ONE_PACK = struct.Struct("<I")
_BLOCK_BYTES = 1024 * 1024


def place(state: Path, repository: str, source: str) -> Path:
    """Where a host keeps the last tree of a source."""
    return state / "trees" / f"{repository}-{source}"


class Record(NamedTuple):
    """One remembered entry; `raw` is the record as stored, to be copied on when nothing changed."""

    path: bytes
    signature: Signature
    packs: tuple[int, ...]
    lines: bytes
    raw: bytes


def encode_record(path: bytes, signature: Signature, packs: Sequence[int], lines: bytes) -> bytes:
    """The stored form of an entry."""
    head = _RECORD_HEAD.pack(signature, len(path), len(packs), len(lines))
    return b"".join((head, path, struct.pack(f"<{len(packs)}I", *packs), lines))


def encode_plain(path: bytes, signature: Signature, pack: int, line: bytes) -> bytes:
    """What `encode_record` makes of an entry in one pack, sooner."""
    head = _RECORD_HEAD.pack(signature, len(path), 1, len(line))
    return b"".join((head, path, _ONE_PACK.pack(pack), line))


class Writer:
    """Writes a last tree beside the old one; `finish` puts it in place, `discard` leaves the old one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + ".new")
        with _translated(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._file.write(_MAGIC)
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, record: bytes) -> None:
        """Append a record made by `encode_record` or read from the old file."""
        self._pieces.append(record)
        self._size += len(record)
        if self._size >= _BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._pieces:
            return
        block = b"".join(self._pieces)
        with _translated(self._path):
            self._file.write(_BLOCK_HEAD.pack(len(block), zlib.crc32(block)))
            self._file.write(block)
        self._pieces, self._size = [], 0

    def finish(self, about: dict[str, Any]) -> None:
        """Write the closing facts (JSON values) and replace the old file."""
        self._flush()
        closing = encoding.encode(about)
        with _translated(self._path):
            self._file.write(_BLOCK_HEAD.pack(0, zlib.crc32(closing)))
            self._file.write(closing)
            self._file.close()
            os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Drop what was written."""
        with contextlib.suppress(OSError):  # a full disk, which was reported when it was met
            self._file.close()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """The system's errors as opskit's: neither a source nor a destination failed."""
    try:
        yield
    except OSError as error:
        raise OpskitError(
            f"the state folder cannot be written: {path.parent}: {error.strerror}",
            hint="free space there, or check its permissions; nothing that was stored before is lost",
        ) from error


def read_about(path: Path) -> dict[str, Any]:
    """The closing facts of a finished last tree; {} when there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return {}
            while len(head := file.read(_BLOCK_HEAD.size)) == _BLOCK_HEAD.size:
                length, check_sum = _BLOCK_HEAD.unpack(head)
                if length == 0:
                    closing = file.read()
                    return encoding.decode_object(closing, what="last tree") if zlib.crc32(closing) == check_sum else {}
                file.seek(length, os.SEEK_CUR)
    except (OSError, Damaged):
        pass
    return {}


def read(path: Path) -> Generator[Record, None, None]:
    """The records in order, up to the first damaged block; nothing when the file is absent.

    Close it unless it was read to its end: it holds the file open.
    """
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return
        while len(head := file.read(_BLOCK_HEAD.size)) == _BLOCK_HEAD.size:
            length, check_sum = _BLOCK_HEAD.unpack(head)
            if length == 0:
                return
            block = file.read(length)
            if len(block) != length or zlib.crc32(block) != check_sum:
                return
            yield from _records(block)


def _records(block: bytes) -> Iterator[Record]:
    position, head_size, unpack, one_pack = 0, _RECORD_HEAD.size, _RECORD_HEAD.unpack_from, _ONE_PACK.unpack_from
    new = tuple.__new__
    while position < len(block):
        signature, path_length, count, line_length = unpack(block, position)
        path_start = position + head_size
        packs_start = path_start + path_length
        lines_start = packs_start + 4 * count
        end = lines_start + line_length
        if count == 1:
            packs = one_pack(block, packs_start)
        else:
            packs = struct.unpack_from(f"<{count}I", block, packs_start)
        path, lines, raw = block[path_start:packs_start], block[lines_start:end], block[position:end]
        yield new(Record, (path, signature, packs, lines, raw))
        position = end

"""Packs: many chunks in one object, `tar | zstd | gpg --symmetric`, the pipeline every sysadmin knows.

Invariants:
- A member is named by the lower-case hex SHA-256 of its content; owner, time and mode say nothing.
- One tar of at most PACK_BYTES, in one zstd frame that states its size, in one OpenPGP message.
- `seal` gives bytes away only after it has decrypted, decompressed and compared them with what went
  in: a broken compressor, cipher or memory is noticed while the source still exists.
- Nothing is believed while reading: sizes are bounded before anything is allocated, and the caller
  compares each chunk it uses with its id (`check_chunk`).

Which chunks belong in a pack, and where packs are stored, is not decided here.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import zstandard

from opskit import gpg
from opskit.errors import Damaged
from opskit.repository.memory import buffer

PACK_BYTES = 32 * 1024 * 1024
"""Bytes of tar a pack holds at most."""
_BLOCK = 512
_END = 2 * _BLOCK
_ROOM = PACK_BYTES - _BLOCK - _END
"""What members' blocks and a next content may take together; a multiple of a block, so padding needs no counting."""
_ZEROS = bytes(_BLOCK)
_READ_LIMIT = 4 * PACK_BYTES
"""Bytes a pack may decompress to, so that later writers may use larger packs."""
_SAMPLE = 256 * 1024
_READ_PIECE = 1024 * 1024
_FRAME_HEADER = 18
_WINDOW_LOG, _HASH_LOG, _CHAIN_LOG = 22, 17, 14
_JOB_BYTES = 4 * 1024 * 1024
_SMALL = 256 * 1024

_HEADER_AFTER_NAME = bytes(36) + b"0000600\0" + b"0000000\0" + b"0000000\0"
_HEADER_AFTER_SIZE = b"00000000000\0"
_HEADER_AFTER_SUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" + b"0000000\0" + bytes(167)
_SUM_OF_CONSTANTS = sum(_HEADER_AFTER_NAME) + sum(_HEADER_AFTER_SIZE) + sum(b" " * 8) + sum(_HEADER_AFTER_SUM)


def header(chunk_id: bytes, length: int) -> bytes:
    """The 512 bytes of ustar header for a chunk (POSIX.1-1988, "ustar Interchange Format")."""
    name, size = chunk_id.hex().encode(), b"%011o\0" % length
    # The low half of an Adler-32 (RFC 1950) is one more than the sum of so few bytes: quicker than sum().
    checksum = _SUM_OF_CONSTANTS + (zlib.adler32(name + size) & 0xFFFF) - 1
    return b"".join((name, _HEADER_AFTER_NAME, size, _HEADER_AFTER_SIZE, b"%06o\0 " % checksum, _HEADER_AFTER_SUM))


class PackBuffer:
    """A pack being filled: reusable memory into which files are read directly.

    Usage: `slot(n)` gives room for n bytes; read into it; then `add(id, n)` keeps them as a member.
    Not adding leaves the buffer as it was, which is how a duplicate costs nothing.
    """

    def __init__(self) -> None:
        self._view = buffer(PACK_BYTES)
        self._used = 0
        self.ids: list[bytes] = []
        self.frame = gpg.Scratch()
        """Where it lies compressed."""
        self.scratch = gpg.Scratch()
        """Where the sealed pack is opened again."""

    def __len__(self) -> int:
        return self._used

    def close(self) -> None:
        """Give back what is not plain memory."""
        self.frame.close()
        self.scratch.close()

    def clear(self) -> None:
        """Forget all members, keep the memory."""
        self._used = 0
        self.ids = []

    def has_room(self, length: int) -> bool:
        """Whether a member of `length` bytes fits beside those already here."""
        return self._used + length <= _ROOM

    def slot(self, length: int) -> memoryview:
        """The memory where a next member's content would lie."""
        start = self._used + _BLOCK
        return self._view[start : start + length]

    def add(self, chunk_id: bytes, length: int) -> None:
        """Keep the first `length` bytes of the slot as a member."""
        view, start = self._view, self._used + _BLOCK
        view[self._used : start] = header(chunk_id, length)
        if rest := -length % _BLOCK:
            view[start + length : start + length + rest] = _ZEROS[:rest]
        self._used = start + length + rest
        self.ids.append(chunk_id)

    def append(self, chunk_id: bytes, content: bytes | memoryview) -> None:
        """Copy `content` in as a member."""
        self.slot(len(content))[:] = content
        self.add(chunk_id, len(content))

    def tar(self) -> memoryview:
        """The finished tar; valid until the buffer is cleared."""
        end = self._used + _END
        self._view[self._used : end] = bytes(_END)
        return self._view[:end]


class Sealed(NamedTuple):
    """A finished pack: the hex SHA-256 of its bytes, and the bytes."""

    name: str
    data: memoryview


def seal(filled: PackBuffer, run_key: bytes, *, threads: int = 0) -> Sealed:
    """Compress, encrypt, read back and name a pack; raises Damaged when the read-back differs.

    With `threads` so many compress at once: the last pack of a run has the machine for itself.
    """
    tar = filled.tar()
    compressor = zstandard.ZstdCompressor(compression_params=_parameters(_best_level(tar), len(tar), threads))
    filled.frame.fill(compressor.compress(tar))
    with gpg.encrypt_symmetric(filled.frame, run_key) as message:
        _read_back(message, run_key, tar, filled.scratch)
        data = message.mapped()
    return Sealed(hashlib.sha256(data).hexdigest(), data)


def _best_level(tar: memoryview) -> int:
    """1 or 3: whichever makes a sample smaller. Random hex is 5 % smaller, and faster, at level 1."""
    middle = max(0, len(tar) // 2 - _SAMPLE)
    sample = bytes(tar[middle : middle + _SAMPLE])
    sizes = {level: len(zstandard.ZstdCompressor(level=level).compress(sample)) for level in (3, 1)}
    return min(sizes, key=lambda level: sizes[level])


def _parameters(level: int, size: int, threads: int) -> zstandard.ZstdCompressionParameters:
    """zstd's parameters for a level and a size.

    At level 3 the table of short matches is a quarter of what zstd itself chooses, so that both tables fit a core's
    second cache beside the content (6 % faster), and the window is twice as large, which costs nothing and makes up for
    most of it (packs 0.7 % larger). Every decompressor takes a window of 4 MiB: RFC 8878 asks for 8. Threads get jobs
    a quarter as large as zstd's, or a pack of 16 MiB would be one job.
    """
    made = zstandard.ZstdCompressionParameters.from_level
    if level == 1 or size <= _SMALL:
        return made(level, source_size=size, threads=threads)
    return made(
        level, source_size=size, threads=threads,
        window_log=_WINDOW_LOG, hash_log=_HASH_LOG, chain_log=_CHAIN_LOG, job_size=_JOB_BYTES,
    )  # fmt: skip


def _read_back(message: gpg.MemoryFile, run_key: bytes, tar: memoryview, room: gpg.Scratch) -> None:
    """Open the pack again, as a restore would, and compare every byte with what went in."""
    scratch = bytearray(_READ_PIECE)
    position = 0
    plain = gpg.decrypt_symmetric(message, run_key, room).mapped()
    reader = zstandard.ZstdDecompressor().stream_reader(plain)
    while count := reader.readinto(scratch):
        # a whole bytearray on the left makes this one memcmp
        piece = scratch if count == len(scratch) else scratch[:count]
        if piece != tar[position : position + count]:
            break
        position += count
    if count or position != len(tar):
        raise Damaged(
            "a pack read back differs from what was written; nothing was stored",
            hint="suspect this machine's memory or its zstd or gpg; test the memory before the next backup",
        )


class Unpacker:
    """Opens packs one after the other in the same memory; for one thread.

    Fresh memory is what costs most in opening a pack, so a tar is valid only until the next is opened.
    """

    def __init__(self) -> None:
        self._memory = memoryview(b"")
        self._message, self._frame = gpg.Scratch(), gpg.Scratch()

    def room(self, size: int) -> memoryview:
        """Memory for a pack of so many bytes, as it is stored; `open_room` opens what was read into it."""
        return self._message.room(size)

    def open(self, data: bytes, run_key: bytes) -> memoryview:
        """The tar inside a pack; raises Damaged or NoKey. The caller has compared `data` with its name."""
        self._message.fill(data)
        return self.open_room(run_key)

    def open_room(self, run_key: bytes) -> memoryview:
        """The same of the pack that lies in `room`."""
        frame = gpg.decrypt_symmetric(self._message, run_key, self._frame).mapped()
        size = _content_size(frame)
        if size > len(self._memory):
            self._memory = buffer(size)
        tar = self._memory[:size]
        _decompress(frame, tar)
        return tar


def _content_size(frame: memoryview) -> int:
    """The size a frame states, bounded before anything is allocated."""
    try:
        size = zstandard.frame_content_size(frame[:_FRAME_HEADER])
    except zstandard.ZstdError as error:
        raise Damaged(f"a pack does not decompress: {error}") from error
    if not 0 <= size <= _READ_LIMIT:
        raise Damaged(f"a pack claims {size} bytes of content; expected 0 to {_READ_LIMIT}")
    return size


def _decompress(frame: memoryview, tar: memoryview) -> None:
    """Fill `tar` with exactly one frame; raises Damaged."""
    reader = zstandard.ZstdDecompressor().stream_reader(frame)
    position = 0
    try:
        while position < len(tar) and (count := reader.readinto(tar[position:])):
            position += count
        beyond = reader.read(1)
    except zstandard.ZstdError as error:
        raise Damaged(f"a pack does not decompress: {error}") from error
    if position != len(tar) or beyond:
        raise Damaged(f"a pack holds {position} bytes of content, expected {len(tar)}")


def members(tar: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (chunk id, content) of each member in order; raises Damaged where the tar is malformed."""
    position = 0
    while position + _BLOCK <= len(tar):
        name = bytes(tar[position : position + 64])
        if not name.strip(b"\0"):
            return
        chunk_id, length = _parse_header(tar, position, name)
        start = position + _BLOCK
        if start + length > len(tar):
            raise Damaged("a pack's member is longer than the pack")
        yield chunk_id, tar[start : start + length]
        position = start + _padded(length)


def member(tar: memoryview, number: int) -> bytes:
    """The content of member `number` (from 0), compared with its name; raises Damaged."""
    for position, (chunk_id, content) in enumerate(members(tar)):
        if position == number:
            check_chunk(chunk_id, content)
            return bytes(content)
    raise Damaged(f"a pack has no member {number}")


def check_chunk(chunk_id: bytes, content: bytes | memoryview) -> None:
    """Compare content with its id; raises Damaged."""
    if hashlib.sha256(content).digest() != chunk_id:
        raise Damaged(f"chunk {chunk_id.hex()[:16]} has the wrong content")


def _parse_header(tar: memoryview, position: int, name: bytes) -> tuple[bytes, int]:
    try:
        chunk_id = bytes.fromhex(name.decode("ascii"))
        length = int(bytes(tar[position + 124 : position + 135]), 8)
    except ValueError as error:
        raise Damaged("a pack's member has a malformed header") from error
    if len(chunk_id) != 32 or length < 0:
        raise Damaged("a pack's member has a malformed header")
    return chunk_id, length


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK

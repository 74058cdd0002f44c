"""Packs: what goes in comes out, every sysadmin's tools open them, and nothing malformed gets through."""

from __future__ import annotations

import io
import subprocess
import sysconfig
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from opskit import gpg
from opskit.errors import Damaged, NoKey
from opskit.repository import pack
from opskit.repository.pack import PACK_BYTES, PackBuffer, Unpacker, members, seal
from tests.repositories import noise

RUN_KEY = b"0123456789abcdef" * 4


def filled(contents: list[bytes]) -> PackBuffer:
    buffer = PackBuffer()
    for content in contents:
        buffer.append(sha256(content).digest(), content)
    return buffer


@settings(max_examples=15)
@given(st.lists(st.binary(max_size=2000), unique=True, max_size=8))
def test_what_is_sealed_opens(contents: list[bytes]) -> None:
    """Members come back in order, each under the hash of its content; the name is the hash of the bytes."""
    sealed = seal(filled(contents), RUN_KEY)
    assert sealed.name == sha256(sealed.data).hexdigest()
    opened = [(chunk_id, bytes(content)) for chunk_id, content in members(Unpacker().open(sealed.data, RUN_KEY))]
    assert opened == [(sha256(content).digest(), content) for content in contents]


_COMPRESSOR = zstandard.ZstdCompressor


class Miscompressor:
    """A compressor gone wrong: what it makes opens without complaint, and is not what went in."""

    def __init__(self, wrong: Callable[[bytes], bytes]) -> None:
        self._wrong = wrong

    def __call__(self, **options: Any) -> Miscompressor:
        self._inner = _COMPRESSOR(**options)
        return self

    def compress(self, data: memoryview) -> bytes:
        return self._inner.compress(self._wrong(bytes(data)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        lambda data: data[:-1] + b"x",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[512:],
        lambda data: b"",
    ],
)
def test_what_reads_back_otherwise_is_not_given_away(
    wrong: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that opens to one bit, byte or member more, less or other than went in is never sealed."""
    full = filled([noise(7, 2_000_000), b"small"])
    monkeypatch.setattr(pack.zstandard, "ZstdCompressor", Miscompressor(wrong))
    with pytest.raises(Damaged, match="nothing was stored"):
        seal(full, RUN_KEY)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 100_000])
def test_the_tar_is_a_tar(size: int) -> None:
    """Python's tarfile and the system's tar read it, and know the members by their hashes."""
    content = noise(1, size)
    tar = bytes(filled([content, b"second"]).tar())
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
    assert found == {sha256(each).hexdigest(): each for each in (content, b"second")}
    listed = subprocess.run(["tar", "t"], input=tar, capture_output=True, check=True).stdout.split()
    assert [each.decode() for each in listed] == list(found)


def test_a_pack_is_never_too_large() -> None:
    """A buffer says it has room only where the member and the end still fit."""
    buffer = PackBuffer()
    largest = PACK_BYTES - 512 - 1024
    assert buffer.has_room(largest) and not buffer.has_room(largest + 1)
    buffer.append(bytes(32), bytes(largest))
    assert len(buffer.tar()) == PACK_BYTES and not buffer.has_room(0)
    buffer.clear()
    assert buffer.has_room(largest) and buffer.ids == [] and len(buffer.tar()) == 1024


def real_files(size: int) -> list[bytes]:
    """Contents of Python's own modules, up to so many bytes in all."""
    contents: list[bytes] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        contents.append(path.read_bytes())
        size -= len(contents[-1]) + 1024
        if size < 0:
            break
    return contents[:-1]


def frame_of(full: PackBuffer, threads: int) -> bytes:
    with gpg.decrypt_symmetric(bytes(seal(full, RUN_KEY, threads=threads).data), RUN_KEY) as frame:
        return frame.read()


@pytest.mark.parametrize("size", [100_000, 1_500_000, 12_000_000])
@pytest.mark.parametrize("threads", [0, 2])
def test_packs_are_small_and_open_anywhere(size: int, threads: int) -> None:
    """Real files take at most 0.7 % more than zstd's level 3 gives, in a window that every decompressor takes."""
    full = filled(real_files(size))
    frame = frame_of(full, threads)
    assert len(frame) <= 1.007 * len(zstandard.ZstdCompressor(level=3).compress(full.tar()))
    assert zstandard.get_frame_parameters(frame).window_size <= 8 * 1024 * 1024


def test_a_slot_that_is_not_kept_leaves_nothing() -> None:
    """Reading a duplicate into the slot and not adding it changes nothing, also in the padding of the next."""
    buffer, other = PackBuffer(), PackBuffer()
    buffer.slot(5000)[:] = b"\xff" * 5000
    for each in (buffer, other):
        each.append(bytes(32), b"abc")
    assert buffer.tar() == other.tar()


def test_the_wrong_key_and_wrong_bytes() -> None:
    """Another run key is NoKey or Damaged; any flipped bit is Damaged or NoKey; nothing wrong comes out."""
    content = noise(2, 3000)
    data = seal(filled([content]), RUN_KEY).data
    with pytest.raises((NoKey, Damaged)):
        Unpacker().open(data, RUN_KEY[::-1])
    for position in range(0, len(data), len(data) // 12):
        wrong = bytearray(data)
        wrong[position] ^= 0x10
        try:
            tar = Unpacker().open(bytes(wrong), RUN_KEY)
        except (Damaged, NoKey):
            continue
        assert [bytes(each) for _, each in members(tar)] == [content]


def sealed_by_hand(plain: bytes) -> bytes:
    with gpg.encrypt_symmetric(plain, RUN_KEY) as message:
        return message.read()


def test_what_is_no_pack_inside() -> None:
    """Encrypted rubbish, a bomb, a frame without its size, two frames, a cut frame: all are Damaged."""
    compressed = zstandard.compress(bytes(10_000))
    bomb = zstandard.compress(bytes(1))[:5] + (2**40).to_bytes(8, "little")
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10_000))
    for plain in (b"", b"rubbish that is no frame", bomb, streamed, compressed * 2, compressed[:-3]):
        with pytest.raises(Damaged):
            Unpacker().open(sealed_by_hand(plain), RUN_KEY)


def test_malformed_tars() -> None:
    """Wrong names, negative and too long sizes are Damaged, whatever the checksum says."""
    good = bytes(filled([b"content"]).tar())
    for start, wrong in ((0, b"x"), (0, b"ab\0"), (124, b"77777777777"), (124, b"-0000000001"), (124, b"zz")):
        tar = good[:start] + wrong + good[start + len(wrong) :]
        with pytest.raises(Damaged):
            list(members(memoryview(tar)))


def test_one_member() -> None:
    """`member` gives the content by number, compared with its name; a number too high is Damaged."""
    tar = filled([b"zero", b"one"]).tar()
    assert pack.member(tar, 1) == b"one"
    with pytest.raises(Damaged):
        pack.member(tar, 2)
    spoilt = bytearray(tar)
    spoilt[spoilt.index(b"one")] ^= 1
    with pytest.raises(Damaged):
        pack.member(memoryview(spoilt), 1)


def test_an_unpacker_is_reused() -> None:
    """Large, then small, then large again: nothing of the one shows in the other."""
    unpacker = Unpacker()
    for contents in ([noise(3, 900_000)], [b"small"], [noise(4, 500_000), b"x"]):
        tar = unpacker.open(seal(filled(contents), RUN_KEY).data, RUN_KEY)
        assert [bytes(each) for _, each in members(tar)] == contents

"""Where content is cut."""

from __future__ import annotations

import io
import random

import pytest

from opskit.repository.chunker import MAX_CHUNK, MIN_CHUNK, Chunker
from tests.repositories import noise


def cut(content: bytes, piece: int | None = None, chunker: Chunker | None = None) -> list[bytes]:
    stream = io.BytesIO(content)
    read = stream.readinto if piece is None else lambda view: stream.readinto(view[:piece])
    return [bytes(chunk) for chunk in (chunker or Chunker()).chunks(read)]


@pytest.mark.parametrize(
    "size",
    [0, 1, MIN_CHUNK - 1, MIN_CHUNK, MIN_CHUNK + 1, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, 2 * MAX_CHUNK, 20_000_000],
)
def test_the_pieces_are_the_content(size: int) -> None:
    """Joined they are the content; all but the last are MIN_CHUNK to MAX_CHUNK long; none is empty."""
    for content in (noise(1, size), bytes(size)):
        chunks = cut(content)
        assert b"".join(chunks) == content
        assert all(MIN_CHUNK <= len(chunk) <= MAX_CHUNK for chunk in chunks[:-1])
        assert all(0 < len(chunk) <= MAX_CHUNK for chunk in chunks)
        if size < MIN_CHUNK:
            assert len(chunks) == (size > 0)


@pytest.mark.parametrize("piece", [1000, 65_536, 1_000_003])
def test_how_it_was_read_does_not_matter(piece: int) -> None:
    """A slow pipe and a fast disk give the same borders, with a fresh chunker and with a used one."""
    content = noise(2, 4_000_000 if piece == 1000 else 20_000_000)
    used = Chunker()
    cut(noise(3, 3_000_000), chunker=used)
    assert cut(content, piece) == cut(content) == cut(content, piece, used)


def test_borders_come_back_after_an_edit() -> None:
    """Bytes inserted or removed anywhere change few chunks."""
    content = noise(4, 24_000_000)
    before, chance = set(cut(content)), random.Random(5)
    for length in (1, 1000, 300_000):
        place = chance.randrange(len(content))
        for edited in (
            content[:place] + noise(6, length) + content[place:],
            content[:place] + content[place + length :],
        ):
            assert len(set(cut(edited)) - before) <= 3


def test_two_chunkers_at_once() -> None:
    """A stream given up halfway leaves nothing behind in the next."""
    chunker = Chunker()
    next(iter(chunker.chunks(io.BytesIO(noise(7, 9_000_000)).readinto)))
    assert cut(noise(8, 5_000_000), chunker=chunker) == cut(noise(8, 5_000_000))

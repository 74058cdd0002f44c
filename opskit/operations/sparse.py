"""Which packs hold little that the newest tree of a source still needs, by what this host remembers of that tree.

Packs are immutable, so one of which a few files are left takes all its room until nothing needs it. A backup that
stores those few anew frees it, once retention has forgotten the older snapshots that need the rest.

Reading the whole last tree costs seconds for a million files, so it is done only when the packs have grown, or the
source has shrunk, by a tenth since the last time.

Invariants: only what the last tree of this very cache says counts; what it does not name is left alone (packs of trees
are never in it). Sizes of chunks that several files share are counted for each of them, so a pack looks fuller than it
is, never emptier.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import lasttree
from opskit.repository.cache import Cache, PackRow
from opskit.repository.locating import packs_of
from opskit.repository.manifest import Manifest

SPARSE = 0.3
"""A pack is sparse when less than this share of its content is needed."""
TOLERATED = 0.2
"""Share of all content that may be needed by nothing before anything is done about it."""
GROWTH = 0.1
"""Share by which things must have changed before the last tree is read through again."""
AT_ONCE_BYTES, AT_ONCE_SHARE = 64 * 1024 * 1024, 0.03
"""What one run may store anew for this: so many bytes, or that share of the source if it is more."""

_SIZE = Struct("<q")
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Measured:
    """Sizes at the time of the last look: content of all packs needed, and the source, in bytes."""

    content: int
    source: int

    def has_changed(self, now: Measured) -> bool:
        """Whether it is time to look again."""
        moved = max(0, now.content - self.content) + max(0, self.source - now.source)
        return moved > GROWTH * now.content


@dataclass(slots=True)
class Sparse:
    """The sparse packs to store anew in this run, and whether that is all of them."""

    packs: set[int] = field(default_factory=set)
    is_all: bool = True


@dataclass(frozen=True, slots=True)
class Use:
    """Packs with file content that a source's newest snapshot needs: how many, bytes of content, bytes of it needed.

    `sparse` of them are nearly empty.
    """

    packs: int
    content: int
    needed: int
    sparse: int


def use_of(cache: Cache, newest: Manifest, last_tree: Path, get: Callable[[str], bytes]) -> Use | None:
    """What this host knows of the packs of a snapshot of its own; None where its last tree is not of this cache.

    Raises CacheError, and what `get` raises of a pack list.
    """
    token = cache.generation(newest.source)
    if token is None or lasttree.read_about(last_tree).get("generation") != token:
        return None
    wanted = {digest for run in newest.runs for digest in packs_of(run, get)}
    rows = {row.no: row for row in cache.packs() if row.name in wanted}
    used = used_content(last_tree, cache, rows)
    held = {number: min(need, rows[number].content) for number, need in used.items()}
    sparse = sum(need < SPARSE * rows[number].content for number, need in held.items())
    return Use(len(held), sum(rows[number].content for number in held), sum(held.values()), sparse)


def choose(used: Mapping[int, int], rows: Mapping[int, PackRow], source_bytes: int) -> Sparse:
    """Of the packs in `used` (bytes of content needed, by number) those that are worth it, the emptiest first."""
    content = sum(rows[number].content for number in used)
    if sum(used.values()) > (1 - TOLERATED) * content:
        return Sparse()
    found, left = Sparse(), max(AT_ONCE_BYTES, int(AT_ONCE_SHARE * source_bytes))
    shares = sorted((need / rows[number].content, number) for number, need in used.items() if rows[number].content)
    for share, number in shares:
        if share >= SPARSE:
            break
        if used[number] > left:
            found.is_all = False
            break
        left -= used[number]
        found.packs.add(number)
    return found


def used_content(path: Path, cache: Cache, among: Collection[int]) -> dict[int, int]:
    """How much of the content of these packs the last tree at `path` needs: bytes of tar, by number of the pack."""
    used: dict[int, int] = {}
    with closing(lasttree.read(path)) as records:
        for record in records:
            if len(record.packs) == 1 and record.signature != lasttree.NEVER:
                _count(used, record.packs[0], _SIZE.unpack_from(record.signature)[0], among)
            elif record.packs:
                packs = set(record.packs)
                for chunk_id, length in _chunks(record.lines):
                    number = cache.find(chunk_id, packs)
                    if number is not None:
                        _count(used, number, length, among)
    return used


def _count(used: dict[int, int], number: int, length: int, among: Collection[int]) -> None:
    if number in among:
        used[number] = used.get(number, 0) + _BLOCK + -(-length // _BLOCK) * _BLOCK


def _chunks(lines: bytes) -> Iterator[tuple[bytes, int]]:
    """The chunks of an entry, up to a line that is not what opskit writes."""
    with contextlib.suppress(Damaged, TypeError, ValueError):
        for line in lines.splitlines():
            for chunk_id, length in encoding.decode_object(line, what="tree line").get("chunks", []):
                yield bytes.fromhex(chunk_id), int(length)

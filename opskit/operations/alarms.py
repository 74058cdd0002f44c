"""What is odd about a backup, held against those before it: somebody may be deleting, or encrypting, or a disk is gone.

Pure rules over counts that manifests carry in the clear. An alarm undoes nothing: the snapshot is made and carries its
alarms, and retention keeps the one before it as long as it stays. The config says whether a run with one ends with 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opskit.repository.manifest import Snapshot

FEW_FILES, FEW_BYTES = 20, 1_000_000
"""Below these a source is too small for its percentages to mean anything."""
COARSE_BYTES = 64_000_000
"""A few files below this, a dump for example, are a few chunks: all of them are new whenever anything in them is."""
_MUCH = 10_000_000
"""New bytes from which on their compression says something."""
_PACKED, _PLAIN = 0.97, 0.85
"""Stored for each new byte: at least so much of what is encrypted or compressed; at most so much of what is neither."""
_REMEMBERED = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """How many percent of its files or bytes a source may lose, and how many may be new, at once; 0: any number.

    `entropy` tells whether new content that does not compress is odd where earlier content did.
    """

    shrink: int = 50
    change: int = 50
    entropy: bool = True


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run counted: files and their bytes, new content in bytes, and the bytes that it took when stored."""

    files: int
    total_bytes: int
    new_bytes: int
    stored_bytes: int


def judge(now: Counts, older: Sequence[Snapshot], limits: Limits) -> list[str]:
    """Sentences about what is odd, beside the older snapshots of the source, newest last."""
    before = next((each.manifest for each in reversed(older) if each.manifest.complete), None)
    if now.files == 0:
        return ["the source is empty" + (f": it had {before.files:,} files" if before else "")]
    if before is None:
        return []
    found = []
    for what, count, earlier, few in (
        ("files", now.files, before.files, FEW_FILES),
        ("bytes", now.total_bytes, before.bytes, FEW_BYTES),
    ):
        if limits.shrink and earlier >= few and count * 100 < earlier * (100 - limits.shrink):
            found.append(f"the source shrank to {count:,} {what}, from {earlier:,}")
    is_coarse = before.bytes < (FEW_BYTES if before.files >= FEW_FILES else COARSE_BYTES)
    if limits.change and not is_coarse and now.new_bytes * 100 > before.bytes * limits.change:
        found.append(f"{now.new_bytes:,} bytes are new, beside {before.bytes:,} in all before")
    if limits.entropy:
        found += _entropy(now, older)
    return found


def _entropy(now: Counts, older: Sequence[Snapshot]) -> list[str]:
    """New content that does not compress, where earlier content did: so files look that were encrypted."""
    told = [each.manifest for each in older[-_REMEMBERED:]]
    new, stored = sum(each.new_bytes for each in told), sum(each.stored_bytes for each in told)
    if min(now.new_bytes, new) < _MUCH or stored > new * _PLAIN or now.stored_bytes < now.new_bytes * _PACKED:
        return []
    return [
        f"new content hardly compresses, as encrypted files do not: to {now.stored_bytes * 100 // now.new_bytes} %, "
        f"where it was {stored * 100 // new} %"
    ]

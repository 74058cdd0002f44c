"""A part of a snapshot's files, chosen by the seed: so many percent, or as many as fit into bytes or a time.

Invariants: whether a file is in the sample follows from the seed and its path alone, so anybody can repeat it; small
and large files have the same chance. A budget in bytes is turned into a share of the files in one pass over the tree,
in little memory. A time becomes bytes by the rate of the last drill of this copy, or RATE: it is an estimate, and
nothing is broken off when it is over. Folders come along where a file of theirs does; links and devices do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from opskit.errors import UsageError
from opskit.operations.verifying.budget import bytes_in, percent_in, seconds_in
from opskit.repository.tree import Node

RATE = 30_000_000
"""Bytes a second: what is assumed of a copy that was never drilled."""
_SCALE = 1 << 32
_BUCKETS = 4096


@dataclass(frozen=True, slots=True)
class Wish:
    """A sample as it was asked for; one of the three is set."""

    text: str
    percent: float | None = None
    seconds: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Files with a lot below `limit`; what they come to is known."""

    text: str
    seed: int
    limit: int
    files: int
    bytes: int

    def takes(self, node: Node) -> bool:
        """Whether an entry is in the sample."""
        return node.type == "file" and _lot(self.seed, node.path) < self.limit


def wish_of(sample: str | None, budget: str | None) -> Wish | None:
    """What --sample and --budget say; None for everything. Raises UsageError."""
    if sample is not None and budget is not None:
        raise UsageError("expected --sample or --budget, got both")
    if sample is not None:
        share = percent_in(sample.strip())
        if share is None or not 0 < share <= 100:
            raise UsageError(f"--sample: expected a share such as 5%, got {sample!r}")
        return Wish(sample.strip(), percent=share)
    if budget is None:
        return None
    words = budget.strip()
    if (seconds := seconds_in(words)) is not None:
        return Wish(words, seconds=seconds)
    if (size := bytes_in(words)) is not None:
        return Wish(words.replace(" ", ""), bytes=size)
    raise UsageError(f"--budget: expected a time or a size such as 10m or 50GB, got {budget!r}")


def sample_of(wish: Wish, nodes: Iterable[Node], seed: int, rate: int | None) -> Sample:
    """The sample of a tree; `rate` is what an earlier drill restored in a second. Raises UsageError if it is empty."""
    if wish.percent is not None:
        return _counted(wish, nodes, seed, int(_SCALE * wish.percent / 100))
    budget = wish.bytes if wish.bytes is not None else (wish.seconds or 0) * (rate or RATE)
    buckets = [[0, 0] for _ in range(_BUCKETS)]
    for node in nodes:
        if node.type == "file" and node.error is None:
            bucket = buckets[_lot(seed, node.path) * _BUCKETS // _SCALE]
            bucket[0] += 1
            bucket[1] += node.size
    files = size = taken = 0
    while taken < _BUCKETS and size + buckets[taken][1] <= budget:
        files, size = files + buckets[taken][0], size + buckets[taken][1]
        taken += 1
    return _filled(Sample(wish.text, seed, taken * _SCALE // _BUCKETS, files, size))


def _counted(wish: Wish, nodes: Iterable[Node], seed: int, limit: int) -> Sample:
    chosen = Sample(wish.text, seed, limit, 0, 0)
    sizes = [node.size for node in nodes if node.error is None and chosen.takes(node)]
    return _filled(Sample(wish.text, seed, limit, len(sizes), sum(sizes)))


def _filled(sample: Sample) -> Sample:
    if not sample.files:
        raise UsageError(
            f"no file of this snapshot is in a sample of {sample.text}", hint="take a larger one, or another --seed"
        )
    return sample


def _lot(seed: int, path: bytes) -> int:
    """A number below _SCALE, the same for the same seed and path."""
    return int.from_bytes(hashlib.sha256(b"%d:%s" % (seed, path)).digest()[:4], "big")

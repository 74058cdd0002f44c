"""How the snapshots of one host and source follow one another: forks in a chain, and what is gone from its midst.

Invariants: judged by signed numbers and ids alone, never by clocks. Two snapshots with one number are a fork when they
say different things; one text that was wrapped anew under another name is none, for anybody can do that. A number that
no snapshot carries is a gap, unless a mark forgets the snapshot that carried it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from opskit.repository import manifest as manifests
from opskit.repository.manifest import Snapshot

Chain = Mapping[int, Sequence[Snapshot]]
"""The snapshots of one host and source by their numbers, in rising order."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers `first` to `last` that nothing at hand carries, though `after`, which follows them, is there."""

    first: int
    last: int
    after: Snapshot

    def __str__(self) -> str:
        """The numbers with the id of the last of them, as far as it is known."""
        manifest = self.after.manifest
        span = f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"
        known = manifest.previous if self.last == manifest.sequence - 1 else None
        return f"number {span} of {manifest.source} on {manifest.host} ({(known or '')[:8] or '?'})"


def chains_of(snapshots: Iterable[Snapshot]) -> Mapping[tuple[str, str], Chain]:
    """The chains by (host, source)."""
    found: dict[tuple[str, str], dict[int, list[Snapshot]]] = {}
    for each in snapshots:
        chain = found.setdefault((each.manifest.host, each.manifest.source), {})
        chain.setdefault(each.manifest.sequence, []).append(each)
    return {key: dict(sorted(chain.items())) for key, chain in found.items()}


def is_fork(twins: Sequence[Snapshot]) -> bool:
    """Whether snapshots with one number say different things."""
    return len(twins) > 1 and len({manifests.encode(each.manifest) for each in twins}) > 1


def gaps_in(chain: Chain, forgotten: Collection[str] = (), numbers: Collection[int] = ()) -> Iterator[Gap]:
    """The gaps of a chain. What marks forget is none: `forgotten` are ids, `numbers` what those of this chain carry."""
    last = 0
    for number, twins in chain.items():
        is_excused = any(each.manifest.previous in forgotten for each in twins)
        if number > last + 1:  # never number by number: a signer can give any
            excused = {*numbers, number - 1} if is_excused else numbers
            for first, end in _stretches(last + 1, number - 1, excused):
                yield Gap(first, end, twins[0])
        last = number


def _stretches(first: int, last: int, without: Collection[int]) -> Iterator[tuple[int, int]]:
    """First and last of each unbroken stretch between two numbers, without some."""
    for number in sorted(each for each in without if first <= each <= last):
        if first < number:
            yield first, number - 1
        first = number + 1
    if first <= last:
        yield first, last

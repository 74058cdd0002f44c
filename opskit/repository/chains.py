"""How the snapshots of one host and source follow one another: forks in a chain, and what is gone from its midst.

Invariants: judged by signed numbers and ids alone, never by clocks. Two snapshots with one number are a fork when they
say different things; one text that was wrapped anew under another name is none, for anybody can do that. A number that
no snapshot carries is a gap, unless the snapshot that should carry it was forgotten by a mark.
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
        return f"number {span} of {manifest.source} on {manifest.host} ({(manifest.previous or '')[:8] or '?'})"


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


def gaps_in(chain: Chain, forgotten: Collection[str] = ()) -> Iterator[Gap]:
    """The gaps of a chain. What a mark forgets is none, nor what came before it: retention begins with the oldest."""
    last = 0
    for number, twins in chain.items():
        if number > last + 1 and not any(each.manifest.previous in forgotten for each in twins):
            yield Gap(last + 1, number - 1, twins[0])
        last = number

"""What each copy acknowledged: the newest snapshot per host and source that it was seen to hold.

This is state, not cache: with it a rollback of a copy shows (a head acknowledged and gone). It is kept
per copy id, since disks swapped at one mount point are two copies. Losing it together with a rollback of every
reachable copy cannot be detected.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.durable import write_durably
from opskit.repository.manifest import Snapshot


class Head(NamedTuple):
    """A snapshot some copy acknowledged."""

    sequence: int
    name: str


class Heads:
    """The acknowledged heads of one repository, in one small JSON file, replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._heads: dict[str, dict[str, Head]] = {}
        self.lost: str | None = None
        """Says so when the file was damaged and set aside, until somebody has taken it away."""
        aside = path.with_suffix(".damaged")
        try:
            value = encoding.decode_object(path.read_bytes(), what=str(path))
            self._heads = {
                copy: {chain: Head(int(number), str(name)) for chain, (number, name) in heads.items()}
                for copy, heads in value.items()
            }
        except FileNotFoundError:
            pass
        except (Damaged, TypeError, ValueError, AttributeError):
            os.replace(path, aside)
        if aside.exists():
            self.lost = (
                f"{path} was damaged (now {aside}): a rollback of a copy before that cannot be seen; "
                "when you have seen that no copy went back, remove that file"
            )

    def copies(self) -> frozenset[str]:
        """The ids of all copies that acknowledged anything."""
        return frozenset(self._heads)

    def get(self, copy_id: str, host: str, source: str) -> Head | None:
        """What a copy acknowledged last for a chain."""
        return self._heads.get(copy_id, {}).get(f"{host}/{source}")

    def chains(self, copy_id: str) -> list[tuple[str, str]]:
        """The (host, source) pairs of which a copy acknowledged a snapshot."""
        return [(host, source) for host, _, source in (chain.partition("/") for chain in self._heads.get(copy_id, {}))]

    def newest(self, host: str, source: str, *, without: Collection[str] = ()) -> Head | None:
        """The newest head that any copy acknowledged, those with these ids left out."""
        chain = f"{host}/{source}"
        found = [heads[chain] for copy, heads in self._heads.items() if chain in heads and copy not in without]
        return max(found, default=None)

    def acknowledge(self, copy_id: str, snapshot: Snapshot) -> None:
        """Note that a copy holds a snapshot; older ones than noted, or a copy without an id, change nothing."""
        if not copy_id:
            return
        chain = f"{snapshot.manifest.host}/{snapshot.manifest.source}"
        head = Head(snapshot.manifest.sequence, snapshot.name)
        heads = self._heads.setdefault(copy_id, {})
        if chain not in heads or heads[chain].sequence <= head.sequence:
            heads[chain] = head

    def save(self) -> None:
        """Write the file."""
        stored = {copy: {chain: [*head] for chain, head in heads.items()} for copy, heads in self._heads.items()}
        write_durably(self._path, encoding.encode(stored))


class GoneBack(NamedTuple):
    """A copy that acknowledged a head of a source of a host, and does not show it any more."""

    destination: str
    host: str
    source: str
    head: Head


def gone_back(
    copies: Sequence[Copy],
    heads: Heads | None,
    *,
    forgotten: Collection[str] = (),
    torn: Collection[tuple[str, str]] = (),
) -> list[GoneBack]:
    """All such copies, by what they list; none where this host's memory of heads cannot be had.

    A head that a mark forgets may go. One that is torn, (destination, object), is damage and no going back.
    """
    if heads is None:
        return []
    return [
        GoneBack(copy.destination, host, source, head)
        for copy in copies
        for host, source in sorted(heads.chains(copy.id))
        if (head := heads.get(copy.id, host, source)) is not None
        and head.name not in copy.objects
        and (copy.destination, head.name) not in torn
        and names.digest_in(head.name) not in forgotten
    ]

"""What a command that changes copies met and somebody should look into, for its outcome in the audit log.

Two kinds: a copy that went back behind what it acknowledged, and manifests or marks that were not believed. Where
there was neither, nothing is noted. It deliberately changes nothing and tells nobody: each command warns in its own
words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from opskit.errors import OpskitError
    from opskit.repository.copy import Copy
    from opskit.repository.heads import Head, Heads


class GoneBack(NamedTuple):
    """A copy that acknowledged a head of a source of a host, and does not show it any more."""

    destination: str
    host: str
    source: str
    head: Head


def gone_back(copies: Sequence[Copy], heads: Heads | None) -> list[GoneBack]:
    """All such copies, by what they list; none where this host's memory of heads cannot be had."""
    if heads is None:
        return []
    return [
        GoneBack(copy.destination, host, source, head)
        for copy in copies
        for host, source in heads.chains(copy.id)
        if (head := heads.get(copy.id, host, source)) is not None and head.name not in copy.objects
    ]


def rolled_back(found: Iterable[GoneBack]) -> dict[str, object]:
    """The detail `rolled_back` of an outcome; {} for nothing found."""
    told = [
        {"destination": each.destination, "host": each.host, "source": each.source, "snapshot": each.head.name}
        for each in found
    ]
    return {"rolled_back": told} if told else {}


def rejected(found: Iterable[tuple[str, str, OpskitError]]) -> dict[str, object]:
    """The detail `rejected` of an outcome, each object at each copy once; {} for nothing found."""
    reasons = {(place, name): str(reason) for place, name, reason in found}
    told = [{"destination": place, "object": name, "reason": why} for (place, name), why in reasons.items()]
    return {"rejected": told} if told else {}

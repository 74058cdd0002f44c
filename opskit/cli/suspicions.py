"""What a command that changes copies met and somebody should look into, for its outcome in the audit log.

Two kinds: a copy that went back behind what it acknowledged, and manifests or marks that were not believed. Where
there was neither, nothing is noted. It deliberately changes nothing and tells nobody: each command warns in its own
words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opskit.errors import OpskitError
    from opskit.repository.heads import GoneBack


SHOWN = 20
"""So many of a kind are noted by name: the log cuts long details, and then none would be."""


def rolled_back(found: Sequence[GoneBack]) -> dict[str, object]:
    """The details `rolled_back` and, where there are more than are noted, `rolled_back_count`; {} for nothing found."""
    told = [
        {"destination": each.destination, "host": each.host, "source": each.source, "snapshot": each.head.name}
        for each in found
    ]
    return _noted("rolled_back", told)


def rejected(found: Iterable[tuple[str, str, OpskitError]]) -> dict[str, object]:
    """The details `rejected` and `rejected_count` likewise, each object at each copy once, what was forged first."""
    from opskit.errors import Damaged, StoreError

    reasons = {(place, name): reason for place, name, reason in found}
    ordered = sorted(reasons.items(), key=lambda each: isinstance(each[1], Damaged | StoreError))
    told = [{"destination": place, "object": name, "reason": str(why)} for (place, name), why in ordered]
    return _noted("rejected", told)


def _noted(kind: str, told: Sequence[Mapping[str, str]]) -> dict[str, object]:
    if not told:
        return {}
    return {kind: told[:SHOWN], **({f"{kind}_count": len(told)} if len(told) > SHOWN else {})}

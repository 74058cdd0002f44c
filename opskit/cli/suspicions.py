"""What a command that changes copies met and somebody should look into, for its outcome in the audit log.

Two kinds: a copy that went back behind what it acknowledged, and manifests or marks that were not believed. Where
there was neither, nothing is noted. It deliberately changes nothing and tells nobody: each command warns in its own
words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opskit.errors import OpskitError
    from opskit.repository.heads import GoneBack


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

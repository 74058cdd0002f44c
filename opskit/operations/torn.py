"""Objects that a copy lists but does not hold whole: what a crash of a careless medium leaves, or somebody's hand.

A listing shows names and sizes. Where the size is not the one that was written, or copies disagree on it, the
bytes decide; such objects are few. Changed bytes of the right size are `verify`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opskit.errors import Damaged, StoreError
from opskit.repository import names
from opskit.repository.believing import Rejected
from opskit.repository.copy import Copy


def drop_torn(copies: Sequence[Copy], written: Mapping[str, int] | None = None) -> list[Rejected]:
    """Take torn objects out of the copies' listings, as if they were absent; returns what they were.

    `written` are sizes that are known, as far as they are known; they may be wrong as well.
    """
    known = written or {}
    disputed = _disputed(copies, known)
    dropped: list[Rejected] = []
    for copy in copies:
        for name, size in list(copy.objects.items()):
            if size == known.get(name, size) and name not in disputed:
                continue
            try:
                copy.get(name)
            except (Damaged, StoreError) as error:
                del copy.objects[name]
                dropped.append((copy.destination, name, error))
    return dropped


def _disputed(copies: Sequence[Copy], known: Mapping[str, int]) -> set[str]:
    seen: dict[str, int] = {}
    return {
        name
        for copy in copies
        for name, size in copy.objects.items()
        if name not in known and seen.setdefault(name, size) != size and name not in names.FIXED
    }

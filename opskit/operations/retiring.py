"""Which packs a backup treats as absent although they are there, so that what is needed of them is stored together.

A source that grows over a thousand runs would else need a thousand small packs, each with a run key and an index object
of its own, and a restore would open them one by one. So small packs are bounded, in two sizes: what was gathered from
tiny ones is mostly past the smaller size, and what was gathered from those past the larger one. Thus content is stored
anew two or three times in its life, however long the source grows.

Invariants: only packs that the newest snapshot needs are gathered. What else holds a chunk of them is treated as absent
too, or the older packs that they were gathered from would serve again. Packs that still want an index object stay: this
run describes them. Nothing is deleted here, and older snapshots keep what they need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from opskit.errors import Damaged, StoreError
from opskit.log import logger
from opskit.operations.session import Session
from opskit.repository.locating import packs_of
from opskit.repository.manifest import Manifest

log = logger(__name__)

TINY_PACK, MANY_TINY_PACKS = 1024 * 1024, 16
SMALL_PACK, MANY_SMALL_PACKS = 8 * 1024 * 1024, 32
"""Bytes of content below which a pack counts, and how many such packs a snapshot may need."""


def retire(session: Session, newest: Manifest) -> None:
    """Treat the small packs of a snapshot as absent when they are many, so this run stores their chunks together.

    A pack list nobody has is no reason to stop.
    """
    wanted = _needed(session, newest) - set(session.unindexed)
    gathered = _many(session, wanted, TINY_PACK, MANY_TINY_PACKS) | _many(session, wanted, SMALL_PACK, MANY_SMALL_PACKS)
    if not gathered:
        return
    older = session.cache.packs_sharing(gathered) - wanted - set(session.unindexed)
    for number in gathered | (older & session.live.keys()):
        del session.live[number]
    log.debug("packs gathered", packs=len(gathered), older=len(older))


def _needed(session: Session, newest: Manifest) -> set[int]:
    """The numbers of the live packs that a snapshot needs."""
    names: set[str] = set()
    for run in newest.runs:
        with contextlib.suppress(Damaged, StoreError):
            names.update(packs_of(run, session.get))
    return {number for number, row in session.live.items() if row.name in names}


def _many(session: Session, wanted: Collection[int], size: int, count: int) -> set[int]:
    """Those of the packs that are below a size, if they are more than so many."""
    found = {number for number in wanted if session.live[number].content < size}
    return found if len(found) > count else set()

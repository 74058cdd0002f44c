"""Which packs a backup treats as absent although they are there, so that what is needed of them is stored together.

A source that grows over a thousand runs would else need a thousand small packs, each with a run key and an index object
of its own, and a restore would open them one by one. So small packs are bounded, in two sizes: what was gathered from
tiny ones is mostly past the smaller size, and what was gathered from those past the larger one. Thus content is stored
anew two or three times in its life, however long the source grows.

Packs of which little is needed any more (module `sparse`) are treated alike, a limited number of bytes a run.

Invariants: only packs that the newest snapshot needs are gathered. Older ones that hold a chunk of them are treated as
absent too, or those that they were gathered from would serve again. All of this is for one source: another that
shares chunks with it would else store anew whatever lies beside those chunks. Packs that still want an index object
stay: this run describes them. Nothing is deleted here, and older snapshots keep what they need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from opskit.errors import Damaged, StoreError
from opskit.log import logger
from opskit.operations.session import Session
from opskit.operations.sparse import Measured, choose, used_content
from opskit.repository import lasttree
from opskit.repository.locating import packs_of
from opskit.repository.manifest import Manifest

log = logger(__name__)

TINY_PACK, MANY_TINY_PACKS = 1024 * 1024, 16
SMALL_PACK, MANY_SMALL_PACKS = 8 * 1024 * 1024, 32
"""Bytes of content below which a pack counts, and how many such packs a snapshot may need."""


def retire(session: Session, chain: Sequence[Manifest], last_tree: Path | None = None) -> Measured | None:
    """Treat packs of the last snapshot of a chain as absent, so this run stores what is needed of them together.

    They are the small ones, when they are many, and by the last tree, if that is at hand, the sparse ones. Returns what
    to remember of the sizes as they are now, once all sparse ones were dealt with. A pack list nobody has is no reason
    to stop.
    """
    newest = chain[-1]
    wanted = _needed(session, newest) - set(session.unindexed)
    gathered = _many(session, wanted, TINY_PACK, MANY_TINY_PACKS) | _many(session, wanted, SMALL_PACK, MANY_SMALL_PACKS)
    now = Measured(sum(session.live[number].content for number in wanted), newest.bytes)
    measured = None
    if last_tree is not None:
        before = remembered(lasttree.read_about(last_tree))
        measured = before or now
        if before is not None and before.has_changed(now):
            used = used_content(last_tree, session.cache, wanted - gathered)
            found = choose(used, session.live, newest.bytes)
            log.debug("sparse packs", packs=len(found.packs), is_all=found.is_all)
            gathered |= found.packs
            freed = sum(session.live[number].content - used[number] for number in found.packs)
            measured = Measured(now.content - freed, now.source) if found.is_all else before
    if gathered:
        _drop(session, gathered, wanted, {digest for each in chain for run in each.runs for digest in run.packs})
    return measured


def _drop(session: Session, gathered: set[int], wanted: Collection[int], named: Collection[str]) -> None:
    """Treat packs as absent, and older ones that hold the same chunks though the newest snapshot does not need them.

    Older are those whose names the chain's manifests give, and those with lower numbers. A run that was killed while
    it gathered has left others: they hold what this run would store, and are used.
    """
    live, last = session.live, max(wanted)
    sharing = session.cache.packs_sharing(gathered).difference(wanted, session.unindexed) & live.keys()
    older = {number for number in sharing if number < last or live[number].name in named}
    for number in gathered | older:
        session.retired[number] = live.pop(number)
    log.debug("packs gathered", packs=len(gathered), older=len(older))


def bring_back(session: Session) -> None:
    """Let every pack count again, for the next source: it has its own packs to gather, and may need these whole."""
    session.live.update(session.retired)
    session.retired.clear()


def remembered(about: Mapping[str, object]) -> Measured | None:
    """What the run before noted beside its last tree; None where it noted nothing."""
    found = about.get("measured")
    match found:
        case [int(content), int(source)]:
            return Measured(content, source)
    return None


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

"""Takes superseded key objects away at the copies that can do without them.

Invariants, at each copy for itself: a key object is deleted only when every mark that supersedes any, and an object
that stands in for it and is not superseded itself, have just been read back from there with the right bytes; and not
while that object is condemned. So whatever two hosts do at once, what is deleted last has a successor, and that one
stays. Which step is left to do is seen from what is there: whoever was killed is simply repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from opskit.errors import Damaged, ObjectNotFound, OpskitError, StoreRefused
from opskit.log import logger
from opskit.repository import names
from opskit.repository.copy import Copy, get_from
from opskit.repository.marks import Marks

log = logger(__name__)


@dataclass(slots=True)
class Finished:
    """What was done at one copy: objects deleted; those that a lock holds, with what the store says of it.

    `failure` tells why the work ended there.
    """

    deleted: list[str] = field(default_factory=list)
    locked: dict[str, StoreRefused] = field(default_factory=dict)
    failure: OpskitError | None = None


def superseded_at(copy: Copy, marks: Marks) -> list[str]:
    """The names of the key objects there that another one stands in for."""
    succession = marks.succession
    return [
        name
        for name in copy.objects
        if name.startswith("keys/") and (digest := names.digest_in(name)) and succession.is_superseded(digest)
    ]


def finish(copies: Sequence[Copy], marks: Marks) -> dict[str, Finished]:
    """Bring every working copy what stands in for others and the marks that say so, and delete the others there."""
    return {copy.destination: _finish(copy, copies, marks) for copy in copies if copy.failed is None}


def _finish(copy: Copy, copies: Sequence[Copy], marks: Marks) -> Finished:
    found, olds = Finished(), superseded_at(copy, marks)
    if not olds:
        return found
    condemned = marks.condemned_by()
    ends = [name for name in map(names.key, marks.succession.all_ends()) if _is_at_hand(name, copies)]
    try:
        # All of them, in this order: no mark before what it tells of, and no step of a succession left out.
        for name in (*ends, *(each.name for each in marks.superseding())):
            _bring(copy, copies, name)
        for name in sorted(olds):
            heirs = {names.key(end) for end in marks.succession.ends(names.digest_in(name) or "")}
            if heirs.intersection(ends) - condemned.keys():
                _delete(copy, name, found)
    except OpskitError as error:
        found.failure = error
    return found


def _is_at_hand(name: str, copies: Sequence[Copy]) -> bool:
    return any(name in each.objects for each in copies)


def _bring(copy: Copy, copies: Sequence[Copy], name: str) -> None:
    """Have an object at a copy, read back from there; one that a crash tore is mended. Raises Damaged, StoreError."""
    if name in copy.objects:
        with suppress(Damaged, ObjectNotFound):
            copy.get(name)
            return
    copy.put(name, get_from([each for each in copies if each is not copy], name))
    copy.get(name)


def _delete(copy: Copy, name: str, found: Finished) -> None:
    try:
        copy.store.delete(name)
    except ObjectNotFound:
        pass  # somebody else was quicker
    except StoreRefused as error:
        found.locked[name] = error
        return
    else:
        found.deleted.append(name)
        log.info("superseded key object deleted", destination=copy.destination, object=name)
    copy.objects.pop(name, None)

"""Brings a copy up to date from the others: whole objects, no key.

Invariants: snapshots go in the order of their sequence, and each one's objects before its manifest, so an
interruption leaves a shorter history, never a broken one. What no reachable copy holds intact is
left out together with the snapshots that need it; the copy then stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opskit.errors import Damaged, StoreError
from opskit.log import logger
from opskit.operations.session import get_from
from opskit.repository.copy import Copy
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot

log = logger(__name__)


def lacking(copy: Copy, snapshot: Snapshot, get: Callable[[str], bytes]) -> list[str]:
    """The objects a snapshot needs that a copy does not have, in the order of writing."""
    return [name for name in objects_of(snapshot.manifest, get) if name not in copy.objects]


def catch_up(target: Copy, others: Sequence[Copy], snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Copy the snapshots, or objects of them, that a copy lacks; returns those it still lacks.

    A write error is kept on the copy. Packs that only a pack list names are missed here while the manifest is
    there; `verify` finds them.
    """
    sources = [copy for copy in others if copy is not target and copy.failed is None]
    still: list[Snapshot] = []
    for snapshot in snapshots:
        if snapshot.name in target.objects and all(name in target.objects for name in snapshot.manifest.object_names()):
            continue
        if target.failed is not None or not _copy_one(target, sources, snapshot):
            still.append(snapshot)
    return still


def _copy_one(target: Copy, sources: Sequence[Copy], snapshot: Snapshot) -> bool:
    try:
        wanted = lacking(target, snapshot, lambda name: get_from([target, *sources], name))
        for name in [*wanted, *([] if snapshot.name in target.objects else [snapshot.name])]:
            data = get_from(sources, name)
            try:
                target.put(name, data)
                log.debug("object caught up", destination=target.destination, object=name, bytes=len(data))
            except StoreError as error:
                target.failed = error
                return False
    except (StoreError, Damaged):
        return False
    return True

"""What this host remembers of reading its copies back: per copy id, when, how much, and what came of it.

This is state, not cache: nothing at the copies says when they were last read. Losing it costs the memory alone: the
copies count as never verified until the next `opskit verify`. It is kept per copy id, since disks swapped at one mount
point are two copies, and remembers which copy was last seen at a destination, so that something can be said of a
disk that is not there. It deliberately decides nothing: what is overdue is judged by `status.rules`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import names
from opskit.repository.durable import alone, write_durably
from opskit.repository.verification import Verification, verification_in, verification_value

CLOCKS_APART = timedelta(minutes=5)

if TYPE_CHECKING:  # reading this memory must not cost the import of verify
    from opskit.operations.verify import CopyReport
    from opskit.repository.copy import Copy
    from opskit.repository.history import History


def place(state: Path, repository: str) -> Path:
    """Where the memory of one repository lies in a host's state folder."""
    return state / "verified" / f"{repository}.json"


class Verified:
    """The memory of one repository's copies, in one small JSON file, replaced atomically.

    Several processes may note things: `save` adds this one's to what the file says by then.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; an absent one is empty. Raises OSError when it cannot be read or set aside."""
        self._path = path
        self._copies: dict[str, Verification] = {}
        self._destinations: dict[str, str] = {}
        self._new_copies: dict[str, Verification] = {}
        self._new_destinations: dict[str, str] = {}
        self.lost: str | None = None
        """Says so when the file was damaged, and has been set aside."""
        try:
            self._read()
        except (Damaged, KeyError, TypeError, ValueError, AttributeError):
            aside = path.with_suffix(".damaged")
            os.replace(path, aside)
            self.lost = f"{path} was damaged (now {aside}): every copy counts as never verified until it is read again"

    def _read(self) -> None:
        with suppress(FileNotFoundError):
            value = encoding.decode_object(self._path.read_bytes(), what=str(self._path))
            copies = {str(copy): verification_in(each) for copy, each in value["copies"].items()}
            self._destinations = {str(name): str(copy) for name, copy in value["destinations"].items()}
            self._copies = copies

    def get(self, copy_id: str | None) -> Verification | None:
        """The last complete reading of a copy."""
        return self._copies.get(copy_id) if copy_id else None

    def record(self, copy_id: str, verification: Verification) -> None:
        """Note a reading; a copy without an id is not told from others, so nothing is noted for it."""
        if copy_id:
            self._copies[copy_id] = self._new_copies[copy_id] = verification

    def learn(self, copy_id: str, told: Verification) -> None:
        """Take in what another host says of a copy, for this process: it is not saved."""
        own = self._copies.get(copy_id)
        self._copies[copy_id] = told if own is None else _together(own, told)

    def copy_at(self, destination: str) -> str | None:
        """The id of the copy that was last seen at a destination."""
        return self._destinations.get(destination)

    def seen(self, destination: str, copy_id: str) -> None:
        """Note which copy is at a destination now."""
        if copy_id and self._destinations.get(destination) != copy_id:
            self._destinations[destination] = self._new_destinations[destination] = copy_id

    def remember_places(self, copies: Iterable[Copy]) -> None:
        """Note which copy is where, for the day when one is absent; raises OpskitError."""
        for copy in copies:
            self.seen(copy.destination, copy.id)
        self.save()

    def save(self) -> None:
        """Write the file if anything new was noted; raises OpskitError."""
        if not (self._new_copies or self._new_destinations):
            return
        with alone(self._path):
            with suppress(OSError, Damaged, KeyError, TypeError, ValueError, AttributeError):
                self._read()
            self._copies |= self._new_copies
            self._destinations |= self._new_destinations
            copies = {copy: verification_value(each) for copy, each in self._copies.items()}
            write_durably(self._path, encoding.encode({"copies": copies, "destinations": self._destinations}))
        self._new_copies, self._new_destinations = {}, {}


def verification_of(
    copy: Copy, report: CopyReport, history: History, now: datetime, before: Verification | None = None
) -> Verification | None:
    """What to remember of a report; None when the copy was not read to its end.

    What was known `before` of the same copy stays true: a budget leaves out what an earlier run has read.
    """
    if report.failure is not None:
        return None
    suffering = {snapshot.name for needing in report.needed_by.values() for snapshot in needing}
    suffering.update(report.damaged, report.missing)  # the manifest itself, which only a cache may still know
    newest: dict[str, str] = {}
    for snapshot in history.snapshots:  # in sequence order, so the last one stays
        chain = f"{snapshot.manifest.host}/{snapshot.manifest.source}"
        is_proved = snapshot.name not in report.unproved or (before and before.newest.get(chain) == snapshot.name)
        if copy.destination in history.holders[snapshot.name] and snapshot.name not in suffering and is_proved:
            newest[chain] = snapshot.name
    earlier = before.known_since if before else None
    if earlier is not None and earlier > now + CLOCKS_APART:  # a clock was wrong; what it says would never become old
        earlier = None
    times = [earlier, report.coverage.since if report.coverage else None]
    damaged_packs = sum(map(names.is_pack, report.damaged))
    unsettled = max(_unsettled(report, before) - damaged_packs, 0)
    return Verification(
        now,
        report.objects,
        report.total_bytes,
        len(report.damaged) + unsettled,
        len(report.missing),
        len(report.untrusted) + len(report.forks) + len(report.rolled_back),
        newest,
        max((each for each in times if each is not None), default=None),
        report.coverage,
        damaged_packs + unsettled,
    )


def _unsettled(report: CopyReport, before: Verification | None) -> int:
    """Packs that were damaged, where the ledger did not know which: it was lost, so nobody looked at them again."""
    if before is None or report.known_bad is None:
        return 0
    return before.damaged_packs if report.known_bad < before.damaged_packs else 0


def _together(one: Verification, other: Verification) -> Verification:
    """What two hosts say of one copy: the later speaks, but what the earlier found is not good before all is read."""
    earlier, later = sorted((one, other), key=lambda each: each.ended)
    times = [each.known_since for each in (one, other) if each.known_since is not None]
    found = replace(later, since=max(times, default=None))
    if later.is_good:
        found = replace(found, newest={**earlier.newest, **later.newest})
    if earlier.is_good or (later.known_since is not None and later.known_since >= earlier.ended):
        return found
    return replace(
        found,
        newest=later.newest,
        damaged=max(earlier.damaged, later.damaged),
        damaged_packs=max(earlier.damaged_packs, later.damaged_packs),
        missing=max(earlier.missing, later.missing),
        untrusted=max(earlier.untrusted, later.untrusted),
    )

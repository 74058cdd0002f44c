"""Whose private key opens what, at which copy: told by the packets of key objects, so no key is used.

Invariants: what an object says is remembered by its name, which is its hash, so it is read once. A key is *needed* at
a copy where an object is that nobody else who counts opens, and nothing there, whole, stands in for it. What could not
be read, and copies that were not seen, may need any key. So may a run whose key object is nowhere any more: `heal` puts
wrong bytes into quarantine, and of those the key may still open some. So may another host whose newest backup was for
nobody who is a recipient here: nobody changed the config there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opskit.errors import OpskitError
from opskit.gpg import KeyInfo, owners, recipients_of
from opskit.operations.rekeying.following import written_for
from opskit.repository import names
from opskit.repository.cache import Cache
from opskit.repository.copy import Copy, get_from
from opskit.repository.manifest import Snapshot


@dataclass(slots=True)
class Opens:
    """What one private key opens at one copy: key objects, runs that snapshots there need; `needed`: see above."""

    objects: int = 0
    runs: set[str] = field(default_factory=set)
    needed: int = 0


@dataclass(slots=True)
class Openers:
    """By primary fingerprint (or key id, where nobody knows whose it is), by destination.

    `unread` are key objects that no copy at hand has whole, or that say nothing; `lost` runs that snapshots need and
    whose key is in no object that is listed; `unsure` other hosts that back up here, and that nothing shows to write
    for a present recipient; `written` for whom the newest backup of each other host was.
    """

    found: dict[str, dict[str, Opens]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    written: dict[str, frozenset[str]] = field(default_factory=dict)

    def of(self, key: str) -> dict[str, Opens]:
        """What one key opens, by destination."""
        return self.found.get(key, {})

    def naming(self, key: str) -> list[str]:
        """Other hosts whose newest backup was for this key, beside others or alone."""
        return sorted(host for host, who in self.written.items() if key in who)

    def is_needed(self, key: str) -> bool:
        """Whether something at hand, as far as it could be read, is opened by nobody else who counts."""
        return any(each.needed for each in self.of(key).values())


def openers(
    copies: Sequence[Copy],
    snapshots: Iterable[Snapshot],
    keys: Collection[KeyInfo],
    recipients: Collection[str],
    cache: Cache | None = None,
    *,
    host: str,
) -> Openers:
    """Look at every key object of every copy; the copies know which stand in for others. `host` is this one's label."""
    found = Openers()
    known = cache.key_ids() if cache else {}
    whose: dict[str, list[str]] = {}
    for name in sorted({name for copy in copies for name in copy.objects if _is_key(name)}):
        try:
            if name not in known:
                known[name] = recipients_of(get_from(copies, name))
                if cache:
                    cache.add_key_ids(name, known[name])
            whose[name] = owners(known[name], keys)
        except OpskitError:
            found.unread.append(name)
    snapshots = list(snapshots)
    hints = {(run.id, run.key) for each in snapshots for run in each.manifest.runs}
    for copy in copies:
        _look(found, copy, whose, hints, recipients)
    found.lost = _lost(copies, hints)
    found.written = {name: who for name, who in written_for(snapshots).items() if name != host}
    found.unsure = _unsure(copies, snapshots, whose, recipients, found.written)
    return found


def _lost(copies: Sequence[Copy], hints: Collection[tuple[str, str]]) -> list[str]:
    shown = {name for copy in copies for name in copy.objects}
    return sorted(
        {
            run
            for run, hint in hints
            for copy in copies[:1]  # they all know the same of what stands in for what
            if not any(names.key(each) in shown for each in (hint, *copy.succession.heirs(hint)))
        }
    )


def _unsure(
    copies: Sequence[Copy],
    snapshots: Sequence[Snapshot],
    whose: Mapping[str, list[str]],
    recipients: Collection[str],
    told: Mapping[str, Collection[str]],
) -> list[str]:
    """Hosts whose newest manifest names no present recipient; else key objects as they made them count."""
    shown = {name for name, who in told.items() if not set(recipients).isdisjoint(who)}
    shown |= {
        each.manifest.host
        for each in snapshots
        for run in each.manifest.runs
        if not told.get(each.manifest.host)
        and names.key(run.key) in whose
        and all(copy.succession.is_original(run.key) for copy in copies)
    }
    return sorted(told.keys() - shown)


def _look(
    found: Openers,
    copy: Copy,
    whose: dict[str, list[str]],
    hints: Collection[tuple[str, str]],
    recipients: Collection[str],
) -> None:
    runs: dict[str, set[str]] = {}
    for run, hint in hints:
        for digest in (hint, *copy.succession.heirs(hint)):
            runs.setdefault(names.key(digest), set()).add(run)
    read: dict[str, bool] = {}
    for name in whose.keys() & copy.objects.keys():
        ends = map(names.key, copy.succession.ends(names.digest_in(name) or ""))
        is_lone = not set(recipients).intersection(whose[name]) and not any(_has(copy, end, read) for end in ends)
        for each in whose[name]:
            opens = found.found.setdefault(each, {}).setdefault(copy.destination, Opens())
            opens.objects += 1
            opens.runs |= runs.get(name, set())
            opens.needed += is_lone


def _has(copy: Copy, name: str, read: dict[str, bool]) -> bool:
    """Whether a copy has an object whole; read once."""
    if name in copy.objects and name not in read:
        try:
            copy.get(name)
            read[name] = True
        except OpskitError:
            read[name] = False
    return read.get(name, False)


def _is_key(name: str) -> bool:
    return name.startswith("keys/") and names.digest_in(name) is not None

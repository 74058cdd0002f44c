"""Snapshots as the copies show them: verified manifests, who holds them, and how they chain.

Which are believed is module `believing`'s business. `latest` goes by sequence number, never by clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from opskit.errors import Forged
from opskit.gpg import Signed
from opskit.repository import manifest as manifests
from opskit.repository import names
from opskit.repository.believing import Judge, Rejected, Verify, destinations, listed
from opskit.repository.cache import Cache
from opskit.repository.copy import Copy
from opskit.repository.manifest import Snapshot


@dataclass(slots=True)
class History:
    """All snapshots of a repository.

    `holders` names the copies by snapshot, `rejected` holds (destination, object, reason) of each
    manifest that was not believed.
    """

    snapshots: list[Snapshot] = field(default_factory=list)
    holders: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def of(self, source: str, host: str | None = None) -> list[Snapshot]:
        """The snapshots of a source in sequence order."""
        return [
            snapshot
            for snapshot in self.snapshots
            if snapshot.manifest.source == source and host in (None, snapshot.manifest.host)
        ]


def load_history(
    copies: Sequence[Copy],
    verify: Verify,
    *,
    signers: Iterable[str],
    repository: str,
    cache: Cache | None = None,
    source: str | None = None,
) -> History:
    """Read and verify the manifests of all copies (of one source, if given)."""
    history = History()
    judge = Judge(verify, frozenset(signers), repository, cache=cache)
    wanted = "snapshots/" if source is None else f"Z-{source}-"
    for name, holders in listed(copies, lambda each: each.startswith("snapshots/") and wanted in each).items():
        snapshot = judge.believed(name, holders, partial(_snapshot, judge), history.rejected)
        if snapshot is not None:
            history.snapshots.append(snapshot)
            history.holders[name] = destinations(holders)
    history.snapshots.sort(
        key=lambda each: (each.manifest.source, each.manifest.host, each.manifest.sequence, each.name)
    )
    return history


def load_snapshot(copy: Copy, name: str, verify: Verify, *, signers: Iterable[str], repository: str) -> Snapshot:
    """Read and verify one manifest from one copy, without any cache; raises Forged, StoreError."""
    judge, rejected = Judge(verify, frozenset(signers), repository), list[Rejected]()
    found = judge.believed(name, [copy], partial(_snapshot, judge), rejected)
    if found is None:
        raise rejected[0][2]
    return found


def remembered(cache: Cache, history: History, signers: Iterable[str], repository: str) -> list[Snapshot]:
    """Snapshots that this host once saw and no copy at hand shows: absent ones may have them, or they are gone."""
    judge = Judge(_never, frozenset(signers), repository)
    found = []
    for name, signer, payload in cache.manifests():
        digest = names.digest_in(name)
        if name not in history.holders and digest is not None and signer in judge.allowed:
            with contextlib.suppress(Forged):  # a spoilt row
                found.append(_snapshot(judge, name, digest, signer, payload))
    return found


def _never(data: bytes) -> Signed:
    raise Forged("nothing is verified anew")


def _snapshot(judge: Judge, name: str, digest: str, signer: str, payload: bytes) -> Snapshot:
    found = manifests.decode(payload)
    judge.require_repository("a manifest", found.repository)
    if name != names.snapshot(found.started, found.source, digest):
        raise Forged(f"a manifest of {found.source} at {found.started:%Y-%m-%d %H:%M:%S} stored under another name")
    return Snapshot(name, digest, signer, found)

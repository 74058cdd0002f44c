"""Snapshots as the copies show them: verified manifests, who holds them, and how they chain.

Invariants: a manifest counts only when its bytes match its name, its signature is good and its signer
has the role; everything else is reported and left out, never guessed at. One bad object does not
hide the others. `latest` goes by sequence number, never by clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opskit.errors import Forged, OpskitError, StoreError
from opskit.gpg import Signed
from opskit.repository import manifest as manifests
from opskit.repository import names
from opskit.repository.cache import Cache
from opskit.repository.copy import Copy
from opskit.repository.manifest import Snapshot

Verify = Callable[[bytes], Signed]
"""Checks a signed object and returns payload and signer; raises Forged."""


@dataclass(slots=True)
class History:
    """All snapshots of a repository.

    `holders` names the copies by snapshot, `rejected` holds (destination, object, reason) of each
    manifest that was not believed.
    """

    snapshots: list[Snapshot] = field(default_factory=list)
    holders: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[tuple[str, str, OpskitError]] = field(default_factory=list)

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
    history, roles = History(), frozenset(signers)
    for name, holders in _listed(copies, source).items():
        snapshot = _load(name, holders, verify, roles, repository, cache, history)
        if snapshot is not None:
            history.snapshots.append(snapshot)
            history.holders[name] = [copy.destination for copy in holders]
    history.snapshots.sort(
        key=lambda each: (each.manifest.source, each.manifest.host, each.manifest.sequence, each.name)
    )
    return history


def _chain_order(snapshot: Snapshot) -> tuple[str, str, int, str]:
    manifest = snapshot.manifest
    return manifest.source, manifest.host, manifest.sequence, snapshot.name


def _listed(copies: Sequence[Copy], source: str | None) -> Mapping[str, list[Copy]]:
    listed: dict[str, list[Copy]] = {}
    for copy in copies:
        for name in copy.objects:
            if name.startswith("snapshots/") and (source is None or f"Z-{source}-" in name):
                listed.setdefault(name, []).append(copy)
    return dict(sorted(listed.items()))


def _load(
    name: str,
    holders: list[Copy],
    verify: Verify,
    roles: frozenset[str],
    repository: str,
    cache: Cache | None,
    history: History,
) -> Snapshot | None:
    digest = names.digest_in(name)
    cached = cache.manifest(name) if cache else None
    if digest is None:
        history.rejected.append((holders[0].destination, name, Forged("not a name opskit gives")))
        return None
    if cached and cached[0] in roles:
        return Snapshot(name, digest, cached[0], manifests.decode(cached[1]))
    for copy in list(holders):
        try:
            signed = verify(copy.get(name))
            found = _checked(name, digest, signed, roles, repository)
        except (Forged, StoreError) as error:
            history.rejected.append((copy.destination, name, error))
            holders.remove(copy)
            continue
        if cache:
            cache.add_manifest(name, signed.fingerprint, signed.payload)
        return found
    return None


def _checked(name: str, digest: str, signed: Signed, roles: frozenset[str], repository: str) -> Snapshot:
    if signed.fingerprint not in roles:
        raise Forged(
            f"signed by {signed.fingerprint}, which is not among the signers",
            hint="if you trust this key, add it to keys.signers in the config",
        )
    found = manifests.decode(signed.payload)
    if found.repository != repository:
        raise Forged(f"a manifest of repository {found.repository}, expected {repository}")
    if name != names.snapshot(found.started, found.source, digest):
        raise Forged(f"a manifest of {found.source} at {found.started:%Y-%m-%d %H:%M:%S} stored under another name")
    return Snapshot(name, digest, signed.fingerprint, found)

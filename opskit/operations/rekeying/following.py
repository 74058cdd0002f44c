"""For whom hosts write: told by the newest manifest of each, which it signed.

A host whose config names an old recipient and not the one who came in its place goes on to write for the old one. Its
next backup says so, also one that finds nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable

from opskit.repository.manifest import Manifest, Snapshot


def written_for(snapshots: Iterable[Snapshot]) -> dict[str, frozenset[str]]:
    """Fingerprints that each host encrypted its newest backup to, by host; none where that backup does not tell."""
    newest: dict[str, Manifest] = {}
    for manifest in (each.manifest for each in snapshots):
        known = newest.get(manifest.host)
        if known is None or _rank(manifest) > _rank(known):
            newest[manifest.host] = manifest
    return {host: frozenset(manifest.recipients) for host, manifest in newest.items()}


def _rank(manifest: Manifest) -> tuple[object, ...]:
    return manifest.finished, manifest.sequence

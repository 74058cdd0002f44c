"""For whom hosts write: told by the newest manifest of each, which it signed.

A host whose config names an old recipient and not the one who came in its place goes on to write for the old one. Its
next backup says so, also one that finds nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable

from opskit.repository.manifest import Manifest, Snapshot


def written_for(snapshots: Iterable[Snapshot]) -> dict[str, frozenset[str]]:
    """Fingerprints that each host encrypted its newest backup to, by host; none where that backup does not tell.

    Of one source the newest is told by its number, which no clock can change; of several sources by the time.
    """
    newest: dict[tuple[str, str], Manifest] = {}
    for manifest in (each.manifest for each in snapshots):
        known = newest.setdefault((manifest.host, manifest.source), manifest)
        if manifest.sequence > known.sequence:
            newest[manifest.host, manifest.source] = manifest
    found = sorted(newest.values(), key=lambda each: (each.finished, each.source))
    return {manifest.host: frozenset(manifest.recipients) for manifest in found}

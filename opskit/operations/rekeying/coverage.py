"""Whether a key opens what others open, and for whom hosts write now: told by packets and signed manifests, by no key.

A key that comes in the place of another must open all that the other opened. A host that wrote for the other one last,
and not for the new one, has a config that nobody changed: what it stores next would be lost with the old key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from opskit.operations.rekeying.survey import Survey
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import Marks


def not_for(found: Survey, key_ids: Collection[str], others: Collection[str]) -> list[str]:
    """Digests of the vouched key objects that one of `others` (key ids) opens, and none of `key_ids`."""
    return sorted(
        digest
        for digest, each in found.objects.items()
        if each.is_vouched and not set(key_ids).intersection(each.key_ids) and set(others).intersection(each.key_ids)
    )


def made_at(snapshots: Iterable[Snapshot], marks: Marks) -> dict[str, datetime]:
    """When key objects were made, at the latest, by digest: those that snapshots and marks name."""
    found: dict[str, datetime] = {}
    for manifest in (each.manifest for each in snapshots):
        for run in manifest.runs:
            found[run.key] = min(manifest.finished, found.get(run.key, manifest.finished))
    for marked in marks.superseding():
        for new in marked.mark.supersedes:
            found[new] = min(marked.mark.created, found.get(new, marked.mark.created))
    return found


def written_by(snapshots: Iterable[Snapshot], marks: Marks) -> dict[str, list[str]]:
    """By host, the digests of the key objects that are still as it made them, in the order in which it did."""
    found: dict[str, dict[str, None]] = {}
    manifests = (each.manifest for each in snapshots)
    for manifest in sorted(manifests, key=lambda each: (each.finished, each.sequence)):
        originals = (run.key for run in manifest.runs if marks.succession.is_original(run.key))
        for digest in originals:
            found.setdefault(manifest.host, {}).setdefault(digest)
    return {host: list(digests) for host, digests in found.items()}

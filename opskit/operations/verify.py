"""Verify: read every object of every copy back and compare it with its name; no private key needed.

What it answers per copy: which objects are damaged, which are missing though a snapshot there needs them, whether
the copy is behind the others, was rolled back behind what it acknowledged, or holds manifests nobody
known signed. It changes nothing. Opening packs is a restore's business: the hash names the exact bytes
that were decrypted, decompressed and compared before they were stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from opskit.errors import Damaged, ObjectNotFound, OpskitError, StoreError
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.heads import Heads
from opskit.repository.history import History, Verify, load_history
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot


@dataclass(slots=True)
class CopyReport:
    """What one copy holds. Lists carry object names (or snapshot names); `total_bytes` were read."""

    objects: int = 0
    total_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    untrusted: list[str] = field(default_factory=list)
    unreferenced: int = 0
    failure: OpskitError | None = None

    @property
    def is_good(self) -> bool:
        """Nothing to object to."""
        bad = (self.damaged, self.missing, self.behind, self.rolled_back, self.untrusted)
        return self.failure is None and not any(bad)

    @property
    def is_forged(self) -> bool:
        """Whether somebody may have tampered, as opposed to a medium failing."""
        return bool(self.rolled_back or self.untrusted)


def verify(
    copies: Sequence[Copy],
    check_signature: Verify,
    *,
    signers: Sequence[str],
    repository: str,
    kit: Mapping[str, str] | None = None,
    heads: Heads | None = None,
    workers: int = 2,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, CopyReport]:
    """Read the copies back; `kit` are the expected digests of the fixed objects, `progress` is told bytes read."""
    reports = {copy.destination: CopyReport() for copy in copies}
    history = load_history(copies, check_signature, signers=signers, repository=repository)
    for copy in copies:
        report = reports[copy.destination]
        try:
            _read_back(copy, report, kit or {}, workers, progress)
        except StoreError as error:
            report.failure = error
    for destination, name, reason in history.rejected:
        if not isinstance(reason, (Damaged, StoreError)):
            reports[destination].untrusted.append(f"{name}: {reason}")
    for copy in copies:
        _compare(copy, reports[copy.destination], history, copies, heads)
    return reports


def _read_back(
    copy: Copy, report: CopyReport, kit: Mapping[str, str], workers: int, progress: Callable[[int], None]
) -> None:
    def check(name: str) -> tuple[str, int, bool]:
        try:
            data = copy.store.get(name)
        except ObjectNotFound:
            return name, 0, False
        expected = names.digest_in(name) or kit.get(name)
        progress(len(data))
        return name, len(data), expected is None or names.sha256(data) == expected

    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as threads:
        for name, size, is_intact in threads.map(check, sorted(copy.objects)):
            report.objects += 1
            report.total_bytes += size
            if not is_intact:
                report.damaged.append(name)


def _compare(copy: Copy, report: CopyReport, history: History, copies: Sequence[Copy], heads: Heads | None) -> None:
    """Hold a copy against the snapshots it shows, the other copies' snapshots, and its own past."""
    damaged, missing, referenced = set(report.damaged), set[str](), set(names.FIXED)
    for snapshot in history.snapshots:
        if snapshot.name not in copy.objects:
            report.behind.append(snapshot.name)
            continue
        if snapshot.name in damaged:
            continue
        referenced.add(snapshot.name)
        for name in _needed(snapshot, copy, copies):
            referenced.add(name)
            if name not in copy.objects:
                missing.add(name)
    report.missing = sorted(missing)
    report.unreferenced = len(copy.objects.keys() - referenced)
    if heads is not None:
        for host, source in sorted({(each.manifest.host, each.manifest.source) for each in history.snapshots}):
            head = heads.get(copy.id, host, source)
            if head is not None and head.name not in copy.objects:
                report.rolled_back.append(head.name)
    report.behind = [name for name in report.behind if name not in report.rolled_back]


def _needed(snapshot: Snapshot, copy: Copy, copies: Sequence[Copy]) -> list[str]:
    """What a snapshot needs; a pack list this copy lacks is read from another, so the packs behind it count too."""

    def get(name: str) -> bytes:
        for each in (copy, *copies):
            if name in each.objects:
                try:
                    return each.get(name)
                except OpskitError:
                    continue
        return b""

    return list(objects_of(snapshot.manifest, get))

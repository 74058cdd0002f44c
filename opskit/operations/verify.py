"""Verify: read every object of every copy back and compare it with its name; no private key needed.

What it answers per copy: which objects are damaged, which are missing though a snapshot there needs them, whether
the copy is behind the others, was rolled back behind what it acknowledged, or holds what nobody known made:
manifests by strangers, forks of a chain, another recovery kit. It changes nothing. Opening packs is a restore's
business: the hash names the exact bytes that were decrypted, decompressed and compared before they were stored.

Invariants: an object that cannot be read does not hide the others; an answer needs no trust in any copy, only in the
signers, the caller's heads and the kit this program brings along. It cannot see a rollback of all copies at once
where the heads are lost too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from opskit.errors import Damaged, OpskitError, StoreError
from opskit.operations.verifying.readback import Kit, readings, vouched_for
from opskit.operations.verifying.turn import Shares, Turn
from opskit.repository import names
from opskit.repository.believing import Rejected, Verify
from opskit.repository.chains import chains_of, gaps_in, is_fork
from opskit.repository.copy import Copy
from opskit.repository.heads import Heads, gone_back
from opskit.repository.history import History, load_history
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot
from opskit.repository.recovery import kit as own_kit
from opskit.repository.verification import Coverage

_LISTS_REMEMBERED = 512
"""Pack lists are shared by many snapshots; each takes about 33 kB."""

_ASKED_FOR = 20
"""So many objects that are wrong at a copy are looked for at copies that are not read back."""


@dataclass(slots=True)
class CopyReport:
    """What one copy holds. Lists carry object names (or snapshot names, or a sentence); `total_bytes` were read.

    `removed` tells of snapshots that none of the copies at hand has, though a later one is here.
    `foreign` are kit objects with other bytes than any known kit (told in `untrusted` too). `needed_by` tells for each
    damaged or missing object the snapshots that need it, `elsewhere` the copies that hold it intact.
    """

    objects: int = 0
    total_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    untrusted: list[str] = field(default_factory=list)
    forks: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    unreferenced: int = 0
    failure: OpskitError | None = None
    needed_by: dict[str, list[Snapshot]] = field(default_factory=dict)
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    """Packs that were never read back, in this run or before."""
    unproved: frozenset[str] = frozenset()
    """Names of the snapshots that need one of those."""
    coverage: Coverage | None = None
    """How lately all of it was read back, where there is a ledger."""
    known_bad: int | None = None
    """How many packs known as damaged were looked at again; None: every pack was."""
    by_checksum: int = 0
    """Packs for which the store gave its word and that were not read; for `not_vouched` it was asked, and gave none."""
    not_vouched: int = 0

    @property
    def is_good(self) -> bool:
        """Nothing to object to."""
        bad = (
            self.damaged, self.missing, self.behind, self.rolled_back, self.untrusted, self.forks, self.removed,
        )  # fmt: skip
        return self.failure is None and not any(bad)

    @property
    def is_forged(self) -> bool:
        """Whether somebody may have tampered, as opposed to a medium failing."""
        return bool(self.rolled_back or self.untrusted or self.forks)


def verify(
    copies: Sequence[Copy],
    check_signature: Verify,
    *,
    signers: Sequence[str],
    repository: str,
    kit: Mapping[str, str] | None = None,
    heads: Heads | None = None,
    others: Sequence[Copy] = (),
    forgotten: Collection[str] = frozenset(),
    forgotten_numbers: Mapping[tuple[str, str], Collection[int]] = MappingProxyType({}),
    rejected: Sequence[Rejected] = (),
    workers: int = 2,
    progress: Callable[[int], None] = lambda count: None,
    turns: Mapping[str, Turn] = MappingProxyType({}),
    shares: Shares | None = None,
    by_checksum: bool = False,
) -> dict[str, CopyReport]:
    """Read the copies back, one after another; `progress` is told the bytes of each object.

    `turns` tell by destination what is read of a copy and note it, of others everything is read; `shares` is the time
    that there is for all of them. `by_checksum` takes the word of a store for packs that a budget leaves out, without
    a budget for all: then only those are read for which it keeps no SHA-256.

    `kit` are digests of kit objects known from outside (the recovery-key file). What `others` show of the history
    counts too: a manifest that is damaged here may tell there what is needed. They are not read back, nor judged.
    `forgotten` are ids of snapshots that marks forget, `forgotten_numbers` their numbers by (host, source): nobody need
    have those. `rejected` are marks that were not believed.
    """
    reports = {copy.destination: CopyReport() for copy in copies}
    shown = [*copies, *(copy for copy in others if copy.destination not in reports)]
    history = load_history(shown, check_signature, signers=signers, repository=repository)
    accepted = _accepted_kit(history, kit or {})
    for copy in copies:
        report = reports[copy.destination]
        try:
            turn, share = turns.get(copy.destination), shares.next() if shares else _never
            _read_back(copy, report, accepted, turn, share, workers, progress, by_checksum=by_checksum)
        except StoreError as error:
            report.failure = error
    _compare(copies, shown, reports, history, forgotten)
    _judge_rejected([*history.rejected, *rejected], reports)
    _judge_chains(history, reports, forgotten, forgotten_numbers)
    _judge_heads(copies, reports, heads, forgotten)
    _look_elsewhere(copies, shown[len(copies) :], reports)
    for destination, report in reports.items():
        if report.coverage is not None and (report.missing or report.rolled_back):
            # Whether they had gone or were only not listed: nobody read them, and they may be there again.
            report.coverage = replace(report.coverage, since=None, read_since=None)
            turns[destination].disown()
    return reports


def _never() -> bool:
    return False


def _accepted_kit(history: History, outside: Mapping[str, str]) -> Kit:
    """The digests that a kit object may have: of a signed manifest, of the recovery-key file, of this program's own.

    Of any manifest, not the newest alone: a newer opskit brings a newer kit, and what copies hold is never replaced.
    """
    accepted: dict[str, set[str]] = {name: {names.sha256(data)} for name, data in own_kit().items()}
    for known in (outside, *(snapshot.manifest.kit for snapshot in history.snapshots)):
        for name, digest in known.items():
            accepted.setdefault(name, set()).add(digest)
    return {name: frozenset(digests) for name, digests in accepted.items() if name in names.FIXED}


def _read_back(
    copy: Copy,
    report: CopyReport,
    kit: Kit,
    turn: Turn | None,
    share: Callable[[], bool],
    workers: int,
    progress: Callable[[int], None],
    *,
    by_checksum: bool,
) -> None:
    """Read what is to be read; raises StoreError where the store did not give all of it, which says nothing of it."""
    wanted, must, gone = turn.names if turn else sorted(copy.objects), turn.must if turn else 0, list[str]()
    if turn is not None and (turn.budget or by_checksum):
        report.known_bad = turn.known_bad
    if turn is not None and by_checksum:
        asked = turn.to_ask
        vouched = set(vouched_for(copy, asked))
        turn.vouch(vouched)
        report.by_checksum, report.not_vouched = len(vouched), len(asked) - len(vouched)
        wanted = wanted if turn.budget else turn.rest(name for name in asked if name not in vouched)
    try:
        with closing(readings(copy, wanted, kit, workers=workers, must=must, is_over=share)) as found:
            for name, size, finding in found:
                progress(size)
                report.objects += 1
                report.total_bytes += size
                if finding == "gone":
                    gone.append(name)
                    del copy.objects[name]
                    continue
                if finding == "damaged":
                    report.damaged.append(name)
                elif finding == "foreign":
                    report.foreign.append(name)
                    report.untrusted.append(f"{name}: expected one of the recovery kit's known sums, got another")
                if turn is not None:
                    turn.note(name, is_good=finding == "intact")
    finally:
        if turn is not None:
            report.coverage, report.unread = turn.coverage(gone), turn.unread()


def _compare(
    copies: Sequence[Copy],
    shown: Sequence[Copy],
    reports: Mapping[str, CopyReport],
    history: History,
    forgotten: Collection[str],
) -> None:
    """Hold each copy against the snapshots that any copy shows."""
    referenced = set(names.FIXED)
    get = lru_cache(maxsize=_LISTS_REMEMBERED)(lambda name: _from_any(shown, name))
    damaged = {copy.destination: frozenset(reports[copy.destination].damaged) for copy in copies}
    unproved: dict[str, set[str]] = {copy.destination: set() for copy in copies}
    for snapshot in history.snapshots:
        # A pack list that one copy lacks is read from another, so the packs behind it count too.
        needed = list(dict.fromkeys([*objects_of(snapshot.manifest, get, names.key), snapshot.name]))
        hints = {names.key(run.key): run.key for run in snapshot.manifest.runs}
        kit_objects = [name for name in snapshot.manifest.kit if name in names.FIXED]
        for copy in copies:
            report = reports[copy.destination]
            needed_here = [copy.key_object(hints[name]) if name in hints else name for name in needed]
            referenced.update(needed_here)
            if snapshot.name not in copy.objects:
                if snapshot.id not in forgotten:
                    report.behind.append(snapshot.name)
                continue
            for name in (*dict.fromkeys(needed_here), *kit_objects):
                if name not in copy.objects or name in damaged[copy.destination]:
                    report.needed_by.setdefault(name, []).append(snapshot)
            if not report.unread.isdisjoint(needed):
                unproved[copy.destination].add(snapshot.name)
    for copy in copies:
        report = reports[copy.destination]
        report.unproved = frozenset(unproved[copy.destination])
        report.missing += sorted((report.needed_by.keys() | {names.COPY}) - copy.objects.keys())
        report.unreferenced = len(copy.objects.keys() - referenced)


def _from_any(copies: Sequence[Copy], name: str) -> bytes:
    """An object from any copy that has it intact; nothing where none has."""
    for copy in copies:
        if name in copy.objects:
            try:
                return copy.get(name)
            except OpskitError:
                continue
    return b""


def _judge_rejected(rejected: Sequence[Rejected], reports: Mapping[str, CopyReport]) -> None:
    """A manifest or mark that is not believed though its bytes match its name was put there by somebody."""
    for destination, name, reason in rejected:
        if (report := reports.get(destination)) is None:
            continue
        is_failure = isinstance(reason, StoreError) or (isinstance(reason, Damaged) and name in report.damaged)
        if not is_failure:
            report.untrusted.append(f"{name}: {reason}")


def _judge_chains(
    history: History,
    reports: Mapping[str, CopyReport],
    forgotten: Collection[str],
    numbers: Mapping[tuple[str, str], Collection[int]],
) -> None:
    """Find forks, predecessors that were replaced, and numbers that no copy at hand has."""
    for key, chain in chains_of(history.snapshots).items():
        for number, twins in chain.items():
            for snapshot in twins:
                holders = _holders(history, reports, snapshot)
                if is_fork(twins):
                    _add(holders, "forks", f"{snapshot.name}: one of several with number {number}: a fork")
                before = chain.get(number - 1, ())
                if before and snapshot.manifest.previous not in {each.id for each in before}:
                    previous = (snapshot.manifest.previous or "")[:8] or "?"
                    text = (
                        f"{snapshot.name}: follows snapshot {previous}, which is gone, and another stands in its place"
                    )
                    _add(holders, "untrusted", text)
        for gap in gaps_in(chain, forgotten, numbers.get(key, ())):
            text = f"{gap} is at none of these copies, though number {gap.after.manifest.sequence} is"
            _add(_holders(history, reports, gap.after), "removed", text)


def _holders(history: History, reports: Mapping[str, CopyReport], snapshot: Snapshot) -> list[CopyReport]:
    return [reports[each] for each in history.holders[snapshot.name] if each in reports]


def _add(reports: Sequence[CopyReport], kind: Literal["removed", "untrusted", "forks"], text: str) -> None:
    for report in reports:
        getattr(report, kind).append(text)


def _judge_heads(
    copies: Sequence[Copy], reports: Mapping[str, CopyReport], heads: Heads | None, forgotten: Collection[str]
) -> None:
    """Acknowledged and gone is rolled back; never acknowledged is only behind."""
    for found in gone_back(copies, heads, forgotten=forgotten):
        report = reports[found.destination]
        report.rolled_back.append(found.head.name)
        report.behind = [name for name in report.behind if name != found.head.name]


def _look_elsewhere(copies: Sequence[Copy], others: Sequence[Copy], reports: Mapping[str, CopyReport]) -> None:
    """Note for each object a copy lacks or holds damaged which other copies hold it intact.

    Copies that were not read back are asked for the first of them; of the others their listings are believed.
    """
    bad = {copy.destination: frozenset(reports[copy.destination].damaged) for copy in copies}
    for report in reports.values():
        for number, name in enumerate((*report.damaged, *report.missing)):
            report.elsewhere[name] = [
                copy.destination
                for copy in copies
                if name in copy.objects
                and name != names.COPY
                and name not in bad[copy.destination]
                and reports[copy.destination].failure is None
            ]
            asked = number < _ASKED_FOR
            report.elsewhere[name] += [copy.destination for copy in others if _has_intact(copy, name, asked=asked)]


def _has_intact(copy: Copy, name: str, *, asked: bool) -> bool:
    """Whether a copy that is not read back has an object right, or lists it at least if it is not `asked`."""
    if name not in copy.objects or names.digest_in(name) is None:
        return False
    if not asked:
        return True
    try:
        copy.get(name)
    except OpskitError:
        return False
    return True

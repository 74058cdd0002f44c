"""One restore drill: restore a snapshot from one copy alone, check what came back, measure, wipe.

Invariants: from the moment the clock starts nothing is used but that copy, opened anew, the private key, and whose
signatures to believe: no cache, and no other copy, for a damaged copy must not be hidden by a whole one. Nothing is
written outside the scratch, and nothing to any copy. A bad answer is a result; raised is only what keeps the drill from
giving one: no key, no room, a copy that went away, an interruption.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from opskit.errors import Forged, NoKey, ObjectNotFound, OpskitError, StoreError, StoreFull, StoreRefused
from opskit.gpg import Signed
from opskit.operations.drilling import checks as judging
from opskit.operations.drilling.checks import Commands, Failure, Runner
from opskit.operations.drilling.choose import Choice
from opskit.operations.drilling.comparing import Compared, compare
from opskit.operations.drilling.dumps import Questions, judge_dumps
from opskit.operations.drilling.expected import Expected
from opskit.operations.drilling.sampling import Sample, Wish, sample_of
from opskit.operations.drilling.scratch import Scratch, translated
from opskit.operations.drilling.stock import Stock, download_size, recover
from opskit.operations.restore import Restored, RestoreOptions, restore
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.evidence import Check, Drill
from opskit.repository.history import load_snapshot
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node
from opskit.repository.unlocking import Decrypt
from opskit.sources.loading import Loader

ASKED_ELSEWHERE = 100
"""Failing objects for which the other copies are asked, at most."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a drill may use. `open_copy` opens the copy anew; `clock` gives seconds, `path` is for programs."""

    open_copy: Callable[[], Copy]
    decrypt: Decrypt
    verify: Callable[[bytes], Signed]
    signers: Sequence[str]
    trusted: Path
    clock: Callable[[], float]
    path: str
    loader: Callable[[], Loader]
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be drilled and how. Objectives are None where none is set."""

    choice: Choice
    now: datetime
    writer: str
    wish: Wish | None = None
    rate: int | None = None
    commands: Commands = field(default_factory=Commands)
    questions: Questions = field(default_factory=Questions)
    objective_restore: timedelta | None = None
    objective_recovery: timedelta | None = None
    stock: Stock | None = None


@dataclass(slots=True)
class Outcome:
    """What a drill came to: what anybody may know (`drill`), and all failures by file, which stay on this host.

    `bad` names objects that the copy lacks or holds damaged, with the reason; `gaps` tell what could not be checked.
    """

    drill: Drill
    failures: list[Failure]
    bad: dict[str, str]
    gaps: list[str] = field(default_factory=list)


def run_drill(order: Order, means: Means, scratch: Scratch, progress: Restored | None = None) -> Outcome:
    """Drill; raises NoKey, StoreFull, StoreError, UsageError for an empty sample, OpskitError for a failing check."""
    running = _Run(order, means, scratch, progress or Restored())
    try:
        with translated(scratch.folder.parent):  # errors of a copy are no OSErrors
            return running.run()
    finally:
        running.expected.close()


class _Run:
    def __init__(self, order: Order, means: Means, scratch: Scratch, restored: Restored) -> None:
        self._order, self._means, self._scratch, self._restored = order, means, scratch, restored
        self.expected = Expected(scratch.folder, means.workers)
        self._checks: list[Check] = []
        self._failures: list[Failure] = []
        self._bad: dict[str, str] = {}
        self._lost: dict[bytes, str] = {}
        self._sample: Sample | None = None
        self._reader: SnapshotReader | None = None
        self._restore_seconds = self._load_seconds = 0.0
        self._gaps: list[str] = []
        self._is_scratch_at_fault = False

    def run(self) -> Outcome:
        clock, order = self._means.clock, self._order
        begun = clock()
        copy = self._means.open_copy()
        compared = None
        try:
            self._restore(copy)
            compared = self._compare()
            if order.stock is None:  # contents are hashed there and not before; a restore that ends has done that
                self._restore_seconds = clock() - begun
            checking = clock()
            self._check(compared)
        except (Forged, StoreError) as error:
            if self._is_scratch_at_fault or isinstance(error, StoreFull):
                raise
            self._restore_seconds, checking = clock() - begun, clock()
            self._checks.append(Check("restore", 0, 1, type(error).__name__))
            self._failures.append((b"", str(error)))
            self._bad |= _object_in(error, order.choice.snapshot, copy)
        seconds = clock() - checking
        if self._failures:
            self._note_damage(copy)
        return Outcome(self._drill(copy, compared, seconds), self._failures, self._bad, self._gaps)

    def _restore(self, copy: Copy) -> None:
        means, order = self._means, self._order
        chosen = order.choice.snapshot
        repository = chosen.manifest.repository
        snapshot = load_snapshot(copy, chosen.name, means.verify, signers=means.signers, repository=repository)
        reader = self._reader = self._unlocked(copy, snapshot)
        if order.stock is not None:
            self._recover(order.stock, copy, snapshot, reader)
            return
        files, size = snapshot.manifest.entries, snapshot.manifest.bytes
        wanted: Callable[[Node], bool] = _everything
        if order.wish is not None:
            self._sample = sample_of(order.wish, reader.nodes(reader.root()), order.choice.seed, order.rate)
            wanted, files, size = self._sample.takes, self._sample.files, self._sample.bytes
        self._scratch.require_room(files, size)
        options = RestoreOptions(wanted=self.expected.takes(wanted), workers=means.workers, compared_after=True)
        restored = self._restored_by(reader, options)
        # What was lost is seen again when it is looked for; the reason is known here.
        self._lost = dict(restored.problems)

    def _restored_by(self, reader: SnapshotReader, options: RestoreOptions) -> Restored:
        try:
            return restore(reader, self._scratch.restored, options, self._restored)
        except (StoreFull, StoreRefused) as error:  # from a copy such an error is told per file
            self._is_scratch_at_fault = True
            raise type(error)(
                f"the scratch place {self._scratch.folder.parent} cannot take it: {error}",
                hint="name another by --scratch DIR or drills.scratch, or restore a part: --sample 5%",
            ) from error

    def _unlocked(self, copy: Copy, snapshot: Snapshot) -> SnapshotReader:
        try:
            return SnapshotReader(snapshot.manifest, [copy], self._means.decrypt, self._means.trusted)
        except NoKey:
            for run in snapshot.manifest.runs:  # no key opens what is damaged or gone: then it is not the key's fault
                name = copy.key_object(run.key)
                if name not in copy.objects:
                    raise ObjectNotFound(f"{copy.destination} has no {name}") from None
                copy.get(name)
            raise

    def _recover(self, stock: Stock, copy: Copy, snapshot: Snapshot, reader: SnapshotReader) -> None:
        """As somebody would without opskit; of opskit comes only what the result is held against."""
        more = download_size(stock, copy, snapshot)
        self._scratch.require_room(snapshot.manifest.entries, snapshot.manifest.bytes + more)
        begun, means, place = self._means.clock(), self._means, self._scratch
        self._failures += recover(stock, copy, snapshot, place.restored, place.folder, means.path, means.workers)
        self._restore_seconds = self._means.clock() - begun
        take = self.expected.takes(_everything)
        for node in reader.nodes(reader.root()):
            take(node)

    def _compare(self) -> Compared:
        restored = self._scratch.restored
        restored.mkdir(exist_ok=True)  # of an empty snapshot nothing was made
        return compare(self.expected, restored, self._scratch.folder)

    def _check(self, compared: Compared) -> None:
        restored, counts, wrong = self._scratch.restored, self.expected.counts, compared.wrong
        # Folders and links that differ are among the wrong too.
        self._add("hashes", counts.entries - len(wrong), counts.entries, [
            (path, self._lost.get(path, what)) for path, what in compared.contents
        ])  # fmt: skip
        there = counts.entries - len(wrong)
        seen = [each for each in compared.metadata if each[0] not in wrong]
        self._add("metadata", there - len(seen), there, seen)
        if self._sample is None:
            self._check_counts()
        self._check_dumps(wrong)  # before commands, which may change what lies there
        self._check_commands(wrong)
        databases = [each for each in compared.databases if each not in wrong]
        if databases:
            corrupt = judging.judge_databases(restored, databases)
            self._add("sqlite", len(databases) - len(corrupt), len(databases), corrupt)

    def _check_counts(self) -> None:
        """Whether the tree holds what the signed manifest says."""
        counts, manifest = self.expected.counts, self._order.choice.snapshot.manifest
        found = (counts.entries + counts.unread, counts.files + counts.unread_files)
        is_right = found == (manifest.entries, manifest.files) and not counts.sized_wrong
        if not counts.unread:
            is_right = is_right and counts.bytes == manifest.bytes
        note = f"{counts.unread:,} could not be read when it was backed up" if counts.unread else ""
        text = f"the tree has {found[0]:,} entries and {counts.bytes:,} bytes, the manifest says "
        text += f"{manifest.entries:,} and {manifest.bytes:,}"
        self._add("counts", int(is_right), 1, [] if is_right else [(b"", text)], note)

    def _check_dumps(self, wrong: set[bytes]) -> None:
        questions, place = self._order.questions, self._scratch
        if self._sample is not None:
            if questions.queries or questions.dumps:
                self._checks.append(Check("dumps", 0, 0, "left out: this is a sample"))
            return
        judged = judge_dumps(self._means.loader, questions, place.restored, wrong, place.folder)
        self._checks += judged.checks
        self._failures += judged.failures
        self._gaps += [judged.gap] if judged.gap else []
        self._load_seconds = judged.seconds

    def _check_commands(self, wrong: set[bytes]) -> None:
        commands = self._order.commands
        if commands.each is None and commands.all is None:
            return
        snapshot = self._order.choice.snapshot
        about = {"OPSKIT_DRILL": "1", "OPSKIT_SOURCE": snapshot.manifest.source, "OPSKIT_SNAPSHOT": snapshot.id}
        runner = Runner(self._scratch.folder, self._means.path, commands.redact, about)
        try:
            self._run_commands(runner, wrong)
        finally:
            runner.end_strays()

    def _run_commands(self, runner: Runner, wrong: set[bytes]) -> None:
        commands, restored = self._order.commands, self._scratch.restored
        folder = _folder_of(restored, self.expected.tops)
        if commands.each is not None:
            files = (path for path in _files_in(restored) if path not in wrong)
            count, bad = judging.judge_each(runner, commands, restored, files, folder, self._means.workers)
            self._add("verify.each", count - len(bad), count, bad)
        if commands.all is not None and self._sample is not None:
            self._checks.append(Check("verify.all", 0, 0, "left out: it needs everything, and this is a sample"))
        elif commands.all is not None:
            bad = judging.judge_all(runner, commands, folder)
            self._add("verify.all", 1 - len(bad), 1, bad)

    def _add(self, name: str, passed: int, total: int, failures: Sequence[Failure], note: str = "") -> None:
        self._checks.append(Check(name, passed, total, note))
        self._failures += failures

    def _note_damage(self, copy: Copy) -> None:
        """Which objects of the copy are to blame, as far as reading it showed; for recover.py they are read anew."""
        manifest = self._order.choice.snapshot.manifest
        for key, error in (self._reader.damage if self._reader else {}).items():
            self._bad.setdefault(key.rpartition(": ")[2], str(error))
        for name in dict.fromkeys(copy.key_object(run.key) for run in manifest.runs):
            if name in copy.objects and self._reader is None:
                self._bad |= _unreadable(copy, name)
        try:
            for name in objects_of(manifest, copy.get, copy.key_object):
                if name not in copy.objects:
                    self._bad.setdefault(name, "it is missing")
                elif self._order.stock is not None:
                    self._bad |= _unreadable(copy, name)
        except OpskitError as error:  # a pack list: then what it names is not known
            self._failures.append((b"", str(error)))

    def _right_bytes(self, compared: Compared | None) -> int:
        """How much came back; about, where not all did, as recover.py does not say how much its holes are."""
        if compared is None:
            return 0
        return max(compared.hashed, self._restored.total_bytes) if compared.contents else self.expected.counts.bytes

    def _drill(self, copy: Copy, compared: Compared | None, check_seconds: float) -> Drill:
        order, sample, counts = self._order, self._sample, self.expected.counts
        pair, snapshot = order.choice.pair, order.choice.snapshot
        manifest = snapshot.manifest
        right = counts.files - len(compared.wrong) if compared else 0
        return Drill(
            source=manifest.source,
            origin=manifest.host,
            destination=copy.destination,
            copy=copy.id,
            snapshot=snapshot.id,
            taken=manifest.started,
            chosen=order.choice.how,
            seed=order.choice.seed,
            candidates=order.choice.candidates,
            method="opskit" if order.stock is None else "stock",
            sample=sample.text if sample else "",
            passed=not self._failures and all(each.is_good for each in self._checks),
            files=max(right, 0),
            bytes=self._right_bytes(compared),
            planned_files=sample.files if sample else manifest.files - counts.unread_files,
            planned_bytes=sample.bytes if sample else manifest.bytes,
            restore_ms=round((self._restore_seconds + self._load_seconds) * 1000),
            check_ms=round(max(check_seconds - self._load_seconds, 0) * 1000),
            recovery_seconds=max(int((order.now - pair.newest.manifest.started).total_seconds()), 0),
            objective_restore=_seconds(order.objective_restore),
            objective_recovery=_seconds(order.objective_recovery),
            checks=self._checks,
            elsewhere={},
            writer=order.writer,
            load_ms=round(self._load_seconds * 1000),
        )


def elsewhere(snapshot: Snapshot, bad: Mapping[str, str], others: Sequence[Copy]) -> dict[str, str]:
    """Of each other copy what it has of the snapshot: by its listing, and by reading what failed (some of it)."""
    return {copy.destination: _state(snapshot, bad, copy) for copy in others}


def _state(snapshot: Snapshot, bad: Mapping[str, str], copy: Copy) -> str:
    if snapshot.name not in copy.objects:
        return "does not have this snapshot"
    try:
        needed = objects_of(snapshot.manifest, copy.get, copy.key_object)
        missing = [name for name in needed if name not in copy.objects]
    except OpskitError:
        return "damaged too"
    if missing:
        return f"lacks {len(missing):,} of its objects"
    asked = [name for name in bad if names.digest_in(name)][:ASKED_ELSEWHERE]
    damaged = [name for name in asked if _unreadable(copy, name)]
    return f"damaged too: {len(damaged):,} of {len(asked):,} objects" if damaged else "good"


def _unreadable(copy: Copy, name: str) -> dict[str, str]:
    try:
        copy.get(name)
    except OpskitError as error:
        return {name: str(error)}
    return {}


def _object_in(error: OpskitError, snapshot: Snapshot, copy: Copy) -> dict[str, str]:
    """The manifest, if it is what cannot be read; everything else the reader has noted."""
    return _unreadable(copy, snapshot.name) if snapshot.name in str(error) else {}


def _everything(node: Node) -> bool:
    del node
    return True


def _seconds(span: timedelta | None) -> int | None:
    return None if span is None else int(span.total_seconds())


def _folder_of(restored: Path, tops: Sequence[bytes]) -> bytes:
    """Where commands run: the one path of the source, or above it if that is a file; else the top of the scratch."""
    root = os.fsencode(restored)
    if len(tops) != 1:
        return root
    place = root + b"/" + tops[0]
    return place if os.path.isdir(place) and not os.path.islink(place) else os.path.dirname(place)


def _files_in(restored: Path) -> Iterator[bytes]:
    """The regular files below a folder, by their paths in the snapshot."""
    root = os.fsencode(restored)
    for folder, _, files in os.walk(root):
        for name in sorted(files):
            path = folder + b"/" + name
            if os.path.isfile(path) and not os.path.islink(path):
                yield path[len(root) + 1 :]

"""Back up sources: one read, every reachable copy, a signed manifest as the only commit point.

Order of writes, per copy: key object, packs, index objects, pack lists, manifest. A crash between any two steps
leaves objects nobody refers to; the next run finds them in its listing and stores nothing twice. A
write that failed at a copy keeps the manifest from that copy; the others commit without it.

A copy that lacks older snapshots still receives this one when everything this one needs is there:
disks that are swapped in and out would never agree otherwise. Such a copy is *behind*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from opskit import __version__
from opskit.errors import Damaged, OpskitError, Skipped, SourceError, StoreError, UnresolvedReference, together
from opskit.log import logger
from opskit.operations import alarms, unread
from opskit.operations.locking import extend_lock
from opskit.operations.outcome import Result
from opskit.operations.reading import Reading, SourceReader
from opskit.operations.retiring import bring_back, retire
from opskit.operations.session import Session
from opskit.operations.sparse import Measured
from opskit.operations.storing import Storing, digest_of
from opskit.operations.sync import Synced, lacking, sync
from opskit.repository import lasttree, names
from opskit.repository import manifest as manifests
from opskit.repository.copy import WITHOUT_ID, Copy
from opskit.repository.history import load_history
from opskit.repository.locating import move_to_lists, objects_of, runs_needed
from opskit.repository.manifest import Manifest, Snapshot
from opskit.repository.writer import ChunkWriter
from opskit.sources.base import Source, printable

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One source to back up, and the tags its snapshot gets.

    `around` makes what its backup runs inside of, which gives a list of what failed beside it, complete at the end.
    """

    name: str
    source: Source
    tags: Sequence[str] = ()
    around: Callable[[], AbstractContextManager[list[str]]] = lambda: nullcontext([])


@dataclass(frozen=True, slots=True)
class Options:
    """How to back up.

    `config` (JSON) and `keys` (public, armored) are stored, encrypted, with each snapshot; `kit` are digests of the
    fixed objects.
    """

    workers: int
    force_read: bool = False
    config: str = ""
    keys: str = ""
    kit: Mapping[str, str] = field(default_factory=dict)
    alarms: alarms.Limits | None = None
    """When a run is odd; None: never."""


Watch = Callable[[str, Reading, ChunkWriter], None]
"""Told when the reading of a source begins, so that progress can be shown."""


def backup(
    session: Session, jobs: Sequence[Job], options: Options, *, clock_ns: Callable[[], int], watch: Watch | None = None
) -> Iterator[Result]:
    """Back up the jobs in turn, yielding each result once its snapshot is committed.

    A source that fails as a whole, or that a hook asks to skip, has a result with `failure` and no snapshot; the others
    go on. Raises NoKey, CacheError, and the first copy's StoreError when no copy works any more.
    """
    with _Run(session, options, clock_ns, watch) as run:
        for job in jobs:
            try:
                with job.around() as problems:
                    result = run.back_up(job)
                result.errors += problems
                yield result
            except (Skipped, SourceError, UnresolvedReference) as error:
                yield Result(job.name, errors=[str(error)], failure=error)


class _Run:
    """One invocation: at most one run key, however many sources."""

    def __init__(self, session: Session, options: Options, clock_ns: Callable[[], int], watch: Watch | None) -> None:
        self._session, self._options, self._clock_ns, self._watch = session, options, clock_ns, watch
        self._host = session.host
        self._identity = session.host.identity
        self._rolled_back: list[str] = []
        self._synced: dict[str, Synced] = {}
        self._measured: Measured | None = None
        self._storing = Storing(session, options.workers)
        self._writer = self._storing.writer

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._storing.__exit__(kind, *error)

    def back_up(self, job: Job) -> Result:
        session, writer = self._session, self._writer
        started, started_ns = self._host.now(), self._clock_ns()
        snapshots = self._history(job.name)
        content, stored = writer.content_bytes, writer.stored_bytes
        with _remembering(session.last_tree(job.name)) as new_last:
            reading = self._read(job, new_last, snapshots[-1].manifest.bytes if snapshots else None)
            place, about = self._store_tree(job, reading)
            new = writer.content_bytes - content, writer.stored_bytes - stored
            lacking_since = self._lacking_since(job, reading, started)
            snapshot = self._manifest(job, reading, place, started, snapshots, new, unread.since(lacking_since))
            self._commit(snapshot[0], snapshot[1], snapshots)
            about |= unread.noted(lacking_since)
            if self._measured is not None:
                about["measured"] = [self._measured.content, self._measured.source]
            new_last.finish(about | {"generation": session.cache.new_generation(job.name)})
        session.cache.add_manifest(snapshot[0].name, snapshot[0].signer, manifests.encode(snapshot[0].manifest))
        for copy in session.working():
            if snapshot[0].name in copy.objects:
                session.heads.acknowledge(copy.id, snapshot[0])
        session.heads.save()
        result = Result(
            job.name, snapshot[0].id, reading.files, reading.total_bytes,
            *new, (self._clock_ns() - started_ns) / 1e9, reading.unchanged, alarms=snapshot[0].manifest.alarms,
        )  # fmt: skip
        self._judge(result, reading, snapshot[0], snapshots)
        self._lock(result, snapshot[0])
        return result

    def _history(self, source: str) -> list[Snapshot]:
        """The chain of this host and source, from all reachable copies."""
        session, identity = self._session, self._identity
        self._measured = None
        bring_back(session)
        history = load_history(
            session.copies, identity.verify,
            signers=identity.signers, repository=self._host.repository, cache=session.cache, source=source,
        )  # fmt: skip
        session.rejected.extend(history.rejected)
        self._rolled_back = [
            f"{each.destination}: rolled back: it acknowledged snapshot {each.head.sequence} of {source}, which is gone"
            for each in session.gone_back()
            if (each.host, each.source) == (self._host.label, source)
        ]
        snapshots = history.of(source, self._host.label)
        if snapshots:
            self._measured = self._retire(source, snapshots)
        return snapshots

    def _retire(self, source: str, snapshots: Sequence[Snapshot]) -> Measured | None:
        """Store anew what lies in many small packs or in sparse ones, these by the last tree if it is of this cache."""
        session = self._session
        path = session.last_tree(source)
        is_known = _is_of(lasttree.read_about(path), session.cache.generation(source))
        return retire(session, [each.manifest for each in snapshots], path if is_known else None)

    def _read(self, job: Job, new_last: lasttree.Writer, expected_bytes: int | None) -> Reading:
        session, path = self._session, self._session.last_tree(job.name)
        about = lasttree.read_about(path)
        known = _is_of(about, session.cache.generation(job.name))
        last = lasttree.read(path)
        reader = SourceReader(
            job.source, self._writer, session.live.__contains__,
            last=last if known else iter(()), new_last=new_last,
            clock_ns=self._clock_ns, force=self._options.force_read,
        )  # fmt: skip
        reader.reading.expected_bytes = expected_bytes
        if self._watch:
            self._watch(job.name, reader.reading, self._writer)
        # the source holds folders open, or a command that must not outlive a failed run
        with closing(last), closing(job.source):
            return reader.read()

    def _store_tree(self, job: Job, reading: Reading) -> tuple[tuple[int, int], dict[str, object]]:
        """Store the root, unless it is the last one again; returns its place and what to remember of it."""
        session, writer, options = self._session, self._writer, self._options
        writer.seal_data()
        digest = digest_of(reading, options.config, options.keys)
        old = lasttree.read_about(session.last_tree(job.name))
        place: tuple[int, int] | None = None
        known = _is_of(old, session.cache.generation(job.name))
        if known and old.get("root") == digest and old.get("pack") in session.live:
            place = (int(old["pack"]), int(old["member"]))
        if place is None:
            place = self._storing.store_root(reading, options.config, options.keys)
        reading.packs.add(place[0])
        if writer.started or any(number in reading.packs for number in session.unindexed):
            self._storing.finish()
        if writer.started:
            self._storing.merge_indexes(reading.packs)
        return place, {"root": digest, "pack": place[0], "member": place[1]}

    def _lacking_since(self, job: Job, reading: Reading, started: datetime) -> dict[str, str]:
        missing = (problem.path for problem in reading.problems if problem.kind == "unreadable")
        return unread.remember(lasttree.read_about(self._session.last_tree(job.name)), missing, started)

    def _manifest(
        self, job: Job, reading: Reading, place: tuple[int, int], started: datetime, snapshots: Sequence[Snapshot],
        new: tuple[int, int], lacking_since: datetime | None,
    ) -> tuple[Snapshot, bytes]:  # fmt: skip
        session, host, limits = self._session, self._host, self._options.alarms
        counts = alarms.Counts(reading.files, reading.total_bytes, *new)
        there = session.present()
        runs = runs_needed(session.cache, session.live, reading.packs, there, session.marks.succession)
        sequence, previous = self._follow(job.name, snapshots)
        manifest = Manifest(
            repository=host.repository, host=host.label, source=job.name,
            sequence=sequence, previous=previous,
            started=started.replace(microsecond=0), finished=host.now().replace(microsecond=0), tags=tuple(job.tags),
            tree_pack=session.live[place[0]].name, tree_member=place[1],
            runs=move_to_lists(runs, self._storing.put, session.marks.condemned_by()), kit=dict(self._options.kit),
            files=reading.files, entries=reading.entries, bytes=reading.total_bytes,
            unreadable=reading.unreadable, complete=reading.unreadable == 0, writer=f"opskit {__version__}",
            new_bytes=new[0], stored_bytes=new[1], alarms=alarms.judge(counts, snapshots, limits) if limits else (),
            unreadable_since=lacking_since, recipients=self._storing.recipients,
        )  # fmt: skip
        payload = manifests.encode(manifest)
        data = self._identity.keyring.sign(payload, self._identity.host_key)
        digest = names.sha256(data)
        snapshot = Snapshot(names.snapshot(started, job.name, digest), digest, self._identity.host_key, manifest)
        session.cache.add_size(snapshot.name, len(data))
        return snapshot, data

    def _follow(self, source: str, snapshots: Sequence[Snapshot]) -> tuple[int, str | None]:
        """Sequence number and predecessor of the next manifest: after the newest head ever acknowledged."""
        seen = [(each.manifest.sequence, each.name) for each in snapshots]
        head = max([*seen, self._session.heads.newest(self._host.label, source) or (0, "")])
        return head[0] + 1, names.digest_in(head[1]) if head[1] else None

    def _commit(self, snapshot: Snapshot, data: bytes, older: Sequence[Snapshot]) -> None:
        """Give the manifest to every copy that has, or can be given, what it needs."""
        session = self._session
        self._storing.wait()
        if session.is_old():
            session.refresh()
        self._require_uncondemned(snapshot)
        marks = session.marks
        self._synced, evidence = {}, session.straggling_evidence()
        for copy in session.working() if not marks.unreadable() else ():  # one of them may forget what would come back
            self._synced[copy.destination] = sync(
                copy, session.working(), older,
                before=[each.name for each in marks.marks], after=evidence,
                forgotten=marks.forgotten(), condemned=marks.condemned_by().keys(),
                workers=self._options.workers, quick=True, look_again=self._look_again,
            )  # fmt: skip
        for copy in session.working():
            self._commit_to(copy, snapshot, data)
        if not any(snapshot.name in copy.objects for copy in session.copies):
            failures = {copy.destination: copy.failed for copy in session.copies if copy.failed}
            raise together(failures) if failures else StoreError("no copy has everything the new snapshot needs")

    def _look_again(self) -> AbstractSet[str]:
        """What is condemned, by a listing that is not too old: what was found may be condemned by now, or gone."""
        if self._session.is_old():
            self._session.refresh()
        return self._session.marks.condemned_by().keys()

    def _require_uncondemned(self, snapshot: Snapshot) -> None:
        session = self._session
        every = session.marks.condemned_by().keys()
        condemned = every and every & set(objects_of(snapshot.manifest, session.get, names.key))
        if condemned:
            raise StoreError(
                f"{len(condemned):,} objects that the new snapshot needs were condemned by a prune during this run",
                hint="run the backup again: it stores anew what was condemned",
            )

    def _commit_to(self, copy: Copy, snapshot: Snapshot, data: bytes) -> None:
        try:
            self._complete(copy, snapshot)
            copy.put(snapshot.name, data)
            log.info("snapshot committed", destination=copy.destination, snapshot=snapshot.name)
        except OpskitError as error:
            copy.failed = error
            log.info("copy failed", destination=copy.destination, reason=str(error))

    def _complete(self, copy: Copy, snapshot: Snapshot) -> None:
        """Put what a copy lacks, until a listing that is not too old shows all of it there; raises StoreError."""
        session = self._session
        is_settled = False
        while not is_settled:
            for name in lacking(copy, snapshot, session.get):
                copy.put(name, session.get(name))
            is_settled = not session.is_old()
            if not is_settled:
                session.refresh()
            if copy.failed is not None:
                raise copy.failed
        self._require_uncondemned(snapshot)

    def _lock(self, result: Result, snapshot: Snapshot) -> None:
        session = self._session
        for copy in session.working():
            try:
                until = extend_lock(copy, snapshot, session.get, self._host.now())
            except StoreError as error:
                result.errors.append(f"{copy.destination}: the lock of what is there was not extended: {error}")
                continue
            if until is not None and snapshot.name in copy.objects:
                result.locked[copy.destination] = until

    def _judge(self, result: Result, reading: Reading, snapshot: Snapshot, older: Sequence[Snapshot]) -> None:
        session = self._session
        result.errors = [f"{printable(problem.path)}: {problem.message}" for problem in reading.problems]
        if session.heads.lost is not None:
            result.errors.append(session.heads.lost)
        result.errors += [f"recipient {reason}" for reason in self._storing.rejected]
        rejected = {(place, name): _rejection(place, name, error) for place, name, error in session.rejected}
        result.errors += rejected.values()
        for copy in session.copies:
            result.put_bytes[copy.destination], copy.put_bytes = copy.put_bytes, 0
            lack = self._lack_of(copy, older)
            result.held += snapshot.name in copy.objects
            if copy.failed is not None:
                result.destinations[copy.destination], result.reasons[copy.destination] = "failed", copy.failed
            elif snapshot.name in copy.objects and lack is None:
                result.destinations[copy.destination] = "ok"
            else:
                result.destinations[copy.destination] = "behind"
                result.reasons[copy.destination] = lack or StoreError("it lacks what the new snapshot needs")
            if not copy.id:
                result.errors.append(f"{copy.destination}: {WITHOUT_ID}")
            if lost := self._synced.get(copy.destination, Synced()).put_back:
                what = f"{len(lost):,} objects that older snapshots need were gone there, {lost[0]} among them"
                result.errors.append(f"{copy.destination}: {what}; they were put back: do not trust that medium")
        for destination, reason in session.absent.items():
            result.destinations[destination], result.reasons[destination] = "behind", reason
        result.errors += self._rolled_back

    def _lack_of(self, copy: Copy, older: Sequence[Snapshot]) -> OpskitError | None:
        """Which older snapshots a copy has not, or not whole; None where it has all that are not forgotten."""
        forgotten = self._session.marks.forgotten()
        wanted = [each for each in older if each.id not in forgotten]
        missing = sum(each.name not in copy.objects for each in wanted)
        broken = {each.name for each, _ in self._synced.get(copy.destination, Synced()).lacking} & copy.objects.keys()
        if broken:
            return Damaged(
                f"{len(broken):,} older snapshots are not whole there, nor can any copy at hand complete them",
                hint="opskit verify names what is lost; bring in a destination that has it whole, then: opskit heal",
            )
        return StoreError(f"{missing:,} older snapshots are missing there") if missing else None


def _rejection(destination: str, name: str, error: OpskitError) -> str:
    text, place = str(error), f"{destination}: " if destination else ""
    return text if name in text and text.startswith(place) else f"{place}{name}: {text.removeprefix(place)}"


def _is_of(about: Mapping[str, object], generation: str | None) -> bool:
    """Whether a last tree was written beside this cache; one that lost its end, beside a new cache, was not."""
    return generation is not None and about.get("generation") == generation


@contextmanager
def _remembering(path: Path) -> Iterator[lasttree.Writer]:
    """A new last tree that is dropped unless it was finished."""
    writer = lasttree.Writer(path)
    try:
        yield writer
    finally:
        writer.discard()

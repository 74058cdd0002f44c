"""Sync: give a copy what it lacks, from copies that have it. Whole objects; no key.

Order of writes: key objects that superseded others, so that no mark comes before what it tells of; marks, so that
nothing which was forgotten comes back, nor a key object that was superseded; then snapshot by snapshot, in the order
of their sequence, each one's objects before its manifest; evidence last. An interruption leaves a shorter history,
never a broken one, and what was copied is not copied again.

Invariants: every object is compared with the hash in its name on the way, before it gets that name; memory is bounded
by `workers` objects, or by one piece each where both stores know pieces; what no reachable copy holds intact is left
out together with the snapshots that need it, and the copy stays behind.
A snapshot or mark that is not believed is not passed on. Wrong bytes that lie where an object belongs are moved to
quarantine; else nothing is replaced and nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from opskit.errors import OpskitError, StoreError
from opskit.log import logger
from opskit.operations.session import LISTING_IS_GOOD_FOR
from opskit.repository import names
from opskit.repository.copy import Copy, get_from
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import Marks
from opskit.repository.threads import end

log = logger(__name__)

_LISTS_REMEMBERED = 512
"""Pack lists are shared by many snapshots; each takes about 33 kB."""

Progress = Callable[[int], None]
"""Told the bytes of each object that was copied."""


@dataclass(slots=True)
class Synced:
    """What a copy was given: objects and bytes put, snapshots that are whole there now and were not before.

    `lacking` tells the snapshots that are not whole there yet, and why; `loose` the same of marks and evidence;
    `put_back` names objects that were gone though snapshots there need them; `forgotten` counts those left out because
    a mark forgets them.
    """

    objects: int = 0
    total_bytes: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)
    lacking: list[tuple[Snapshot, OpskitError]] = field(default_factory=list)
    loose: dict[str, OpskitError] = field(default_factory=dict)
    put_back: list[str] = field(default_factory=list)
    forgotten: int = 0


def lacking(copy: Copy, snapshot: Snapshot, get: Callable[[str], bytes]) -> list[str]:
    """The objects a snapshot needs that a copy does not have, in the order of writing; raises StoreError, Damaged."""
    return [name for name in objects_of(snapshot.manifest, get, copy.key_object) if name not in copy.objects]


def missing_at(
    target: Copy, others: Sequence[Copy], snapshots: Sequence[Snapshot], forgotten: Collection[str]
) -> tuple[list[Snapshot], set[str]]:
    """The snapshots that the target lacks wholly or in part and others hold, and the objects it would take."""
    copies = [target, *others]
    get = lru_cache(maxsize=_LISTS_REMEMBERED)(lambda name: get_from(copies, name))
    found, objects = list[Snapshot](), set[str]()
    for snapshot in snapshots:
        if snapshot.id in forgotten or not any(snapshot.name in copy.objects for copy in others):
            continue
        try:
            wanted = {*lacking(target, snapshot, get), snapshot.name} - target.objects.keys()
        except OpskitError:  # a pack list that nobody has whole: then the rest is not known
            wanted = {snapshot.name}
        if wanted:
            found.append(snapshot)
            objects |= wanted
    return found, objects


def sync(
    target: Copy,
    others: Sequence[Copy],
    snapshots: Sequence[Snapshot],
    *,
    before: Iterable[str] = (),
    after: Iterable[str] = (),
    forgotten: Collection[str] = frozenset(),
    condemned: AbstractSet[str] = frozenset(),
    workers: int = 2,
    quick: bool = False,
    progress: Progress = lambda size: None,
    look_again: Callable[[], AbstractSet[str]] | None = None,
) -> Synced:
    """Copy to `target` what it lacks of the snapshots, which come in the order of their sequence.

    `before` and `after` name objects to copy first and last (marks, evidence). `forgotten` are ids of snapshots not to
    copy, `condemned` names of objects that no snapshot which is new there may refer to. With `quick` a snapshot whose
    manifest and directly named objects are listed counts as whole, whatever pack lists say. `look_again` is asked
    before each manifest is put: where much time has passed it lists the target anew, and it says what is condemned by
    now. An error of the target is kept in `target.failed`, and ends the work.
    """
    transfer = _Transfer(target, others, workers, progress, look_again)
    try:
        transfer.copy_keys()
        transfer.copy_loose(before)
        for snapshot in snapshots:
            if not _is_whole(target, snapshot, quick):
                transfer.copy_snapshot(snapshot, forgotten, condemned)
        transfer.copy_loose(after)
    except BaseException as error:
        transfer.close(error)
        raise
    transfer.close(None)
    return transfer.result


class LookingAgain:
    """What is condemned, by a listing of the copies that is never older than an hour; for `look_again` of `sync`.

    `listed` is when they were listed, by `boottime`, whose seconds go on while the machine sleeps.
    """

    def __init__(
        self, copies: Sequence[Copy], marks: Callable[[], Marks], boottime: Callable[[], float], *, listed: float
    ) -> None:
        self._copies, self._marks, self._boottime, self._listed = copies, marks, boottime, listed
        self._condemned: AbstractSet[str] = marks().condemned_by().keys()

    def __call__(self) -> AbstractSet[str]:
        """Look, if it is time; raises StoreError where a copy cannot be listed."""
        if self._boottime() - self._listed > LISTING_IS_GOOD_FOR:
            self._listed = self._boottime()
            for copy in self._copies:
                copy.refresh()
            self._condemned = self._marks().condemned_by().keys()
        return self._condemned


def _is_whole(target: Copy, snapshot: Snapshot, quick: bool) -> bool:
    listed = snapshot.name in target.objects and all(
        name in target.objects for name in snapshot.manifest.object_names(target.key_object)
    )
    return listed and (quick or not any(run.lists for run in snapshot.manifest.runs))


class _Transfer:
    """Copies objects to one target, `workers` at a time."""

    def __init__(
        self,
        target: Copy,
        others: Sequence[Copy],
        workers: int,
        progress: Progress,
        look_again: Callable[[], AbstractSet[str]] | None,
    ) -> None:
        self._target, self._progress, self._look_again = target, progress, look_again
        self._sources = [copy for copy in others if copy is not target and copy.failed is None]
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"sync-{target.destination}")
        self._read_list = lru_cache(maxsize=_LISTS_REMEMBERED)(lambda name: get_from([target, *self._sources], name))
        self._under_way: list[Future[int]] = []
        self.result = Synced()

    def close(self, error: BaseException | None) -> None:
        """Begin nothing more; wait for what is under way, but not for long after an interruption."""
        end(self._threads, self._under_way, error)

    def copy_keys(self) -> None:
        """Copy the key objects that superseded others, as far as they are at hand."""
        ends = [names.key(digest) for digest in self._target.succession.all_ends()]
        self.copy_loose(name for name in ends if any(name in copy.objects for copy in self._sources))

    def copy_loose(self, wanted: Iterable[str]) -> None:
        """Copy objects that no snapshot needs; one that cannot be had now comes another time."""
        for name in wanted:
            if name in self._target.objects:
                continue
            try:
                if self._target.failed is not None:
                    raise self._target.failed
                self._copy_all([name])
            except OpskitError as error:
                log.debug("object not copied", object=name, reason=str(error))
                self.result.loose[name] = error

    def copy_snapshot(self, snapshot: Snapshot, forgotten: Collection[str], condemned: AbstractSet[str]) -> None:
        """Copy what the target lacks of a snapshot, its manifest last."""
        if snapshot.id in forgotten:
            self.result.forgotten += snapshot.name not in self._target.objects
            return
        try:
            if self._target.failed is not None:
                raise self._target.failed
            wanted = lacking(self._target, snapshot, self._read_list)
            was_there = snapshot.name in self._target.objects
            if condemned and not was_there:
                self._require_uncondemned(snapshot, condemned)
            self._copy_all(wanted)
            if was_there:
                self.result.put_back += wanted
            else:
                self._require_lasting(snapshot)
                self._copy_all([snapshot.name])
        except OpskitError as error:
            self.result.lacking.append((snapshot, error))
            return
        if wanted or not was_there:
            self.result.snapshots.append(snapshot)

    def _require_lasting(self, snapshot: Snapshot) -> None:
        """Raise StoreError unless all that a snapshot needs is there and not condemned, though copying took long."""
        if self._look_again is None:
            return
        self._require_uncondemned(snapshot, self._look_again())
        if self._target.failed is not None:
            raise self._target.failed
        self._copy_all(lacking(self._target, snapshot, self._read_list))

    def _require_uncondemned(self, snapshot: Snapshot, condemned: AbstractSet[str]) -> None:
        """Raise StoreError where a prune may be about to delete what the snapshot needs."""
        needed = condemned & set(objects_of(snapshot.manifest, self._read_list, self._target.key_object))
        if needed:
            raise StoreError(
                f"{len(needed):,} objects that it needs are condemned",
                hint="opskit prune pardons what a snapshot needs; then: opskit sync",
            )

    def _copy_all(self, wanted: Sequence[str]) -> None:
        """Copy the objects, durably; raises what kept the first of them from it, when none is under way any more."""
        futures = self._under_way = [self._threads.submit(self._copy, name) for name in wanted]
        try:
            for future in futures:
                size = future.result()
                self.result.objects += 1
                self.result.total_bytes += size
                self._progress(size)
        except OpskitError:
            for future in futures:
                future.cancel()
            wait(futures)
            raise

    def _copy(self, name: str) -> int:
        size = self._take(name)
        if size is None:
            data = get_from(self._sources, name)
            size = len(data)
            with self._failing():
                self._target.put(name, data)
        log.debug("object copied", destination=self._target.destination, object=name, bytes=size)
        return size

    def _take(self, name: str) -> int | None:
        """Copy an object in pieces from the first that has it; None where that cannot be done."""
        giver = next((copy for copy in self._sources if name in copy.objects), None)
        with self._failing():
            return self._target.take(name, giver) if giver is not None else None

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Keep an error of the target."""
        try:
            yield
        except StoreError as error:
            self._target.failed = error
            raise

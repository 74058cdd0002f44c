"""Heal: put right what `verify` found wrong at a copy, from copies that have it right. Needs no key.

Order, for each object: good bytes in hand, compared with the name; wrong bytes to quarantine; the good bytes in their
place, in one step. So an object is never absent that was there before: a manifest that was, if only for a moment, would
look like a rollback. The next heal goes on after a crash. Copies that are damaged in different places heal each other.

What no copy holds is told, with the snapshots that need it. Its wrong bytes move to quarantine as well: an object that
is listed counts as there, one that is absent is stored anew by the next backup as far as the source still has it. Not
so a manifest, which would look as if somebody had taken it away, nor a mark that may forget snapshots: as long as it is
listed, `sync` knows that it does not know what to leave out.

It deliberately does not decide what is wrong (`verify` does), brings no copy up to date (`sync`), and judges
nobody: snapshots by strangers, forks and rollbacks stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from opskit.errors import Damaged, ObjectNotFound, ObjectUnreadable, OpskitError, StoreError
from opskit.log import logger
from opskit.operations.verify import CopyReport
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.marks import HOLD, RELEASE
from opskit.repository.recovery import kit as own_kit
from opskit.repository.threads import end

log = logger(__name__)

KIT = frozenset({names.RECOVER_TEXT, names.RECOVER_PROGRAM, names.REPOSITORY})
"""What this program and this host's state bring along, so that no copy is asked for it."""


@dataclass(slots=True)
class Healed:
    """What became of a copy's damaged and missing objects, by name.

    `replaced` were damaged and `restored` missing; `lost` no copy at hand holds, `quarantined` are those of them
    whose wrong bytes were moved away; `unharmed` turned out to be right; `failed` tells why an object could not be
    mended though a copy has it, or may have it.
    """

    replaced: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    unharmed: list[str] = field(default_factory=list)
    failed: dict[str, OpskitError] = field(default_factory=dict)
    total_bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to mend."""
        return not self.lost and not self.failed


def to_heal(report: CopyReport) -> list[str]:
    """The objects of a copy that are damaged or missing, in the order of their mending: kit and keys first."""
    wrong = {*report.damaged, *report.foreign, *report.missing}  # copy.json is of one copy: no other has it right
    mendable = [name for name in wrong if name in KIT or names.digest_in(name) is not None]
    return sorted(mendable, key=lambda name: (name not in KIT, name))


def heal(
    copies: Sequence[Copy],
    reports: Mapping[str, CopyReport],
    targets: Sequence[str],
    *,
    about: bytes,
    workers: int = 2,
    progress: Callable[[int], None] = lambda size: None,
) -> dict[str, Healed]:
    """Mend the copies named in `targets` by what `verify` reported of all of them.

    `about` are the bytes of the repository's `opskit.json`.
    """
    fixed = {**own_kit(), names.REPOSITORY: about}
    results = {}
    for copy in copies:
        if copy.destination in targets:
            results[copy.destination] = _Healing(copy, copies, reports, fixed, progress).run(workers)
    return results


def mend_report(report: CopyReport, result: Healed) -> None:
    """Make the report of a copy that was healed say what it is now, as if it had been read again."""
    mended = {*result.replaced, *result.restored, *result.unharmed}
    gone = {*mended, *result.quarantined}
    report.damaged = [name for name in report.damaged if name not in gone]
    report.foreign = [name for name in report.foreign if name not in gone]
    report.untrusted = [text for text in report.untrusted if text.partition(":")[0] not in gone]
    report.missing = [name for name in report.missing if name not in mended] + result.quarantined
    report.needed_by = {name: needing for name, needing in report.needed_by.items() if name not in mended}


class _Healing:
    """The mending of one copy."""

    def __init__(
        self,
        copy: Copy,
        copies: Sequence[Copy],
        reports: Mapping[str, CopyReport],
        fixed: Mapping[str, bytes],
        progress: Callable[[int], None],
    ) -> None:
        self._copy, self._copies, self._reports, self._progress = copy, copies, reports, progress
        self._fixed = fixed
        self._report = reports[copy.destination]
        self._wrong = frozenset({*self._report.damaged, *self._report.foreign})
        self._result = Healed()

    def run(self, workers: int) -> Healed:
        threads = ThreadPoolExecutor(workers, thread_name_prefix=f"heal-{self._copy.destination}")
        wanted = to_heal(self._report)
        futures = [threads.submit(self._mend, name) for name in wanted]
        try:
            for name, future in zip(wanted, futures, strict=True):
                self._note(name, future.result())
        except BaseException as error:
            end(threads, futures, error)
            raise
        end(threads, (), None)
        return self._result

    def _mend(self, name: str) -> int | OpskitError | None:
        """The bytes that were put; None where no copy has it right; what kept it from being put."""
        try:
            data = self._good_bytes(name)
            if data is None:
                return None
            if name in self._wrong:
                self._copy.replace(name, data)
            else:
                self._copy.put(name, data)
        except OpskitError as error:
            return error
        log.info("object healed", destination=self._copy.destination, object=name, bytes=len(data))
        return len(data)

    def _good_bytes(self, name: str) -> bytes | None:
        if name in self._fixed:
            return self._fixed[name]
        others = [
            copy
            for copy in self._copies
            if copy is not self._copy and name not in self._reports[copy.destination].damaged
        ]
        failure: StoreError | None = None
        for copy in others:
            if name in copy.objects:
                try:
                    return copy.get(name)
                except (Damaged, ObjectNotFound, ObjectUnreadable):
                    continue
                except StoreError as error:
                    failure = error
        if failure is not None:  # perhaps it is right there: nothing is lost yet
            raise failure
        return None

    def _note(self, name: str, outcome: int | OpskitError | None) -> None:
        result = self._result
        if isinstance(outcome, OpskitError):
            result.failed[name] = outcome
        elif outcome is None:
            self._lose(name)
        else:
            (result.replaced if name in self._wrong else result.restored).append(name)
            result.total_bytes += outcome
            self._progress(outcome)

    def _lose(self, name: str) -> None:
        """Set aside what no copy at hand has right, unless it is right after all.

        Not a manifest: one that is absent looks as if somebody had taken it away. Nor a mark that may forget snapshots:
        without it they would be copied again.
        """
        result = self._result
        is_told_by_name = name.startswith("snapshots/") or names.kind_of_mark(name) not in ("", HOLD, RELEASE)
        if name not in self._wrong or is_told_by_name:
            result.lost.append(name)
            return
        try:
            if self._copy.quarantine(name):
                result.quarantined.append(name)
            else:
                result.unharmed.append(name)
                return
        except ObjectNotFound:
            pass
        except StoreError as error:
            log.warning("object stays", destination=self._copy.destination, object=name, reason=str(error))
        result.lost.append(name)

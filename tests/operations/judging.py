"""Judges from outside of opskit: rsync says whether two folders differ, the system how much space a file takes."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from opskit.operations.backup import Job, Options, backup
from opskit.operations.outcome import Result
from opskit.operations.restore import Restored, RestoreOptions, restore
from opskit.repository.manifest import Snapshot
from opskit.sources.base import Source
from opskit.stores.base import Store
from tests.repositories import LONG_AGO, SOURCE, Keys, Lab, memory_store, restored_below

PAGE = 4096


def differences(original: Path, restored: Path) -> str:
    """What rsync would have to do to make the second folder (or file) equal to the first: nothing, if all is well."""
    ends = [f"{original}/", f"{restored}/"] if original.is_dir() else [str(original), str(restored)]
    command = ["rsync", "-aHAXnci", "--delete", "--numeric-ids", "--modify-window=-1", *ends]
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout


def swollen(original: Path, restored: Path) -> list[str]:
    """Files that take more space than the original did: holes that were filled."""
    found = []
    for path in original.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            twin = (restored / path.relative_to(original)).lstat()
            if twin.st_blocks * 512 > status.st_blocks * 512 + PAGE:
                found.append(f"{path.name!r}: {status.st_blocks} blocks became {twin.st_blocks}")
    return found


def assert_equal(original: Path, restored: Path) -> None:
    """By rsync and by allocated space."""
    assert differences(original, restored) == ""
    assert swollen(original, restored) == []


def run(
    lab: Lab,
    source: Source,
    *,
    stores: Mapping[str, Store] | None = None,
    force: bool = False,
    name: str = SOURCE,
    tags: Sequence[str] = (),
    ahead: int = LONG_AGO,
) -> Result:
    """Back up any source; `ahead` nanoseconds is the run's clock before the file system's."""
    lab.minutes += 1
    options = Options(workers=1, force_read=force, config="{}", keys="none")
    with lab.session(stores) as session:
        (result,) = backup(session, [Job(name, source, tags)], options, clock_ns=lambda: time.time_ns() + ahead)
    return result


def found(lab: Lab, result: Result) -> Snapshot:
    """The snapshot that a run made, as the copies show it."""
    (snapshot,) = (each for each in lab.history().snapshots if each.id == result.snapshot)
    return snapshot


def restored(lab: Lab, result: Result, target: Path, options: RestoreOptions | None = None) -> Restored:
    """Restore what a run made."""
    return restore(lab.reader(found(lab, result)), target, options or RestoreOptions(workers=1))


def back_and_forth(lab: Lab, source: Source, root: Path, target: Path) -> tuple[Result, Path]:
    """Back up, restore, and say where `root` was recreated."""
    result = run(lab, source)
    answer = restored(lab, result, target)
    assert not answer.problems, answer.problems
    return result, restored_below(target, root)


def stored_names(lab: Lab, kind: str) -> set[str]:
    """The objects of one folder of the first copy."""
    return {info.name for info in next(iter(lab.stores.values())).list(kind)}


def lab_in(keys: Keys, folder: Path, *destinations: str) -> Lab:
    """A lab with copies in memory."""
    stores: dict[str, Store] = {name: memory_store(name) for name in destinations or ("a",)}
    return Lab(keys, folder / "state", stores).create()


def is_root() -> bool:
    return os.geteuid() == 0

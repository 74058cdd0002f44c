"""What a backup would read: a walk held against the last tree, nothing opened and nothing stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opskit.repository import lasttree, tree
from opskit.repository.lasttree import Record
from opskit.sources.base import Problem, Source, printable


@dataclass(slots=True)
class Plan:
    """Counts of files and bytes, and how much of them is new or changed; sizes in bytes."""

    source: str
    files: int = 0
    bytes: int = 0
    changed_files: int = 0
    changed_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {name: getattr(self, name) for name in self.__slots__}


def plan(name: str, source: Source, state: Path, repository: str | None) -> Plan:
    """Walk a source; raises SourceError when it is absent. A changed cache may make the backup read more."""
    with closing(lasttree.read(lasttree.place(state, repository or "", name))) as records:
        return _compare(Plan(name), source, records)


def _compare(found: Plan, source: Source, records: Iterator[Record]) -> Plan:
    """Count what is there, and what of it the last tree does not have so."""
    record = next(records, None)
    for item in source.entries():
        if isinstance(item, Problem):
            found.problems.append(f"{printable(item.path)}: {item.message}")
            continue
        while record is not None and tree.order(record.path) < tree.order(item.path):
            record = next(records, None)
        if item.kind != "file":
            continue
        status = item.stat
        found.files += 1
        found.bytes += status.st_size
        if record is None or record.path != item.path or record.signature != lasttree.signature_of(status):
            found.changed_files += 1
            found.changed_bytes += status.st_size
    return found

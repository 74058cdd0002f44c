"""What `opskit restore --dry-run` says: all that would be restored or, over files that are there, what would change.

Nothing is written to any target, and no pack is read but the tree's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.errors import SnapshotNotFound
    from opskit.operations.restore import RestoreOptions
    from opskit.operations.restoring.preview import Foreseen
    from opskit.repository.manifest import Snapshot
    from opskit.repository.reader import SnapshotReader


def plan(context: Context, reader: SnapshotReader, chosen: Snapshot, target: Path, options: RestoreOptions) -> int:
    """Print the plan; returns 3 where a part of it would fail. Raises UsageError for a target that cannot be used."""
    if options.overwrite == "never":  # so the target is empty
        return _everything(context, reader, chosen, options)
    return _changes(context, reader, chosen, target, options)


def nothing_matches() -> SnapshotNotFound:
    """What a restore of nothing is."""
    from opskit.errors import SnapshotNotFound

    return SnapshotNotFound("nothing in the snapshot matches", hint="opskit ls shows what is in it")


def _everything(context: Context, reader: SnapshotReader, chosen: Snapshot, options: RestoreOptions) -> int:
    from opskit.cli.render import counted, human_bytes
    from opskit.operations.restore import files_of
    from opskit.sources.base import printable

    entries = size = 0
    for node in files_of(reader, options):
        entries += 1
        size += node.size
        if not context.json:
            context.write(printable(node.path))
    if not entries:
        raise nothing_matches()
    if context.json:
        context.write_json({"snapshot": chosen.id, "entries": entries, "bytes": size})
    context.message(
        f"{counted(entries, 'entry', 'entries')}, {human_bytes(size)} would be restored; nothing was written"
    )
    return 0


_WRITTEN = ("new", "replaced", "mended")


def _changes(context: Context, reader: SnapshotReader, chosen: Snapshot, target: Path, options: RestoreOptions) -> int:
    """Only what would differ afterwards, each with what would become of it."""
    from opskit.sources.base import printable

    counts, size, problems = Counter[str](), 0, list[str]()
    for node, effect, reason in _foreseen(reader, target, options):
        counts[effect] += 1
        if effect == "blocked":
            problems.append(f"{printable(node.path)}: {reason}")
        if effect in ("new", "replaced"):
            size += node.size
        if effect in _WRITTEN and not context.json:
            context.write(f"{effect:8}  {printable(node.path)}")
    if not counts:
        raise nothing_matches()
    _tell(context, chosen, counts, size, problems)
    return 3 if problems else 0


def _foreseen(reader: SnapshotReader, target: Path, options: RestoreOptions) -> Iterator[Foreseen]:
    from opskit.operations.restoring.preview import preview

    always, by_name = options.overwrite == "always", options.owner_by_name
    return preview(reader, target, options.below, options.wanted, always=always, owner_by_name=by_name)


def _tell(context: Context, chosen: Snapshot, counts: Counter[str], size: int, problems: list[str]) -> None:
    from opskit.cli.render import counted, human_bytes, printable

    entries = sum(counts[effect] for effect in _WRITTEN)
    if context.json:
        several = {effect: counts[effect] for effect in (*_WRITTEN, "unchanged")}
        context.write_json({"snapshot": chosen.id, "entries": entries, "bytes": size, **several, "errors": problems})
        return
    for problem in problems[:20]:
        context.warning(f"would fail: {printable(problem)}")
    if len(problems) > 20:
        context.warning(f"{len(problems) - 20} more like these; --json lists them all")
    what = f"{counted(entries, 'entry', 'entries')}, {human_bytes(size)}" if entries else "nothing"
    details = [f"{counts[effect]:,} {effect}" for effect in (*_WRITTEN, "unchanged") if counts[effect]]
    context.message(f"{what} would be restored ({', '.join(details)}); nothing was written")
    if counts["mended"]:
        context.message("mended: the content stays; owner, mode, attributes or time are set")

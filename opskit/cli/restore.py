"""`opskit restore`: bring back a snapshot, a folder of it, or one file.

Nothing is written outside the target, and a target in use is left alone unless told otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import (
    DestinationOption,
    KeyOption,
    PassphraseOption,
    RepositoryOption,
    SnapshotArgument,
    history_of,
    opened_for_reading,
    unlocked,
    warn_of_absent,
    warn_of_rejected,
)
from opskit.cli.restore_plan import nothing_matches, plan

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.cli.progress import ProgressSample
    from opskit.operations.restore import Restored, RestoreOptions
    from opskit.repository.copy import Copy
    from opskit.repository.history import History
    from opskit.repository.manifest import Snapshot
    from opskit.repository.reader import SnapshotReader

app = noun()

LoadIntoOption = Annotated[
    str | None,
    typer.Option("--load-into", metavar="NAME", help="Load one dump into a new database on the source's server."),
]
OwnerByNameOption = Annotated[
    bool, typer.Option("--owner-by-name", help="Give files to users of the same name, not number.")
]
OverwriteOption = Annotated[
    str, typer.Option("--overwrite", metavar="never|if-changed|always", help="What to do with files in the target.")
]


@app.command()
def restore(
    typer_context: typer.Context,
    snapshot: SnapshotArgument,
    target: Annotated[
        Path | None, typer.Option("--target", metavar="DIR", help="Where to; /srv/a becomes DIR/srv/a.")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="To where it came from; needs --overwrite.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Write one file to standard output.")] = False,
    load_into: LoadIntoOption = None,
    key: KeyOption = None,
    passphrase: PassphraseOption = None,
    destination: DestinationOption = None,
    repository: RepositoryOption = None,
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="PATTERN", help="Only what matches; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="Not what matches; repeatable.")
    ] = None,
    overwrite: OverwriteOption = "never",
    owner_by_name: OwnerByNameOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be restored.")] = False,
) -> int | None:
    """Restore a snapshot, a folder or a file of it."""
    from opskit.cli.auditing import audited_reading, judged
    from opskit.operations.choosing import split_path
    from opskit.operations.restore import RestoreOptions
    from opskit.operations.selecting import selection

    context = Context.of(typer_context)
    is_stream = _is_stream(stdout=stdout, load_into=load_into, repository=repository)
    place = _place(target, overwrite, in_place=in_place, stream=is_stream, dry_run=dry_run)
    what, path = split_path(snapshot)
    with (
        audited_reading(context, repository, "restore", snapshot, to=load_into or str(place), dry_run=dry_run) as event,
        opened_for_reading(context, repository, key, destination) as opened,
    ):
        history = history_of(opened)
        chosen = _chosen(context, opened, history, what)
        # somebody wrote snapshots that are not believed: what is restored is good, but perhaps not the newest
        doubt = 3 if warn_of_rejected(context, history) == 13 else 0
        _warn(context, opened, chosen)
        with unlocked(context, opened, chosen, key, passphrase) as reader:
            options = RestoreOptions(
                below=os.fsencode(path),
                wanted=selection(include or (), exclude or ()),
                overwrite=_overwrite(overwrite),
                owner_by_name=owner_by_name,
                workers=min(len(os.sched_getaffinity(0)), 4),
            )
            if is_stream or dry_run:
                into = None if dry_run else load_into
                code = _elsewhere(context, reader, chosen, place, options, stdout=stdout, into=into)
                _tell_damage(context, reader, opened, is_partial=bool(destination), by_config=repository is None)
                return judged(event, code or doubt, snapshot=chosen.id)
            restored = _restore(context, reader, chosen, place, options)
            _tell_damage(context, reader, opened, is_partial=bool(destination), by_config=repository is None)
            code = _tell(context, reader, chosen, place, restored) or doubt
            return judged(event, code, snapshot=chosen.id, **_in_audit(restored))


def _chosen(context: Context, opened: Access, history: History, what: str) -> Snapshot:
    from opskit.operations.choosing import choose

    forgotten = opened.marks().forgotten()
    chosen = choose(history.snapshots, what, forgotten)
    if chosen.id in forgotten:
        context.warning(f"snapshot {chosen.id[:8]} is forgotten: prune deletes it when the grace is over")
    return chosen


def _in_audit(restored: Restored) -> dict[str, object]:
    return {"files": restored.files, "bytes": restored.total_bytes, "errors": len(restored.problems)}


def _overwrite(text: str) -> Any:
    from opskit.errors import UsageError

    if text not in ("never", "if-changed", "always"):
        raise UsageError(f"--overwrite: expected never, if-changed or always, got {text!r}")
    return text


def _is_stream(*, stdout: bool, load_into: str | None, repository: str | None) -> bool:
    """Whether one file goes elsewhere than to a folder."""
    from opskit.errors import UsageError

    if load_into is not None and (stdout or repository is not None):
        raise UsageError("--load-into goes with neither --stdout nor --repository")
    return stdout or load_into is not None


def _place(target: Path | None, overwrite: str, *, in_place: bool, stream: bool, dry_run: bool) -> Path:
    from opskit.errors import UsageError

    _overwrite(overwrite)
    if sum((target is not None, in_place, stream)) != 1 and not (dry_run and target is None):
        raise UsageError("say where to: exactly one of --target DIR, --in-place, --stdout, --load-into NAME")
    if in_place and overwrite == "never":
        raise UsageError(
            "--in-place writes over files in use: expected --overwrite if-changed or --overwrite always",
            hint="with --dry-run either shows what it would do; --target DIR restores beside the original",
        )
    if target is not None and dry_run:
        from opskit.operations.restoring.place import check_target

        check_target(target.absolute(), empty=overwrite == "never")  # a plan that cannot be carried out is none
    return target.absolute() if target is not None else Path("/")


def _warn(context: Context, opened: Access, chosen: Snapshot) -> None:
    from opskit.cli.render import counted

    warn_of_absent(context, opened)
    if not chosen.manifest.complete:
        unread = counted(chosen.manifest.unreadable, "file")
        context.warning(f"snapshot {chosen.id[:8]} is incomplete: {unread} could not be read when it was made")


def _restore(
    context: Context, reader: SnapshotReader, chosen: Snapshot, place: Path, options: RestoreOptions
) -> Restored:
    from opskit.operations.restore import Restored, restore

    restored = Restored()

    def sample() -> ProgressSample:
        from opskit.cli.progress import ProgressSample  # here: called only where a line is shown

        return ProgressSample(restored.files, restored.total_bytes, restored.planned_bytes or None)

    with context.progress(chosen.manifest.source, sample):
        try:
            return restore(reader, place, options, restored)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note("files restored so far are kept, and --overwrite if-changed goes on from there")
            raise


def _tell(
    context: Context,
    reader: SnapshotReader,
    chosen: Snapshot,
    place: Path,
    restored: Restored,
) -> int:
    from opskit.cli.render import counted, human_bytes, printable
    from opskit.sources.base import printable as printable_path

    if not restored.entries:
        raise nothing_matches()
    problems = [f"{printable_path(path)}: {message}" for path, message in restored.problems]
    if context.json:
        context.write_json(
            {
                "snapshot": chosen.id,
                "source": chosen.manifest.source,
                "target": str(place),
                "files": restored.files,
                "entries": restored.entries,
                "bytes": restored.total_bytes,
                "unchanged": restored.skipped,
                "errors": problems,
                "damage": {name: str(error) for name, error in reader.damage.items()},
            }
        )
        return 3 if problems else 0
    for problem in problems[:20]:
        context.warning(printable(problem))
    if len(problems) > 20:
        context.warning(f"{len(problems) - 20} more like these; --json lists them all")
    if not context.quiet:
        unchanged = f", {counted(restored.skipped, 'file')} unchanged" if restored.skipped else ""
        context.write(
            f"restored {counted(restored.files, 'file')}, {human_bytes(restored.total_bytes)} of snapshot "
            f"{chosen.id[:8]} ({chosen.manifest.started:%Y-%m-%d %H:%M} UTC) to {printable(str(place))}{unchanged}"
        )
    return 3 if problems else 0


def _tell_damage(
    context: Context, reader: SnapshotReader, opened: Access, *, is_partial: bool, by_config: bool
) -> None:
    """What was found damaged on the way, and what mends it; a copy that --repository named has no name to heal by.

    With `is_partial` there are copies that were not asked.
    """
    from opskit.cli.render import printable

    if not reader.damage:
        return
    for line in _damage(reader, opened.copies)[:5]:
        context.warning(printable(line))
    copies, others = opened.copies, is_partial or bool(opened.absent)
    mendable = {key for key in reader.damage if others or _is_whole_elsewhere(key.rpartition(": ")[2], reader, copies)}
    bad = [copy.destination for copy in copies if any(key.startswith(f"{copy.destination}: ") for key in mendable)]
    if by_config and bad:
        which = " ".join(f"--destination {printable(name)}" for name in bad)
        context.hint(f"to mend it from copies that are intact: opskit heal {which}")
    context.hint("opskit verify tells all that is damaged")


def _is_whole_elsewhere(name: str, reader: SnapshotReader, copies: Sequence[Copy]) -> bool:
    return any(name in copy.objects and f"{copy.destination}: {name}" not in reader.damage for copy in copies)


def _damage(reader: SnapshotReader, copies: Sequence[Copy]) -> list[str]:
    """What was found damaged, each once, and whether another copy had the right bytes."""
    lines = []
    for key, error in reader.damage.items():
        name = key.rpartition(": ")[2]
        is_whole = _is_whole_elsewhere(name, reader, copies)
        lines.append(f"{error}; {'read from another copy' if is_whole else 'no other copy at hand has it whole'}")
    return list(dict.fromkeys(lines))


def _elsewhere(
    context: Context,
    reader: SnapshotReader,
    chosen: Snapshot,
    place: Path,
    options: RestoreOptions,
    *,
    stdout: bool,
    into: str | None,
) -> int:
    """All ways that write no files here: one file to a stream or a database, else the plan."""
    if stdout:
        return _to_stdout(context, reader, options)
    if into is not None:
        return _into_database(context, reader, chosen, options.below, into)
    return plan(context, reader, chosen, place, options)


def _to_stdout(context: Context, reader: SnapshotReader, options: RestoreOptions) -> int:
    from opskit.operations.restore import write_file

    write_file(reader, options.below, context.binary_output())
    return 0


def _into_database(context: Context, reader: SnapshotReader, chosen: Snapshot, path: bytes, name: str) -> int:
    """Load a dump; a database that exists is left alone, one that could not be loaded whole is taken away again."""
    from opskit import wiring
    from opskit.cli.render import printable
    from opskit.errors import UsageError
    from opskit.operations.restore import write_file

    server = wiring.scratch_database(chosen.manifest.source, context.load_config(), name)
    if not path.startswith(b"databases/"):  # the others make databases and users of their own names
        dumps = [node.path for node in reader.nodes(reader.root(), b"databases") if node.type == "file"]
        if path or len(dumps) != 1:
            raise UsageError(
                "--load-into: expected SNAPSHOT:databases/NAME.sql",
                hint=f"in this snapshot are {', '.join(map(printable, dumps)) or 'none'}",
            )
        (path,) = dumps
    with server.filled() as stream:
        write_file(reader, path, stream)
    if not context.quiet:
        context.message(f"loaded snapshot {chosen.id[:8]} into the new database {printable(name)}")
    return 0

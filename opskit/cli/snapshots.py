"""`opskit snapshots`: which snapshots there are and where; needs no private key, and opens no content."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import DestinationOption, RepositoryOption, TrustOption

if TYPE_CHECKING:
    from opskit.repository.history import History
    from opskit.repository.manifest import Snapshot

app = noun()

HEADER = ("id", "time (UTC)", "source", "host", "files", "size", "copies", "tags", "")
ALIGN = "<<<<>><<<"


@app.command()
def snapshots(
    typer_context: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Of these sources; of all if none.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forgotten ones too, until they are deleted.")] = False,
    destination: DestinationOption = None,
    repository: RepositoryOption = None,
    key: TrustOption = None,
) -> int | None:
    """List the snapshots and the copies that hold them."""
    from opskit.cli.reading import history_of, opened_for_reading, tell_successors, warn_of_absent, warn_of_rejected
    from opskit.errors import UsageError

    context = Context.of(typer_context)
    if key is not None and repository is None:
        raise UsageError("--key goes with --repository: listing the config's destinations needs no key")
    with opened_for_reading(context, repository, key, destination, is_brief=True) as opened:
        history = history_of(opened)
        any_absent = warn_of_absent(context, opened)
        code = warn_of_rejected(context, history)
        if code == 13:
            tell_successors(context, opened.copies, opened.trusted, opened.signers, opened.repository)
        forgotten = opened.marks().forgotten()
        found = [each for each in _chosen(history, sources or ()) if everything or each.id not in forgotten]
        if context.json:
            context.write_json([_as_json(each, history) | {"forgotten": each.id in forgotten} for each in found])
        else:
            _write_table(context, found, history, forgotten)
            if not found and forgotten:
                context.hint("opskit snapshots --all shows those that were forgotten and not deleted yet")
    return max(code, 3 if any_absent else 0)


def _chosen(history: History, sources: Sequence[str]) -> list[Snapshot]:
    from opskit.errors import SnapshotNotFound

    known = {each.manifest.source for each in history.snapshots}
    for name in sources:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none at all"
            raise SnapshotNotFound(f"no snapshot of a source {name!r}; there are some of {listed}")
    return [each for each in history.snapshots if not sources or each.manifest.source in sources]


def _as_json(snapshot: Snapshot, history: History) -> dict[str, object]:
    manifest = snapshot.manifest
    return {
        "id": snapshot.id,
        "source": manifest.source,
        "host": manifest.host,
        "time": f"{manifest.started:%Y-%m-%dT%H:%M:%SZ}",
        "files": manifest.files,
        "bytes": manifest.bytes,
        "complete": manifest.complete,
        "destinations": history.holders[snapshot.name],
        "sequence": manifest.sequence,
        "tags": list(manifest.tags),
        "unreadable": manifest.unreadable,
        "alarms": list(manifest.alarms),
    }


def _write_table(context: Context, found: Sequence[Snapshot], history: History, forgotten: Collection[str]) -> None:
    from opskit.cli.render import table

    if not found:
        context.message("there is no snapshot yet")
        context.hint("opskit backup makes one")
        return
    for line in table([_row(each, history, is_forgotten=each.id in forgotten) for each in found], HEADER, ALIGN):
        context.write(line)


def _row(snapshot: Snapshot, history: History, *, is_forgotten: bool) -> tuple[str, ...]:
    from opskit.cli.render import human_bytes, printable

    manifest = snapshot.manifest
    notes = [] if manifest.complete else [f"incomplete: {manifest.unreadable:,} unreadable"]
    notes += [f"ALARM: {printable(alarm)}" for alarm in manifest.alarms[:1]]
    notes += ["forgotten"] if is_forgotten else []
    return (
        snapshot.id[:8],
        f"{manifest.started:%Y-%m-%d %H:%M:%S}",
        manifest.source,
        manifest.host,
        f"{manifest.files:,}",
        human_bytes(manifest.bytes),
        ", ".join(map(printable, history.holders[snapshot.name])),
        ", ".join(map(printable, manifest.tags)),
        ", ".join(notes),
    )

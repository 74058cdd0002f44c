"""`opskit hold`: keep snapshots from retention by a maintainer's mark, list holds, and lift them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.config.model import Config
    from opskit.repository.manifest import Snapshot
    from opskit.repository.marks import Mark, Marked

app = noun()


@app.command()
def hold(
    typer_context: typer.Context,
    snapshot: Annotated[
        str | None, typer.Argument(metavar="[SNAPSHOT]", help="What to hold; without it, holds are listed.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--until", metavar="DATE", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Until then (UTC)."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the mark, in the clear.")] = "",
    release: Annotated[bool, typer.Option("--release", help="Lift every hold of the snapshot.")] = False,
) -> int | None:
    """Keep a snapshot from retention, or list what is held."""
    from opskit.cli.auditing import judged
    from opskit.cli.copying import opened_for_copying
    from opskit.cli.reading import history_of, warn_of_absent
    from opskit.errors import UsageError
    from opskit.operations.choosing import choose

    context = Context.of(typer_context)
    if ((until or reason or release) and snapshot is None) or (release and (until or reason)):
        raise UsageError("expected SNAPSHOT with --until and --reason, or SNAPSHOT with --release")
    op = "" if snapshot is None else "release" if release else "hold"
    with opened_for_copying(context, op, [snapshot or ""]) as (config, opened, event):
        any_absent = warn_of_absent(context, opened)
        snapshots = history_of(opened).snapshots
        if snapshot is None:
            return _list(context, opened, snapshots)
        chosen = choose(snapshots, snapshot, opened.marks().forgotten())
        mark = _mark(config, opened, chosen, until, reason, release=release)
        code = _publish(context, config, opened, mark, chosen) or (3 if any_absent else 0)
        return judged(event, code, snapshot=chosen.id, reason=reason)


def _mark(
    config: Config, opened: Access, chosen: Snapshot, until: datetime | None, reason: str, *, release: bool
) -> Mark:
    from datetime import UTC

    from opskit import wiring
    from opskit.errors import SnapshotNotFound, UsageError
    from opskit.repository.marks import HOLD, RELEASE, Mark

    now = wiring.now().replace(microsecond=0)
    end = until.replace(tzinfo=UTC) if until else None
    if end is not None and end <= now:
        raise UsageError(f"--until lies in the past: expected a time after {now:%Y-%m-%d %H:%M} UTC, got {until}")
    if not release:
        return Mark(HOLD, opened.repository, config.host, now, [chosen.id], end, reason)
    held = opened.marks().holds(now).get(chosen.id, [])
    if not held:
        raise SnapshotNotFound(f"snapshot {chosen.id[:8]} is not held", hint="opskit hold lists what is")
    return Mark(RELEASE, opened.repository, config.host, now, lifts=[each.id for each in held])


def _publish(context: Context, config: Config, opened: Access, mark: Mark, chosen: Snapshot) -> int:
    from opskit import wiring
    from opskit.cli.render import printable
    from opskit.operations.marking import publish
    from opskit.repository.marks import HOLD

    identity = wiring.identity_of(config)
    with identity.keyring:
        _, failures = publish(identity, opened.copies, mark)
    for name, reason in failures.items():
        context.warning(f"{printable(name)} did not take the mark: {printable(str(reason))}")
    if failures or opened.absent:
        context.hint("opskit sync brings it to the other destinations")
    until = f" until {mark.until:%Y-%m-%d %H:%M} UTC" if mark.until else ""
    what = f"is held{until}" if mark.kind == HOLD else "is held no more"
    if context.json:
        context.write_json(
            {"snapshot": chosen.id, "kind": mark.kind, "failed": {n: str(e) for n, e in failures.items()}}
        )
    elif not context.quiet:
        context.write(f"snapshot {chosen.id[:8]} of {chosen.manifest.source} {what}")
    return 3 if failures else 0


def _list(context: Context, opened: Access, snapshots: list[Snapshot]) -> int:
    from opskit import wiring
    from opskit.cli.render import printable, table

    marks = opened.marks()
    known = {each.id: each for each in snapshots}
    held = [(each, marked) for each, found in marks.holds(wiring.now()).items() for marked in found]
    if context.json:
        context.write_json([_as_json(each, marked) for each, marked in held])
    else:
        rows = [
            (
                each[:8],
                known[each].manifest.source if each in known else "?",
                f"{marked.mark.until:%Y-%m-%d %H:%M}" if marked.mark.until else "for good",
                printable(marked.mark.host),
                printable(marked.mark.reason),
            )
            for each, marked in held
        ]
        for line in table(rows, ("id", "source", "until (UTC)", "by", "reason")) if rows else ():
            context.write(line)
        if not rows:
            context.message("nothing is held")
    for place, name, reason in marks.rejected:
        context.warning(f"{printable(place)}: {printable(name)} is not believed: {printable(str(reason))}")
    return 13 if marks.rejected else 0


def _as_json(snapshot: str, marked: Marked) -> dict[str, object]:
    mark = marked.mark
    return {
        "snapshot": snapshot,
        "mark": marked.id,
        "host": mark.host,
        "created": f"{mark.created:%Y-%m-%dT%H:%M:%SZ}",
        "until": f"{mark.until:%Y-%m-%dT%H:%M:%SZ}" if mark.until else None,
        "reason": mark.reason,
        "signer": marked.signer,
    }

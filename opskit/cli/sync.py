"""`opskit sync`: give destinations what they lack, from others that have it; needs no private key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.copying import DryRunOption, OnlyOption
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.operations.sync import Synced
    from opskit.repository.copy import Copy
    from opskit.repository.heads import GoneBack
    from opskit.repository.history import History
    from opskit.repository.marks import Marks

app = noun()

SHOWN = 5
"""Snapshots told of that a copy lacks; --json lists all."""


@app.command()
def sync(
    typer_context: typer.Context,
    destinations: Annotated[
        list[str] | None, typer.Argument(metavar="[DESTINATION]...", help="What to bring up to date; all if none.")
    ] = None,
    destination: OnlyOption = None,
    source: Annotated[
        list[str] | None, typer.Option("--from", metavar="NAME", help="Copy from this destination only; repeatable.")
    ] = None,
    dry_run: DryRunOption = False,
) -> int | None:
    """Copy to destinations what they lack, from others; needs no private key."""
    from opskit import wiring
    from opskit.cli.auditing import judged
    from opskit.cli.copying import chosen, opened_for_copying
    from opskit.cli.reading import history_of, warn_of_absent, warn_of_rejected
    from opskit.cli.suspicions import rejected, rolled_back
    from opskit.operations.torn import drop_torn
    from opskit.repository.heads import gone_back

    context = Context.of(typer_context)
    wanted, listed = [*(destinations or ()), *(destination or ())], wiring.boottime()
    with opened_for_copying(context, "" if dry_run else "sync", wanted) as (_, opened, event):
        sources = chosen(opened, source or ())
        # Whoever names the only giver does not ask whether that one lacks anything.
        targets = [each for each in chosen(opened, wanted) if wanted or not source or [each] != sources]
        torn = drop_torn(opened.copies)
        history, marks, ledger = history_of(opened), opened.marks(torn), opened.evidence()
        lost = {(place, name) for place, name, _ in torn}
        back = gone_back(opened.copies, opened.heads, forgotten=marks.forgotten(), torn=lost)
        event.note(**rolled_back(back), **rejected([*history.rejected, *marks.rejected, *ledger.rejected]))
        code = max(warn_of_rejected(context, each) for each in (history, marks, ledger))
        code = max(code, 3 if _warn(context, opened.copies, torn, back) or opened.lost_heads else 0)
        if not wanted and warn_of_absent(context, opened):
            code = max(code, 3)
        _require_all_marks(marks)
        if dry_run:
            return max(_plan(context, targets, sources, history, marks), code)
        evidence = [each.name for each in ledger.kept]
        results = {
            copy.destination: _sync(context, opened, copy, sources, history, marks, evidence, listed)
            for copy in targets
        }
        is_only = len(opened.copies) == 1 and not opened.absent
        states = _states(targets, sources, results, is_only=is_only)
        code = max(code, _tell(context, targets, results, states))
        told = {name: _as_json(result, states[name]) for name, result in results.items()}
        return judged(event, code, destinations=told)


def _warn(
    context: Context, copies: Sequence[Copy], torn: Sequence[tuple[str, str, Exception]], back: Sequence[GoneBack]
) -> bool:
    """Tell of copies without an id, of torn objects and of copies that went back; whether there was any of that."""
    from opskit.cli.render import printable
    from opskit.repository.copy import WITHOUT_ID

    for copy in (each for each in copies if not each.id):
        context.warning(f"{printable(copy.destination)}: {WITHOUT_ID}")
    for place, name, _ in torn:
        context.warning(f"{printable(place)}: {printable(name)} is not whole, and counts as absent")
    for each in back:
        what = f"snapshot {each.head.sequence} of {each.source}"
        context.warning(printable(f"{each.destination}: ROLLED BACK: it had {what} once"))
    if back:
        context.hint("an older state was put back, or somebody deleted there; find out who could")
    return bool(torn or back) or not all(copy.id for copy in copies)


def _require_all_marks(marks: Marks) -> None:
    """Raises Damaged where a mark is at hand that no copy has whole: it may forget what would be copied."""
    from opskit.errors import Damaged

    for destination, name, reason in marks.unreadable():
        raise Damaged(
            f"{destination}: {name} cannot be read, and may forget snapshots that would be copied again: {reason}",
            hint="bring in a destination that has it whole, then: opskit heal",
        )


def _states(
    targets: Sequence[Copy], sources: Sequence[Copy], results: Mapping[str, Synced], *, is_only: bool
) -> dict[str, str]:
    """Of each target "behind" or "current"; where no other copy is at hand "unknown", or "alone" if there is none."""
    states = {}
    for copy in targets:
        is_lone = all(each is copy for each in sources)
        state = ("alone" if is_only else "unknown") if is_lone else "current"
        states[copy.destination] = "behind" if _is_behind(results[copy.destination]) else state
    return states


def _sync(
    context: Context,
    opened: Access,
    target: Copy,
    sources: Sequence[Copy],
    history: History,
    marks: Marks,
    evidence: Sequence[str],
    listed: float,
) -> Synced:
    from opskit import wiring
    from opskit.cli.copying import counting
    from opskit.operations.sync import LookingAgain, sync

    others = [copy for copy in sources if copy is not target]
    shown = {name for copy in others for name in copy.objects}
    snapshots = [each for each in history.snapshots if each.name in shown]
    with counting(context, f"sync {target.destination}", _missing_bytes(target, others)) as progress:
        result = sync(
            target, others, snapshots,
            before=[each.name for each in marks.marks if each.name in shown],
            after=[name for name in evidence if name in shown],
            forgotten=marks.forgotten(), condemned=marks.condemned_by().keys(), workers=4, progress=progress,
            look_again=LookingAgain(opened.copies, opened.marks, wiring.boottime, listed=listed),
        )  # fmt: skip
    if opened.heads is not None:
        for snapshot in snapshots:
            if snapshot.name in target.objects:
                opened.heads.acknowledge(target.id, snapshot)
        opened.heads.save()
    return result


def _missing_bytes(target: Copy, others: Sequence[Copy]) -> int:
    from opskit.repository import names

    sizes = {name: size for copy in others for name, size in copy.objects.items() if names.digest_in(name)}
    return sum(size for name, size in sizes.items() if name not in target.objects)


def _plan(context: Context, targets: Sequence[Copy], sources: Sequence[Copy], history: History, marks: Marks) -> int:
    """Tell what would be copied, which may be less where an object turns out to be damaged; 3 where something would."""
    from opskit.cli.render import counted, human_bytes, printable, table
    from opskit.operations.sync import missing_at

    rows, told, is_any_behind = [], dict[str, object](), False
    for target in targets:
        others = [copy for copy in sources if copy is not target]
        snapshots, objects = missing_at(target, others, history.snapshots, marks.forgotten())
        size = sum(_size(name, others) for name in objects)
        ids = [each.id for each in snapshots]
        told[target.destination] = {"snapshots": ids, "objects": len(objects), "bytes": size}
        what = f"{counted(len(snapshots), 'snapshot')}, {counted(len(objects), 'object')}, {human_bytes(size)}"
        rows.append((printable(target.destination), what if snapshots else "lacks no snapshot"))
        is_any_behind = is_any_behind or bool(snapshots)
    if context.json:
        context.write_json({"dry_run": True, "destinations": told})
    for line in table(rows) if not context.json else ():
        context.write(line)
    context.message("nothing was copied")
    return 3 if is_any_behind else 0


def _size(name: str, copies: Sequence[Copy]) -> int:
    return next((copy.objects[name] for copy in copies if name in copy.objects), 0)


def _tell(context: Context, targets: Sequence[Copy], results: Mapping[str, Synced], states: Mapping[str, str]) -> int:
    from opskit.cli.render import printable, table

    if context.json:
        told = {name: _as_json(result, states[name]) for name, result in results.items()}
        context.write_json({"destinations": told})
    else:
        for line in table([_row(context, name, results[name], state) for name, state in states.items()]):
            context.write(line)
    for name, state in states.items():
        if state == "unknown":
            context.warning(f"{printable(name)}: no other copy is at hand: whether it lacks anything is unknown")
    for copy in targets:
        for snapshot, reason in results[copy.destination].lacking[:SHOWN]:
            what = f"{snapshot.manifest.source} {snapshot.id[:8]} of {snapshot.manifest.started:%Y-%m-%d %H:%M}"
            context.warning(f"{printable(copy.destination)}: {what} is not whole there: {printable(str(reason))}")
        for name, error in list(results[copy.destination].loose.items())[:SHOWN]:
            context.warning(f"{printable(copy.destination)}: {printable(name)} was not copied: {printable(str(error))}")
    behind = [copy for copy in targets if _is_behind(results[copy.destination])]
    failures = [copy.failed.exit_code for copy in behind if copy.failed is not None]
    for copy in behind:
        if copy.failed is not None and copy.failed.hint:
            name = printable(copy.destination)
            context.hint(f"{name}: {printable(copy.failed.hint)}; then: opskit sync {name}")
    if behind and not failures:
        context.hint("bring in a destination that has them intact; opskit verify tells which objects are damaged")
    bad = behind or "unknown" in states.values()
    return 3 if bad and len(failures) < len(targets) else max(failures, default=0)


def _is_behind(result: Synced) -> bool:
    return bool(result.lacking or result.loose)


def _row(context: Context, name: str, result: Synced, state: str) -> tuple[str, ...]:
    from opskit.cli.render import counted, human_bytes, printable

    copied = "nothing copied" if state == "behind" else "nothing to copy"
    if result.objects:
        what = f"{counted(len(result.snapshots), 'snapshot')}, {counted(result.objects, 'object')}"
        copied = f"{what}, {human_bytes(result.total_bytes)} copied"
    left_out = f"; {counted(result.forgotten, 'snapshot')} forgotten" if result.forgotten else ""
    if state == "alone":
        copied = "it is the only copy"
    colour = {"behind": "yellow", "unknown": "yellow"}.get(state, "green")
    return printable(name), context.styled(state, colour), f"{copied}{left_out}"


def _as_json(result: Synced, state: str) -> dict[str, object]:
    return {
        "state": state,
        "objects": result.objects,
        "bytes": result.total_bytes,
        "snapshots": [each.id for each in result.snapshots],
        "lacking": {snapshot.id: str(reason) for snapshot, reason in result.lacking},
        "forgotten": result.forgotten,
    }

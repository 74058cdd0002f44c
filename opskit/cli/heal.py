"""`opskit heal`: replace what is damaged or missing at destinations by what others hold; needs no private key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import typer

from opskit.cli.context import Context
from opskit.cli.copying import DryRunOption, OnlyOption
from opskit.cli.options import noun
from opskit.log import logger

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.audit.event import Event
    from opskit.config.model import Config
    from opskit.operations.heal import Healed
    from opskit.operations.verify import CopyReport
    from opskit.repository.copy import Copy
    from opskit.repository.marks import Marks

log = logger(__name__)
app = noun()

SHOWN = 10
"""Lines of one kind; --json lists all."""


@app.command()
def heal(
    typer_context: typer.Context,
    destination: OnlyOption = None,
    dry_run: DryRunOption = False,
) -> int | None:
    """Replace what is damaged or missing at destinations from others; needs no private key."""
    from opskit.cli.auditing import judged
    from opskit.cli.copying import chosen, opened_for_copying
    from opskit.cli.reading import warn_of_absent
    from opskit.cli.remembering import remember
    from opskit.cli.suspicions import rolled_back
    from opskit.operations.heal import heal, mend_report
    from opskit.repository.heads import gone_back
    from opskit.repository.identity import read_repository

    context, op, wanted = Context.of(typer_context), "" if dry_run else "heal", destination or ()
    first = partial(_reidentify, context, wanted, dry_run)
    with opened_for_copying(context, op, wanted, first=first) as (config, opened, event):
        targets, marks = chosen(opened, wanted), opened.marks()
        reports = _read_back(context, opened, targets, marks)
        any_absent = not destination and warn_of_absent(context, opened)
        if dry_run:
            return max(_plan(context, targets, reports), 3 if any_absent else 0)
        about = read_repository(config.state_dir) or b""
        results = heal(opened.copies, reports, [copy.destination for copy in targets], about=about)
        code = max(_tell(context, targets, reports, results), 3 if any_absent else 0)
        for name, result in results.items():
            mend_report(reports[name], result)
        remember(context, opened, {name: reports[name] for name in results})
        event.note(**rolled_back(gone_back(targets, opened.heads, forgotten=marks.forgotten())))
        told = {name: _as_json(reports[name], result) for name, result in results.items()}
        return judged(event, code, destinations=told)


def _reidentify(context: Context, wanted: Sequence[str], dry_run: bool, config: Config, event: Event) -> None:
    """Mend what copies are opened by, or tell that it would be; a destination that is away is told of later."""
    from secrets import token_hex

    from opskit import wiring
    from opskit.cli.render import printable
    from opskit.errors import OpskitError
    from opskit.operations.initialise import Past, read_past
    from opskit.operations.reidentify import reidentify, unidentified
    from opskit.repository.identity import read_repository

    if (about := read_repository(config.state_dir)) is None:
        return
    past, mended = read_past(config.state_dir), dict[str, object]()
    for name, store in wiring.stores_of(config, wanted).items():
        copy_id = past.get(name, Past("", "")).copy or token_hex(16)
        try:
            done = unidentified(store, about) if dry_run else reidentify(name, store, about, copy_id, wiring.now())
        except OpskitError as error:
            log.info("copy not looked at", destination=name, reason=str(error))
            continue
        if done:
            mended[name] = done
            context.message(f"{printable(name)}: {' and '.join(done)} {'to be ' if dry_run else ''}written anew")
    if mended:
        event.note(identities=mended)


def _read_back(context: Context, opened: Access, targets: Sequence[Copy], marks: Marks) -> dict[str, CopyReport]:
    """What verify says of the targets; of the others nothing: what is taken from them is compared on the way."""
    from opskit.cli.copying import counting
    from opskit.operations.verify import CopyReport, verify

    total = sum(sum(copy.objects.values()) for copy in targets)
    with counting(context, "verify", total) as progress:
        reports = verify(
            targets, opened.verify,
            signers=opened.signers, repository=opened.repository, heads=opened.heads, others=opened.copies,
            forgotten=marks.forgotten(), rejected=marks.rejected, progress=progress,
        )  # fmt: skip
    return {copy.destination: reports.get(copy.destination) or CopyReport() for copy in opened.copies}


def _plan(context: Context, targets: Sequence[Copy], reports: Mapping[str, CopyReport]) -> int:
    from opskit.cli.render import counted, printable
    from opskit.operations.heal import to_heal
    from opskit.repository.names import COPY

    any_found = False
    for copy in targets:
        wanted = to_heal(reports[copy.destination])
        any_found = any_found or bool(wanted) or COPY in reports[copy.destination].missing
        what = f"{counted(len(wanted), 'object')} to mend" if wanted else "nothing to mend"
        context.write(f"{printable(copy.destination)}  {what}")
        _list(context, wanted)
    context.message("nothing was changed")
    return max(_warn(context, targets, reports), 3 if any_found else 0)


def _tell(
    context: Context, targets: Sequence[Copy], reports: Mapping[str, CopyReport], results: Mapping[str, Healed]
) -> int:
    if context.json:
        told = {name: _as_json(reports[name], result) for name, result in results.items()}
        context.write_json({"destinations": told})
    for copy in targets:
        if not context.json:
            _tell_one(context, copy.destination, reports[copy.destination], results[copy.destination])
    code = _warn(context, targets, reports)
    return max(code, 0 if all(each.is_whole for each in results.values()) else 3)


def _warn(context: Context, targets: Sequence[Copy], reports: Mapping[str, CopyReport]) -> int:
    """Tell what heal does not mend: 13 where somebody may have tampered, 3 where a copy could not be read, else 0."""
    from opskit.cli.render import printable

    unread = [copy.destination for copy in targets if reports[copy.destination].failure is not None]
    for name in unread:
        reason = printable(str(reports[name].failure))
        context.warning(f"{printable(name)} could not be read to its end: {reason}")
    if any(reports[copy.destination].is_forged for copy in targets):
        context.warning("a copy holds what nobody known made, or went back in time: heal does not judge that")
        context.hint("opskit verify tells what and where")
        return 13
    return 3 if unread else 0


def _tell_one(context: Context, name: str, report: CopyReport, result: Healed) -> None:
    from opskit.cli.render import counted, human_bytes, printable

    done = len(result.replaced) + len(result.restored)
    if not done and result.is_whole and not result.unharmed:
        state = context.styled("whole", "green") if report.failure is None else context.styled("unknown", "yellow")
        context.write(
            f"{printable(name)}  {state}  nothing to mend" + (" in what could be read" if report.failure else "")
        )
        return
    state = context.styled("healed", "green") if result.is_whole else context.styled("not whole", "red")
    context.write(
        f"{printable(name)}  {state}  {counted(len(result.replaced), 'object')} replaced, "
        f"{len(result.restored):,} put back, {human_bytes(result.total_bytes)}"
        + (f"; {len(result.unharmed):,} read as damaged once, and are right" if result.unharmed else "")
    )
    _list(context, [*result.replaced, *result.restored])
    for each, reason in list(result.failed.items())[:SHOWN]:
        context.warning(f"{printable(name)}: {printable(each)}: {printable(str(reason))}")
    if result.replaced:
        context.hint(
            f"{printable(name)}: find out why (of a disk: smartctl, kernel log); wrong bytes lie in quarantine/"
        )
    if result.lost:
        _tell_lost(context, name, report, result)


def _tell_lost(context: Context, name: str, report: CopyReport, result: Healed) -> None:
    from opskit.cli.render import counted, printable

    context.write(f"{printable(name)}: {counted(len(result.lost), 'object')} intact at no copy at hand:")
    for each in result.lost[:SHOWN]:
        needed = report.needed_by.get(each, [])
        newest = f", newest {needed[-1].manifest.source}@{needed[-1].id[:8]}" if needed else ""
        context.write(f"  {printable(each)}  needed by {counted(len(needed), 'snapshot')}{newest}")
    if len(result.lost) > SHOWN:
        context.write(f"  and {len(result.lost) - SHOWN:,} more; --json lists them all")
    context.hint(
        "bring in the destinations that are absent and heal again; opskit backup stores anew what the source has"
    )


def _list(context: Context, names: Sequence[str]) -> None:
    from opskit.cli.render import printable

    for name in names[:SHOWN]:
        context.write(f"  {printable(name)}")
    if len(names) > SHOWN:
        context.write(f"  and {len(names) - SHOWN:,} more; --json lists them all")


def _as_json(report: CopyReport, result: Healed) -> dict[str, object]:
    """What became of a copy. `untrusted`, `rolled_back`, `error`: only where there are any; heal mends none of them."""
    from opskit.cli.suspicions import SHOWN as NOTED

    suspicious = {"untrusted": [*report.untrusted, *report.forks][:NOTED], "rolled_back": report.rolled_back[:NOTED]}
    failure = {"error": str(report.failure)} if report.failure is not None else {}
    return {
        **{kind: found for kind, found in suspicious.items() if found},
        **failure,
        "replaced": result.replaced,
        "restored": result.restored,
        "lost": result.lost,
        "quarantined": result.quarantined,
        "unharmed": result.unharmed,
        "failed": {name: str(reason) for name, reason in result.failed.items()},
        "bytes": result.total_bytes,
    }

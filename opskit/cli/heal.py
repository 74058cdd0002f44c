"""`opskit heal`: replace what is damaged or missing at destinations by what others hold; needs no private key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from opskit.cli.context import Context
from opskit.cli.copying import DryRunOption, OnlyOption
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.operations.heal import Healed
    from opskit.operations.verify import CopyReport
    from opskit.repository.copy import Copy
    from opskit.repository.marks import Marks

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
    from opskit.cli.identities import identify
    from opskit.cli.reading import warn_of_absent
    from opskit.cli.remembering import remember
    from opskit.cli.suspicions import rolled_back
    from opskit.errors import together
    from opskit.operations.heal import heal, mend_report
    from opskit.repository.heads import gone_back
    from opskit.repository.identity import read_repository

    context, op, wanted = Context.of(typer_context), "" if dry_run else "heal", destination or ()
    with opened_for_copying(context, op, wanted, may_be_none=True) as (config, opened, event):
        about = read_repository(config.state_dir) or b""
        found = identify(context, config, opened, about, wanted, dry_run=dry_run)
        event.note(**found.details())
        if not opened.copies and not (dry_run and found.mended):
            raise together(opened.absent)
        named = [each for each in wanted if not dry_run or each not in opened.absent or each not in found.mended]
        targets, marks = chosen(opened, named) if named or not wanted else [], opened.marks()
        reports = _read_back(context, opened, targets, marks)
        code = 3 if opened.lost_heads or (not destination and warn_of_absent(context, opened)) else found.code
        if dry_run:
            return max(_plan(context, targets, reports, found.mended), code)
        results = heal(opened.copies, reports, [copy.destination for copy in targets], about=about)
        foreign = {name: list(reports[name].foreign) for name in results}
        for name, result in results.items():
            mend_report(reports[name], result)
        told = {name: _as_json(reports[name], result, found.mended.get(name)) for name, result in results.items()}
        code = max(_tell(context, targets, reports, results, told), _warn_of_foreign(context, foreign), code)
        code = max(code, 3 if any(not copy.id for copy in targets) else 0)
        remember(context, opened, {name: reports[name] for name in results})
        back = gone_back(targets, opened.heads, forgotten=marks.forgotten())
        event.note(**rolled_back(back))
        return judged(event, code, destinations=told)


def _read_back(context: Context, opened: Access, targets: Sequence[Copy], marks: Marks) -> dict[str, CopyReport]:
    """What verify says of the targets; of the others nothing: what is taken from them is compared on the way."""
    from opskit.cli.copying import counting
    from opskit.cli.turns import taking_turns
    from opskit.operations.verify import CopyReport, verify

    total = sum(sum(copy.objects.values()) for copy in targets)
    with taking_turns(context, opened, targets) as turns, counting(context, "verify", total) as progress:
        reports = verify(
            targets, opened.verify,
            signers=opened.signers, repository=opened.repository, heads=opened.heads, others=opened.copies,
            forgotten=marks.forgotten(), forgotten_numbers=marks.forgotten_numbers(),
            rejected=marks.rejected, progress=progress, turns=turns,
        )  # fmt: skip
    return {copy.destination: reports.get(copy.destination) or CopyReport() for copy in opened.copies}


def _plan(
    context: Context,
    targets: Sequence[Copy],
    reports: Mapping[str, CopyReport],
    identities: Mapping[str, Sequence[str]],
) -> int:
    from opskit.cli.render import counted, printable
    from opskit.operations.heal import to_heal

    found = {each.destination: to_heal(reports[each.destination]) for each in targets}
    found |= {name: [*wrong, *found.get(name, ())] for name, wrong in identities.items()}
    if context.json:
        context.write_json({"dry_run": True, "destinations": {name: {"wrong": each} for name, each in found.items()}})
    for name, wanted in found.items() if not context.json else ():
        what = f"{counted(len(wanted), 'object')} to mend" if wanted else "nothing to mend"
        context.write(f"{printable(name)}  {what}")
        _list(context, wanted)
    context.message("nothing was changed")
    return max(_warn(context, targets, reports), 3 if any(found.values()) else 0)


def _tell(
    context: Context,
    targets: Sequence[Copy],
    reports: Mapping[str, CopyReport],
    results: Mapping[str, Healed],
    told: Mapping[str, object],
) -> int:
    if context.json:
        context.write_json({"destinations": told})
    for copy in targets:
        if not context.json:
            _tell_one(context, copy.destination, reports[copy.destination], results[copy.destination])
    code = _warn(context, targets, reports)
    return max(code, 0 if all(each.is_whole for each in results.values()) else _code(results))


def _warn_of_foreign(context: Context, foreign: Mapping[str, Sequence[str]]) -> int:
    """Tell of kit objects that no known opskit wrote so: 13 where there were any, though they are mended."""
    from opskit.cli.render import printable

    for name, objects in foreign.items():
        for each in objects:
            context.warning(
                f"{printable(name)}: {printable(each)} was not as any known opskit writes it: rotten, or put there by "
                "somebody; what it was is in quarantine/"
            )
    return 13 if any(foreign.values()) else 0


def _code(results: Mapping[str, Healed]) -> int:
    """3 where something stays wrong; what kept everything from being mended, where nothing else was the matter."""
    failures = [error for each in results.values() for error in each.failed.values()]
    is_done = any(each.replaced or each.restored or each.lost for each in results.values())
    return 3 if is_done or not failures else max(error.exit_code for error in failures)


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
    for hint in dict.fromkeys(error.hint for error in result.failed.values() if error.hint):
        context.hint(printable(hint))
    if result.replaced:
        context.hint(
            f"{printable(name)}: find out why (of a disk: smartctl, kernel log); wrong bytes lie in quarantine/"
        )
    if result.lost:
        _tell_lost(context, name, report, result)


def _tell_lost(context: Context, name: str, report: CopyReport, result: Healed) -> None:
    from opskit.cli.render import counted, printable
    from opskit.repository.marks import HOLD, RELEASE
    from opskit.repository.names import kind_of_mark

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
    if any(kind_of_mark(each) not in ("", HOLD, RELEASE) for each in result.lost):
        context.hint(
            "sync copies nothing while such a mark is damaged everywhere: once you know what it forgot, remove it at "
            "every copy by hand"
        )


def _list(context: Context, names: Sequence[str]) -> None:
    from opskit.cli.render import printable

    for name in names[:SHOWN]:
        context.write(f"  {printable(name)}")
    if len(names) > SHOWN:
        context.write(f"  and {len(names) - SHOWN:,} more; --json lists them all")


def _as_json(report: CopyReport, result: Healed, identity: Sequence[str] | None) -> dict[str, object]:
    """What became of a copy. `untrusted`, `rolled_back`, `error`: only where there are any; heal mends none of them."""
    from opskit.cli.suspicions import SHOWN as NOTED

    suspicious = {"untrusted": [*report.untrusted, *report.forks][:NOTED], "rolled_back": report.rolled_back[:NOTED]}
    failure = {"error": str(report.failure)} if report.failure is not None else {}
    return {
        **{kind: found for kind, found in suspicious.items() if found},
        **failure,
        **({"identity": identity} if identity else {}),
        "replaced": result.replaced,
        "restored": result.restored,
        "lost": result.lost,
        "quarantined": result.quarantined,
        "unharmed": result.unharmed,
        "failed": {name: str(reason) for name, reason in result.failed.items()},
        "bytes": result.total_bytes,
    }

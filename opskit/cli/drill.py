"""`opskit drill`: restore a snapshot from one copy into a scratch folder, check it, measure it, and keep the evidence.

What is chosen and what came of it is told in words, as one JSON document, and as an exit code: 3 for a drill that
failed or an objective that was missed. Nothing is restored anywhere but in the scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import DestinationOption, KeyOption, PassphraseOption

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from opskit.access import Access
    from opskit.config.model import Config
    from opskit.operations.drilling.choose import Pair
    from opskit.operations.drilling.report import Report

app = noun("Prove that copies restore: drills, their list and their reports.")

HostOption = Annotated[
    str | None,
    typer.Option("--host", metavar="LABEL", help="Snapshots of this host; else ours, of all if we have none."),
]


@app.command("run")
def run(
    typer_context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE]...", help="A drill of each; one of whatever is next if none."),
    ] = None,
    destination: DestinationOption = None,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", metavar="ID|latest", help="Which; else by lot within drills.window.")
    ] = None,
    host: HostOption = None,
    key: KeyOption = None,
    passphrase: PassphraseOption = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Repeat a choice by lot.")] = None,
    sample: Annotated[str | None, typer.Option("--sample", metavar="5%", help="Only so many of the files.")] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="10m|50GB", help="Only as many files as fit, about.")
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option("--scratch", metavar="DIR", help="Restore below this folder; wiped at the end.")
    ] = None,
    stock: Annotated[
        bool, typer.Option("--stock", help="With the copy's recover.py, gpg and zstd alone; needs --key.")
    ] = False,
) -> int | None:
    """Restore from one copy into a scratch folder, check and time it, wipe it, and keep signed evidence."""
    from opskit.cli.drilling import Drilling, Wanted

    wanted = Wanted(sources or (), destination or (), snapshot, host, seed, sample, budget, scratch, stock)
    return Drilling(Context.of(typer_context), wanted, key, passphrase).run()


@app.command("list")
def list_drills(typer_context: typer.Context, host: HostOption = None) -> int | None:
    """List every source and copy with its latest drill, its age, and what is next."""
    from opskit import access, gpg, wiring
    from opskit.cli.reading import warn_of_absent

    gpg.begin_check()
    context = Context.of(typer_context)
    config = context.load_config()
    with access.by_config(config) as opened:
        warn_of_absent(context, opened)
        found, code = _pairs(context, config, opened, host)
    now, every = wiring.now(), config.policy.drill_every
    if context.json:
        context.write_json([_pair_json(each, now, every, is_next=_is_next(each, found)) for each in found])
        return code
    _show(context, found, now, every)
    return code


def _pairs(context: Context, config: Config, opened: Access, host: str | None) -> tuple[list[Pair], int]:
    """Every source at every copy that is at hand, and 13 where something was forged."""
    from opskit import wiring
    from opskit.cli.drilling import of_host
    from opskit.cli.reading import history_of, warn_of_rejected
    from opskit.operations.drilling.choose import pairs
    from opskit.operations.drilling.records import begun

    history, marks, ledger = history_of(opened), opened.marks(), opened.evidence()
    code = max(warn_of_rejected(context, each) for each in (history, marks, ledger))
    forgotten = marks.forgotten()
    snapshots = [each for each in history.snapshots if each.id not in forgotten]
    copies = {copy.destination: copy.id for copy in opened.copies}
    found = pairs(snapshots, history.holders, copies, ledger.drills(), wiring.now(), begun(config.state_dir))
    return of_host(found, host, config.host), code


def _is_next(pair: Pair, found: Sequence[Pair]) -> bool:
    """Whether it is this pair's turn; among several that were never drilled the lot decides."""
    return pair.turn == min(each.turn for each in found)


def _is_due(pair: Pair, now: datetime, every: timedelta) -> bool:
    since = pair.last_good.ended if pair.last_good else pair.snapshots[0].manifest.started
    return now - since > every


def _show(context: Context, found: Sequence[Pair], now: datetime, every: timedelta) -> None:
    from opskit.cli.render import printable, table

    hosts = {each.origin for each in found}
    rows = []
    for each in found:
        name = each.source if len(hosts) == 1 else f"{each.source} of {each.origin}"
        turn = "next" if _is_next(each, found) else ""
        first = printable(name), printable(each.destination), f"{len(each.snapshots):,}"
        rows.append((*first, *_cells(each, now, every), turn))
    header = ("source", "copy", "snapshots", "last drill", "result", "report", "good", "turn")
    for line in table(rows, header, "<<>") if rows else ():
        context.write(line)
    if not rows:
        context.message("there is no snapshot to drill")
    context.message(f"the policy wants each copy drilled every {every}")


def _cells(pair: Pair, now: datetime, every: timedelta) -> tuple[str, str, str, str]:
    from opskit.cli.matrix import day
    from opskit.operations.status.rules import length

    good = f"{length(now - pair.last_good.ended)} ago" if pair.last_good else "never"
    good += " OVERDUE" if _is_due(pair, now, every) else ""
    if pair.last is None:
        return "never", "-", "-", good
    drill = pair.last.drill
    result = ("passed" if drill.passed else "FAILED") + (f" ({drill.sample})" if drill.sample else "")
    return day(pair.last.ended, now), result, pair.last.id[:8], good


def _pair_json(pair: Pair, now: datetime, every: timedelta, *, is_next: bool) -> dict[str, object]:
    last, good = pair.last, pair.last_good
    return {
        "source": pair.source,
        "host": pair.origin,
        "destination": pair.destination,
        "copy": pair.copy,
        "snapshots": len(pair.snapshots),
        "last_drill": f"{last.ended:%Y-%m-%dT%H:%M:%SZ}" if last else None,
        "passed": last.drill.passed if last else None,
        "sample": last.drill.sample if last else None,
        "report": last.id if last else None,
        "last_good": f"{good.ended:%Y-%m-%dT%H:%M:%SZ}" if good else None,
        "overdue": _is_due(pair, now, every),
        "next": is_next,
    }


@app.command("report")
def report(
    typer_context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Which drill, by its id; else the newest.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="md|html|json", help="How it is written.")] = "md",
) -> int | None:
    """Write the report of a drill, from the evidence at the copies."""
    from opskit import access, gpg, wiring
    from opskit.cli.reading import warn_of_rejected
    from opskit.errors import UsageError
    from opskit.operations.drilling import report as reports

    gpg.begin_check()
    context = Context.of(typer_context)
    if form not in ("md", "html", "json"):
        raise UsageError(f"--format: expected md, html or json, got {form!r}")
    config = context.load_config()
    with access.by_config(config) as opened:
        ledger = opened.evidence()
        code = warn_of_rejected(context, ledger)
        found = _report(config, opened, name)
    if context.json or form == "json":
        context.write_json(reports.as_json(found))
    else:
        write = reports.as_html if form == "html" else reports.as_markdown
        context.write(write(found, wiring.now()).rstrip("\n"))
    return code


def _report(config: Config, opened: Access, name: str | None) -> Report:
    from opskit.errors import SnapshotNotFound
    from opskit.operations.drilling.records import details_of
    from opskit.operations.drilling.report import Report

    ledger = opened.evidence()
    found = [each for each in ledger.drills() if each.id.startswith(name or "")]
    if not found or (name and len(found) > 1):
        count = f"{len(found)} drills" if found else "no drill"
        what = f" with an id that begins {name}" if name else ""
        raise SnapshotNotFound(f"there is {count}{what}", hint="opskit drill list shows the latest of each copy")
    drilled = found[-1]
    signer = next(each.signer for each in ledger.kept if each.name == drilled.name)
    return Report(drilled, details_of(config.state_dir, drilled.name), signer)

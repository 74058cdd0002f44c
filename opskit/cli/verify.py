"""`opskit verify`: read the copies back and tell a tired person what is wrong, for whom, and what to do.

Needs no private key and changes nothing. Without any key (`--repository` alone) it compares hashes, and says that
signatures were not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import DestinationOption, RepositoryOption, TrustOption

if TYPE_CHECKING:
    from pathlib import Path

    from opskit.access import Access
    from opskit.cli.progress import ProgressSample
    from opskit.operations.verify import CopyReport
    from opskit.operations.verifying.budget import Budget
    from opskit.operations.verifying.turn import Turn
    from opskit.repository.copy import Copy

app = noun()

SHOWN = 10
"""Lines of one kind of trouble; --json lists all."""


@app.command()
def verify(
    typer_context: typer.Context,
    destination: DestinationOption = None,
    repository: RepositoryOption = None,
    key: TrustOption = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="10%|30m|50GB", help="Only so much, of what was read longest ago."),
    ] = None,
    by_checksum: Annotated[
        bool,
        typer.Option("--by-checksum", help="Take a bucket's word (its SHA-256) for packs, instead of reading them."),
    ] = False,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Keep the answer, signed, at the copies: for other hosts' status.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell how much would be read.")] = False,
) -> int | None:
    """Read the copies back and compare every object; needs no private key."""
    from opskit.cli.auditing import audited_reading, judged
    from opskit.cli.reading import opened_for_reading
    from opskit.cli.remembering import publish, remember
    from opskit.cli.turns import taking_turns

    context = Context.of(typer_context)
    extent = _extent(budget, repository, by_checksum=by_checksum, evidence=evidence, dry_run=dry_run)
    with (
        audited_reading(context, repository, "verify", " ".join(destination or ())) as event,
        opened_for_reading(context, repository, key, destination if repository else None, keyless=True) as opened,
        taking_turns(context, opened, copies := _chosen(opened, destination or ()), extent.budget) as turns,
    ):
        if dry_run:
            return judged(event, _plan(context, opened, copies, turns))
        reports = _read_back(context, opened, copies, key, turns, extent)
        found = remember(context, opened, reports) if repository is None else {}
        code = publish(context, opened, found) if evidence else 0
        if context.json:
            context.write_json(_as_json(context, opened, reports, extent))
        else:
            _tell(context, opened, reports, turns, extent)
        _tell_signers(context, opened, reports)
        told = _as_json(context, opened, reports, extent)["destinations"]
        return judged(event, max(code, _code(opened, reports)), destinations=told)


def _tell_signers(context: Context, opened: Access, reports: Mapping[str, CopyReport]) -> None:
    """What there is to say of who signed."""
    from opskit.cli.reading import tell_successors

    if not opened.judges_signatures:
        context.warning("SIGNATURES WERE NOT JUDGED: hashes show what is damaged, and not who made it")
        context.hint("--key FILE, the recovery-key file, checks who made the snapshots as well")
    elif _code(opened, reports) == 13:
        tell_successors(context, opened.copies, opened.trusted, opened.signers, opened.repository)


class _Extent(NamedTuple):
    """How much is read."""

    budget: Budget | None
    by_checksum: bool

    @property
    def is_partial(self) -> bool:
        return self.budget is not None or self.by_checksum


def _extent(budget: str | None, repository: str | None, *, by_checksum: bool, evidence: bool, dry_run: bool) -> _Extent:
    """What the options say; raises UsageError."""
    from opskit.errors import UsageError
    from opskit.operations.verifying.budget import budget_of

    if repository is not None and (budget is not None or by_checksum or evidence or dry_run):
        raise UsageError(
            "--budget, --by-checksum, --evidence and --dry-run need a config: the host remembers what was read",
            hint="with --repository everything is read",
        )
    return _Extent(budget_of(budget) if budget is not None else None, by_checksum)


def _plan(context: Context, opened: Access, copies: Sequence[Copy], turns: Mapping[str, Turn]) -> int:
    """Tell what would be read; 3 where a copy cannot be opened."""
    from opskit.cli.reading import warn_of_absent
    from opskit.cli.render import counted, human_bytes, printable

    found = {
        copy.destination: {
            "objects": len(turns[copy.destination].names) if copy.destination in turns else len(copy.objects),
            "bytes": _planned(copy, turns.get(copy.destination)),
            "of_bytes": sum(copy.objects.values()),
        }
        for copy in copies
    }
    if context.json:
        context.write_json({"dry_run": True, "destinations": found})
    for name, each in found.items() if not context.json else ():
        size, whole = human_bytes(each["bytes"]), human_bytes(each["of_bytes"])
        context.write(f"{printable(name)}  {counted(each['objects'], 'object')}, {size} of {whole} would be read")
    context.message("nothing was read back")
    return 3 if warn_of_absent(context, opened) else 0


def _planned(copy: Copy, turn: Turn | None) -> int:
    """The bytes that are to be read of a copy."""
    total = sum(copy.objects.values())
    return total if turn is None else total - turn.total + turn.planned_bytes


def _chosen(opened: Access, names: Sequence[str]) -> list[Copy]:
    """The copies to read back, and in `opened.absent` only what was asked for; the others are there to compare with.

    Raises UsageError for a name that the config has not, and what kept all that are named from being opened.
    """
    from opskit.errors import UsageError, together

    known = [*(copy.destination for copy in opened.copies), *opened.absent]
    for name in names:
        if name not in known:
            raise UsageError(f"no destination {name!r}; the config has {', '.join(known)}")
    copies = [copy for copy in opened.copies if not names or copy.destination in names]
    opened.absent = {name: reason for name, reason in opened.absent.items() if not names or name in names}
    if not copies:
        raise together(opened.absent)
    return copies


def _code(opened: Access, reports: Mapping[str, CopyReport]) -> int:
    if opened.judges_signatures and any(report.is_forged for report in reports.values()):
        return 13
    return 0 if not (opened.absent or opened.lost_heads) and all(report.is_good for report in reports.values()) else 3


def _read_back(
    context: Context,
    opened: Access,
    copies: Sequence[Copy],
    key: Path | None,
    turns: Mapping[str, Turn],
    extent: _Extent,
) -> dict[str, CopyReport]:
    from opskit import wiring
    from opskit.access import read_key_file
    from opskit.operations.verify import verify
    from opskit.operations.verifying.turn import Shares
    from opskit.repository.marks import Marks
    from opskit.repository.names import RECOVER_PROGRAM

    total = sum(_planned(copy, turns.get(copy.destination)) for copy in copies)
    seconds = extent.budget.seconds if extent.budget else None
    sizes: list[int] = [0, 0]

    def sample() -> ProgressSample:
        from opskit.cli.progress import ProgressSample  # here: called only where a line is shown

        return ProgressSample(sizes[0], sizes[1], total)

    def progress(size: int) -> None:
        sizes[0], sizes[1] = sizes[0] + 1, sizes[1] + size

    marks = opened.marks()  # also where nobody judges them: which key objects stand in for others is seen by them
    if not opened.judges_signatures:
        marks = Marks()
    expected = read_key_file(key).recover_sha256 if key else opened.recover_sha256
    with context.progress("verify", sample):
        return verify(
            copies,
            opened.verify,
            signers=opened.signers,
            repository=opened.repository,
            kit={RECOVER_PROGRAM: expected} if expected else None,
            heads=opened.heads,
            others=opened.copies,
            forgotten=marks.forgotten(),
            forgotten_numbers=marks.forgotten_numbers(),
            rejected=marks.rejected,
            progress=progress,
            turns=turns,
            shares=Shares(seconds, len(copies), wiring.boottime),
            by_checksum=extent.by_checksum,
        )


def _as_json(context: Context, opened: Access, reports: Mapping[str, CopyReport], extent: _Extent) -> dict[str, object]:
    from opskit.cli.turns import coverage_json
    from opskit.wiring import now

    destinations: dict[str, dict[str, object]] = {}
    for name, report in reports.items():
        destinations[name] = {
            "objects": report.objects,
            "bytes": report.total_bytes,
            "damaged": report.damaged,
            "missing": report.missing,
            "behind": report.behind,
            "rolled_back": report.rolled_back,
            "untrusted": [*report.untrusted, *report.forks],
        }
        if report.removed:
            destinations[name]["removed"] = report.removed
        if extent.is_partial and report.coverage is not None:
            every = context.load_config().policy.verify_every
            destinations[name]["coverage"] = coverage_json(report.coverage, now(), every)
            destinations[name]["by_checksum"] = report.by_checksum
        if report.failure is not None:
            destinations[name]["error"] = str(report.failure)
    for name, reason in opened.absent.items():
        lists: dict[str, list[str]] = {
            kind: [] for kind in ("damaged", "missing", "behind", "rolled_back", "untrusted")
        }
        destinations[name] = {"objects": 0, "bytes": 0, **lists, "error": str(reason)}
    is_good = not opened.absent and all(report.is_good for report in reports.values())
    return {"ok": is_good, "destinations": destinations}


def _tell(
    context: Context,
    opened: Access,
    reports: Mapping[str, CopyReport],
    turns: Mapping[str, Turn],
    extent: _Extent,
) -> None:
    from opskit.cli.render import printable, table
    from opskit.cli.turns import tell_coverage, tell_pace
    from opskit.repository.copy import WITHOUT_ID
    from opskit.repository.names import COPY

    rows = [(printable(name), *_summary(context, report)) for name, report in reports.items()]
    rows += [
        (printable(name), context.styled("unreachable", "red"), printable(str(reason)))
        for name, reason in opened.absent.items()
    ]
    for line, name in zip(table(rows), [*reports, *opened.absent], strict=True):
        context.write(line)
        if extent.is_partial and name in reports:
            tell_coverage(context, printable(name), reports[name])
    if extent.is_partial:
        tell_pace(context, reports, turns)
    for name, report in reports.items():
        if not report.is_good:
            _tell_details(context, printable(name), report)
        if opened.is_host and COPY in report.missing:
            context.hint(f"{printable(name)}: {WITHOUT_ID} (--destination {printable(name)})")
    for reason in opened.absent.values():
        if reason.hint:
            context.hint(printable(reason.hint))


def _summary(context: Context, report: CopyReport) -> tuple[str, str]:
    from opskit.cli.render import counted, human_bytes

    read = f"{counted(report.objects, 'object')}, {human_bytes(report.total_bytes)} read back"
    troubles = [
        f"{len(found):,} {word}"
        for found, word in (
            ([*report.untrusted, *report.forks], "untrusted"),
            (report.rolled_back, "rolled back"),
            (report.damaged, "damaged"),
            (report.missing, "missing"),
            (report.removed, "removed"),
            (report.behind, "behind"),
        )
        if found
    ]
    if report.failure is not None:
        troubles.append("not read to the end")
    if not troubles:
        return context.styled("ok", "green"), read
    verdict = "ALARM" if report.is_forged else "behind" if report.behind and len(troubles) == 1 else "bad"
    return context.styled(verdict, "yellow" if verdict == "behind" else "red"), f"{read}: {', '.join(troubles)}"


def _tell_details(context: Context, name: str, report: CopyReport) -> None:
    from opskit.cli.render import printable

    if report.failure is not None:
        context.write(f"\n{name} could not be read to its end: {printable(str(report.failure))}")
    _list(context, f"{name}: not made by anyone you trust", report.untrusted)
    if report.untrusted:
        context.hint(f"{name}: do not run recover.py from this copy; find out who could write there")
    title = "two histories with one number: was this host cloned or restored from an image?"
    _list(context, f"{name}: {title}", report.forks)
    if report.forks:
        context.hint(
            f"{name}: give a clone a host: label and a repository of its own; without a clone or an image, "
            "somebody else holds the key that signed them"
        )
    _list(context, f"{name}: had these snapshots once, and has them no more", report.rolled_back)
    if report.rolled_back:
        context.hint(f"{name}: an older state was put back, or somebody deleted there; find out who could")
    _list(context, f"{name}: snapshots that are gone, though nothing forgot them", report.removed)
    if report.removed:
        context.hint(
            f"{name}: a destination that is not here may have them: bring it in, then opskit sync; "
            "else find out who could delete there: opskit audit search"
        )
    for what, objects in (("damaged", report.damaged), ("missing", report.missing)):
        _list(context, f"{name}: {what}", [_with_need(each, report) for each in objects])
    _advise(context, name, report)
    _list(context, f"{name}: lacks these snapshots, which other copies have", report.behind)
    if report.behind:
        context.hint(f"{name}: to bring it up to date: opskit sync {name} (the next backup does it too)")


def _list(context: Context, title: str, lines: Sequence[str]) -> None:
    from opskit.cli.render import printable

    if not lines:
        return
    context.write(f"\n{title}:")
    for line in lines[:SHOWN]:
        context.write(f"  {printable(line)}")
    if len(lines) > SHOWN:
        context.write(f"  and {len(lines) - SHOWN:,} more; --json lists them all")


def _with_need(name: str, report: CopyReport) -> str:
    """An object with those who suffer from it, and the copies that still have it."""
    from opskit.cli.render import counted

    snapshots = report.needed_by.get(name, ())
    by_source: dict[str, list[str]] = {}
    for snapshot in snapshots:
        by_source.setdefault(snapshot.manifest.source, []).append(snapshot.id[:8])
    needs = ", ".join(
        f"{source} ({counted(len(ids), 'snapshot')}, newest {ids[-1]})" for source, ids in by_source.items()
    )
    good = report.elsewhere.get(name)
    place = f"; intact at {', '.join(good)}" if good else ""
    return f"{name}  needed by {needs}{place}" if needs else f"{name}{place}"


def _advise(context: Context, name: str, report: CopyReport) -> None:
    """What to do about damaged and missing objects."""
    from opskit.cli.render import printable

    bad = [*report.damaged, *report.missing]
    lost = [each for each in bad if not report.elsewhere.get(each) and each in report.needed_by]
    if any(report.elsewhere.get(each) for each in bad):
        others = sorted({each for found in report.elsewhere.values() for each in found})
        context.hint(
            f"{name}: to mend it from {', '.join(map(printable, others))}: opskit heal --destination {name} "
            "(until then, restore reads the other copies)"
        )
    if lost:
        context.hint(
            f"{name}: {len(lost):,} of these are intact at no copy at hand: bring in the destinations that are absent, "
            "then opskit heal; what the source still has, opskit backup stores anew after that"
        )
    if report.damaged:
        context.hint(f"{name}: find out why (of a disk: smartctl, kernel log) before you trust it with more")

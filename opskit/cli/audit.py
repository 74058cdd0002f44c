"""`opskit audit`: what was done on this host, by whom and how it ended, and whether the record of it is whole.

`tail` and `search` show an operation once, when it ended, or as *unfinished*; `--outcome start` shows the beginnings.
Reading needs no key and changes nothing; of a log that was copied elsewhere it needs no config either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from pathlib import Path

    from opskit.audit.reading import Entry, Place
    from opskit.audit.record import Fields
    from opskit.audit.verification import Finding, Report

app = noun("Read and verify the record of what was done.")

SHOWN = 10
"""Lines of one kind of trouble; --json lists up to a thousand."""
SHOWN_OUTCOMES = ("start", "ok", "fail", "denied", "skip", "unfinished")
_STYLES = {"ok": "green", "fail": "red", "denied": "red", "unfinished": "yellow"}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FOLLOW_SECONDS = 0.5
_COLUMNS = 80
_INDENT = "\n" + " " * 21


FolderOption = Annotated[
    str | None,
    typer.Option("--folder", metavar="DIR", help="A copy of a state folder's audit/; no config is read."),
]


@app.command("tail")
def tail(
    typer_context: typer.Context,
    lines: Annotated[
        str | None, typer.Option("--lines", "-n", metavar="N", help="How many operations; else 20.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until interrupted.")] = False,
    folder: FolderOption = None,
) -> int | None:
    """Show the latest operations."""
    from opskit.audit.reading import latest

    context = Context.of(typer_context)
    log = _log_folder(context, folder)
    found, place = latest(log, _count(lines))
    if follow:
        _follow(context, log, found, place)
    else:
        _show(context, found)
    return None


@app.command("search")
def search(
    typer_context: typer.Context,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Anywhere in the record.")] = None,
    op: Annotated[str | None, typer.Option("--op", metavar="GLOB", help="The operation: backup, 'audit.*'.")] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="TEXT", help="Part of the target.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="TEXT", help="Part of the login, or the uid.")] = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", metavar="X", help=f"One of {', '.join(SHOWN_OUTCOMES)}.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="2026-11-21, 2026-11-21T20:00 (UTC), or an age: 36h, 7d."),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="What one command did.")] = None,
    folder: FolderOption = None,
) -> int | None:
    """Find operations; exit 3 if there is none."""
    from opskit.audit.reading import entries
    from opskit.wiring import now

    context = Context.of(typer_context)
    accepts = _filters(text, op, target, actor, outcome, run, _span(since, until, now()))
    count = _show(context, (each for each in entries(_log_folder(context, folder)) if accepts(each)))
    if not count:
        context.message("nothing found")
    return None if count else 3


@app.command("verify")
def verify(typer_context: typer.Context, folder: FolderOption = None) -> int | None:
    """Check that the log is one unbroken chain: 13 if not, 3 if its end is torn."""
    from opskit.audit.verification import verify

    context = Context.of(typer_context)
    report = verify(_log_folder(context, folder))
    if context.json:
        context.write_json(_report_as_json(report))
    else:
        _tell(context, report)
    if not report.is_whole:
        return 13
    return None if report.is_settled else 3


def _log_folder(context: Context, folder: str | None) -> Path:
    """Where the log lies that is asked for: this host's, or one that was copied here. Raises AuditLogNotFound."""
    from opskit import locations
    from opskit.audit.segments import lock_file, log_folder
    from opskit.errors import AuditLogNotFound
    from opskit.wiring import audit_folder

    if folder is None:
        return audit_folder(context.load_config())
    place = locations.expanded("--folder", folder)
    if not any(map(os.path.lexists, (lock_file(place), log_folder(place)))):
        raise AuditLogNotFound(
            f"{place} holds no audit log", hint="expected a copy of STATE_DIR/audit, with log/ and its segments in it"
        )
    return place


def _count(lines: str | None) -> int:
    """How many operations; Typer's own integers would import pydantic."""
    from opskit.errors import UsageError

    if lines is None:
        return 20
    if not (lines.isascii() and lines.isdigit() and len(lines) < 10):
        raise UsageError(f"--lines: expected a number, got {lines!r}")
    return int(lines)


def _follow(context: Context, folder: Path, found: Iterable[Entry], place: Place) -> None:
    """Show what there is and what comes; beginnings too, for what has begun has not ended yet."""
    import time

    from opskit.audit.reading import Entry, since

    try:
        for each in found:
            context.write(_line(context, each))
        while True:
            context.flush()
            time.sleep(_FOLLOW_SECONDS)
            records, place = since(folder, place)
            for record in records:
                context.write(_line(context, Entry(record, False)))
    except KeyboardInterrupt:
        return


def _line(context: Context, entry: Entry) -> str:
    return _encoded(entry) if context.json else _row(context, entry)


def _show(context: Context, found: Iterable[Entry]) -> int:
    """Write entries as they come, for a log may be long; returns how many."""
    if context.json:
        return _show_json(context, found)
    count = 0
    for count, each in enumerate(found, 1):
        if count == 1:
            context.write(f"{'time (UTC)':<19}  {'outcome':<10}  {'operation':<14}  target")
        context.write(_row(context, each))
    return count


def _show_json(context: Context, found: Iterable[Entry]) -> int:
    """An array that is whole also where the log turns out to be unreadable half-way: the exit code tells."""
    count = 0
    try:
        for count, each in enumerate(found, 1):
            # Each line holds the comma of the one before: there is no telling which is the last.
            context.write(("[\n  " if count == 1 else ", ") + _encoded(each))
    finally:
        if count:
            context.write("]")
    if not count:
        context.write("[]")
    return count


def _encoded(entry: Entry) -> str:
    import json

    return json.dumps({**entry.record, "unfinished": entry.is_unfinished})


def _row(context: Context, entry: Entry) -> str:
    from opskit.cli.render import cell_width, printable

    record = entry.record
    outcome = "unfinished" if entry.is_unfinished else record["out"]
    style = _STYLES.get(outcome)
    shown = context.styled(outcome, style) if style else outcome
    time = _time(record["ts"])
    row = f"{time}  {shown}{' ' * (10 - cell_width(outcome))}  {printable(record['op']):<14}  "
    about, remark = f"{printable(record['tgt']) or '-'} ({_who(record)})", _remark(record)
    is_short = cell_width(f"{time}  {' ' * 10}  {printable(record['op']):<14}  {about} {remark}") <= _COLUMNS
    return f"{row}{about}" + (f"{' ' if is_short else _INDENT}{remark}" if remark else "")


def _who(record: Fields) -> str:
    from opskit.cli.render import human_duration, printable

    told = [printable(record["actor"]["login"] or str(record["actor"]["uid"]))]
    if type(record["d"].get("ms")) is int:
        told.append(human_duration(record["d"]["ms"] / 1000))
    if type(record["d"].get("exit")) is int:
        told.append(f"exit {record['d']['exit']}")
    return ", ".join(told)


def _remark(record: Fields) -> str:
    from opskit.cli.render import printable

    told = record["d"]
    if record["op"] == "audit.recovered":
        return printable(f"{told.get('bytes')} bytes {told.get('kind')}")
    return printable(str(told.get("message") or told.get("error") or ""))


def _filters(
    text: str | None,
    op: str | None,
    target: str | None,
    actor: str | None,
    outcome: str | None,
    run: str | None,
    span: tuple[str, str],
) -> Callable[[Entry], bool]:
    """Whether an entry is wanted."""
    import fnmatch

    from opskit.errors import UsageError

    if outcome is not None and outcome not in SHOWN_OUTCOMES:
        raise UsageError(f"--outcome: expected one of {', '.join(SHOWN_OUTCOMES)}, got {outcome!r}")

    def accepts(entry: Entry) -> bool:
        record = entry.record
        return (
            _has_outcome(entry, outcome)
            and span[0] <= record["ts"] < span[1]
            and (op is None or fnmatch.fnmatchcase(record["op"], op))
            and (run is None or record["run"] == run)
            and (target is None or target.lower() in record["tgt"].lower())
            and (actor is None or _is_by(record, actor))
            and (text is None or any(text.lower() in each.lower() for each in _texts(record)))
        )

    return accepts


def _has_outcome(entry: Entry, outcome: str | None) -> bool:
    if outcome is None:
        return entry.is_unfinished or entry.record["out"] != "start"
    return entry.is_unfinished if outcome == "unfinished" else bool(entry.record["out"] == outcome)


def _is_by(record: Fields, actor: str) -> bool:
    return actor.lower() in record["actor"]["login"].lower() or actor == str(record["actor"]["uid"])


def _texts(value: object) -> Iterator[str]:
    """Every text and number in a record, its keys aside."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)


def _span(since: str | None, until: str | None, now: datetime) -> tuple[str, str]:
    """Two times as records have them; everything where neither is given."""
    begin = _moment("--since", since, now) if since else ""
    return begin, _moment("--until", until, now) if until else "~"


def _moment(option: str, text: str, now: datetime) -> str:
    """A point in time, or an age, as records have it; raises UsageError."""
    from datetime import UTC

    from opskit.errors import UsageError

    try:
        if text[-1:] in _UNITS and text[:-1].isascii() and text[:-1].isdigit():
            moment = now - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        else:
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option}: expected a time like 2026-11-21, 2026-11-21T20:00 or 2026-11-21T20:00+01:00, or an age like "
            f"90m, 36h or 7d, got {text!r}"
        ) from error
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}".zfill(27)


def _report_as_json(report: Report) -> dict[str, object]:
    from dataclasses import asdict

    head = report.head._asdict() if report.head else None
    return {"ok": report.is_settled, **asdict(report), "head": head}


def _tell(context: Context, report: Report) -> None:
    from opskit.cli.render import counted

    verdict = ("ok", "green") if report.is_settled else ("torn", "yellow")
    if not report.is_whole:
        verdict = ("BROKEN", "red")
    read = f"{counted(report.records, 'record')} in {counted(report.segments, 'segment')}"
    context.write(f"{context.styled(*verdict)}  {read}, {_time(report.first)} to {_time(report.last)} UTC")
    if report.head is not None:
        context.write(f"head: record {report.head.seq:,}, SHA-256 {report.head.sha256}")
    if report.recovered:
        context.write(f"{counted(report.recovered, 'torn write')} recovered and recorded")
    begun = [f"{_time(each.ts)}  {each.op}  {each.target or '-'} ({each.login})" for each in report.unfinished]
    title = f"{counted(report.unfinished_count, 'operation')} without an outcome (running still, or killed)"
    _list(context, title, begun, report.unfinished_count)
    _list(context, "look at", _places(report.warnings), report.warnings_count)
    _list(context, "NOT AS IT WAS WRITTEN", _places(report.findings), report.findings_count)
    if not report.is_whole:
        context.hint("keep a copy of the state folder's audit/ as it is, and find out who could write there")
    elif report.records:
        context.message("a log that was cut off at its end or rewritten as a whole looks whole:")
        context.message("compare the head with one that was noted elsewhere")


def _time(ts: str) -> str:
    return ts[:19].replace("T", " ") or "-"


def _places(findings: Iterable[Finding]) -> list[str]:
    return [f"{each.file}{f':{each.line}' if each.line else ''}: {each.message}" for each in findings]


def _list(context: Context, title: str, told: list[str], count: int) -> None:
    from opskit.cli.render import printable

    if not told:
        return
    context.write(f"\n{title}:")
    for each in told[:SHOWN]:
        context.write(f"  {printable(each)}")
    if count > SHOWN:
        context.write(f"  and {count - SHOWN:,} more; --json lists them")

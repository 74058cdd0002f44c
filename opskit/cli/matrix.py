"""The 3-2-1 matrix as a tired person reads it: for each source a verdict, a line for each copy, and what to type.

Invariants: 80 columns whatever the terminal, unless one name or command is wider; nothing of the verdict is said by
colour alone; names of any length stay whole. Times are UTC, as in `opskit snapshots`. It deliberately judges nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from opskit.cli.render import cell_width, counted, human_bytes, printable, table
from opskit.operations.status.rules import ORIGINAL, is_drill_due, length

if TYPE_CHECKING:
    from opskit.cli.context import Context
    from opskit.operations.status.rules import Policy, Problem, SourceStatus
    from opskit.operations.status.states import CopyState, Destination

WIDTH = 80
LONG = 20
"""Names wider than this stand on a line of their own."""
HEADER = ("", "copy", "state", "newest", "snaps", "verified", "drilled")
ALIGN = "<<<<><<"
GOOD, BAD = " ", "!"


def show(
    context: Context,
    found: Sequence[SourceStatus],
    destinations: Sequence[Destination],
    now: datetime,
    *,
    simulated: bool,
) -> None:
    """Write the matrix of every source, then where the copies are."""
    if simulated:
        context.write(
            context.styled("SIMULATED: media and places are pretended. None of this protects anything.", "yellow")
        )
        context.write()
    for each in found:
        _source(context, each, now, simulated=simulated)
        context.write()
    _where(context, found, destinations)


def _source(context: Context, found: SourceStatus, now: datetime, *, simulated: bool) -> None:
    style = "green" if found.is_ok else "red" if not found.is_met else "yellow"
    context.write(context.styled(f"{printable(found.source)}  {_verdict(found, simulated=simulated)}", style))
    rows = [_original(found), *(_copy(each, found.policy, now) for each in found.copies)]
    names = ["copy", *(row[1] for row in rows)]
    lines = table([_short(row) for row in rows], HEADER, ALIGN)
    for name, line in zip(names, lines, strict=True):
        is_bad = line.startswith(BAD)
        if cell_width(name) > LONG:
            context.write(context.styled(f"  {line[:1]}  {name}", "red") if is_bad else f"     {name}")
            line = " " + line[1:]
        text = f"  {line}"
        context.write(context.styled(text, "red") if is_bad else text)
    for line in _summary(found, now):
        context.write(f"     {line}")
    for problem in found.problems:
        for line in _told(problem):
            context.write(line)
    for advice in found.advice:
        for line in _told(advice, mark=GOOD):
            context.write(line)


def _verdict(found: SourceStatus, *, simulated: bool) -> str:
    counts, policy = found.counts, found.policy
    numbers = (
        f"{counts.copies} of {counted(policy.copies, 'copy', 'copies')}, {counts.media} of {policy.media} media, "
        f"{counts.offsite} of {policy.offsite} offsite"
    )
    if not found.is_met:
        verdict = f"3-2-1 NOT MET: {numbers}"
    elif found.problems:
        verdict = f"3-2-1 met, yet {counted(len(found.problems), 'problem')}: {numbers}"
    else:
        verdict = f"3-2-1 met: {numbers}"
    return f"{verdict} (simulated)" if simulated else verdict


def _original(found: SourceStatus) -> tuple[str, ...]:
    return (GOOD, ORIGINAL, "live") if found.original.is_live else (BAD, ORIGINAL, "GONE")


def _copy(copy: CopyState, policy: Policy, now: datetime) -> tuple[str, ...]:
    state = f"behind {len(copy.lacks):,}" if copy.state == "behind" else copy.state
    return (
        GOOD if copy.state == "current" else BAD,
        printable(copy.destination.name),
        state,
        moment(copy.newest.time, now) if copy.newest else "-",
        "?" if copy.state == "absent" else f"{copy.snapshots:,}",
        _verified(copy, policy.verify_every, now),
        _drilled(copy, policy.drill_every, now),
    )


def _verified(copy: CopyState, every: timedelta, now: datetime) -> str:
    """Since when all of it has been read back, or how much of it was lately; `*` where the store's word was taken."""
    known, coverage = (copy.verified.known_since, copy.verified.coverage) if copy.verified else (None, None)
    by_word = "*" if coverage is not None and coverage.word_bytes else ""
    if known is None and coverage is not None:
        return f"{coverage.percent(now, every)} %{by_word}"
    return f"{day(known, now)}{by_word}" if known else "never"


def _drilled(copy: CopyState, every: timedelta, now: datetime) -> str:
    """When it was last drilled well, how much of it, and a mark where that is too long ago or a drill failed."""
    is_bad = copy.failed_drill is not None or is_drill_due(copy, every, now)
    sample = f" ({copy.drilled.drill.sample})" if copy.drilled and copy.drilled.drill.sample else ""
    return f"{day(copy.drilled.ended, now) if copy.drilled else 'never'}{sample}{' !' if is_bad else ''}"


def _short(row: tuple[str, ...]) -> tuple[str, ...]:
    return (row[0], "", *row[2:]) if cell_width(row[1]) > LONG else row


def _summary(found: SourceStatus, now: datetime) -> Iterator[str]:
    if found.age is not None:
        rpo = "RPO unknown, no snapshot is verified yet"
        if found.newest_verified is not None and found.recovery_age is not None:
            rpo = f"RPO {length(found.recovery_age)} (newest verified: {moment(found.newest_verified.time, now)})"
        yield f"newest snapshot {length(found.age)} old · {rpo}"
    offline = [each.destination.name for each in found.copies if each.is_offline]
    locked = [each.destination.name for each in found.copies if each.counts and each.destination.is_locked]
    words = [
        f"{each.destination.name} ({human_bytes(each.verified.coverage.word_bytes)})"
        for each in found.copies
        if each.verified and each.verified.coverage and each.verified.coverage.word_bytes
    ]
    if words:
        yield from textwrap.wrap(f"* by the store's word alone: {', '.join(words)}", WIDTH - 5)
    facts = [f"offline: {', '.join(offline) or 'none'}", f"object lock: {', '.join(locked) or 'none'}"]
    yield from textwrap.wrap(f"{' · '.join(facts)} · errors: {found.errors:,}", WIDTH - 5)


def _told(problem: Problem, mark: str = BAD) -> Iterator[str]:
    """The sentence, then what to type on a line that can be copied whole."""
    yield from textwrap.wrap(printable(problem.text), WIDTH, initial_indent=f"  {mark}  ", subsequent_indent="     ")
    yield f"     next: {printable(problem.command)}"


def _where(context: Context, found: Sequence[SourceStatus], destinations: Sequence[Destination]) -> None:
    """What is declared of each destination beside what was seen of it, and of the originals."""
    errors = {each.destination.name: each.error for source in found for each in source.copies}
    rows = [
        (
            printable(each.name),
            ", ".join([each.medium, *(["offsite"] if each.offsite else [])]),
            "nothing, it is absent" if errors.get(each.name) else _observed(each),
        )
        for each in destinations
    ]
    for line in table(rows, ("destination", "declared", "observed")):
        context.write(line)
    for source in found:
        if source.original.places:
            context.write(f"{ORIGINAL} of {printable(source.source)}: {', '.join(sorted(source.original.places))}")


def _observed(destination: Destination) -> str:
    """The place, and what came of trying a lock there."""
    place = printable(destination.place) or "nothing"
    if destination.lock_held is None:
        return place
    return f"{place}, a lock {'held' if destination.lock_held else 'did not hold'} when init tried"


def moment(time: datetime, now: datetime) -> str:
    """A time to the minute, as short as it can be: today 02:00, 19 Nov 02:00, 19 Nov 2025; UTC."""
    time, now = time.astimezone(UTC), now.astimezone(UTC)
    if time.date() == now.date():
        return f"today {time:%H:%M}"
    return f"{time.day} {time:%b %H:%M}" if _is_near(time, now) else f"{time.day} {time:%b %Y}"


def day(time: datetime, now: datetime) -> str:
    """A day: today, yesterday, 19 Nov, Nov 2025; UTC."""
    time, now = time.astimezone(UTC), now.astimezone(UTC)
    days = (now.date() - time.date()).days
    if days in (0, 1):
        return "yesterday" if days else "today"
    return f"{time.day} {time:%b}" if _is_near(time, now) else f"{time:%b %Y}"


def _is_near(time: datetime, now: datetime) -> bool:
    """Whether a date without its year can only mean one."""
    return abs(now - time) < timedelta(days=300)

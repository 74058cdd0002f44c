"""The ledger of what was read back, for commands that read copies back: whose turn it is, and what is covered now.

Without a config there is no ledger, and where it cannot be opened everything is read and nothing remembered; only a
budget cannot do without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from opskit.cli.context import Context

if TYPE_CHECKING:
    from datetime import datetime

    from opskit.access import Access
    from opskit.operations.verify import CopyReport
    from opskit.operations.verifying.budget import Budget
    from opskit.operations.verifying.ledger import Ledger
    from opskit.operations.verifying.turn import Turn
    from opskit.repository.copy import Copy
    from opskit.repository.verification import Coverage


@contextmanager
def taking_turns(
    context: Context, opened: Access, copies: Sequence[Copy], budget: Budget | None = None
) -> Iterator[Mapping[str, Turn]]:
    """What this run reads of each copy, by destination; what was read is in the ledger when the block ends.

    Raises OpskitError where there is a budget and no ledger.
    """
    from opskit.cli.render import printable
    from opskit.errors import OpskitError

    if not opened.is_host:
        yield {}
        return
    try:
        ledger = _ledger(context, opened)
        turns = _turns(context, ledger, opened, copies, budget)
    except OpskitError as error:
        if budget is not None:
            raise
        context.warning(printable(f"what is read back now cannot be remembered: {error}"))
        yield {}
        return
    try:
        yield turns
    finally:
        for turn in turns.values():
            turn.flush()
        ledger.close()
        for text in {str(turn.failure) for turn in turns.values() if turn.failure is not None}:
            context.warning(printable(f"not all that was read back is remembered: {text}"))


def _ledger(context: Context, opened: Access) -> Ledger:
    from opskit.cli.render import printable
    from opskit.operations.verifying import ledger as ledgers

    ledger = ledgers.Ledger(ledgers.place(context.load_config().state_dir, opened.repository), opened.repository)
    if ledger.lost:
        context.warning(printable(ledger.lost))
    return ledger


def _turns(
    context: Context, ledger: Ledger, opened: Access, copies: Sequence[Copy], budget: Budget | None
) -> dict[str, Turn]:
    from opskit.operations.verifying.turn import Turn
    from opskit.wiring import now

    begun, every = int(now().timestamp()), int(context.load_config().policy.verify_every.total_seconds())
    return {
        copy.destination: Turn(ledger, _key(copy, opened.copies), copy.objects, begun, every, budget) for copy in copies
    }


def _key(copy: Copy, copies: Sequence[Copy]) -> str:
    """What the ledger calls a copy: its id; of several with one id (clones) each is a copy of its own."""
    is_twin = bool(copy.id) and sum(each.id == copy.id for each in copies) > 1
    return f"{copy.id}@{copy.destination}" if is_twin else copy.id


def coverage_json(coverage: Coverage, now: datetime, every: timedelta) -> dict[str, object]:
    """How much was read back how lately, as `status` and `verify` tell it."""
    return {
        "percent": coverage.percent(now, every),
        "bytes": coverage.total,
        "read_bytes": coverage.within(now, every),
        "never_bytes": coverage.never,
        "word_bytes": coverage.word_bytes,
        "since": _moment(coverage.since),
        "read_since": _moment(coverage.read_since),
        "lap_seconds": coverage.lap,
        "budget": coverage.budget or None,
    }


def _moment(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time else None


def tell_coverage(context: Context, name: str, report: CopyReport) -> None:
    """Say how much is covered by now, by what, and whether the budget is enough."""
    from opskit.cli.matrix import moment
    from opskit.cli.render import counted, human_bytes
    from opskit.operations.status.rules import length
    from opskit.operations.verifying.coverage import enough
    from opskit.wiring import now

    every, coverage = context.load_config().policy.verify_every, report.coverage
    if coverage is None:
        return
    how = "read back, or by the store's word," if coverage.word_bytes else "read back"
    words = [f"{coverage.percent(now(), every)} % of {human_bytes(coverage.total)} {how} within {every}"]
    if coverage.since is not None and coverage.never:
        newer = f"{human_bytes(coverage.never)} that came later never yet"
        words.append(f"what was there {moment(coverage.since, now())} has been read since, {newer}")
    elif coverage.since is not None:
        words.append(f"all of it since {moment(coverage.since, now())}")
    elif coverage.never:
        words.append(f"{human_bytes(coverage.never)} never yet")
    context.write(f"  {', '.join(words)}")
    if report.by_checksum:
        none = f"; of {report.not_vouched:,} it keeps none" if report.not_vouched else ""
        context.write(f"  {counted(report.by_checksum, 'pack')} by the checksum that the store keeps, not read{none}")
    elif report.not_vouched:
        context.write("  the store keeps no checksums of packs, so its word counts for nothing here")
    if (budget := enough(coverage, every)) is not None:
        lap = length(timedelta(seconds=coverage.lap or 0))
        context.warning(f"{name}: at the pace so far all of it is read in {lap}; policy.verify_every is {every}")
        context.hint(f"{name}: {f'--budget {budget} as often as now would do' if budget else 'read more in each run'}")


def tell_pace(context: Context, reports: Mapping[str, CopyReport], turns: Mapping[str, Turn]) -> None:
    """Say how often such runs are needed, as long as no pace can be told from those so far."""
    from opskit.cli.render import counted
    from opskit.operations.status.rules import length

    known = [each.coverage is None or each.coverage.lap is not None for each in reports.values()]
    runs = max((turn.runs_needed() or 0 for name, turn in turns.items() if turn.budget and name in reports), default=0)
    if runs > 1 and not any(known):
        span = length(context.load_config().policy.verify_every / (runs + 1))
        context.hint(f"{counted(runs, 'such run')} read all of it: one every {span} keeps to policy.verify_every")

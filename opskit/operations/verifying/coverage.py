"""How much of a copy was read back how lately, summed up so that it fits into a line of state or evidence.

Invariant: `since` never claims too much: everything that lay at the copy at that time has been read back whole and
good since (or the store gave its word for it; `read_since` leaves that out). What comes to the copy later makes it no
less true. It deliberately knows neither packs nor policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from opskit.errors import UsageError
from opskit.operations.verifying.budget import budget_of
from opskit.operations.verifying.ledger import Entry

DAY = 86400
MAX_AGES = 100


@dataclass(frozen=True, slots=True)
class Coverage:
    """`ages` are (day since the epoch, bytes of packs last read back on it); day 0 stands for never.

    `word_bytes` of them rest on the store's word alone. `lap` is in how many seconds everything is read at the pace of
    the runs so far; None where that is not known. `budget` is that of the last run, "" for all.
    """

    since: datetime | None
    read_since: datetime | None
    total: int
    ages: tuple[tuple[int, int], ...] = ()
    word_bytes: int = 0
    lap: int | None = None
    budget: str = ""

    def within(self, now: datetime, every: timedelta) -> int:
        """The bytes of packs that were read back no longer ago than that, to the day."""
        first = int((now - every).timestamp()) // DAY
        return sum(size for day, size in self.ages if day >= max(first, 1))

    def percent(self, now: datetime, every: timedelta) -> int:
        """The share of that, rounded down, so that 100 means all."""
        return 100 * self.within(now, every) // self.total if self.total else 100

    @property
    def never(self) -> int:
        """The bytes of packs that were never read back."""
        return sum(size for day, size in self.ages if day == 0)


def coverage_of(packs: Iterable[tuple[int, Entry]], begun: int) -> Coverage:
    """Sum up packs, given by size and what is known of each after a run that began then."""
    since = read_since = begun
    ages: dict[int, int] = {}
    total = word_bytes = 0
    for size, entry in packs:
        best = max(entry.read, entry.word)
        since, read_since = min(since, best or entry.seen), min(read_since, entry.read or entry.seen)
        ages[best // DAY] = ages.get(best // DAY, 0) + size
        total, word_bytes = total + size, word_bytes + size * (entry.word > entry.read)
    return Coverage(_time(since), _time(read_since), total, _few(ages), word_bytes)


def enough(coverage: Coverage, every: timedelta) -> str | None:
    """The budget with which everything would be read in time, run as often as so far; "" if that cannot be told.

    None where the pace is enough, or not known yet.
    """
    if coverage.lap is None or coverage.lap <= every.total_seconds():
        return None
    factor = coverage.lap / every.total_seconds()
    try:
        budget = budget_of(coverage.budget)
    except UsageError:  # what another opskit says
        return ""
    if budget.percent is not None:
        return f"{min(math.ceil(budget.percent * factor), 100)}%"
    if budget.seconds is not None:
        return f"{math.ceil(budget.seconds * factor / 60)}m"
    megabytes = math.ceil((budget.bytes or 0) * factor / 10**6)
    return f"{megabytes}MB" if megabytes < 10**4 else f"{math.ceil(megabytes / 1000)}GB"


def _few(ages: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    """The newest of many days; what is older counts as the oldest day of all, and never stays never."""
    never, days = [each for each in ages.items() if not each[0]], sorted(each for each in ages.items() if each[0])
    if older := days[: -MAX_AGES + 1]:
        days[: len(older)] = [(older[0][0], sum(size for _, size in older))]
    return (*never, *days)


def coverage_value(coverage: Coverage) -> dict[str, Any]:
    """A coverage as values of JSON; times are seconds since the epoch, 0 for never."""
    return {
        "since": _seconds(coverage.since),
        "read_since": _seconds(coverage.read_since),
        "total": coverage.total,
        "ages": [list(each) for each in coverage.ages],
        "word_bytes": coverage.word_bytes,
        "lap": coverage.lap,
        "budget": coverage.budget,
    }


def coverage_in(value: Mapping[str, Any]) -> Coverage:
    """What `coverage_value` wrote; raises KeyError, TypeError or ValueError for anything else."""
    return Coverage(
        _time(_number(value["since"])),
        _time(_number(value["read_since"])),
        _number(value["total"]),
        tuple((_number(day), _number(size)) for day, size in value["ages"][:MAX_AGES]),
        _number(value["word_bytes"]),
        None if value["lap"] is None else _number(value["lap"]),
        str(value["budget"])[:32],
    )


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"expected a number, got {str(value)[:80]!r}")
    return value


def _time(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _seconds(time: datetime | None) -> int:
    return int(time.timestamp()) if time else 0

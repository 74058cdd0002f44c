"""Sums up what is known of the packs of a copy, and judges the pace of the runs that read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta

from opskit.errors import UsageError
from opskit.operations.verifying.budget import budget_of
from opskit.operations.verifying.ledger import Entry
from opskit.repository.verification import DAY, MAX_AGES, Coverage, time_at


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
    return Coverage(time_at(since), time_at(read_since), total, _few(ages), word_bytes)


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

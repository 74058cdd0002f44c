"""Which snapshots of one chain to keep: grandfather, father, son; pure rules over signed facts.

Invariants:
- Whatever no rule keeps is dropped, but never the newest complete snapshot and what came after it, nor one that is
  protected (held, or proved by a drill), nor the one before a snapshot with an alarm that stays.
- A snapshot's place in the chain is its signed number; its time is only believed where it fits that place. One that is
  dated in the future, or before snapshots of lower numbers, is kept and takes no other's place: neither a clock that
  jumped nor somebody who back-dates can push good snapshots out.
- An incomplete snapshot takes a period's place only where the period has no complete one. A file that can never be read
  must not keep everything for ever: a snapshot that lacks no more files than any of the `PATIENCE` before it, and none
  that could be read meanwhile, stands for a complete one. The newest that is truly complete stays all the same, as does
  the best of those after it.
- Snapshots that share a number (a fork) are all kept: somebody must look at them first.

Periods are those of the zone that is passed in. Counted are periods that have a snapshot, as restic and Borg do: a host
that was off for a year keeps what it had. Nothing is forgotten here: `marks` say what was, `prune` deletes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from opskit.repository.manifest import Snapshot

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far ahead of this host's clock another's may be."""

PATIENCE = timedelta(days=30)
"""How long a source must lack as many files before its snapshots stand for complete ones."""

_PERIODS: Mapping[str, Callable[[datetime], str]] = {
    "hourly": lambda time: f"{time:%Y-%m-%d %H}h",
    "daily": lambda time: f"{time:%Y-%m-%d}",
    "weekly": lambda time: f"{time:%G-W%V}",
    "monthly": lambda time: f"{time:%Y-%m}",
    "yearly": lambda time: f"{time:%Y}",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What to keep: numbers of snapshots and of periods, all within a time before the newest, all with a tag."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta = timedelta(0)
    tags: Collection[str] = ()


@dataclass(slots=True)
class Judged:
    """A snapshot and why it is kept; without a reason it is to be forgotten.

    `is_settled` tells that it is complete, or stands for a complete one.
    """

    snapshot: Snapshot
    reasons: list[str] = field(default_factory=list)
    is_settled: bool = False


def settled(chain: Iterable[Snapshot]) -> set[str]:
    """The ids of snapshots that are complete, or lack no more files than each of those of the `PATIENCE` before them.

    Numbers alone would take a folder that is gone today for the file that never could be read: so what it lacks must
    have been missing all that time, as far as its manifest tells (older opskits did not note it). That much time of
    snapshots has to lie before the one that is judged: what became unreadable yesterday may be readable tomorrow.
    """
    found, latest, older = set[str](), datetime.min.replace(tzinfo=UTC), -1
    recent, fewest = deque[tuple[datetime, int]](), deque[tuple[datetime, int]]()
    for each in sorted(chain, key=lambda each: (each.manifest.sequence, each.name)):
        missing, latest = each.manifest.unreadable, max(latest, each.manifest.started)
        while recent and recent[0][0] <= latest - PATIENCE:
            older = recent.popleft()[1]
        while fewest and fewest[0][0] <= latest - PATIENCE:
            fewest.popleft()
        is_least = missing <= min([older, *(least for _, least in islice(fewest, 1))])
        if each.manifest.complete or (is_least and _is_long_missing(each)):
            found.add(each.id)
        while fewest and fewest[-1][1] >= missing:  # so the first of them is the least of the time that counts
            fewest.pop()
        fewest.append((latest, missing))
        recent.append((latest, missing))
    return found


def _is_long_missing(snapshot: Snapshot) -> bool:
    since = snapshot.manifest.unreadable_since
    return since is None or since <= snapshot.manifest.started - PATIENCE


def judge(
    chain: Iterable[Snapshot],
    rules: Rules,
    *,
    now: datetime,
    protected: Mapping[str, str],
    zone: tzinfo | None = None,
) -> list[Judged]:
    """Judge the snapshots of one host and source, oldest number first.

    `protected` gives reasons by snapshot id (holds, drills); `zone` is that of the periods, None the system's own.
    """
    judged = [Judged(each) for each in sorted(chain, key=lambda each: (each.manifest.sequence, each.name))]
    for each in judged:
        _keep_regardless(each, rules, protected)
    in_order = _in_order(judged, now)
    enough = settled(each.snapshot for each in in_order)
    for each in in_order:
        each.is_settled = each.snapshot.id in enough
    _keep_newest(in_order)
    _keep_best(in_order)
    _keep_last(in_order, rules.last)
    _keep_within(in_order, rules.within)
    for name, period in _PERIODS.items():
        periods = [period(each.snapshot.manifest.started.astimezone(zone)) for each in in_order]
        _keep_periods(in_order, periods, name, getattr(rules, name))
    _keep_before_alarms(judged)
    return judged


def _keep_regardless(each: Judged, rules: Rules, protected: Mapping[str, str]) -> None:
    if each.snapshot.id in protected:
        each.reasons.append(protected[each.snapshot.id])
    each.reasons += [f"tag {tag}" for tag in each.snapshot.manifest.tags if tag in rules.tags]


def _in_order(judged: Sequence[Judged], now: datetime) -> list[Judged]:
    """Those whose time fits their place; the others get a reason to be kept.

    Of two that contradict each other the one of the lower number is believed: nobody can put a snapshot into the chain
    before those that copies have acknowledged.
    """
    numbers = Counter(each.snapshot.manifest.sequence for each in judged)
    fitting: list[Judged] = []
    for each in judged:
        manifest = each.snapshot.manifest
        if numbers[manifest.sequence] > 1:
            each.reasons.append(f"fork: number {manifest.sequence} is there more than once")
        elif manifest.started > now + CLOCK_TOLERANCE:
            each.reasons.append("dated in the future")
        elif fitting and manifest.started < fitting[-1].snapshot.manifest.started:
            each.reasons.append(f"dated before number {fitting[-1].snapshot.manifest.sequence}, which it follows")
        else:
            fitting.append(each)
    return fitting


def _keep_newest(in_order: Sequence[Judged]) -> None:
    """The newest that is settled, and all that came after it: nothing else has what they have."""
    for each in reversed(in_order):
        if each.is_settled and not each.snapshot.manifest.complete:
            missing = each.snapshot.manifest.unreadable
            each.reasons.append(f"newest, with no more files missing ({missing:,}) than for {PATIENCE.days} days")
            return
        each.reasons.append("newest complete" if each.is_settled else "newer than any complete one")
        if each.is_settled:
            return


def _keep_best(in_order: Sequence[Judged]) -> None:
    """The newest truly complete one, and of those after it the newest that lacks fewest files."""
    newest_first = [each for each in reversed(in_order)]
    complete = next((number for number, each in enumerate(newest_first) if each.snapshot.manifest.complete), None)
    if complete is not None and not newest_first[complete].reasons:
        newest_first[complete].reasons.append("newest complete")
    after = newest_first[:complete]
    best = min(after, key=lambda each: each.snapshot.manifest.unreadable, default=None)
    if best is not None and not best.reasons:
        best.reasons.append("lacks the fewest files since the newest complete one")


def _keep_before_alarms(judged: Sequence[Judged]) -> None:
    """The snapshot before one with an alarm, as long as that one stays: it has what was perhaps destroyed."""
    kept = [bool(each.reasons) for each in judged]
    for before, each, is_kept in zip(judged, judged[1:], kept[1:], strict=False):
        if is_kept and each.snapshot.manifest.alarms:
            before.reasons.append(f"before number {each.snapshot.manifest.sequence}, which has an alarm")


def _keep_last(in_order: Sequence[Judged], count: int) -> None:
    """The newest settled ones, and others that are newer than those."""
    kept = 0
    for each in reversed(in_order):
        if kept == count:
            return
        kept += each.is_settled
        each.reasons.append(f"last {count}")


def _keep_within(in_order: Sequence[Judged], within: timedelta) -> None:
    """Those made within a time before the newest: a host that stopped to back up loses none by waiting."""
    if within and in_order:
        since = in_order[-1].snapshot.manifest.started - within
        for each in in_order:
            if each.snapshot.manifest.started >= since:
                each.reasons.append("within the time to keep all")


def _keep_periods(in_order: Sequence[Judged], periods: Sequence[str], name: str, count: int) -> None:
    """The newest settled snapshot of each of the newest periods, or the newest where none is."""
    chosen: dict[str, Judged] = {}
    for each, key in zip(reversed(in_order), reversed(periods), strict=True):
        if key not in chosen and len(chosen) == count:
            break
        first = chosen.setdefault(key, each)
        if each.is_settled and not first.is_settled:
            chosen[key] = each
    for key, each in chosen.items():
        each.reasons.append(f"{name} {key}")

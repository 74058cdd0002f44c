"""What one run of `verify` found at a copy, and how much of the copy was read back how lately.

It is kept in the host's state and, where that is asked for, as evidence at the copies. Invariant: `since` never claims
too much: everything that lay at the copy at that time has been read back whole and good since (or the store gave its
word for it; `read_since` leaves that out). What comes to the copy later makes it no less true. It deliberately knows
neither packs nor policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from opskit.repository.manifest import time_of, time_text

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


@dataclass(frozen=True, slots=True)
class Verification:
    """A reading of a copy. `total_bytes` were read; `damaged`, `missing`, `untrusted` count what was found.

    `newest` names per "host/source" the newest snapshot that was there with everything it needs, all of it read back
    undamaged, then or before. Without `coverage` it was a complete reading, of an older opskit or without a ledger.
    """

    ended: datetime
    objects: int
    total_bytes: int
    damaged: int = 0
    missing: int = 0
    untrusted: int = 0
    newest: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    coverage: Coverage | None = None
    damaged_packs: int = 0
    """How many of the `damaged` are packs, which a budget may leave out."""

    @property
    def known_since(self) -> datetime | None:
        """Everything that was there at that time has been read back since; None where that is true of no time."""
        return self.since if self.coverage is not None else self.ended

    @property
    def is_good(self) -> bool:
        """Nothing damaged, missing or of unknown origin."""
        return not (self.damaged or self.missing or self.untrusted)


def verification_value(each: Verification) -> dict[str, object]:
    """A verification as values of JSON."""
    return {
        "ended": time_text(each.ended),
        "objects": each.objects,
        "bytes": each.total_bytes,
        "damaged": each.damaged,
        "missing": each.missing,
        "untrusted": each.untrusted,
        "newest": dict(each.newest),
        **({"damaged_packs": each.damaged_packs} if each.damaged else {}),
        **(
            {
                "since": time_text(each.since) if each.since else None,
                "coverage": coverage_value(each.coverage),
            }
            if each.coverage is not None
            else {}
        ),
    }


def verification_in(value: Mapping[str, Any]) -> Verification:
    """What `verification_value` wrote; raises KeyError, TypeError, ValueError or AttributeError for anything else."""
    return Verification(
        ended=time_of(value["ended"]),
        objects=int(value["objects"]),
        total_bytes=int(value["bytes"]),
        damaged=int(value["damaged"]),
        missing=int(value["missing"]),
        untrusted=int(value["untrusted"]),
        newest={str(chain): str(name) for chain, name in value["newest"].items()},
        since=time_of(value["since"]) if value.get("since") else None,
        coverage=coverage_in(value["coverage"]) if "coverage" in value else None,
        damaged_packs=int(value.get("damaged_packs", value["damaged"])),
    )


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
        time_at(_number(value["since"])),
        time_at(_number(value["read_since"])),
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


def time_at(seconds: int) -> datetime | None:
    """Seconds since the epoch as a time; None for 0."""
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _seconds(time: datetime | None) -> int:
    return int(time.timestamp()) if time else 0

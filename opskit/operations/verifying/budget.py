"""How much one run of `verify` reads: a share, a time or a size, as a person writes it.

A share is of the bytes of each copy, a size is for each copy, a time for the whole run. Nothing is rounded here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from opskit.errors import UsageError

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")
_TIME = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s?(k|M|G|T)B")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget as it was written; one of the three is set."""

    text: str
    percent: float | None = None
    seconds: int | None = None
    bytes: int | None = None

    @property
    def runs(self) -> int | None:
        """In how many runs a share comes to everything."""
        return math.ceil(100 / self.percent) if self.percent is not None else None


def budget_of(text: str) -> Budget:
    """What --budget says; raises UsageError."""
    words = text.strip()
    share, seconds, size = percent_in(words), seconds_in(words), bytes_in(words)
    if share is not None and 0 < share <= 100:
        return Budget(words, percent=share)
    if seconds is not None:
        return Budget(words, seconds=seconds)
    if size:
        return Budget(words.replace(" ", ""), bytes=size)
    raise UsageError(f"--budget: expected a share, a time or a size such as 10%, 30m or 50GB, got {text!r}")


def percent_in(text: str) -> float | None:
    """The number of a share such as 2.5%, whatever it is; None for anything else."""
    found = _PERCENT.fullmatch(text)
    return float(found[1]) if found else None


def seconds_in(text: str) -> int | None:
    """The seconds of a time such as 90s, 10m, 2h or 1d; None for anything else."""
    found = _TIME.fullmatch(text)
    return int(found[1]) * _SECONDS[found[2]] if found else None


def bytes_in(text: str) -> int | None:
    """The bytes of a size such as 50GB, in decimal units; None for anything else."""
    found = _SIZE.fullmatch(text)
    return int(float(found[1]) * _UNITS[found[2]]) if found else None

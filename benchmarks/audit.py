"""`python -m benchmarks.audit`: the audit log beside what the file system can do; Markdown to stdout.

Appends are measured beside a bare loop of `write` and `fdatasync` of lines of the same length, in turns on the same
file system, because a sync's price changes from minute to minute. Verification reads a log in the page cache.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.table import markdown
from opskit.audit.log import AuditLog
from opskit.audit.record import Actor
from opskit.audit.verification import verify

DETAILS = {"bytes": 123456789, "destinations": ["local", "s3"], "ms": 4211}


def open_log(folder: Path) -> AuditLog:
    """A log as commands write it."""
    actor = Actor(1000, 0, "anna", "cli")
    return AuditLog(
        folder, host="h1", actor=actor, now=lambda: datetime.now(UTC), token=lambda count: os.urandom(count).hex()
    )


def rate(act: Callable[[], object], seconds: float) -> float:
    """How many times a second `act` can be done."""
    count, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        act()
        count += 1
    return count / spent


def append_rates(folder: Path, seconds: float, runs: int) -> list[tuple[float, float]]:
    """Pairs of the bare rate and the log's, in turns."""
    pairs = []
    with open_log(folder / "audit") as log:
        descriptor = os.open(folder / "bare", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

        def append() -> None:
            log.append("backup.create", "ok", target="db/main", run="0123456789abcdef", details=DETAILS)

        append()
        line = b"x" * (len((folder / "audit/log/0000000001.jsonl").read_bytes().split(b"\n")[1]) + 1)

        def bare() -> None:
            os.write(descriptor, line)
            os.fdatasync(descriptor)

        for _ in range(runs):
            pairs.append((rate(bare, seconds), rate(append, seconds)))
        os.close(descriptor)
    return pairs


def verify_rates(folder: Path, records: int, runs: int) -> list[float]:
    """Records judged in a second, for a log of that many, half of which begin an operation and half end it."""
    sync = os.fdatasync
    os.fdatasync = lambda fd: None  # to make the log, not to measure it
    try:
        with open_log(folder / "long") as log:
            for number in range(records // 2):
                run = f"{number:016x}"
                log.append("backup.create", "start", target="db/main", run=run)
                log.append("backup.create", "ok", target="db/main", run=run, details={**DETAILS, "ms": number})
    finally:
        os.fdatasync = sync
    rates = []
    for _ in range(runs):
        begin = time.perf_counter()
        report = verify(folder / "long")
        rates.append(report.records / (time.perf_counter() - begin))
        assert report.is_whole
    return rates


def main(argv: Sequence[str] | None = None) -> None:
    """Measure in a folder that is gone afterwards."""
    parser = argparse.ArgumentParser("python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="on the file system to be measured")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--records", type=int, default=400_000, help="of the log that is verified")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        pairs = append_rates(Path(scratch), options.seconds, options.runs)
        judged = verify_rates(Path(scratch), options.records, options.runs)
    share = median(log / bare for bare, log in pairs)
    rows = [
        ["write + fdatasync, bare", f"{median(bare for bare, _ in pairs):,.0f}/s", ""],
        ["audit append", f"{median(log for _, log in pairs):,.0f}/s", f"{share:.0%} of bare, median of turns"],
        ["audit verify", f"{median(judged):,.0f}/s", f"best {max(judged):,.0f}/s, {options.records:,} records"],
    ]
    print(markdown(("", f"median of {options.runs}", ""), rows, left=1))


if __name__ == "__main__":
    main()

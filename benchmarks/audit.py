"""`python -m benchmarks.audit`: the audit log beside what the file system can do; Markdown to stdout.

Appends are measured beside a bare loop of `write` and `fdatasync` of lines of the same length, in turns on the same
file system, because a sync's price changes from minute to minute: by one process, and by four that write one file.
The first append of a process reads the end of the log first. Verification reads a log in the page cache.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
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
    """How many times a second `act` can be done, the first time aside."""
    act()
    count, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        act()
        count += 1
    return count / spent


def write_bare(folder: Path, length: int, seconds: float) -> float:
    """The rate at which lines of that length are written, each synced."""
    descriptor = os.open(folder / "bare", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    line = b"x" * (length - 1) + b"\n"

    def act() -> None:
        os.write(descriptor, line)
        os.fdatasync(descriptor)

    try:
        return rate(act, seconds)
    finally:
        os.close(descriptor)


def write_records(folder: Path, seconds: float) -> float:
    """The rate at which records are appended."""
    with open_log(folder / "audit") as log:
        return rate(lambda: append(log), seconds)


def append(log: AuditLog) -> None:
    """A record as the end of a backup leaves it."""
    log.append("backup.create", "ok", target="db/main", run="0123456789abcdef", details=DETAILS)


def together(writers: int, write: Callable[[], float]) -> float:
    """The sum of the rates of so many processes that write at one time."""
    if writers == 1:
        return write()
    with ProcessPoolExecutor(writers, get_context("fork")) as pool:
        return sum(each.result() for each in [pool.submit(write) for _ in range(writers)])


def append_rates(folder: Path, seconds: float, runs: int, writers: int) -> list[tuple[float, float]]:
    """Pairs of the bare rate and the log's, in turns."""
    with open_log(folder / "audit") as log:
        append(log)
    length = len((folder / "audit/log/0000000001.jsonl").read_bytes().split(b"\n")[1]) + 1
    bare, records = partial(write_bare, folder, length, seconds), partial(write_records, folder, seconds)
    return [(together(writers, bare), together(writers, records)) for _ in range(runs)]


def first_appends(folder: Path, runs: int) -> list[float]:
    """Seconds that the first append of a log that was just opened takes."""
    found = []
    for _ in range(runs * 20):
        with open_log(folder / "audit") as log:
            begin = time.perf_counter()
            append(log)
            found.append(time.perf_counter() - begin)
    return found


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
    rows = []
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        for writers in (1, 4):
            pairs = append_rates(Path(scratch), options.seconds, options.runs, writers)
            share = median(log / bare for bare, log in pairs)
            who = "1 writer" if writers == 1 else f"{writers} writers"
            rows += [
                [f"write + fdatasync, bare, {who}", f"{median(bare for bare, _ in pairs):,.0f}/s", ""],
                [f"audit append, {who}", f"{median(log for _, log in pairs):,.0f}/s", f"{share:.0%} of bare"],
            ]
        first = median(first_appends(Path(scratch), options.runs))
        judged = verify_rates(Path(scratch), options.records, options.runs)
    rows += [
        ["first append of a process", f"{first * 1e6:,.0f} µs", ""],
        ["audit verify", f"{median(judged):,.0f}/s", f"best {max(judged):,.0f}/s, {options.records:,} records"],
    ]
    print(markdown(("", f"median of {options.runs}", ""), rows, left=1))


if __name__ == "__main__":
    main()

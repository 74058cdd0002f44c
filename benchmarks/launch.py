"""Starts one command and writes what it used to a file: `python -I -S launch.py REPORT COMMAND…`.

A process of its own, because Linux lets a command inherit its parent's peak memory, and the benchmark's own is large;
so no command appears smaller than this bare interpreter (some 11 MiB). Orphans of the command, such as a gpg-agent that
went into the background, become children of this process and are counted as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 2.0
"""Seconds that orphans get to end after the command has."""


def reap_orphans() -> bool:
    """Wait for what the command left behind; False if something still runs when patience ends."""
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not pid:
            time.sleep(0.01)
    return False


def main(report: str, *argv: str) -> None:
    """Run `argv` to its end; the report holds seconds, MiB and the exit code (negative: a signal)."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    start = time.perf_counter()
    _, status = os.waitpid(os.posix_spawnp(argv[0], argv, os.environ), 0)
    wall = time.perf_counter() - start
    is_whole = reap_orphans()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
        "is_whole": is_whole,
        "code": os.waitstatus_to_exitcode(status),
    }
    Path(report).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

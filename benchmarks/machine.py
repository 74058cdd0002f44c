"""What the figures were taken on, in one line; a table without it means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.tools import Program

PROJECT = Path(__file__).resolve().parent.parent


def describe(work: Path, programs: Iterable[Program], now: datetime) -> str:
    """CPU, cores, memory, file system of `work`, kernel, tool versions, date and commit."""
    parts = [
        processor(),
        f"{len(os.sched_getaffinity(0))} cores",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB memory",
        file_system(work),
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{program.name} {program.version}" for program in programs),
        f"{now:%Y-%m-%d}",
        f"commit {commit()}",
    ]
    return " · ".join(parts)


def processor() -> str:
    """The CPU's model name, or its architecture where the kernel tells no name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system(place: Path) -> str:
    """The type of the file system that holds `place`; the innermost mount point decides."""
    mounts = {disk.mountpoint: str(disk.fstype) for disk in psutil.disk_partitions(all=True)}
    around = [folder for folder in mounts if place.resolve().is_relative_to(folder)]
    return mounts[max(around, key=len)] if around else "unknown file system"


def commit() -> str:
    """The commit of this checkout, `-dirty` if files differ from it, `unknown` outside git."""
    argv = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

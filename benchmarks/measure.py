"""What one command costs: wall and CPU seconds of its whole process tree, peak memory of the largest process in it.

Nothing is estimated: the figures are the kernel's, see launch.py. A command that fails ends the benchmark; a figure
of a failed run would be worse than none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")
OTHERS_SETTINGS = ("OPSKIT_", "RESTIC_", "BORG_")
LOG_TAIL = 3000


class BenchmarkFailed(Exception):
    """The figures cannot be had; the message says why."""


@dataclass(frozen=True)
class Usage:
    """The cost of one command."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds, user and system, of all processes."""
    memory: float
    """Peak MiB of the largest process."""
    is_whole: bool
    """False if a process that the command started outlived it by seconds: its CPU time is missing here."""


def run(
    argv: Sequence[str | Path], scratch: Path, settings: Mapping[str, str] | None = None, folder: Path | None = None
) -> Usage:
    """Run `argv` in `folder` to its end; logs lie in `scratch`.

    The person's own settings for the three tools do not reach it, only `settings` do. Raises BenchmarkFailed with the
    end of its output if it does not exit with 0.
    """
    report, log = scratch / "usage.json", scratch / "output.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS_SETTINGS)}
    with log.open("wb") as output:
        subprocess.run(
            [sys.executable, "-I", "-S", LAUNCH, report, *argv],
            env={**environment, **(settings or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )
    figures = json.loads(report.read_text(encoding="utf-8"))
    if code := figures.pop("code"):
        tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
        raise BenchmarkFailed(f"exit {code}: {' '.join(map(str, argv))}\n{tail}")
    return Usage(**figures)


def megabytes_of(folder: Path) -> float:
    """The size of all files below `folder`, in MB (10^6 bytes), as their lengths add up."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def check_same(original: Path, restored: Path) -> None:
    """Compare two files or folders with diff, an outside judge; raises BenchmarkFailed if they differ."""
    judged = subprocess.run(["diff", "-r", "--no-dereference", original, restored], capture_output=True, check=False)
    if judged.returncode:
        found = (judged.stdout + judged.stderr).decode(errors="replace")[:LOG_TAIL]
        raise BenchmarkFailed(f"what was restored to {restored} differs:\n{found}")

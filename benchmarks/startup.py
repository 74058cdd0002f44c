"""What `opskit --help` takes above a bare interpreter: the price of every command before it does anything."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

from benchmarks.measure import run
from benchmarks.table import markdown
from benchmarks.tools import Program


def startup(opskit: Program, scratch: Path, runs: int) -> str:
    """A Markdown table of medians in milliseconds; the two take turns, after one run each that does not count."""
    commands: dict[str, list[str | Path]] = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "opskit --help": [opskit.path, "--help"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, argv in commands.items():
            wall = run(argv, scratch).wall
            if number:
                taken[name].append(wall * 1000)
    bare, told = taken.values()
    taken["difference"] = [b - a for a, b in zip(bare, told, strict=True)]
    rows = [[name, f"{median(values):.0f}", f"{min(values):.0f}"] for name, values in taken.items()]
    return markdown(("command", f"median of {runs}, ms", "least, ms"), rows, left=1)

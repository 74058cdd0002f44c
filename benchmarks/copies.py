"""`python -m benchmarks.copies`: sync beside cp, verify beside sha256sum, and status; Markdown to stdout.

A repository of random bytes, which no compression makes smaller, is copied and read back. `cp -a` alone leaves the copy
in memory, where a power cut takes it: it is measured with `sync` behind it too, for opskit syncs every object. The two
cores of `sha256sum` are those that `verify` may use. Everything lies in the page cache, for all alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import machine
from benchmarks.measure import Usage, run
from benchmarks.rounds import rotated
from benchmarks.table import markdown
from benchmarks.tools import Opskit, Program, find_opskit

PIECE = 1 << 20
PEERS = {"sync": ("cp -a; sync", "cp -a"), "verify": ("sha256sum, two at once",)}


class Pair:
    """A repository at two destinations, of which the second is taken away after each round."""

    def __init__(self, program: Program, home: Path, megabytes: int, snapshots: int) -> None:
        self._home, self._source, self.second = home, home / "source", home / "second"
        self._source.mkdir(parents=True)
        with (self._source / "random").open("wb") as file:
            for _ in range(megabytes * 1_000_000 // PIECE + 1):
                file.write(os.urandom(PIECE))
        opskit = Opskit(program.path, home, self._source)
        self.repository = opskit.repository
        for number in range(snapshots):
            (self._source / "number").write_text(f"{number}")
            opskit.backup()
        self._argv: list[str | Path] = [program.path, "--config", home / "opskit.yaml", "--quiet"]
        text = (home / "opskit.yaml").read_text()
        line = next(each for each in text.splitlines() if str(self.repository) in each)
        two = line.replace("disk:", "two:").replace(str(self.repository), str(self.second))
        (home / "opskit.yaml").write_text(text.replace(line, f"{line}\n{two}"))

    def measure(self, step: str, name: str) -> Usage:
        """One command of a step, on a fresh second copy where it makes one."""
        shutil.rmtree(self.second, ignore_errors=True)
        if (step, name) == ("sync", "opskit"):
            run([*self._argv, "init", "--destination", f"two={self.second}"], self._home)
        os.sync()
        if name == "opskit":
            more = {"sync": ["two"], "verify": ["--destination", "disk"], "status": []}[step]
            return self._opskit(step, *more)
        copy = f"cp -a {self.repository} {self.second}"
        hashes = f"find {self.repository} -type f -print0 | xargs -0 -n 4 -P 2 sha256sum > {self._home}/sums"
        script = {"cp -a": copy, "cp -a; sync": f"{copy} && sync -f {self.second}"}.get(name, hashes)
        return run(["sh", "-c", script], self._home)

    def _opskit(self, *arguments: str) -> Usage:
        """A command that may find that the policy is not met, for both copies are on one disk."""
        command = " ".join(map(str, (*self._argv, *arguments)))
        return run(["sh", "-c", f"{command}; test $? -le 3"], self._home)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.copies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--snapshots", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--opskit", help="the program; else the one beside this interpreter")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/opskit-benchmarks"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    options = arguments(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    program = find_opskit(options.opskit)
    figures: dict[tuple[str, str], list[Usage]] = {}
    with tempfile.TemporaryDirectory(dir=options.work.resolve()) as work:
        pair = Pair(program, Path(work), options.megabytes, options.snapshots)
        for number in range(options.runs):
            for step in ("sync", "verify", "status"):
                for name in rotated(["opskit", *PEERS.get(step, ())], number):
                    usage = pair.measure(step, name)
                    figures.setdefault((step, name), []).append(usage)
                    print(f"{number + 1}/{options.runs}: {step:8} {name:24} {usage.wall:6.2f} s", file=sys.stderr)
        described = machine.describe(Path(work), [program], datetime.now(UTC))
    rows = []
    for (step, name), usages in figures.items():
        speed = median(peer.wall / own.wall for own, peer in zip(figures[step, "opskit"], usages, strict=True))
        wall, memory = median(each.wall for each in usages), max(each.memory for each in usages)
        rows.append([step, name, f"{wall:.2f}", f"{memory:.0f}", f"{speed:.2f}"])
    print(markdown(["step", "tool", "wall s", "peak MiB", "opskit's speed / tool's"], rows, 2))
    print(f"\n{options.megabytes:,} MB of random bytes, {options.snapshots} snapshots. {described}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.runs`: restoring what grew over many runs beside the same data from one; Markdown to stdout.

A source gets new files every night, and one of the older ones changes. Its nights are backed up one after the other in
this process, with the code that `opskit backup` runs: what a run costs is not measured here. Then the newest snapshot
is restored by the command line, in turn with a single snapshot of the same files in another repository, and compared
with the source by diff. Manifests but the newest are taken away, as retention would after a while: they have no part
in it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import machine
from benchmarks.measure import Usage, check_same
from benchmarks.rounds import rotated
from benchmarks.table import markdown
from benchmarks.tools import Opskit, find_opskit
from opskit import wiring
from opskit.config.load import load
from opskit.operations.backup import Job, Options, backup
from opskit.operations.session import open_session
from opskit.sources.files import FileSource

FILES_A_RUN = 10
SEED = 7
AHEAD = 10**10
"""Nanoseconds by which the clock of a run is ahead, so that files made just now may be remembered as unchanged."""


def grow(source: Path, number: int, size: int) -> None:
    """One day's work: some new files of `size` bytes in all, and one that is there already changes."""
    chance = random.Random(f"{SEED} {number}")
    folder = source / f"{number:04d}"
    folder.mkdir()
    for name in range(FILES_A_RUN):
        (folder / str(name)).write_bytes(chance.randbytes(size // FILES_A_RUN // 2).hex().encode())
    older = source / f"{chance.randrange(number + 1):04d}" / str(chance.randrange(FILES_A_RUN))
    older.write_bytes(chance.randbytes(size // FILES_A_RUN // 2).hex().encode())


def back_up(config_file: Path, repository: Path, source: Path) -> None:
    """One run, of which only the snapshot stays that it makes."""
    config = load(config_file)
    host = wiring.host_of(config)
    before = list(repository.glob("snapshots/*"))
    with host.identity.keyring:
        host.identity.keyring.start_agent()
        session = open_session(host, wiring.stores_of(config))
        try:
            list(backup(session, [Job("data", FileSource([source]))], Options(workers=2), clock_ns=_clock_ns))
        finally:
            session.close()
    for path in before:
        path.unlink()


def _clock_ns() -> int:
    return wiring.clock_ns() + AHEAD


def needed(repository: Path) -> dict[str, int]:
    """How much the newest snapshot needs, as its manifest says: the signed text lies there compressed."""
    from opskit.gpg import unjudged
    from opskit.repository import manifest

    path = max(repository.glob("snapshots/*"))
    made = manifest.decode(unjudged(path.read_bytes()).payload)
    return {
        "runs": len(made.runs),
        "packs": sum(len(each.packs) for each in made.runs),
        "index objects": sum(len(each.indexes) for each in made.runs),
        "key objects": len({each.key for each in made.runs}),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.runs", description=__doc__)
    parser.add_argument("--nights", type=int, default=1000)
    parser.add_argument("--bytes", type=int, default=1_000_000, help="what a night adds")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--opskit", help="the program; else the one beside this interpreter")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/opskit-benchmarks"))
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    program = find_opskit(options.opskit)
    with tempfile.TemporaryDirectory(dir=options.work.resolve()) as work:
        home, source = Path(work), Path(work) / "source"
        source.mkdir()
        tools: dict[str, Opskit] = {}
        for name in ("grown", "at once"):
            (home / name).mkdir()
            tools[name] = Opskit(program.path, home / name, source)
        for number in range(options.nights):
            grow(source, number, options.bytes)
            back_up(home / "grown" / "opskit.yaml", tools["grown"].repository, source)
            print(f"\rnight {number + 1:,}", end="", file=sys.stderr)
        tools["at once"].backup()
        figures: dict[str, list[Usage]] = {name: [] for name in tools}
        for number in range(options.runs):
            for name in rotated(list(tools), number):
                figures[name].append(_restore(tools[name], source, home / "target"))
        described = machine.describe(home, [program], datetime.now(UTC))
        told = {name: needed(tool.repository) for name, tool in tools.items()}
    rows = [
        [name, f"{median(each.wall for each in usages):.2f}", f"{median(each.cpu for each in usages):.2f}",
         f"{max(each.memory for each in usages):.0f}", json.dumps(told[name])]
        for name, usages in figures.items()
    ]  # fmt: skip
    ratio = median(a.wall / b.wall for a, b in zip(figures["grown"], figures["at once"], strict=True))
    print(markdown(["backed up", "wall s", "CPU s", "peak MiB", "needed"], rows, 1))
    print(f"\nGrown / at once: {ratio:.2f}. {options.nights:,} nights of {options.bytes:,} bytes. {described}")
    return 0


def _restore(tool: Opskit, source: Path, target: Path) -> Usage:
    usage = tool.restore(target)
    check_same(source, target / str(source).lstrip("/"))
    shutil.rmtree(target)
    return usage


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.s3 --endpoint http://HOST:PORT --bucket NAME`: opskit at an S3 endpoint; Markdown to stdout.

Beside opskit on a local folder, and restic at the same endpoint, with some milliseconds added to each request. The
credentials are taken from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY). What the endpoint itself costs
is in every figure where it runs on the same machine. What was uploaded stays in the bucket.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks import corpora, machine
from benchmarks.delay import delayed
from benchmarks.measure import BenchmarkFailed, Usage, check_same
from benchmarks.rounds import below, rotated
from benchmarks.table import markdown
from benchmarks.tools import Opskit, Program, Restic, find_opskit, find_peer

STEPS = ("first", "restore")
Figures = dict[tuple[str, str], list[Usage]]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.s3", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoint", required=True, help="http://HOST:PORT of a server for tests")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds added to each request")
    parser.add_argument("--corpus", default="tree", choices=("tree", "big", "tokens"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--opskit", help="the program; else the one beside this interpreter")
    parser.add_argument("--restic", default="restic", help="the program, 0.19 or newer")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/opskit-benchmarks"), help="where corpora are built")
    parser.add_argument("--scale", type=float, default=1.0, help="the size of the corpus, 0.001 to 1")
    return parser.parse_args(argv)


def measure(options: argparse.Namespace, programs: Sequence[Program], port: int, work: Path) -> Figures:
    """All rounds; the tools take turns at every step, and every restore is compared."""
    figures: Figures = {}
    for number in range(options.runs):
        home = work / f"round-{number}"
        place = home / "corpus"
        corpora.build(options.corpus, place, options.scale)
        tools = tools_of(programs, home, place, f"http://127.0.0.1:{port}", options.bucket)
        for position, step in enumerate(STEPS):
            for name in rotated(list(tools), number + position):
                tool = tools[name]
                os.sync()
                target = home / f"restored-{name.replace(' ', '-')}"
                usage = tool.backup() if step == "first" else tool.restore(target)
                if step == "restore":
                    check_same(place, below(target, place))
                figures.setdefault((name, step), []).append(usage)
                print(f"{number + 1}/{options.runs}: {step:8} {name:12} {usage.wall:6.2f} s", file=sys.stderr)
    return figures


def tools_of(
    programs: Sequence[Program], home: Path, place: Path, endpoint: str, bucket: str
) -> dict[str, Opskit | Restic]:
    """opskit on a folder, and each program at the endpoint, with new repositories."""
    prefix = uuid.uuid4().hex
    tools: dict[str, Opskit | Restic] = {}
    for program in programs:
        folder = home / program.name
        folder.mkdir(parents=True)
        if program.name == "restic":
            location = f"s3:{endpoint}/{bucket}/{prefix}-restic"
            tools["restic s3"] = Restic(program.path, folder, place, location)
            continue
        (folder / "s3").mkdir()
        tools["opskit local"] = Opskit(program.path, folder, place)
        location = f"s3://{bucket}/{prefix}-opskit?endpoint={endpoint}"
        tools["opskit s3"] = Opskit(program.path, folder / "s3", place, location)
    return tools


def table(figures: Figures) -> str:
    """Seconds and memory, and what opskit at the endpoint takes of what the others take, round by round."""
    rows = []
    for (name, step), usages in sorted(figures.items(), key=lambda each: STEPS.index(each[0][1])):
        ours = figures["opskit s3", step]
        ratio = median(a.wall / b.wall for a, b in zip(ours, usages, strict=True))
        rows.append(
            [
                step,
                name,
                f"{median(each.wall for each in usages):.2f}",
                f"{median(each.cpu for each in usages):.2f}",
                f"{max(each.memory for each in usages):.0f}",
                f"{ratio:.2f}",
            ]
        )
    return markdown(["step", "tool", "wall s", "CPU s", "peak MiB", "opskit s3 / tool: wall"], rows, 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    options = arguments(argv)
    address = urlsplit(options.endpoint)
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        restic, note = find_peer("restic", options.restic)
        programs = [find_opskit(options.opskit), *([restic] if restic else [])]
        with (
            tempfile.TemporaryDirectory(dir=options.work.resolve(), ignore_cleanup_errors=True) as work,
            delayed(address.hostname or "127.0.0.1", address.port or 80, options.delay / 1000) as port,
        ):
            print(table(measure(options, programs, port, Path(work))))
            described = machine.describe(Path(work), programs, datetime.now(UTC))
            print(f"\n{options.delay:g} ms added to each request. {described}")
    except BenchmarkFailed as failure:
        print(f"benchmarks: {failure}", file=sys.stderr)
        return 1
    if note:
        print(note)
    return 0


if __name__ == "__main__":
    sys.exit(main())

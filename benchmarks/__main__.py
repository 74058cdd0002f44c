"""`python -m benchmarks`: opskit beside restic and BorgBackup on this machine; progress to stderr, Markdown to stdout.

    compare    tree, big and tokens: first backup, unchanged, edited, restore (the default)
    million    a million small files: first backup, unchanged, restore; without peers unless --peers names them
    one-file   one small file out of a snapshot of 1 GB
    startup    opskit --help above a bare interpreter

Run it on an otherwise idle machine; docs/benchmarks.md tells how to read the result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine, table
from benchmarks.measure import BenchmarkFailed
from benchmarks.rounds import Plan, run_all
from benchmarks.startup import startup
from benchmarks.tools import PEERS, Program, find_opskit, find_peer


@dataclass(frozen=True)
class Subject:
    """What one of the words of the command line measures, unless options say otherwise."""

    corpora: str
    steps: Sequence[str]
    runs: int
    peers: str


SUBJECTS = {
    "compare": Subject("tree,big,tokens", ("first", "unchanged", "edited", "restore"), 3, ",".join(PEERS)),
    "million": Subject("million", ("first", "unchanged", "restore"), 1, ""),
    "one-file": Subject("gigabyte", ("first", "one-file"), 3, ",".join(PEERS)),
    "startup": Subject("", (), 20, ""),
}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line, completed by the subject's defaults."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", nargs="?", choices=SUBJECTS, default="compare")
    parser.add_argument("--corpora", help="of compare: some of tree,big,tokens")
    parser.add_argument("--peers", help="some of restic,borg; '' for opskit alone")
    parser.add_argument("--runs", type=positive, help="rounds; 3, for million 1, for startup 20")
    parser.add_argument("--opskit", help="the program; else the one beside this interpreter")
    parser.add_argument("--restic", default="restic", help="the program, 0.19 or newer")
    parser.add_argument("--borg", default="borg", help="the program, 1.4")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/opskit-benchmarks"), help="where corpora are built")
    parser.add_argument(
        "--scale", type=fraction, default=1.0, help="the size of the corpora, 0.001 to 1; small to try things out"
    )
    options = parser.parse_args(argv)
    subject = SUBJECTS[options.subject]
    if options.corpora is not None and options.subject != "compare":
        parser.error("--corpora goes with compare")
    options.corpora = among(parser, options.corpora or subject.corpora, subject.corpora)
    options.peers = among(parser, subject.peers if options.peers is None else options.peers, ",".join(PEERS))
    options.runs = options.runs or subject.runs
    return options


def positive(text: str) -> int:
    """A number of rounds, at least one."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def fraction(text: str) -> float:
    """A scale at which every corpus still holds something."""
    if not 0.001 <= (scale := float(text)) <= 1:
        raise ValueError(text)
    return scale


def among(parser: argparse.ArgumentParser, asked: str, known: str) -> list[str]:
    """The words of a comma-separated list, each of which has to be among the known."""
    words = [word for word in asked.split(",") if word]
    if unknown := set(words) - set(known.split(",")):
        parser.error(f"expected some of {known}, got {', '.join(sorted(unknown))}")
    return words


def find(options: argparse.Namespace) -> tuple[list[Program], list[str]]:
    """The programs that take part, opskit first, and notes on those that are absent or old."""
    programs, notes = [find_opskit(options.opskit)], []
    for name in options.peers:
        program, note = find_peer(name, getattr(options, name))
        programs += [program] if program else []
        notes += [note] if note else []
    return programs, notes


def report(options: argparse.Namespace, work: Path) -> str:
    """Measure, and tell the result as Markdown."""
    programs, notes = find(options)
    described = machine.describe(work, programs, datetime.now(UTC))
    if options.subject == "startup":
        return f"{startup(programs[0], work, options.runs)}\n\n{described}"
    steps = SUBJECTS[options.subject].steps
    plan = Plan(programs, options.corpora, steps, options.runs, options.scale, work)
    results = run_all(plan, lambda line: print(line, file=sys.stderr, flush=True))
    results.notes += notes
    return f"{table.comparison(plan, results)}\n\n{table.legend(plan, results)}\n\n{described}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that `argv` asks for in a folder that is gone afterwards; the exit code."""
    options = arguments(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=options.work.resolve(), ignore_cleanup_errors=True) as work:
            print(report(options, Path(work)))
    except BenchmarkFailed as failure:
        print(f"benchmarks: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Rounds: every tool takes every step in turn, and the order rotates, so that a drift of the machine hits all alike.

Each round has a corpus, repositories and restored trees of its own, and nothing is deleted before the end: file
systems can be slow to create where much was just deleted. Every restore is compared before its figure counts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks import corpora
from benchmarks.measure import BenchmarkFailed, Usage, check_same, megabytes_of
from benchmarks.tools import Program, Tool, make

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What one command line asks for."""

    programs: Sequence[Program]
    corpora: Sequence[str]
    steps: Sequence[str]
    runs: int
    scale: float
    work: Path


@dataclass(frozen=True)
class Figures:
    """One tool's cost of one step in one round."""

    wall: float
    cpu: float
    memory: float
    size: float
    """Of the repository after the step, MB."""


@dataclass
class Results:
    """All that was measured: the figures of the rounds, in order, by corpus, step and tool."""

    figures: dict[tuple[str, str, str], list[Figures]] = field(default_factory=dict)
    extents: dict[str, corpora.Extent] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_all(plan: Plan, tell: Callable[[str], None]) -> Results:
    """Run the whole plan; `tell` gets a line for each figure. Raises BenchmarkFailed."""
    results = Results()
    for name in plan.corpora:
        for number in range(plan.runs):
            run_round(plan, name, number, results, tell)
    return results


def run_round(plan: Plan, name: str, number: int, results: Results, tell: Callable[[str], None]) -> None:
    """One corpus once: build it, give each tool a repository, take the steps."""
    home = plan.work / f"round-{number}" / name
    place = home / "corpus"
    tell(f"{name} {number + 1}/{plan.runs}: building the corpus")
    extent = results.extents[name] = corpora.build(name, place, plan.scale)
    if number == 0:
        check_space(plan, extent)
    tools = [make(program, home / program.name, place) for program in plan.programs]
    for position, step in enumerate(plan.steps):
        if step == "edited":
            corpora.edit(name, place, number)
        for tool in rotated(tools, number + position):
            os.sync()
            usage = take(step, tool, place, home / f"restored-{tool.name}")
            figures = Figures(usage.wall, usage.cpu, usage.memory, megabytes_of(tool.repository))
            results.figures.setdefault((name, step, tool.name), []).append(figures)
            tell(f"{name} {number + 1}/{plan.runs}: {step:9} {tool.name:6} {usage.wall:8.2f} s {usage.memory:5.0f} MiB")
            if not usage.is_whole:
                results.notes.append(f"{tool.name} left a process running after `{step}`; its CPU time is missing")


def rotated(tools: Sequence[T], turn: int) -> list[T]:
    """The tools in the order of this turn: each is the first as often as any other."""
    start = turn % len(tools)
    return [*tools[start:], *tools[:start]]


def take(step: str, tool: Tool, place: Path, target: Path) -> Usage:
    """One tool's step; what it restored is compared with the corpus."""
    match step:
        case "restore":
            usage = tool.restore(target)
            check_same(place, below(target, place))
        case "one-file":
            file = corpora.wanted(place)
            usage = tool.restore_one(file, target)
            check_same(file, below(target, file))
        case _:
            usage = tool.backup()
    return usage


def below(target: Path, path: Path) -> Path:
    """Where tools restore `path` to: /srv/a becomes target/srv/a."""
    return target / path.relative_to("/")


def check_space(plan: Plan, extent: corpora.Extent) -> None:
    """Refuse before a disk runs full after an hour: each tool keeps up to one repository and one restored tree."""
    copies = plan.runs * (1 + 2 * len(plan.programs))
    needed = copies * (extent.bytes + 4096 * extent.files)
    free = shutil.disk_usage(plan.work).free
    if needed > free:
        raise BenchmarkFailed(
            f"expected {needed / 1e9:.0f} GB free below {plan.work.parent}, got {free / 1e9:.0f} GB;"
            " say --work on a larger disk, fewer --runs or one of --corpora"
        )

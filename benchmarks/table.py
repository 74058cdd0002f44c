"""The result as Markdown that can be pasted.

A figure is the median over the rounds. A ratio is the median of the rounds' own ratios, opskit / peer, as tools that
ran minutes apart on a drifting machine are best compared within their round; it need not equal the quotient of the
two medians shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from statistics import median

from benchmarks.rounds import Figures, Plan, Results

HEADER = (
    "corpus",
    "step",
    "tool",
    "wall s",
    "CPU s",
    "peak memory MiB",
    "repository MB",
    "opskit / peer: wall",
    "CPU",
    "memory",
    "size",
)
NAMES = tuple(figure.name for figure in fields(Figures))
DECIMALS = {"wall": 2, "cpu": 2, "memory": 0, "size": 1}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table; its first `left` columns hold words, the others figures."""
    rule = ["---"] * left + ["--:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def comparison(plan: Plan, results: Results) -> str:
    """The table of a plan's results: a row for each corpus, step and tool."""
    rows = []
    for corpus in plan.corpora:
        for step in plan.steps:
            own = results.figures[corpus, step, "opskit"]
            for program in plan.programs:
                taken = results.figures[corpus, step, program.name]
                ratios = [""] * len(NAMES) if program.name == "opskit" else quotients(own, taken)
                rows.append([corpus, step, program.name, *medians(taken), *ratios])
    return markdown(HEADER, rows, left=3)


def medians(taken: Sequence[Figures]) -> list[str]:
    """Each figure's median, as text."""
    return [f"{median(getattr(figures, name) for figures in taken):.{DECIMALS[name]}f}" for name in NAMES]


def quotients(own: Sequence[Figures], peer: Sequence[Figures]) -> list[str]:
    """Each figure's median ratio, as text: below 1, opskit needs less."""
    pairs = list(zip(own, peer, strict=True))
    return [f"{median(getattr(a, name) / getattr(b, name) for a, b in pairs):.2f}" for name in NAMES]


def legend(plan: Plan, results: Results) -> str:
    """What stands below the table: rounds, how large the corpora were, and all that a reader has to know."""
    rounds = f"Medians of {plan.runs} rounds" if plan.runs > 1 else "One round"
    held = [f"{name}: {size.files:,} files, {size.bytes / 1e6:,.0f} MB" for name, size in results.extents.items()]
    lines = [f"{rounds}; every restore compared with diff. Corpora: {'; '.join(held)}."]
    if plan.scale != 1:
        lines.append(f"Note: scale {plan.scale:g}, fit for trying the benchmark out, not for quoting.")
    lines += [f"Note: {note}." for note in dict.fromkeys(results.notes)]
    return "\n\n".join(lines)

"""A drill as people read it: JSON, Markdown, or one page of HTML that needs nothing else.

Invariants: all three say the same, from one value. Whatever came from outside (labels are judged, texts are not) is
escaped: no text in a report can become markup or a script, and the page forbids both to itself. The page loads nothing,
prints on paper in black on white, and says what a drill does not prove. No clock: when the report is made is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from opskit.operations.drilling.records import Details
from opskit.operations.status.rules import length
from opskit.repository.evidence import Check, Drill, Drilled, drill_value
from opskit.repository.manifest import time_text

SHOWN = 20
"""Failures that Markdown and HTML name; JSON has all."""
_NAMES = {
    "restore": "The snapshot could be opened and restored",
    "hashes": "Everything restored was read back and equals the backup, byte for byte (SHA-256)",
    "metadata": "Times, permissions, owners and attributes are as recorded",
    "counts": "As many files and bytes as the signed manifest says",
    "verify.each": "The source's own check of each file",
    "verify.all": "The source's own check of the whole",
    "dumps": "Dumps of databases were loaded into a private server",
    "queries": "The queries of the config were answered as they should be",
    "sqlite": "SQLite databases are sound (PRAGMA integrity_check)",
}


_TO_DO = "What to do:"
_UNMADE = {
    "dumps": "Dumps of databases",
    "queries": "The queries of the config",
    "verify.all": "The source's own check of the whole",
}
"""What a check is about that was not made, and so says nothing."""


@dataclass(frozen=True, slots=True)
class Report:
    """One drill with what only the host that drilled knows, if this is that host."""

    drilled: Drilled
    details: Details | None
    signer: str = ""

    @property
    def verdict(self) -> str:
        """One word, or two: what to read first."""
        drill = self.drilled.drill
        if not drill.passed:
            return "FAILED"
        return f"PASSED, {' and '.join(drill.missed)} MISSED" if drill.missed else "PASSED"


def as_json(report: Report) -> dict[str, Any]:
    """Everything, for machines."""
    drilled, details = report.drilled, report.details
    return {
        "id": drilled.id,
        "evidence": drilled.name,
        "signer": report.signer,
        "host": drilled.host,
        "ended": time_text(drilled.ended),
        "verdict": report.verdict,
        **drill_value(drilled.drill),
        "checks": [
            {"name": each.name, "passed": each.passed, "total": each.total, "note": each.note}
            for each in drilled.drill.checks
        ],
        "missed": drilled.drill.missed,
        "failures": None if details is None else [{"path": path, "what": what} for path, what in details.failures],
        "objects": None if details is None else details.objects,
    }


def facts(drill: Drill) -> Iterator[tuple[str, str]]:
    """What was done and measured, in words."""
    yield "Source", f"{drill.source} of host {drill.origin}"
    yield "Copy", f"{drill.destination} (copy id {drill.copy or 'unknown'})"
    yield "Snapshot", f"{drill.snapshot[:8]}, made {drill.taken:%Y-%m-%d %H:%M} UTC"
    how = {"seeded": f"at random among {drill.candidates:,}, seed {drill.seed}", "latest": "the latest"}
    yield "Chosen", how.get(drill.chosen, "by name")
    tools = "recover.py, gpg and zstd alone (no opskit)" if drill.method == "stock" else "opskit, from this copy alone"
    yield "Restored by", tools
    yield "Extent", f"a sample: {drill.sample} of the files" if drill.sample else "everything"
    yield "Restored", f"{drill.files:,} of {drill.planned_files:,} files, {size(drill.bytes)}"
    objective = _objective(drill.objective_restore, is_met="RTO" not in drill.missed)
    if drill.sample:
        objective = ", of a sample: not held against the objective"
    loading = f", {span(drill.load_ms)} of it for loading dumps" if drill.load_ms else ""
    is_compared = drill.method == "opskit" and any(each.name == "hashes" for each in drill.checks)
    reading = ", all of it read back and compared" if is_compared else ""
    yield "Recovery time (RTO)", f"{span(drill.restore_ms)}{reading}{loading}{objective}"
    objective = _objective(drill.objective_recovery, is_met="RPO" not in drill.missed)
    yield "Recovery point (RPO)", f"newest snapshot of this copy {seconds(drill.recovery_seconds)} old{objective}"
    yield "Further checks took", span(drill.check_ms)


def _objective(objective: int | None, *, is_met: bool) -> str:
    return "" if objective is None else f" (objective {seconds(objective)}: {'met' if is_met else 'MISSED'})"


def check_text(check: Check) -> tuple[str, str, str]:
    """(what, how many of how many, verdict) of a check."""
    number = f"{check.passed:,} of {check.total:,}" if check.total else "-"
    if check.total:
        what = _NAMES.get(check.name, check.name) + (f" ({check.note})" if check.note else "")
    else:
        what = f"{_UNMADE.get(check.name, check.name)}: {check.note or 'there was nothing to check'}"
    return what, number, ("not made" if not check.total else "good" if check.is_good else "BAD")


def as_markdown(report: Report, now: datetime) -> str:
    """A page for a ticket or a wiki."""
    drill = report.drilled.drill
    lines = [f"# Restore drill: {_md(drill.source)} from {_md(drill.destination)}: {report.verdict}", ""]
    lines += [f"Drilled {report.drilled.ended:%Y-%m-%d %H:%M} UTC by host {_md(report.drilled.host)}.", ""]
    if unchecked := _unchecked(drill):
        lines += [f"**{_md(unchecked)}**", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {_md(text)} |" for name, text in facts(drill))]
    lines += ["", "| check | right | verdict |", "|---|---|---|"]
    lines += [f"| {_md(what)} | {number} | {verdict} |" for what, number, verdict in map(check_text, drill.checks)]
    failures, more = _failures(report)
    if failures or more:
        lines += ["", "## What failed", "", *(f"- {_md(path)}{_md(what)}" for path, what in failures)]
        lines += [f"- {_md(more)}"] if more else []
    if drill.elsewhere:
        lines += ["", "## The other copies", ""]
        lines += [f"- {_md(name)}: {_md(text)}" for name, text in drill.elsewhere.items()]
    lines += ["", *(f"{_md(text)}  " for text in _closing(report, now))]
    return "\n".join(lines) + "\n"


def as_html(report: Report, now: datetime) -> str:
    """A page for people who decide; self-contained."""
    drill = report.drilled.drill
    title = f"Restore drill: {drill.source} from {drill.destination}"
    failures, more = _failures(report)
    color = "bad" if not drill.passed else "late" if drill.missed else "good"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {color}">{escape(report.verdict)}</p>',
        f"<p>{escape(_lead(report))}</p>",
        *([f'<p class="late"><strong>{escape(unchecked)}</strong></p>'] if (unchecked := _unchecked(drill)) else []),
        "<h2>What was done and measured</h2><table class='facts'>",
        *(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in facts(drill)),
        "</table><h2>What was checked</h2><table>",
        *(_check_row(each) for each in drill.checks),
        "</table>",
    ]
    if failures or more:
        parts += ["<h2>What failed</h2><ul>"]
        parts += [f"<li><code>{escape(path)}</code>{escape(what)}</li>" for path, what in failures]
        parts += [f"<li>{escape(more)}</li>"] if more else []
        parts += ["</ul>"]
    if drill.elsewhere:
        parts += ["<h2>The other copies</h2><ul>"]
        parts += [f"<li>{escape(name)}: {escape(text)}</li>" for name, text in drill.elsewhere.items()] + ["</ul>"]
    closing = list(_closing(report, now))
    if not drill.passed:  # where nobody overlooks it
        parts += ["<h2>What to do</h2>", f"<p>{escape(closing.pop(0).removeprefix(_TO_DO).strip())}</p>"]
    parts += ["<footer>", *(f"<p>{escape(text)}</p>" for text in closing), "</footer>"]
    return _PAGE.replace("TITLE", escape(title)).replace("BODY", "\n".join(parts))


def _check_row(check: Check) -> str:
    what, number, verdict = check_text(check)
    color = {"good": "good", "BAD": "bad"}.get(verdict, "none")
    cells = f'<td class="number">{number}</td><td class="{color}">{verdict}</td>'
    return f"<tr><th>{escape(what)}</th>{cells}</tr>"


def _lead(report: Report) -> str:
    drill, when = report.drilled.drill, f"{report.drilled.ended:%d %B %Y, %H:%M} UTC"
    what = "a sample of the files" if drill.sample else "all files"
    if _unread(drill):
        what += " that the backup could read"
    if drill.passed:
        return (
            f"On {when} {what} of {drill.source} were restored from the copy {drill.destination} alone, in "
            f"{span(drill.restore_ms)}, and were found to be right in every check below."
        )
    failed = f"could not be restored as it was from the copy {drill.destination}"
    if drill.is_content_at_fault:
        failed = f"came back from the copy {drill.destination} as it was backed up, and what was backed up is not good"
    return f"On {when} {drill.source} {failed}. What to do is below."


def _unchecked(drill: Drill) -> str:
    """What nobody should take this drill for a proof of."""
    unmade = [_UNMADE.get(each.name, each.name).lower() for each in drill.checks if not each.total]
    unchecked = f"Not checked: {', '.join(unmade)}. Why is told below." if unmade else ""
    unread = f"Not in this backup: {_unread(drill)}." if _unread(drill) else ""
    return f"{unread} {unchecked}".strip()


def _unread(drill: Drill) -> str:
    """How many entries have no content in the snapshot; nobody can restore them, from any copy."""
    return next((each.note for each in drill.checks if each.name == "counts"), "")


def _failures(report: Report) -> tuple[list[tuple[str, str]], str]:
    """The first failures, and a line about the rest."""
    if report.drilled.drill.passed:
        return [], ""
    if report.details is None:
        return [], f"which files failed is known on host {report.drilled.host}: opskit drill report there"
    found = [(f"{path}: " if path else "", what) for path, what in report.details.failures]
    rest = len(found) - SHOWN
    return found[:SHOWN], f"and {rest:,} more; opskit drill report --format json names all" if rest > 0 else ""


def _closing(report: Report, now: datetime) -> Iterator[str]:
    drill, drilled = report.drilled.drill, report.drilled
    if drill.is_content_at_fault:
        yield (
            f"{_TO_DO} the copies are not at fault, and healing them would change nothing. Find out on "
            f"{drill.origin} what wrote that into {drill.source}, mend it, opskit backup {drill.source}, then drill "
            "that snapshot; an older one that is good: opskit drill run --snapshot ID."
        )
    elif not drill.passed:
        yield (
            f"{_TO_DO} opskit verify --destination {drill.destination}, then opskit heal --destination "
            f"{drill.destination}, then drill it again."
        )
    elif drill.sample:
        yield "A sample proves the sample: files that are not in it were not restored."
    yield (
        f"Evidence: {drilled.name}, signed by {report.signer or 'a signer of this repository'}. "
        f"Made by {drill.writer}; this report of {now:%Y-%m-%d %H:%M} UTC."
    )


def seconds(number: int) -> str:
    """A length of time in words."""
    from datetime import timedelta

    return f"{number} s" if number < 120 else length(timedelta(seconds=number))


def span(milliseconds: int) -> str:
    """A measured time: exact where it is short."""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 120_000 else seconds(milliseconds // 1000)


def size(number: int) -> str:
    """Bytes with a decimal unit."""
    value, unit = float(number), 0
    while value >= 999.95 and unit < 5:
        value, unit = value / 1000, unit + 1
    return f"{number:,} B" if unit == 0 else f"{value:.1f} {'BkMGTP'[unit]}B"


def _md(text: str) -> str:
    """Text that Markdown takes as it is, on one line."""
    flat = " ".join(text.split())
    return "".join(f"\\{each}" if each in "\\`*_[]<>#|~" else each for each in flat)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 52rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.verdict { font-size: 1.8rem; font-weight: 700; padding: .5rem 1rem; border-left: .5rem solid; margin: 1rem 0 }
.good { color: #1b6e2e } .bad { color: #b00020 } .late { color: #8a5a00 } .none { color: #595959 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #ddd;
  overflow-wrap: anywhere }
th { font-weight: 400; width: 60% } .facts th { width: 30% }
td { font-weight: 600 } td:last-child:not(:nth-child(2)) { width: 6rem }
.number { text-align: right; white-space: nowrap }
code { font-size: .9em; overflow-wrap: anywhere } footer { margin-top: 2rem; color: #444; font-size: .85rem;
  overflow-wrap: anywhere }
@media print { body { margin: 0; max-width: none } h2 { break-after: avoid } tr, li { break-inside: avoid } }
</style></head><body>
BODY
</body></html>
"""

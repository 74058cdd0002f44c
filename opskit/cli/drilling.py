"""The run of `opskit drill run`: from what was typed to choices, drills, evidence and an answer.

Destinations are opened twice: once with all that this host has, to choose; then the chosen copy alone, anew, by the
drill itself. Between the two the cache is given back, so that a backup can run while a drill takes its hours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from opskit import __version__, access, gpg, log, wiring
from opskit.cli.auditing import audited, judged
from opskit.cli.copying import chosen
from opskit.cli.reading import decrypting, history_of, resolved, warn_of_absent, warn_of_rejected
from opskit.cli.render import counted, human_bytes, printable
from opskit.config.model import LocalDestination, PathsSource
from opskit.errors import SnapshotNotFound, UsageError
from opskit.operations.choosing import choose
from opskit.operations.drilling import records
from opskit.operations.drilling.checks import Commands
from opskit.operations.drilling.choose import Choice, Pair, choose_pair, choose_snapshot, pairs
from opskit.operations.drilling.dumps import Questions
from opskit.operations.drilling.report import Report, as_json, seconds, span
from opskit.operations.drilling.run import Means, Order, Outcome, elsewhere, run_drill
from opskit.operations.drilling.sampling import wish_of
from opskit.operations.drilling.scratch import require_apart, scratch_in
from opskit.operations.drilling.stock import Stock
from opskit.operations.restore import Restored
from opskit.operations.session import open_copies
from opskit.repository import names
from opskit.repository.evidence import Drill, Drilled
from opskit.repository.recovery import digests

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.audit.event import Event
    from opskit.cli.context import Context
    from opskit.cli.progress import ProgressSample
    from opskit.config.model import Config
    from opskit.repository.copy import Copy
    from opskit.repository.unlocking import Decrypt

SHOWN = 20
"""Failures that are named; --json names all."""
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was typed, the keys aside."""

    sources: Sequence[str] = ()
    destinations: Sequence[str] = ()
    snapshot: str | None = None
    host: str | None = None
    seed: int | None = None
    sample: str | None = None
    budget: str | None = None
    scratch: Path | None = None
    stock: bool = False


class Drilling:
    """One run of the command."""

    def __init__(self, context: Context, wanted: Wanted, key: Path | None, passphrase: str | None) -> None:
        self._context, self._wanted, self._key, self._passphrase = context, wanted, key, passphrase
        self._wish = wish_of(wanted.sample, wanted.budget)
        self._require_sense()
        self._config: Config = context.load_config()
        self._seed = int.from_bytes(os.urandom(4), "big") if wanted.seed is None else wanted.seed
        self._scratch = self._place()
        self._code = 0

    def run(self) -> int:
        """Choose, drill each choice, tell; gives the exit code."""
        gpg.remove_stale_keyrings()
        identity = wiring.host_of(self._config).identity
        records.require_signer(identity)
        with access.by_config(self._config, writable=True) as opened:
            choices, past = self._choose(opened)
        reports = []
        with decrypting(self._context, opened, self._key, self._passphrase) as decrypt:
            for choice in choices:
                target = f"{choice.snapshot.manifest.source} {choice.pair.destination}"
                with audited(
                    self._context, self._config, "drill", target, snapshot=choice.snapshot.id, seed=choice.seed
                ) as event:
                    reports.append(self._drill(choice, opened, past, decrypt, event))
        if self._context.json:
            self._context.write_json([as_json(each) for each in reports])
        return self._code

    def _require_sense(self) -> None:
        wanted = self._wanted
        if wanted.seed is not None and wanted.seed > LARGEST_SEED:
            raise UsageError(f"--seed: expected at most {LARGEST_SEED}, got {wanted.seed}")
        if wanted.snapshot not in (None, "latest") and len(wanted.sources) > 1:
            raise UsageError("--snapshot names one snapshot: expected one source at most beside it")
        if not wanted.stock:
            return
        if self._key is None:
            raise UsageError("--stock restores with the recovery-key file alone: expected --key FILE")
        if self._wish is not None:
            raise UsageError("--stock: recover.py restores whole snapshots: expected neither --sample nor --budget")

    def _place(self) -> Path:
        """The scratch place; raises UsageError for one inside a source or a destination."""
        config = self._config
        place = (self._wanted.scratch or config.drills.scratch or config.state_dir / "scratch").absolute()
        apart = {f"source {name}": path for name, path in _paths(config)}
        folders = {name: each for name, each in config.destinations.items() if isinstance(each, LocalDestination)}
        apart |= {f"destination {name}": each.path for name, each in folders.items()}
        require_apart(place, apart, config.state_dir)
        return place

    def _choose(self, opened: Access) -> tuple[list[Choice], list[Drilled]]:
        """What to drill, and the drills before."""
        context, wanted = self._context, self._wanted
        for note in opened.notes:
            context.warning(printable(note))
        warn_of_absent(context, opened)
        history, marks, ledger = history_of(opened), opened.marks(), opened.evidence()
        self._code = max(warn_of_rejected(context, each) for each in (history, marks, ledger))
        forgotten = marks.forgotten()
        snapshots = [each for each in history.snapshots if each.id not in forgotten]
        copies = {copy.destination: copy.id for copy in chosen(opened, wanted.destinations)}
        begun = records.begun(self._config.state_dir)
        candidates = pairs(snapshots, history.holders, copies, ledger.drills(), wiring.now(), begun)
        candidates = of_host(candidates, wanted.host, self._config.host)
        if wanted.snapshot not in (None, "latest"):
            named = choose(history.snapshots, str(wanted.snapshot), forgotten)
            candidates = [each for each in candidates if named in each.snapshots]
            pair = choose_pair(_of_source(candidates, wanted.sources), self._seed)
            return [Choice(pair, named, "named", self._seed, 1)], ledger.drills()
        turns = [[source] for source in dict.fromkeys(wanted.sources)] or [[]]
        choices = [self._choice(choose_pair(_of_source(candidates, each), self._seed)) for each in turns]
        return choices, ledger.drills()

    def _choice(self, pair: Pair) -> Choice:
        if self._wanted.snapshot == "latest":
            return Choice(pair, pair.newest, "latest", self._seed, 1)
        return choose_snapshot(pair, self._seed, wiring.now(), self._config.drills.window)

    def _drill(self, choice: Choice, opened: Access, past: Sequence[Drilled], decrypt: Decrypt, event: Event) -> Report:
        config, context = self._config, self._context
        self._tell_choice(choice)
        records.begin(config.state_dir, choice.pair.name, wiring.now())
        order, means = self._order(choice, past, opened), self._means(choice, opened, decrypt)
        restored = Restored()

        def sample() -> ProgressSample:
            from opskit.cli.progress import ProgressSample  # here: called only where a line is shown

            return ProgressSample(restored.files, restored.total_bytes, restored.planned_bytes or None)

        with context.progress(f"drill {choice.snapshot.manifest.source}", sample), scratch_in(self._scratch) as scratch:
            outcome = run_drill(order, means, scratch, restored)
        if outcome.bad:
            others = [copy for copy in opened.copies if copy.destination != choice.pair.destination]
            outcome.drill = _with_elsewhere(outcome, elsewhere(choice.snapshot, outcome.bad, others))
        drilled, kept_at = self._keep(outcome, opened)
        details = records.details_of(config.state_dir, drilled.name)
        report = Report(drilled, details, wiring.identity_of(config).host_key)
        code = 0 if report.verdict == "PASSED" else 3
        self._code = max(self._code, code)
        if not context.json:
            self._tell(report, outcome, kept_at)
        judged(event, code, verdict=report.verdict, evidence=drilled.id, **_in_audit(outcome))
        return report

    def _order(self, choice: Choice, past: Sequence[Drilled], opened: Access) -> Order:
        config, source = self._config, self._config.sources.get(choice.snapshot.manifest.source)
        verify = source.verify if source is not None else None
        drills = config.drills
        return Order(
            choice,
            wiring.now(),
            f"opskit {__version__}",
            self._wish,
            _rate(past, choice.pair.copy),
            Commands(verify.each, verify.all, verify.timeout, log.redact) if verify else Commands(),
            Questions(verify.dumps, verify.queries, verify.load_timeout, verify.timeout) if verify else Questions(),
            drills.objective_rto,
            drills.objective_rpo,
            self._stock(choice.pair.destination, opened) if self._wanted.stock else None,
        )

    def _stock(self, destination: str, opened: Access) -> Stock:
        found = self._config.destinations[destination]
        assert self._key is not None
        stated = access.read_key_file(self._key).recover_sha256
        known = {digests()[names.RECOVER_PROGRAM], *([stated] if stated else [])}
        folder = found.path.absolute() if isinstance(found, LocalDestination) else None
        return Stock(folder, self._key.absolute(), known, resolved(self._context, self._passphrase))

    def _means(self, choice: Choice, opened: Access, decrypt: Decrypt) -> Means:
        config, name = self._config, choice.pair.destination
        succession = opened.marks().succession

        def open_alone() -> Copy:
            copies, absent = open_copies(wiring.read_only(wiring.stores_of(config, [name])), opened.repository)
            if not copies:
                raise absent[name]
            copies[0].succession = succession
            return copies[0]

        return Means(
            open_alone, decrypt, opened.verify, opened.signers, opened.trusted, wiring.boottime,
            self._context.environ.get("PATH", os.defpath), wiring.dump_loader, config.performance.workers,
        )  # fmt: skip

    def _keep(self, outcome: Outcome, opened: Access) -> tuple[Drilled, list[str]]:
        """Sign and keep the evidence, here and at the copies; tells which copies took it."""
        identity, state, copies = wiring.identity_of(self._config), self._config.state_dir, opened.copies
        with identity.keyring:
            drilled = records.keep(identity, state, opened.repository, self._config.host, outcome, wiring.now())
        failures = records.outstanding(state, copies)
        for name, reasons in failures.items():
            for destination, reason in reasons.items():
                what = f"did not take the evidence {names.digest_in(name) or name:.8}"
                self._context.warning(f"{printable(destination)} {what}: {printable(str(reason))}")
                self._code = max(self._code, 3)
        missed = failures.get(drilled.name, {})
        return drilled, [copy.destination for copy in copies if copy.destination not in missed]

    def _tell_choice(self, choice: Choice) -> None:
        if self._context.json or self._context.quiet:
            return
        manifest = choice.snapshot.manifest
        how = f"by lot among {choice.candidates:,}, seed {choice.seed}" if choice.how == "seeded" else choice.how
        of = manifest.source if manifest.host == self._config.host else f"{manifest.source} of {manifest.host}"
        self._context.write(
            f"picked snapshot {choice.snapshot.id[:8]} of {of} ({manifest.started:%Y-%m-%d %H:%M} UTC, {how}) "
            f"from {printable(choice.pair.destination)}"
        )
        self._context.flush()

    def _tell(self, report: Report, outcome: Outcome, kept_at: Sequence[str]) -> None:
        context, drill = self._context, outcome.drill
        for path, what in report.details.failures[:SHOWN] if report.details else ():
            context.warning(printable(f"{path}: {what}" if path else what))
        if len(outcome.failures) > SHOWN:
            context.warning(f"{len(outcome.failures) - SHOWN:,} more like these; --json names all")
        for text in outcome.gaps:
            context.warning(printable(text))
        for name, text in drill.elsewhere.items():
            context.message(f"the other copies of this snapshot: {printable(name)}: {text}")
        if not context.quiet:
            objective = f" (objective {seconds(drill.objective_restore)})" if drill.objective_restore else ""
            of = "" if drill.files == drill.planned_files else f" of {drill.planned_files:,}"
            tools = " by recover.py" if drill.method == "stock" else ""
            context.write(
                f"restored {drill.files:,}{of} files, {human_bytes(drill.bytes)}{tools} in "
                f"{span(drill.restore_ms)}{objective}" + (f", a sample of {drill.sample}" if drill.sample else "")
            )
            told = [
                f"{each.name} {each.passed:,} of {each.total:,}"
                + (f" ({each.note})" if each.name == "counts" and each.note else "")
                for each in drill.checks
                if each.total
            ]
            told += [
                f"{each.name} {each.note.partition(':')[0]}" for each in drill.checks if not each.total and each.note
            ]
            context.write(" · ".join([*told, "scratch wiped"]))
        colour = {"PASSED": "green", "FAILED": "red"}.get(report.verdict, "yellow")
        kept = f"kept at {counted(len(kept_at), 'destination')}"
        context.write(f"{context.styled(report.verdict, colour)} · report {report.drilled.id[:8]} signed, {kept}")
        if not drill.passed and outcome.bad:
            name = printable(drill.destination)
            context.hint(f"opskit verify --destination {name} tells all; opskit heal --destination {name} mends it")
        elif drill.is_content_at_fault:
            source = printable(drill.source)
            context.hint(
                f"the copy gave back what was backed up, and that is not good: mend what writes {source}, "
                f"opskit backup {source}, then drill again"
            )


def of_host(candidates: Sequence[Pair], host: str | None, own: str) -> list[Pair]:
    """The pairs of a host; without a name our own, and of a host that backs nothing up (a drill host) all."""
    wanted = host if host is not None else own if any(each.origin == own for each in candidates) else None
    return [each for each in candidates if wanted in (None, each.origin)]


def _of_source(candidates: Sequence[Pair], sources: Sequence[str]) -> list[Pair]:
    found = [each for each in candidates if not sources or each.source in sources]
    if sources and not found:
        raise SnapshotNotFound(
            f"no copy at hand shows a snapshot of {', '.join(map(repr, sources))} to drill",
            hint="opskit drill list shows what can be drilled",
        )
    return found


def _paths(config: Config) -> list[tuple[str, Path]]:
    return [
        (name, path) for name, each in config.sources.items() if isinstance(each, PathsSource) for path in each.paths
    ]


def _rate(past: Sequence[Drilled], copy: str) -> int | None:
    """Bytes a second of the last drill of a copy that took long enough to tell."""
    told = [
        each.drill for each in past if each.drill.copy == copy and each.drill.restore_ms - each.drill.load_ms >= 1000
    ]
    return told[-1].bytes * 1000 // (told[-1].restore_ms - told[-1].load_ms) if told and told[-1].bytes else None


def _with_elsewhere(outcome: Outcome, found: dict[str, str]) -> Drill:
    return replace(outcome.drill, elsewhere=found)


def _in_audit(outcome: Outcome) -> dict[str, object]:
    drill = outcome.drill
    checks = {each.name: f"{each.passed} of {each.total}" for each in drill.checks}
    return {
        "snapshot": drill.snapshot,
        "copy": drill.copy,
        "files": drill.files,
        "bytes": drill.bytes,
        "restore_ms": drill.restore_ms,
        "recovery_seconds": drill.recovery_seconds,
        "checks": checks,
        "failures": len(outcome.failures),
    }

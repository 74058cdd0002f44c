"""`opskit forget`: mark the snapshots that retention does not keep, or some by name; take that back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.audit.event import Event
    from opskit.config.model import Config
    from opskit.operations.forget import JudgedChain
    from opskit.repository.evidence import Ledger
    from opskit.repository.history import History
    from opskit.repository.manifest import Snapshot
    from opskit.repository.marks import Mark, Marks
    from opskit.repository.retention import Rules

app = noun()


@app.command()
def forget(
    typer_context: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Of these sources; of all if none.")
    ] = None,
    snapshot: Annotated[
        list[str] | None,
        typer.Option("--snapshot", metavar="ID", help="This snapshot, whatever the rules; repeatable."),
    ] = None,
    undo: Annotated[
        list[str] | None, typer.Option("--undo", metavar="ID", help="Take back that it is forgotten; repeatable.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="LABEL", help="Of this host's snapshots instead of our own.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the mark, in the clear.")] = "",
    even_if_drilled: Annotated[
        bool, typer.Option("--even-if-drilled", help="With --snapshot: also the last that a drill restored well.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be forgotten, and why not.")] = False,
) -> int | None:
    """Mark snapshots that retention does not keep; prune deletes them after a grace."""
    from opskit.cli.copying import opened_for_copying
    from opskit.errors import UsageError

    context = Context.of(typer_context)
    if sum(map(bool, (sources, snapshot, undo))) > 1:
        raise UsageError("expected sources, or --snapshot, or --undo: each names snapshots in its own way")
    if host and (snapshot or undo):
        raise UsageError("--host is for what the rules judge: expected none with --snapshot or --undo")
    if even_if_drilled and not snapshot:
        raise UsageError("--even-if-drilled is for what is named: expected --snapshot beside it")
    op = "" if dry_run else "forget.undo" if undo else "forget"
    named = [*(sources or ()), *(snapshot or ()), *(undo or ())]
    with opened_for_copying(context, op, named) as (config, opened, event):
        forgetting = _Forgetting(context, config, opened, event, reason, dry_run)
        if undo:
            return forgetting.take_back(undo)
        if snapshot:
            return forgetting.by_name(snapshot, even_if_drilled=even_if_drilled)
        return forgetting.by_rules(sources or (), host or config.host)


class _Forgetting:
    """One run of the command, on opened copies."""

    def __init__(
        self, context: Context, config: Config, opened: Access, event: Event, reason: str, dry_run: bool
    ) -> None:
        from opskit import wiring
        from opskit.cli.reading import history_of, warn_of_absent, warn_of_rejected
        from opskit.repository.history import remembered

        self._context, self._config, self._opened, self._event = context, config, opened, event
        self._reason, self._dry_run, self._now = reason, dry_run, wiring.now()
        self._history: History = history_of(opened)
        self._marks: Marks = opened.marks()
        self._ledger: Ledger = opened.evidence()
        found = (self._history, self._marks, self._ledger)
        self._code = max(warn_of_rejected(context, each) for each in found)
        self._code = max(self._code, 3 if warn_of_absent(context, opened) else 0)
        cache = opened.cache
        absent = remembered(cache, self._history, opened.signers, opened.repository) if cache else []
        self._known: list[Snapshot] = [*self._history.snapshots, *absent]

    def by_rules(self, sources: Sequence[str], host: str) -> int:
        """Judge the chains of a host by the config's rules, tell of each snapshot, mark what is not kept."""
        from opskit.errors import SnapshotNotFound
        from opskit.operations.forget import judge_chains, require_holds

        require_holds(self._marks)
        rules = _rules(self._config)
        # What only an absent destination has, or none any more, must not take the place of what is at hand.
        shown, proved = self._history.snapshots, self._proved()
        chains = judge_chains(self._opened.copies, shown, self._marks, rules, now=self._now, proved=proved)
        chains = [each for each in chains if each.host == host and (not sources or each.source in sources)]
        missing = set(sources) - {each.source for each in chains}
        if missing or not chains:
            what = f"of a source {min(missing)!r}" if missing else f"of host {host!r}"
            raise SnapshotNotFound(f"no snapshot {what}", hint="opskit snapshots lists them")
        if not self._context.json:
            for chain in chains:
                self._tell_chain(chain)
        for chain in chains:
            self._warn_of_incomplete(chain)
            if chain.forgotten and not self._dry_run:
                self._publish_forget(chain.forgotten)
        return self._end([_as_json(chain) for chain in chains], [each for chain in chains for each in chain.forgotten])

    def _warn_of_incomplete(self, chain: JudgedChain) -> None:
        """Tell of a source that has not been complete for long: its snapshots are judged as if they were."""
        from opskit.cli.render import counted, printable
        from opskit.repository.retention import PATIENCE

        if chain.all_kept_since is not None:
            self._context.warning(
                f"{printable(chain.source)}: every snapshot since {chain.all_kept_since:%Y-%m-%d} is kept: none is "
                f"complete, and {why_all_stay(chain)}"
            )
            self._context.hint("opskit backup names the files: make them readable, or exclude them")
            return
        if chain.stand_in is None:
            return
        complete = [each.snapshot.manifest for each in chain.judged if each.snapshot.manifest.complete]
        since = f"since {complete[-1].started:%Y-%m-%d}" if complete else "at all"
        missing = counted(chain.stand_in.manifest.unreadable, "file")
        self._context.warning(
            f"{printable(chain.source)} has no complete snapshot {since}: {missing} could not be read for "
            f"{PATIENCE.days} days and more, so its snapshots are judged as if they were complete"
        )
        self._context.hint("opskit backup names the files: make them readable, or exclude them")

    def by_name(self, texts: Sequence[str], *, even_if_drilled: bool) -> int:
        """Mark the snapshots that were named, whatever the rules say of them."""
        from opskit.operations.choosing import choose
        from opskit.operations.forget import require_forgettable, require_holds

        require_holds(self._marks)
        chosen = [choose(self._known, text, self._marks.forgotten()) for text in texts]
        proved = {} if even_if_drilled else self._proved()
        require_forgettable(self._opened.copies, self._known, self._marks, chosen, now=self._now, proved=proved)
        if not self._dry_run:
            self._publish_forget(chosen)
        return self._end([{"id": each.id, "source": each.manifest.source, "keep": []} for each in chosen], chosen)

    def _proved(self) -> dict[str, str]:
        from opskit.operations.forget import proved_by

        standing = self._marks.forgotten()
        shown = [each for each in self._history.snapshots if each.id not in standing]
        return proved_by(self._ledger.drills(), shown)

    def take_back(self, texts: Sequence[str]) -> int:
        """Mark the snapshots as not forgotten after all."""
        from opskit.operations.choosing import choose
        from opskit.operations.forget import remember_mark

        chosen = [choose(self._known, text) for text in texts]
        config, opened = self._config, self._opened
        mark = remember_mark(opened.repository, config.host, self._now, self._marks, chosen)
        for each in chosen:
            self._require_shown(each)
        if not self._dry_run:
            self._publish(mark)
        if self._context.json:
            self._context.write_json({"remembered": [each.id for each in chosen]})
        else:
            for each in chosen:
                self._say(f"snapshot {each.id[:8]} of {each.manifest.source} is forgotten no more")
        return self._judged(remembered=[each.id for each in chosen])

    def _require_shown(self, snapshot: Snapshot) -> None:
        """Raise SnapshotNotFound where nothing is left to take back; an absent destination may still have it."""
        from opskit.errors import SnapshotNotFound

        if snapshot.name in self._history.holders:
            return
        what = f"snapshot {snapshot.id[:8]} of {snapshot.manifest.source} is at none of the destinations at hand"
        if not self._opened.absent:
            raise SnapshotNotFound(f"{what}: prune has deleted it", hint="opskit snapshots --all lists what is left")
        self._context.warning(f"{what}: it comes back if an absent one still has it")

    def _publish_forget(self, snapshots: Sequence[Snapshot]) -> None:
        from opskit.operations.forget import forget_mark

        reason = self._reason or "retention"
        self._publish(forget_mark(self._opened.repository, self._config.host, self._now, snapshots, reason))

    def _publish(self, mark: Mark) -> None:
        from opskit import wiring
        from opskit.cli.render import printable
        from opskit.operations.marking import publish

        identity = wiring.identity_of(self._config)
        with identity.keyring:
            _, failures = publish(identity, self._opened.copies, mark)
        for name, reason in failures.items():
            self._context.warning(f"{printable(name)} did not take the mark: {printable(str(reason))}")
            self._code = max(self._code, 3)

    def _tell_chain(self, chain: JudgedChain) -> None:
        from opskit.cli.render import printable, table

        self._say(f"{printable(chain.source)} on {printable(chain.host)}")
        rows = []
        for each in chain.judged:
            manifest = each.snapshot.manifest
            why = ", ".join(map(printable, dict.fromkeys(each.reasons)))
            rows.append((each.snapshot.id[:8], f"{manifest.started:%Y-%m-%d %H:%M}", "keep" if why else "FORGET", why))
        for line in table(rows, ("id", "time (UTC)", "", "because of")):
            self._say(f"  {line}")

    def _end(self, told: list[dict[str, object]], forgotten: Sequence[Snapshot]) -> int:
        from opskit.cli.render import counted

        context, grace = self._context, self._config.retention.grace
        if context.json:
            context.write_json({"dry_run": self._dry_run, "judged": told, "forgotten": [each.id for each in forgotten]})
        else:
            verb = "would be forgotten" if self._dry_run else "forgotten"
            self._say(f"{counted(len(forgotten), 'snapshot')} {verb}")
        if forgotten and not self._dry_run:
            until = f"{self._now + grace:%Y-%m-%d %H:%M} UTC"
            context.hint(f"until {until} opskit forget --undo ID takes it back; after that opskit prune deletes")
        return self._judged(forgotten=[each.id for each in forgotten])

    def _judged(self, **details: object) -> int:
        from opskit.cli.auditing import judged

        return judged(self._event, self._code, reason=self._reason, **details)

    def _say(self, text: str) -> None:
        if not self._context.quiet:
            self._context.write(text)


def _rules(config: Config) -> Rules:
    from datetime import timedelta

    from opskit.repository.retention import Rules

    rules = config.retention
    return Rules(
        rules.keep_last, rules.keep_hourly, rules.keep_daily, rules.keep_weekly, rules.keep_monthly, rules.keep_yearly,
        rules.keep_within or timedelta(0), frozenset(rules.keep_tags),
    )  # fmt: skip


def _as_json(chain: JudgedChain) -> dict[str, object]:
    return {
        "source": chain.source,
        "host": chain.host,
        "snapshots": [
            {
                "id": each.snapshot.id,
                "time": f"{each.snapshot.manifest.started:%Y-%m-%dT%H:%M:%SZ}",
                "keep": each.reasons,
            }
            for each in chain.judged
        ],
    }


def why_all_stay(chain: JudgedChain) -> str:
    """Why no snapshot of a source that has not been complete for long stands for a complete one."""
    from opskit.operations.unread import MOST_REMEMBERED

    if chain.lacks_too_many is None:
        return "each lacks files that could be read lately"
    return (
        f"the newest lacks {chain.lacks_too_many:,} files: of more than {MOST_REMEMBERED:,} it is not remembered "
        "since when they cannot be read"
    )

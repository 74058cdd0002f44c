"""`opskit backup`: read the sources once, store them at every destination that can be reached."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.audit.event import Event
    from opskit.cli.backup_progress import Shown
    from opskit.config.model import Config
    from opskit.errors import OpskitError
    from opskit.operations.alarms import Limits
    from opskit.operations.backup import Job
    from opskit.operations.outcome import Result
    from opskit.operations.session import Host, Session
    from opskit.stores.base import Store

app = noun()


@app.command()
def backup(
    typer_context: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Sources of the config; all of them if none.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Tag the snapshot; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be read.")] = False,
    force_read: Annotated[bool, typer.Option("--force-read", help="Read every file, changed or not.")] = False,
    stdin: Annotated[
        str | None,
        typer.Option("--stdin", metavar="FILENAME", help="Back up standard input, as FILENAME in one named SOURCE."),
    ] = None,
) -> int | None:
    """Back up the sources to every destination, in one read."""
    from opskit import gpg

    context = Context.of(typer_context)
    config = context.load_config()
    gpg.begin_check()  # answered while the rest is imported

    from opskit import wiring
    from opskit.cli.auditing import audited
    from opskit.errors import CacheError
    from opskit.operations.lock import exclusive
    from opskit.operations.session import remove_cache

    if dry_run:
        return _plan(context, config, _jobs(config, sources or [], tag or [], stdin))
    if config.performance.background:
        _yield_to_others()
    host = wiring.host_of(config)
    record = audited(context, config, "backup", " ".join(sources or config.sources))
    with record as event, exclusive(wiring.lock_file(config)):  # in this order: a refusal is recorded too
        gpg.remove_stale_keyrings()
        host.identity.keyring.start_agent()
        host.identity.keyring.begin_listing()
        try:
            jobs = _jobs(config, sources or [], tag or [], stdin)
            with wiring.hooks_of(config).around({"OPSKIT_HOST": config.host}) as problems:
                try:
                    code, problems.failure = _run(context, config, host, jobs, event, force_read=force_read)
                except CacheError:
                    # it is disposable: start it anew, once (standard input cannot be read again)
                    remove_cache(host)
                    if stdin is not None:
                        raise
                    code, problems.failure = _run(context, config, host, jobs, event, force_read=force_read)
            return _with_hooks(context, event, code, problems)
        finally:
            host.identity.keyring.close()


def _jobs(config: Config, names: list[str], tags: list[str], stdin: str | None) -> list[Job]:
    from opskit import wiring
    from opskit.errors import UsageError
    from opskit.operations.backup import Job
    from opskit.repository.names import LABEL

    _judge(tags)
    if config.drills.only:
        raise UsageError(
            "this host only drills: its config says drills.only",
            hint="back up from another host; this one can read everything, and should make nothing that others believe",
        )
    if stdin is not None:
        if len(names) != 1 or not LABEL.fullmatch(names[0]) or names[0] in config.sources:
            raise UsageError("--stdin needs one SOURCE, a label of [a-z0-9_-] that the config does not use")
        return [Job(names[0], wiring.stdin_source(stdin), tuple(tags))]
    chosen = names or list(config.sources)
    if not chosen:
        raise UsageError("the config has no sources", hint="opskit init --source NAME=PATH adds one")
    return [
        Job(
            name, wiring.source_of(name, config), (*config.sources[name].tags, *tags),
            partial(wiring.hooks_of(config, name).around, {"OPSKIT_HOST": config.host, "OPSKIT_SOURCE": name}),
        )
        for name in dict.fromkeys(chosen)
    ]  # fmt: skip


def _with_hooks(context: Context, event: Event, code: int, problems: list[str]) -> int:
    """The exit code, where hooks of the whole run may have failed."""
    from opskit.cli.auditing import judged
    from opskit.cli.render import printable

    for problem in problems:
        context.warning(printable(problem))
    return judged(event, max(code, 3), hooks=problems) if problems else code


def _judge(tags: list[str]) -> None:
    """Refuse tags that the config would refuse: they are signed, and shown on terminals later."""
    import re

    from opskit.config.terms import MEANINGS, TAG_PATTERN
    from opskit.errors import UsageError

    for tag in tags:
        if not re.fullmatch(TAG_PATTERN, tag):
            raise UsageError(f"--tag: expected {MEANINGS[TAG_PATTERN]}, got {tag!r}")


def _run(
    context: Context, config: Config, host: Host, jobs: list[Job], event: Event, *, force_read: bool
) -> tuple[int, str]:
    """The exit code, and of which sources there is no snapshot, with the reasons; skips are none."""
    from opskit import wiring
    from opskit.cli.auditing import judged
    from opskit.cli.opening import warn_of_expiry
    from opskit.cli.suspicions import rejected
    from opskit.errors import Skipped
    from opskit.operations.backup import Options, backup
    from opskit.repository import names, recovery
    from opskit.repository.identity import read_repository

    options = Options(
        workers=config.performance.workers,
        force_read=force_read,
        config=config.as_given(),
        keys=wiring.public_keys_of(config, host.identity),
        alarms=_limits(config),
        kit={**recovery.digests(), names.REPOSITORY: names.sha256(read_repository(config.state_dir) or b"")},
    )
    results = []
    told: set[str] = set()
    stores = wiring.stores_of(config)
    with _noted_interruption(), closing(_opened(host, stores)) as session, _shown(context, config) as shown:
        watch = shown.watch if shown is not None else None
        _note_rollbacks(session, [job.name for job in jobs], event)
        for result in backup(session, jobs, options, clock_ns=wiring.clock_ns, watch=watch):
            if shown is not None:
                shown.end()
            results.append(result)
            if not context.json:
                _tell(context, result, told)
        event.note(**rejected(session.rejected))
        _remember_places(context, session)
    warn_of_expiry(context, config, host.identity.keyring.keys())
    if context.json:
        context.write_json([_as_json(result) for result in results])
    failures = {result.source: result.failure for result in results if result.failure is not None}
    real = {name: error for name, error in failures.items() if error.exit_code != Skipped.exit_code}
    codes = [error.exit_code for error in (real or failures).values()]  # a skip hides no failure
    is_odd = config.alarms.fail and any(result.alarms for result in results)
    code = max(codes, default=0 if all(result.is_good for result in results) and not is_odd else 3)
    reasons = "\n".join(f"{name}: {error}" for name, error in real.items())
    return judged(event, code, sources=[_in_audit(result) for result in results]), reasons


def _limits(config: Config) -> Limits:
    from opskit.operations.alarms import Limits

    alarms = config.alarms
    return Limits(alarms.shrink_percent, alarms.change_percent, alarms.entropy)


def _note_rollbacks(session: Session, sources: Sequence[str], event: Event) -> None:
    """Note at once which copies went back: this very run gives them new heads, and might not come to its end."""
    from opskit.cli.suspicions import rolled_back

    mine = [each for each in session.gone_back() if each.host == session.host.label and each.source in sources]
    event.note(**rolled_back(mine))


def _remember_places(context: Context, session: Session) -> None:
    """Note which copy is at which destination, so that status can say what was on one that is away."""
    from opskit.cli.render import printable
    from opskit.errors import OpskitError
    from opskit.operations import verified

    try:
        path = verified.place(session.host.state, session.host.repository)
        verified.Verified(path).remember_places(session.copies)
    except (OSError, OpskitError) as error:
        context.warning(f"status will not know where copies were: {printable(str(error))}")


def _in_audit(result: Result) -> dict[str, object]:
    """What the audit log says of a source; what was wrong with single files is in the snapshot."""
    said = {name: value for name, value in _as_json(result).items() if name not in ("seconds", "errors")}
    return {**said, "errors": len(result.errors)}


@contextmanager
def _noted_interruption() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("everything stored so far will be reused")
        raise


def _shown(context: Context, config: Config) -> AbstractContextManager[Shown | None]:
    """The progress line, where one is shown; elsewhere its import would be a fiftieth of a quiet backup."""
    if not context.shows_progress():
        return nullcontext()
    from opskit.cli.backup_progress import Shown

    return Shown(context, config)


def _opened(host: Host, stores: Mapping[str, Store]) -> Session:
    """The session; where no destination can be opened, the error names all of them."""
    from opskit.errors import Damaged, RepositoryNotFound, StoreError
    from opskit.operations.session import open_session

    try:
        return open_session(host, stores)
    except (StoreError, RepositoryNotFound, Damaged) as error:
        from opskit.access import why_none_opens

        whole = why_none_opens(stores, host.repository)
        if whole is None:
            raise
        raise whole from error


def _as_json(result: Result) -> dict[str, object]:
    locked = {name: f"{until:%Y-%m-%dT%H:%M:%SZ}" for name, until in result.locked.items()}
    return {
        "source": result.source,
        "snapshot": result.snapshot,
        "files": result.files,
        "bytes": result.bytes,
        "new_bytes": result.new_bytes,
        "stored_bytes": result.stored_bytes,
        "seconds": round(result.seconds, 3),
        "errors": result.errors,
        "destinations": result.destinations,
        **({"locked": locked} if locked else {}),
        **({"alarms": list(result.alarms)} if result.alarms else {}),
    }


def _tell(context: Context, result: Result, told: set[str]) -> None:
    """Tell what became of a source; what `told` has was told of a source before."""
    from opskit.cli.render import counted, human_bytes, human_duration, printable, table
    from opskit.repository import deleted_keys

    for alarm in result.alarms:
        context.warning(f"{result.source}: ALARM: {alarm}")
    if result.alarms:
        context.hint("if this was not meant: opskit diff shows what changed, and older snapshots are untouched")
    if context.quiet and result.is_good:
        return
    if result.failure is not None:
        context.warning(f"{result.source}: no snapshot: {printable(str(result.failure))}")
        if result.failure.hint:
            context.hint(result.failure.hint)
        return
    context.write(f"{result.source}  {counted(result.files, 'file')}  {human_bytes(result.bytes)}")
    colour = {"ok": "green", "behind": "yellow", "failed": "red"}
    rows = []
    for name, state in result.destinations.items():
        reason = result.reasons.get(name)
        note = _reason(name, reason, told) if reason else f"{human_bytes(result.put_bytes.get(name, 0))} new"
        if name in result.locked:
            note += f", locked until {result.locked[name]:%Y-%m-%d}"
        rows.append((f"  {name}", context.styled(state, colour[state]), note))
    for line in table(rows):
        context.write(line)
    context.write(
        f"snapshot {result.snapshot[:8]} · {human_bytes(result.stored_bytes)} added · "
        f"{human_duration(result.seconds)} · on {result.held} of {len(result.destinations)} destinations"
    )
    errors = [error for error in result.errors if error not in told]
    told.update(errors)
    for error in errors[:20]:
        context.warning(printable(error))
    if len(errors) > 20:
        context.warning(f"{len(errors) - 20} more like these; --json lists them all")
    if any(map(deleted_keys.is_objection, errors)):
        context.hint(deleted_keys.HINT)
    _advise(context, result, told)


def _reason(name: str, reason: OpskitError, told: set[str]) -> str:
    """Why a copy is not current, once a run; the names of objects in it are shortened to what tells them apart."""
    import re

    from opskit.cli.render import printable

    text = printable(re.sub(r"[0-9a-f]{64}", lambda found: f"{found[0][:8]}…", str(reason)))
    if f"{name} {text}" in told:
        return "as above"
    told.add(f"{name} {text}")
    return text


def _advise(context: Context, result: Result, told: set[str]) -> None:
    """What to do about each copy that is not current, by what kept it from being so."""
    from opskit.errors import CopyUnidentified, Damaged, StoreFull, StoreRefused

    hints, others = list[str](), list[str]()
    for name, state in result.destinations.items():
        reason = result.reasons.get(name)
        if state == "ok":
            continue
        if isinstance(reason, StoreFull):
            hints.append(f"free space at {name}, then: opskit sync {name}")
        elif isinstance(reason, StoreRefused):
            hints.append(f"when {name} may be written again: opskit sync {name} (the next backup does it too)")
        elif isinstance(reason, Damaged | CopyUnidentified) and reason.hint:
            hints.append(reason.hint)
        else:
            others.append(name)
    if others:
        there = "it can be reached" if len(others) == 1 else "they can be reached"
        hints.append(f"when {there}: opskit sync {' '.join(others)} (the next backup does it too)")
    for hint in dict.fromkeys(hints):
        if hint not in told:
            context.hint(hint)
    told.update(hints)


def _plan(context: Context, config: Config, jobs: list[Job]) -> int:
    from opskit import wiring
    from opskit.cli.render import counted, human_bytes, printable
    from opskit.operations.planning import plan
    from opskit.repository.identity import read_repository_id

    repository = read_repository_id(config.state_dir)
    plans = [plan(job.name, job.source, config.state_dir, repository) for job in jobs]
    if context.json:
        context.write_json([each.as_json() for each in plans])
    for each in plans if not context.json else ():
        context.write(
            f"{each.source}  would read {counted(each.changed_files, 'file')} of {each.files}, "
            f"{human_bytes(each.changed_bytes)} of {human_bytes(each.bytes)}"
        )
        for problem in each.problems[:20]:
            context.warning(printable(problem))
    destinations = ", ".join(wiring.stores_of(config))
    context.message(f"nothing was stored; it would go to {destinations}")
    return 3 if any(each.problems for each in plans) else 0


def _yield_to_others() -> None:
    """Idle CPU and I/O priority, for this process and the gpg it starts."""
    import psutil

    os.nice(19)
    psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)

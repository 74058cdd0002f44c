"""`opskit status`: whether each source is kept 3-2-1, seen at the destinations; needs no private key.

The answer is made by `operations.status`; here the config becomes what that takes, and the answer JSON. How it looks
to people is module `matrix`. In a simulated config the places are pretended too: that is said in every form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.config.model import Config
    from opskit.config.model import Source as SourceConfig
    from opskit.operations.session import Host
    from opskit.operations.status.places import Original
    from opskit.operations.status.rules import SourceStatus
    from opskit.operations.status.states import CopyState, Destination, Point, Seen
    from opskit.repository.evidence import Drilled

app = noun()


@app.command()
def status(
    typer_context: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Of these sources; of all if none.")
    ] = None,
) -> int | None:
    """Show whether each source is kept 3-2-1, and what to do where it is not."""
    from opskit import gpg

    gpg.begin_check()  # answered while the rest is imported
    from opskit.cli.opening import deleted_recipients, warn_of_expiry
    from opskit.cli.reading import tell_successors, warn_of_rejected
    from opskit.cli.render import printable
    from opskit.wiring import identity_of

    context = Context.of(typer_context)
    config = context.load_config()
    wanted = _chosen(config, sources or ())
    seen = _look(config)
    for note in seen.notes:
        context.warning(printable(note))
    code = max(warn_of_rejected(context, seen.history), 3 if seen.heads is None or seen.heads.lost else 0)
    code = max(code, warn_of_rejected(context, seen.rejected_evidence))
    if code == 13:
        host = _host(config)
        tell_successors(context, seen.copies, host.identity.trusted, host.identity.signers, host.repository)
    now, places = _now(), destinations_of(config, seen, _lock_trials(config))
    found = [_judged(config, seen, name, places, now) for name in wanted]
    warn_of_expiry(context, config, identity_of(config).keyring.keys())
    if context.json:
        context.write_json(as_json(found, simulated=config.simulated))
    else:
        from opskit.cli.matrix import show

        show(context, found, places, now, simulated=config.simulated)
    for text in deleted_recipients(config):  # last: a damaged note keeps nobody from seeing the rest
        context.warning(text)
    return max(code, 13 if any(each.is_forged for each in found) else 3 * (not all(each.is_ok for each in found)))


def _chosen(config: Config, names: Sequence[str]) -> list[str]:
    from opskit.errors import UsageError

    for name in names:
        if name not in config.sources:
            raise UsageError(f"no source {name!r}; the config has {', '.join(config.sources) or 'none'}")
    return [name for name in config.sources if not names or name in names]


def _look(config: Config) -> Seen:
    from opskit.operations.status.look import look
    from opskit.wiring import host_of, read_only, stores_of

    return look(
        host_of(config), read_only(stores_of(config, is_brief=True)), config.sources.keys(), config.keys.maintainers
    )


def _host(config: Config) -> Host:
    from opskit.wiring import host_of

    return host_of(config)


def _lock_trials(config: Config) -> Mapping[str, bool]:
    from opskit.endpoints import lock_trials

    return lock_trials(config.state_dir)


def _now() -> datetime:
    from opskit.wiring import now

    return now()


def _judged(
    config: Config, seen: Seen, source: str, destinations: Sequence[Destination], now: datetime
) -> SourceStatus:
    from opskit.operations.status.rules import Policy, judge
    from opskit.operations.status.states import gaps_of, states_of

    given = config.policy
    policy = Policy(given.copies, given.media, given.offsite, given.max_age, given.verify_every, given.drill_every)
    original = original_of(config.sources[source])
    copies, gaps = states_of(seen, source, config.host, destinations), gaps_of(seen, source, config.host)
    return judge(source, original, copies, policy, now, gaps)


def destinations_of(config: Config, seen: Seen, tried: Mapping[str, bool]) -> list[Destination]:
    """The destinations of a config with the places where they are; in a simulated one each has its own.

    Locked is what was seen to be locked, `tried` whether a lock held when that was tried: what the config asks for is
    no fact. A medium that is not mounted is nowhere: the folder it would be mounted on lies elsewhere.
    """
    from opskit.errors import NotMounted
    from opskit.operations.status.places import place_of
    from opskit.operations.status.states import Destination

    nowhere = {name for name, error in seen.absent.items() if isinstance(error, NotMounted)}
    ids = {copy.destination: copy.id for copy in seen.copies}

    return [
        Destination(
            name,
            each.medium,
            each.offsite,
            f"simulated place {name}"
            if config.simulated
            else ""
            if name in nowhere
            else place_of(each, ids.get(name, "")),
            seen_at="" if config.simulated else seen.places.get(name, ""),
            is_removable=getattr(each, "must_be_mounted", False),
            wants_lock=bool(getattr(getattr(each, "s3", None), "object_lock_days", None)),
            locked_until=seen.locked.get(name),
            lock_held=tried.get(name),
        )
        for name, each in config.destinations.items()
    ]


def original_of(source: SourceConfig) -> Original:
    """What is there of a source now."""
    from opskit.config.model import CommandSource, PathsSource, SqliteSource
    from opskit.operations.status.places import original_command, original_files

    if isinstance(source, PathsSource | SqliteSource):
        return original_files(source.paths if isinstance(source, PathsSource) else source.sqlite)
    if isinstance(source, CommandSource):
        return original_command(source.command)
    from opskit.databases import programs

    return original_command(programs(source))


def as_json(found: Sequence[SourceStatus], *, simulated: bool) -> dict[str, object]:
    """The contracted document; what is simulated is never to be taken for real."""
    return {
        "ok": all(each.is_ok for each in found),
        "simulated": simulated,
        "sources": {each.source: _source_json(each) for each in found},
    }


def _source_json(found: SourceStatus) -> dict[str, object]:
    return {
        "ok": found.is_ok,
        "met": found.is_met,
        "copies": found.counts.copies,
        "media": found.counts.media,
        "offsite": found.counts.offsite,
        "policy": {"copies": found.policy.copies, "media": found.policy.media, "offsite": found.policy.offsite},
        "offline": [each.destination.name for each in found.copies if each.is_offline],
        "locked": [each.destination.name for each in found.copies if each.counts and each.destination.is_locked],
        "errors": found.errors,
        "counted_once": [list(names) for names, _ in found.counts.shared],
        "newest": _time(found.newest),
        "newest_id": found.newest.id if found.newest else None,
        "age_seconds": None if found.age is None else int(found.age.total_seconds()),
        "newest_verified": _time(found.newest_verified),
        "rpo_seconds": None if found.recovery_age is None else int(found.recovery_age.total_seconds()),
        "problems": [str(each) for each in found.problems],
        "advice": [str(each) for each in found.advice],
        "original": {
            "state": "live" if found.original.is_live else "gone",
            "observed": sorted(found.original.places),
            "gone": list(found.original.gone),
        },
        "destinations": {each.destination.name: _copy_json(each, found.policy.verify_every) for each in found.copies},
    }


def _moment(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time else None


def _copy_json(copy: CopyState, every: timedelta) -> dict[str, object]:
    from opskit.cli.turns import coverage_json

    destination, verified = copy.destination, copy.verified
    return {
        "state": copy.state,
        "snapshots": copy.snapshots,
        "newest": _time(copy.newest),
        "last_verified": _moment(verified.known_since if verified else None),
        "coverage": coverage_json(verified.coverage, _now(), every) if verified and verified.coverage else None,
        "last_drilled": _ended(copy.drilled),
        "drilled_sample": copy.drilled.drill.sample or None if copy.drilled else None,
        "failed_drill": _ended(copy.failed_drill),
        "counts": copy.counts,
        "lacks": [each.id for each in copy.lacks],
        "declared": {
            "medium": destination.medium,
            "offsite": destination.offsite,
            "object_lock": destination.wants_lock,
        },
        "observed": destination.place or None,
        "lock_held": destination.lock_held,
        "locked_until": f"{destination.locked_until:%Y-%m-%dT%H:%M:%SZ}" if destination.locked_until else None,
        "error": str(copy.error) if copy.error else None,
    }


def _ended(drilled: Drilled | None) -> str | None:
    return f"{drilled.ended:%Y-%m-%dT%H:%M:%SZ}" if drilled else None


def _time(point: Point | None) -> str | None:
    return f"{point.time:%Y-%m-%dT%H:%M:%SZ}" if point else None

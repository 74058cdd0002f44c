"""`opskit stats`: what fills the copies, and how much of it is still needed; needs no private key."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import DestinationOption, RepositoryOption, TrustOption

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.operations.sparse import Use
    from opskit.operations.stats import Amount, CopyStats
    from opskit.repository.history import History

app = noun()


@app.command()
def stats(
    typer_context: typer.Context,
    destination: DestinationOption = None,
    repository: RepositoryOption = None,
    key: TrustOption = None,
) -> int | None:
    """Show what fills the copies, and how much of it the snapshots need."""
    from opskit.cli.reading import history_of, opened_for_reading, warn_of_absent, warn_of_rejected
    from opskit.errors import UsageError
    from opskit.operations.stats import as_json
    from opskit.operations.stats import stats as count

    context = Context.of(typer_context)
    if key is not None and repository is None:
        raise UsageError("--key goes with --repository: counting at the config's destinations needs no key")
    with opened_for_reading(context, repository, key, destination, is_brief=True) as opened:
        history = history_of(opened)
        any_absent = warn_of_absent(context, opened)
        code = warn_of_rejected(context, history)
        found = count(opened.copies, history, opened.marks().forgotten())
        newest = _newest(context, opened, history) if repository is None else {}
    if context.json:
        context.write_json(
            {"destinations": as_json(found), "newest": {name: asdict(use) for name, use in newest.items()}}
        )
    else:
        _write(context, found)
        _write_newest(context, newest)
    unread = max((each.unread_lists for each in found.values()), default=0)
    if unread:
        context.warning(f"{unread:,} pack lists cannot be read: what they name may be counted as dead")
    return max(code, 3 if any_absent or unread else 0)


def _newest(context: Context, opened: Access, history: History) -> dict[str, Use]:
    """How full the packs are that the newest snapshots of this host need, by source, where that is known."""
    from opskit.errors import OpskitError
    from opskit.operations.sparse import use_of
    from opskit.repository import lasttree
    from opskit.repository.copy import get_from

    config, found = context.load_config(), {}
    for source in config.sources:
        chain = history.of(source, config.host)
        if opened.cache is None or not chain:
            continue
        last_tree = lasttree.place(config.state_dir, opened.repository, source)
        with contextlib.suppress(OpskitError):  # a backup that is under way holds the cache
            use = use_of(opened.cache, chain[-1].manifest, last_tree, lambda name: get_from(opened.copies, name))
            if use is not None:
                found[source] = use
    return found


def _write_newest(context: Context, newest: Mapping[str, Use]) -> None:
    from opskit.cli.render import counted, human_bytes, printable

    for source, use in newest.items():
        what = f"{human_bytes(use.needed)} of the {human_bytes(use.content)} in {counted(use.packs, 'pack')}"
        sparse = f"; {use.sparse:,} are sparse: backups leave them" if use.sparse else ""
        context.write(f"newest snapshot of {printable(source)}: needs {what}{sparse}")


def _write(context: Context, found: Mapping[str, CopyStats]) -> None:
    from opskit.cli.render import printable, table

    for number, (name, copy) in enumerate(found.items()):
        if number:
            context.write()
        context.write(context.styled(printable(name), "bold"))
        for line in table(_rows(copy), align="<>>"):
            context.write(f"  {line}")


def _rows(copy: CopyStats) -> list[tuple[str, ...]]:
    from opskit.cli.render import counted, human_bytes

    rows = [_amount(kind, amount) for kind, amount in copy.kinds.items() if amount.objects]
    rows.append(_amount("in all", copy.total))
    rows.append((f"live, of {counted(copy.runs, 'run')}", *_amount("", copy.live)[1:]))
    rows.append(_amount("dead, needed by none here", copy.dead))
    for source, each in sorted(copy.sources.items()):
        rows.append((f"snapshots of {source}", f"{each.snapshots:,}", human_bytes(each.logical_bytes)))
    if copy.ratio is not None:
        rows.append(("restored bytes for each live byte", "", f"{copy.ratio:.1f}"))
    return rows


def _amount(title: str, amount: Amount) -> tuple[str, ...]:
    from opskit.cli.render import human_bytes

    return title, f"{amount.objects:,}", human_bytes(amount.total_bytes)

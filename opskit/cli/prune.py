"""`opskit prune`: delete what no snapshot needs, in two phases with a grace between them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.config.model import Config
    from opskit.operations.pruning import Pruned
    from opskit.operations.pruning.plan import Where
    from opskit.operations.pruning.prune import Deleted, Look
    from opskit.stores.base import Swept

app = noun()

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(|k|M|G|T)B?")


@app.command()
def prune(
    typer_context: typer.Context,
    most: Annotated[
        str | None,
        typer.Option("--max-delete", metavar="SIZE", help="Delete no more than this at each destination, like 20GB."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done, and when.")] = False,
) -> int | None:
    """Delete what no snapshot needs, after a grace; needs no private key but a maintainer's."""
    from opskit import wiring
    from opskit.cli.auditing import judged
    from opskit.cli.copying import opened_for_copying
    from opskit.cli.reading import warn_of_absent
    from opskit.operations.pruning import Limits
    from opskit.operations.pruning import prune as prune_copies

    context = Context.of(typer_context)
    most_bytes = _bytes_in(most)
    with opened_for_copying(context, "" if dry_run else "prune", []) as (config, opened, event):
        code = 3 if warn_of_absent(context, opened) else 0
        _require_clock(opened)
        identity = wiring.identity_of(config)
        with identity.keyring:
            result = prune_copies(
                lambda: _look(config, opened), identity, Limits(config.retention.grace, most_bytes),
                repository=opened.repository, host=config.host, now=wiring.now, boottime=wiring.boottime,
                dry_run=dry_run,
            )  # fmt: skip
        if context.json:
            context.write_json({"dry_run": dry_run, **_as_json(result)})
        else:
            _tell(context, result, dry_run=dry_run)
        failed = result.unmarked or any(each.failure for each in result.deleted.values())
        return judged(event, max(code, 3 if failed else 0), **_as_json(result))


def _bytes_in(text: str | None) -> int | None:
    from opskit.errors import UsageError

    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--max-delete: expected a size such as 500MB or 20GB, got {text!r}")
    return int(float(found[1]) * 1000 ** ["", "k", "M", "G", "T"].index(found[2]))


def _require_clock(opened: Access) -> None:
    """Raise ClocksApart where a destination could not be opened for that: folders would be pruned by a wrong clock."""
    from opskit.errors import ClocksApart

    for reason in opened.absent.values():
        if isinstance(reason, ClocksApart):
            raise reason


def _look(config: Config, opened: Access) -> Look:
    """Everything anew: listings, snapshots, marks."""
    from opskit.cli.reading import history_of
    from opskit.operations.pruning.prune import Look
    from opskit.repository.history import remembered

    for copy in opened.copies:
        copy.refresh()
    history = history_of(opened)
    known = remembered(opened.cache, history, opened.signers, opened.repository) if opened.cache else []
    return Look(opened.copies, history, opened.marks(), known)


def _tell(context: Context, result: Pruned, *, dry_run: bool) -> None:
    from opskit.cli.render import counted, human_bytes, printable, table
    from opskit.operations.pruning.plan import ASIDE

    made = result.plan
    rows = [_row(name, where, result.deleted.get(name), dry_run=dry_run) for name, where in made.where.items()]
    if not context.quiet:
        for line in table(rows, ("destination", "to delete" if dry_run else "deleted", "waits for the grace", "until")):
            context.write(line)
        would = "would be " if dry_run else ""
        if made.condemn:
            what = f"{counted(len(made.condemn), 'object')}, {human_bytes(made.condemn_bytes)}"
            context.write(f"{what} {would}condemned: no snapshot needs them")
        if made.young:
            what = f"{counted(made.young, 'object')}, {human_bytes(made.young_bytes)}"
            context.write(f"{what} more are needed by no snapshot, and too young to be condemned: they are left alone")
        if made.pardon:
            context.write(f"{counted(len(made.pardon), 'object')} {would}pardoned: a snapshot needs them again")
        for name, where in made.where.items():
            staying = [size for each, size in where.aside.items() if each not in where.delete]
            if staying:
                what = f"{counted(len(staying), 'object')}, {human_bytes(sum(staying))}"
                context.write(f"{printable(name)}: {what} in quarantine: wrong bytes, deleted after {ASIDE.days} days")
        for name, swept in result.swept.items():
            if swept.files:
                what = f"{counted(swept.files, 'file')}, {human_bytes(swept.total_bytes)}"
                context.write(f"{printable(name)}: {what} {would}removed that killed runs had left unfinished")
    for name, where in made.where.items():
        for snapshot in where.last:
            what = f"forgotten snapshot {snapshot.id[:8]} of {printable(snapshot.manifest.source)}"
            context.message(f"{printable(name)}: {what} stays: there is no other complete one that is whole")
        if where.last:
            context.hint(f"opskit sync {printable(name)} brings newer ones")
    for name, reason in result.unmarked.items():
        context.warning(f"{printable(name)} did not take a mark: {printable(str(reason))}")
    for name, each in result.deleted.items():
        _tell_of(context, name, each)


def _tell_of(context: Context, name: str, each: Deleted) -> None:
    from opskit.cli.render import counted, printable

    if each.failure is not None:
        context.warning(f"{printable(name)}: {printable(str(each.failure))}")
        if each.failure.hint:
            context.hint(printable(each.failure.hint))
    if each.locked:
        context.message(f"{printable(name)}: {counted(each.locked, 'object')} cannot be deleted yet: they are locked")
    if each.is_capped:
        context.message(f"{printable(name)}: the rest is left for another time, as --max-delete asks for")


def _row(name: str, where: Where, deleted: Deleted | None, *, dry_run: bool) -> tuple[str, ...]:
    from opskit.cli.render import counted, human_bytes, printable

    objects, size = len(where.delete), where.delete_bytes
    if not dry_run and deleted is not None:
        objects, size = deleted.objects, deleted.total_bytes
    return (
        printable(name),
        f"{counted(objects, 'object')}, {human_bytes(size)}" if objects else "nothing",
        f"{counted(len(where.waiting), 'object')}, {human_bytes(where.waiting_bytes)}" if where.waiting else "nothing",
        f"{where.next_due:%Y-%m-%d %H:%M} UTC" if where.next_due else "",
    )


def _as_json(result: Pruned) -> dict[str, object]:
    made = result.plan
    return {
        "condemned": len(made.condemn),
        "condemned_bytes": made.condemn_bytes,
        "young": made.young,
        "young_bytes": made.young_bytes,
        "pardoned": len(made.pardon),
        "destinations": {
            name: _of_copy(where, result.deleted.get(name), result.swept.get(name))
            for name, where in made.where.items()
        },
        "unmarked": {name: str(reason) for name, reason in result.unmarked.items()},
    }


def _of_copy(where: Where, deleted: Deleted | None, swept: Swept | None) -> dict[str, object]:
    return {
        "due": len(where.delete),
        "due_bytes": where.delete_bytes,
        "waiting": len(where.waiting),
        "waiting_bytes": where.waiting_bytes,
        "last": [each.id for each in where.last],
        "quarantine": len(where.aside),
        "quarantine_bytes": sum(where.aside.values()),
        "unfinished": swept.files if swept else 0,
        "unfinished_bytes": swept.total_bytes if swept else 0,
        "next_due": f"{where.next_due:%Y-%m-%dT%H:%M:%SZ}" if where.next_due else None,
        "deleted": deleted.objects if deleted else 0,
        "deleted_bytes": deleted.total_bytes if deleted else 0,
        "locked": deleted.locked if deleted else 0,
        "failure": str(deleted.failure) if deleted and deleted.failure else None,
    }

"""`opskit rotate`: give secrets new values, step by step, and take that back.

What is done is decided in `opskit.secrets.rotation`; here it is asked for, told and recorded. Every step is an event of
the audit log. Exit 3: it was rolled back, it stopped short, or something is overdue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.cli.rotating import Rotating

app = noun("Give secrets new values, step by step: plan, run, resume, undo; and see what is due.")

NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Rotations of the config; see each command.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A rotation of the config.")]


@app.command()
def plan(typer_context: typer.Context, names: NamesArgument = None) -> int | None:
    """Tell what a rotation would do, and whether it could begin; changes nothing. All if none is named."""
    return _rotating(typer_context).plan(names)


@app.command()
def run(
    typer_context: typer.Context,
    names: NamesArgument = None,
    due: Annotated[
        bool, typer.Option("--due", help="All that are due, and retire what has waited long enough.")
    ] = False,
    emergency: Annotated[
        bool, typer.Option("--emergency", help="The old value is known to others: do not wait before it is ended.")
    ] = False,
    recover: Annotated[
        bool, typer.Option("--recover", help="Although the target refuses the current value: nothing can be undone.")
    ] = False,
) -> int | None:
    """Give a secret a new value, and move all that use it; the old value ends after grace and observation."""
    from opskit.errors import UsageError

    if bool(names) is due:
        raise UsageError("expected names of rotations, or --due for all that are due", hint="opskit rotate status")
    return _rotating(typer_context, hurry=emergency).run(names, recover=recover)


@app.command()
def status(
    typer_context: typer.Context,
    names: NamesArgument = None,
    items: Annotated[bool, typer.Option("--items", help="With one name: every item of its last rotation.")] = False,
) -> int | None:
    """List the age of each secret, when it is due, and where its rotation stands; exit 3 if one is overdue or stuck."""
    from opskit.errors import UsageError

    if items and len(names or ()) != 1:
        raise UsageError("--items: expected one name beside it")
    rotating = _rotating(typer_context)
    return rotating.items((names or [""])[0]) if items else rotating.status(names)


@app.command()
def resume(typer_context: typer.Context, names: NamesArgument = None) -> int | None:
    """Go on with rotations that were interrupted or have stopped; all if none is named.

    Consumers that somebody put back to another value are given the new one again.
    """
    return _rotating(typer_context).resume(names)


@app.command()
def undo(
    typer_context: typer.Context,
    name: NameArgument,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="Where an operator is needed: end it, and leave all as it is.")
    ] = False,
) -> int | None:
    """Bring back the old value everywhere; not possible once items have moved or the old value is being deleted."""
    return _rotating(typer_context).undo(name, give_up=give_up)


@app.command()
def retire(
    typer_context: typer.Context,
    names: NamesArgument = None,
    now: Annotated[bool, typer.Option("--now", help="Without waiting for the end of grace and observation.")] = False,
) -> int | None:
    """End old values whose time has come: switch them off, later delete them; all if none is named."""
    from opskit.errors import UsageError

    if now and not names:
        raise UsageError("--now: expected names of rotations beside it")
    return _rotating(typer_context, hurry=now).retire(names)


def _rotating(typer_context: typer.Context, *, hurry: bool = False) -> Rotating:
    from opskit.cli.rotating import Rotating

    return Rotating(Context.of(typer_context), hurry=hurry)

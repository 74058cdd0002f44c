"""`opskit keys rotate-host` and `opskit keys trust`: a new key for this host, and belief in the new one of another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.setup.rotation import Rotated


def rotate_host(
    typer_context: typer.Context,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Keep the private half of the old key on this host.")
    ] = False,
) -> int | None:
    """Give this host a new signing key, certified by its old one; again goes on where it was interrupted."""
    from opskit import wiring
    from opskit.cli.auditing import audited, judged
    from opskit.operations.lock import exclusive
    from opskit.setup.rotation import rotate

    context = Context.of(typer_context)
    config = context.load_config()
    with audited(context, config, "keys.rotate_host", config.host) as event, exclusive(wiring.lock_file(config)):
        done = rotate(context.find_config(), config, keep_old=keep_old)
        code = 3 if done.unready else 0
        _tell(context, done, keep_old=keep_old)
        return judged(event, code, old=done.old, new=done.new, unready=[*done.unready], removed=done.removed)


def _tell(context: Context, done: Rotated, *, keep_old: bool) -> None:
    from opskit.cli.render import counted, printable

    if context.json:
        told = {"old": done.old, "new": done.new, "packs": done.packs, "removed": done.removed}
        context.write_json({**told, "unready": done.unready})
    elif not context.quiet:
        context.write(f"host key: {done.new}, certified by {done.old}")
        if done.packs:
            context.write(f"index of {counted(done.packs, 'pack')} stored anew for it")
        if done.removed:
            context.write(f"the private half of {done.old} was removed from this host")
    for name, reason in done.unready.items():
        context.warning(f"{printable(name)}: {printable(reason)}")
    if done.unready and not keep_old:
        context.hint(
            "backups go on with the new key; the old private half is kept until every destination was reached: "
            "run opskit keys rotate-host again then"
        )
    context.hint(f"on every other host of this repository: opskit keys trust {done.new}")
    context.hint("the old key stays among signers and maintainers: what it signed must count, see docs/operations.md")


def trust(
    typer_context: typer.Context,
    fingerprint: Annotated[
        str,
        typer.Argument(metavar="FINGERPRINT|KEYFILE", help="All 40 digits of the new key, or a file with it."),
    ],
) -> int | None:
    """Believe the new key of another host, which a signer of the config certified, or which a file brings."""
    from opskit.cli.auditing import judged
    from opskit.cli.copying import opened_for_copying
    from opskit.cli.render import printable
    from opskit.operations.successors import told
    from opskit.setup import rotation

    context = Context.of(typer_context)
    file = Path(os.path.expanduser(fingerprint))
    if file.is_file():
        return _trust_file(context, file)
    with opened_for_copying(context, "keys.trust", [fingerprint]) as (config, opened, event):
        done = rotation.trust(context.find_config(), config, opened, fingerprint)
        roles = {"signers": done.keys.signers, "maintainers": done.keys.maintainers}
        if context.json:
            context.write_json({**roles, "certified": [each.new for each in done.way]})
        elif not context.quiet:
            for each in done.way:
                among = " and ".join(name for name, members in roles.items() if each.new in members)
                context.write(f"{printable(told(each))}; it is now among {among}")
            if not done.way:
                context.write("that key is trusted already")
        return judged(event, 0, trusted=[each.new for each in done.way])


def _trust_file(context: Context, file: Path) -> int:
    """Take the key of a host in, a drill host's for instance: its evidence counts from now on."""
    from opskit import wiring
    from opskit.cli.auditing import audited, judged
    from opskit.operations.lock import exclusive
    from opskit.setup import rotation

    config = context.load_config()
    with audited(context, config, "keys.trust", str(file)) as event, exclusive(wiring.lock_file(config)):
        new, keys = rotation.trust_file(context.find_config(), config, file)
        known = new in config.keys.signers
        if context.json:
            roles = {"signers": keys.signers, "maintainers": keys.maintainers}
            context.write_json({**roles, "certified": [], "trusted": [] if known else [new]})
        elif not context.quiet:
            context.write(f"{new} is trusted already" if known else f"{new} is now among signers")
        return judged(event, 0, trusted=[] if known else [new])

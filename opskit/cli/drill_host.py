"""`opskit init --drill-host`: a host that only drills, from one copy and the recovery-key file; what others do."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opskit.cli.context import Context
    from opskit.setup.drill_host import DrillHost, DrillWishes


def set_up(
    context: Context,
    path: Path,
    location: str | None,
    key: Path | None,
    passphrase: str | None,
    wishes: DrillWishes,
    stray: Mapping[str, object],
    *,
    no_passphrase: bool,
) -> int:
    """Judge what was typed, ask for passphrases, make the host and tell; `stray` are options of other ways."""
    from dataclasses import replace

    from opskit import locations
    from opskit.cli.reading import asker, resolved
    from opskit.cli.wizard import Answers
    from opskit.errors import UsageError
    from opskit.setup import drill_host

    for option, value in stray.items():
        if value:
            raise UsageError(f"{option} does not go with --drill-host: that host only restores what others back up")
    if location is None or key is None:
        raise UsageError("--drill-host needs --from LOCATION and --key FILE: one copy, and the recovery-key file")
    if no_passphrase and wishes.new_recipient is None:
        raise UsageError("--no-passphrase is of a new key: expected --new-recipient beside it")
    drill_host.judge(path, wishes)
    if wishes.new_recipient is not None and not no_passphrase:
        if not context.stdin.isatty():
            raise UsageError(
                "the new key needs a passphrase, and there is no terminal to ask for one",
                hint="use a terminal, or say --no-passphrase: nobody types one when drills run at night",
            )
        with Answers(context) as answers:
            wishes = replace(wishes, passphrase=answers.new_passphrase(None))
    place, key = locations.located("--from", location), locations.expanded("--key", str(key))
    given = resolved(context, passphrase)
    done = drill_host.set_up(path, place, key, wishes, ask=asker(context), passphrase=given)
    _tell(context, done)
    return 3 if done.absent else 0


def _tell(context: Context, done: DrillHost) -> None:
    from opskit.cli.render import printable

    if context.json:
        context.write_json(done.as_json())
    elif not context.quiet:
        context.write(f"config: {printable(str(done.config))}")
        context.write(f"host key: {done.host_key}, a signer of evidence, no maintainer")
        context.write(f"copies: {printable(', '.join(done.destinations))}")
        if done.recovery_key is not None:
            context.write(f"private key for the drills: {printable(str(done.recovery_key))}")
    for name, reason in done.left_out.items():
        context.warning(f"{printable(name)} is left out, as it is not to be had here: {printable(reason)}")
    for name, reason in done.absent.items():
        context.warning(f"{printable(name)}: {printable(reason)}")
    files = [str(each) for each in (done.public, done.recipient) if each is not None]
    context.hint(f"take {printable(shlex.join(files))} to every host that backs up, and type there:")
    context.hint(printable(_line_for_others(files)))
    key = ["--key", str(done.recovery_key)] if done.recovery_key is not None else []
    config = ["--config", str(done.config)] if context.config_option is not None else []
    context.hint(f"then here, as often as you like: {printable(shlex.join(['opskit', 'drill', 'run', *key, *config]))}")


def _line_for_others(files: Sequence[str]) -> str:
    """What is typed on the other hosts, where the files lie in the working folder."""
    public, *recipient = map(os.path.basename, files)
    commands = [["opskit", "keys", "trust", public], *(["opskit", "keys", "add", each] for each in recipient)]
    return " && ".join(map(shlex.join, commands))

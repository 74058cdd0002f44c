"""`opskit init`: from nothing to a host that can back up; safe to repeat.

It writes the config, makes the host's key and the repository at every destination, and, asked to, a new
recipient whose private half goes to one file. It asks questions only without arguments, on a terminal.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from opskit.setup import Wishes

app = noun()


SourceOption = Annotated[
    list[str] | None, typer.Option("--source", metavar="NAME=PATH", help="What to back up; repeatable.")
]
DestinationsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--destination", metavar="NAME=PLACE", help="A folder, s3://BUCKET/PREFIX, sftp://USER@HOST/PATH …; repeatable."
    ),
]
RecipientOption = Annotated[
    list[str] | None,
    typer.Option("--recipient", metavar="KEYFILE|FINGERPRINT", help="Who can restore; repeatable."),
]
NewRecipientOption = Annotated[
    str | None, typer.Option("--new-recipient", metavar="NAME <MAIL>", help="Make a new key that can restore.")
]
RecoveryKeyOption = Annotated[
    Path | None,
    typer.Option("--recovery-key", metavar="FILE", help="Where the new recovery-key file goes (mode 0600)."),
]
StateOption = Annotated[
    Path | None, typer.Option("--state-dir", metavar="DIR", help="Where opskit keeps its own state.")
]
NoRecoveryKeyOption = Annotated[
    bool, typer.Option("--no-recovery-key", help="With --from: write no recovery-key file that knows the new key.")
]
NoPassphraseOption = Annotated[
    bool, typer.Option("--no-passphrase", help="Do not protect the new private key by a passphrase.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="LOCATION", help="Bring a lost host back from this copy.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="With --from: the recovery-key file.")]
PassphraseOption = Annotated[
    str | None,
    typer.Option(
        "--passphrase",
        metavar="REFERENCE",
        help="Where the recovery key's passphrase is (env:, file:, cred:, gpg:, vault:), instead of asking.",
    ),
]
HostOption = Annotated[
    str | None, typer.Option("--host", metavar="LABEL", help="With --from: which host, if several back up there.")
]
DrillHostOption = Annotated[
    str | None,
    typer.Option("--drill-host", metavar="LABEL", help="With --from: make a host of that name that only drills."),
]


@app.command()
def init(
    typer_context: typer.Context,
    state_dir: StateOption = None,
    source: SourceOption = None,
    destination: DestinationsOption = None,
    recipient: RecipientOption = None,
    new_recipient: NewRecipientOption = None,
    recovery_key: RecoveryKeyOption = None,
    no_recovery_key: NoRecoveryKeyOption = False,
    no_passphrase: NoPassphraseOption = False,
    from_location: FromOption = None,
    key: KeyOption = None,
    passphrase: PassphraseOption = None,
    host: HostOption = None,
    drill_host: DrillHostOption = None,
) -> int | None:
    """Make config, host key and repositories; safe to repeat."""
    from opskit import locations, setup

    making: dict[str, object] = {"--source": source, "--destination": destination, "--recipient": recipient}
    making |= {"--new-recipient": new_recipient, "--no-passphrase": no_passphrase}
    returning = {"--key": key, "--host": host, "--no-recovery-key": no_recovery_key}
    if drill_host is None:
        _require_meant(from_location is not None, making, returning)
    context, is_root = Context.of(typer_context), os.geteuid() == 0
    path = setup.config_path(context.config_option, context.environ, Path.cwd(), Path.home(), is_root=is_root)
    state_dir = state_dir and locations.place("--state-dir", str(state_dir))
    recovery_key = recovery_key and locations.expanded("--recovery-key", str(recovery_key))
    if drill_host is not None:
        from opskit.cli import drill_host as drill_hosts

        wanted = setup.DrillWishes(
            label=drill_host,
            state_dir=state_dir or setup.state_path(Path.home(), is_root=is_root),
            host=host,
            destinations=_pairs(destination, "--destination"),
            recipients=tuple(map(os.path.expanduser, recipient or ())),
            new_recipient=new_recipient,
            recovery_key=recovery_key,
        )
        stray = {"--source": source, "--no-recovery-key": no_recovery_key}
        return drill_hosts.set_up(
            context, path, from_location, key, passphrase, wanted, stray, no_passphrase=no_passphrase
        )
    if from_location is not None:
        _require_new_recovery_key(recovery_key, no_recovery_key)
        return _rebuild(context, path, from_location, key, passphrase, host, state_dir, recovery_key)
    wishes = setup.Wishes(
        state_dir=state_dir,
        sources=_pairs(source, "--source"),
        destinations=_pairs(destination, "--destination"),
        recipients=tuple(map(os.path.expanduser, recipient or ())),
        new_recipient=new_recipient,
        recovery_key=recovery_key,
    )
    default_state = setup.state_path(Path.home(), is_root=is_root)
    return _initialise(context, path, wishes, default_state, passphrase, no_passphrase=no_passphrase)


def _initialise(
    context: Context, path: Path, wishes: Wishes, default_state: Path, reference: str | None, *, no_passphrase: bool
) -> int:
    """Ask for what is not said, on a terminal, then carry it out."""
    from opskit import setup
    from opskit.cli.wizard import Answers

    _require_something_to_protect(wishes, reference, no_passphrase)
    with Answers(context) as answers:
        if wishes == setup.Wishes() and not path.exists():
            wishes = answers.ask_all(path)
        if wishes.state_dir is None and not path.exists():
            wishes = replace(wishes, state_dir=default_state)
        passphrase = None
        if wishes.new_recipient and not no_passphrase:
            setup.check(path, wishes)
            passphrase = answers.new_passphrase(reference)
    return _tell(context, setup.initialise(path, wishes, passphrase, context.kept_folder()))


def _require_meant(is_rebuild: bool, making: Mapping[str, object], returning: Mapping[str, object]) -> None:
    """Nothing that was asked for is dropped without a word: raises UsageError for an option of the other way."""
    from opskit.errors import UsageError

    stray = [option for option, value in (making if is_rebuild else returning).items() if value]
    if stray and is_rebuild:
        raise UsageError(
            f"{stray[0]} does not go with --from, which brings sources, destinations and recipients back as they were",
            hint="add sources and destinations by another opskit init afterwards",
        )
    if stray:
        raise UsageError(f"{stray[0]} is for --from, which brings a lost host back: expected --from LOCATION beside it")


def _require_something_to_protect(wishes: Wishes, reference: str | None, no_passphrase: bool) -> None:
    from opskit.errors import UsageError

    if reference is not None and no_passphrase:
        raise UsageError("--passphrase and --no-passphrase exclude each other")
    if reference is not None and not wishes.new_recipient:
        raise UsageError(
            "--passphrase is of a recovery key: expected --new-recipient, which makes one, or --from, which needs one"
        )


def _require_new_recovery_key(recovery_key: Path | None, no_recovery_key: bool) -> None:
    from opskit.errors import UsageError

    if recovery_key is None and not no_recovery_key:
        raise UsageError(
            "--from needs --recovery-key NEWFILE: this host gets a new signing key, which the present key file does "
            "not know, and no such file can be written later",
            hint="put the new file into the safe beside the old one; --no-recovery-key does without, and restores with "
            "the old file alone then stop at the snapshots made so far",
        )
    if recovery_key is not None and no_recovery_key:
        raise UsageError("--recovery-key and --no-recovery-key exclude each other")


def _pairs(values: Sequence[str] | None, option: str) -> dict[str, str]:
    from opskit.errors import UsageError

    pairs: dict[str, str] = {}
    for value in values or ():
        name, equals, place = value.partition("=")
        if not equals or not name or not place:
            raise UsageError(f"{option}: expected NAME=PATH, got {value!r}")
        if name in pairs:
            raise UsageError(f"{option}: {name!r} is given twice")
        pairs[name] = place
    return pairs


def _tell(context: Context, done: object) -> int:
    from opskit.cli.render import printable
    from opskit.setup import Done

    assert isinstance(done, Done)
    if context.json:
        context.write_json(done.as_json())
        return done.exit_code
    for name in done.made.created:
        _say(context, f"{printable(name)}: repository made")
    for name in done.made.present:
        _say(context, f"{printable(name)}: repository is there")
    for name, error in done.made.failed.items():
        context.warning(f"{printable(name)}: {printable(str(error))}")
        if error.hint:
            context.hint(f"{printable(name)}: {printable(error.hint)}")
    _say(context, f"config: {printable(str(done.config))}")
    if done.recovery_key is not None:
        _say(context, f"recovery key: {printable(str(done.recovery_key))}")
        context.warning("move the recovery key off this host, and keep a copy on paper: without it no backup opens")
    for warning in done.warnings:
        context.warning(printable(warning))
    if done.made.failed:
        context.hint(f"run {_command(context, 'init')} again when the destination is there")
    else:
        context.hint(f"next: {_command(context, 'backup')}")
    return done.exit_code


def _command(context: Context, name: str) -> str:
    """A command to be typed next, with the config that this one was given."""
    from opskit.cli.render import printable

    words = ["opskit", name]
    if context.config_option is not None:
        words += ["--config", str(context.config_option)]
    return printable(shlex.join(words))


def _say(context: Context, text: str) -> None:
    """What was done is news, not a result that somebody asked for: silent with --quiet."""
    if not context.quiet:
        context.write(text)


def _rebuild(
    context: Context,
    path: Path,
    location: str,
    key: Path | None,
    passphrase: str | None,
    host: str | None,
    state_dir: Path | None,
    recovery_key: Path | None,
) -> int:
    from opskit import locations, setup
    from opskit.cli.reading import asker, resolved
    from opskit.cli.render import counted, printable
    from opskit.errors import UsageError

    if key is None:
        raise UsageError("--from needs --key FILE, the recovery-key file")
    place, key = locations.located("--from", location), locations.expanded("--key", str(key))
    found = setup.rebuild(
        path, place, key,
        host=host, state_dir=state_dir, recovery_key=recovery_key,
        ask=asker(context), passphrase=resolved(context, passphrase),
    )  # fmt: skip
    if context.json:
        context.write_json(found.as_json())
        return 0
    known = f"{counted(found.snapshots, 'snapshot')}, {counted(found.packs, 'pack')} known"
    _say(context, f"host {found.host} is back: {known}")
    _say(context, f"config: {printable(str(found.config))}")
    if recovery_key is not None:
        _say(context, f"recovery key: {printable(str(recovery_key))}")
    if found.beside is not None:
        context.warning(
            f"{printable(str(found.beside))} is as it was, and does not fit: compare it with "
            f"{printable(str(found.config))}, then move the new one into its place"
        )
    context.warning(f"this host has a new signing key {found.host_key}; other hosts must add it to keys.signers")
    if recovery_key is None:
        context.warning("no recovery-key file knows that key: restores with the old file alone stop at older snapshots")
    else:
        context.warning("put the new recovery-key file into the safe, beside the old one")
    for stranger in found.strangers:
        context.warning(f"{stranger} opens the backups too, and is not in the config: opskit keys add PUBLICKEYFILE")
    for reason in found.unready:
        context.warning(f"{printable(reason)}; what is wanted there for this host's new key comes with its next backup")
    context.hint(f"next: {_command(context, 'backup')}, which uploads only what changed")
    return 0

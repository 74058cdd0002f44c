"""`opskit keys`: who can read the backups and who is believed; adding, retiring and replacing those who can read."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.paper import paper
from opskit.cli.reading import PassphraseOption
from opskit.cli.rekeying import DryRunOption, HolderOption
from opskit.cli.signers import rotate_host, trust

if TYPE_CHECKING:
    from datetime import date

    from opskit.access import Held
    from opskit.config.model import Config
    from opskit.gpg import KeyInfo
    from opskit.setup.rekeying import Wish

app = noun("Show, print and change the keys of the backups, and who can read them.")
app.command("paper")(paper)
app.command("rotate-host")(rotate_host)
app.command("trust")(trust)

_WITHOUT_KEY = {"passphrase": "(whoever knows it)"}


@dataclass(frozen=True)
class Shown:
    """A key of the config: its roles, what this host knows of it (None: no public key here), and what is wrong."""

    fingerprint: str
    roles: tuple[str, ...]
    known: KeyInfo | None
    has_private: bool
    problem: str | None
    deleted: date | None = None
    """The day on which its private key was deleted for ever, as far as this host knows."""


@app.command("list")
def list_keys(typer_context: typer.Context) -> int | None:
    """List recipients, signers and maintainers, and what each opens; exit 3 if one cannot be used."""
    from opskit.cli.opening import look, warn_of_expiry

    context = Context.of(typer_context)
    config = context.load_config()
    shown = _keys(config, _users_keys(context))
    opening = look(context, config)
    shown += [
        Shown(each, _role_of(each, config), None, False, None)
        for each in opening.strangers({e.fingerprint for e in shown})
    ]
    if context.json:
        context.write_json([{**_as_json(key), **opening.as_json(key.fingerprint, key.roles)} for key in shown])
    else:
        _write(context, shown, [opening.in_words(key.fingerprint) for key in shown], opening.sealed_to)
        opening.tell(context, config)
    warn_of_expiry(context, config, [key.known for key in shown if key.known and not key.problem])
    return 3 if any(key.problem for key in shown) else 0


@app.command("add")
def add(
    typer_context: typer.Context,
    recipient: Annotated[str, typer.Argument(metavar="KEYFILE_OR_FINGERPRINT", help="The public key to add.")],
    key: HolderOption = None,
    passphrase: PassphraseOption = None,
    dry_run: DryRunOption = False,
) -> int | None:
    """Let somebody else restore too; what is backed up already as well, with a private key at hand."""
    from opskit.cli import rekeying
    from opskit.setup.rekeying import Wish

    wish = Wish(add=os.path.expanduser(recipient))
    context = Context.of(typer_context)
    return rekeying.run(context, "keys.add", recipient, lambda *_: wish, key, passphrase, dry_run=dry_run)


@app.command("remove")
def remove(
    typer_context: typer.Context,
    recipient: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="The recipient to retire.")],
    key: HolderOption = None,
    passphrase: PassphraseOption = None,
    dry_run: DryRunOption = False,
) -> int | None:
    """Retire a recipient: with a private key at hand, he opens nothing any more at the copies that are reached."""
    from opskit.cli import rekeying
    from opskit.setup.rekeying import Wish

    wish = Wish(retire=fingerprint_of("FINGERPRINT", recipient))
    context = Context.of(typer_context)
    return rekeying.run(context, "keys.remove", recipient, lambda *_: wish, key, passphrase, dry_run=dry_run)


@app.command("rotate")
def rotate(
    typer_context: typer.Context,
    replace: Annotated[
        str | None,
        typer.Option("--replace", metavar="FINGERPRINT", help="Who goes; else the one whose private key is given."),
    ] = None,
    recipient: Annotated[
        str | None, typer.Option("--recipient", metavar="KEYFILE_OR_FINGERPRINT", help="Who comes in his place.")
    ] = None,
    new_recipient: Annotated[
        str | None, typer.Option("--new-recipient", metavar="NAME", help="Make a new key for him, 'Name <mail>'.")
    ] = None,
    recovery_key: Annotated[
        Path | None, typer.Option("--recovery-key", metavar="FILE", help="Where the new private half goes.")
    ] = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Do not protect the new private key by a passphrase.")
    ] = False,
    new_passphrase: Annotated[
        str | None,
        typer.Option("--new-passphrase", metavar="REFERENCE", help="Where that passphrase is, instead of asking."),
    ] = None,
    key: HolderOption = None,
    passphrase: PassphraseOption = None,
    dry_run: DryRunOption = False,
) -> int | None:
    """Replace a recipient, or encrypt every run key to the present ones anew; needs a private key."""
    from opskit.cli import rekeying

    context = Context.of(typer_context)
    _require_one_way(replace, recipient, new_recipient, recovery_key, protects=not no_passphrase, given=new_passphrase)
    secret = _new_passphrase(context, new_passphrase) if new_recipient and not (no_passphrase or dry_run) else None
    comes = recipient and os.path.expanduser(recipient)

    def wish(config: Config, held: Held | None) -> Wish:
        return _rotation(config, held, replace, comes, new_recipient, recovery_key, secret)

    return rekeying.run(context, "keys.rotate", replace or "", wish, key, passphrase, dry_run=dry_run)


def fingerprint_of(option: str, text: str) -> str:
    """A full fingerprint as it was typed, in capitals and without blanks; raises UsageError."""
    from opskit.errors import UsageError

    found = "".join(text.split()).upper()
    if not re.fullmatch("[0-9A-F]{40}|[0-9A-F]{64}", found):
        raise UsageError(
            f"{option}: expected a full fingerprint of 40 hexadecimal digits, got {text!r}",
            hint="opskit keys list shows them",
        )
    return found


def _require_one_way(
    replace: str | None, recipient: str | None, new: str | None, file: Path | None, *, protects: bool, given: str | None
) -> None:
    from opskit.errors import UsageError

    if recipient is not None and new is not None:
        raise UsageError("--recipient and --new-recipient exclude each other")
    if replace is not None and recipient is None and new is None:
        raise UsageError("--replace needs who comes: --recipient or --new-recipient (opskit keys remove only retires)")
    if (file is not None) != (new is not None):
        raise UsageError("--new-recipient and --recovery-key FILE go together")
    if given is not None and (new is None or not protects):
        raise UsageError("--new-passphrase is of the new key: expected --new-recipient, and no --no-passphrase")


def _new_passphrase(context: Context, reference: str | None) -> bytes:
    from opskit.cli.wizard import Answers

    with Answers(context) as answers:
        return answers.new_passphrase(reference, "--new-passphrase")


def _rotation(
    config: Config,
    held: Held | None,
    replace: str | None,
    recipient: str | None,
    new: str | None,
    file: Path | None,
    passphrase: bytes | None,
) -> Wish:
    """Who goes and who comes; raises NoKey without a private key, UsageError where it is not clear who goes."""
    from opskit.errors import NoKey, UsageError
    from opskit.setup.rekeying import Wish

    if held is None:
        raise NoKey("no recipient's private key is at hand", hint="give the recovery-key file: --key FILE")
    if recipient is None and new is None:
        return Wish()
    goes = fingerprint_of("--replace", replace) if replace else None
    if goes is None:
        mine = [each.fingerprint for each in held.keys]
        present = [each for each in mine if each in config.keys.recipients] or mine
        if len(present) != 1:
            raise UsageError("several private keys are at hand: say with --replace FINGERPRINT who goes")
        goes = present[0]
    elif goes not in (*config.keys.recipients, *config.keys.retired):
        raise UsageError(f"--replace: {goes} is no recipient", hint="opskit keys list shows the keys")
    return Wish(recipient, goes, new, file, passphrase)


def _role_of(stranger: str, config: Config) -> tuple[str, ...]:
    """What somebody is who opens something and whose key the config does not name: its passphrase, or nobody known."""
    from opskit.gpg import PASSPHRASE

    if stranger != PASSPHRASE:
        return ("unknown",)
    return ("recipient",) if config.keys.passphrase is not None else ("retired",)


def _keys(config: Config, users: Sequence[KeyInfo]) -> list[Shown]:
    """The keys of the config; `users` are those of the user's own GnuPG home."""
    from opskit.gpg import Keyring, usable_recipients
    from opskit.repository import deleted_keys
    from opskit.wiring import keyring_folder, now

    own = Keyring(keyring_folder(config.state_dir)).keys()
    here = {key.fingerprint: key for key in own}
    private = {key.fingerprint for key in [*own, *users] if key.has_secret}
    roles = {
        "recipient": config.keys.recipients,
        "retired": config.keys.retired,
        "signer": config.keys.signers,
        "maintainer": config.keys.maintainers,
        "host": (config.keys.host,) if config.keys.host else (),
    }
    deleted, refused = deleted_keys.read(config.state_dir), deleted_keys.objections(config.state_dir)
    _, objections = usable_recipients(own, config.keys.recipients, now().timestamp(), refused)
    problems = dict(each.split(": ", 1) for each in objections)
    if config.keys.host and config.keys.host not in private:
        problems.setdefault(config.keys.host, "the host's own key has no private half here: it cannot sign")
    return [
        Shown(
            fingerprint,
            tuple(role for role, members in roles.items() if fingerprint in members),
            here.get(fingerprint),
            fingerprint in private,
            problems.get(fingerprint),
            deleted.get(fingerprint),
        )
        for fingerprint in dict.fromkeys(each for members in roles.values() for each in members)
    ]


def _users_keys(context: Context) -> Sequence[KeyInfo]:
    """What the user's own GnuPG home holds; nothing where there is none, and none is made."""
    from opskit.gpg import Keyring

    home = Path(context.environ.get("GNUPGHOME") or Path.home() / ".gnupg")
    has_keys = any((home / name).is_file() for name in ("pubring.kbx", "pubring.gpg"))
    return Keyring(None).keys() if has_keys else []


def _is_exposed(key: Shown) -> bool:
    """Whether a private half that opens the backups lies on the host that makes them."""
    return key.has_private and "recipient" in key.roles


def _as_json(key: Shown) -> dict[str, object]:
    known = key.known
    return {
        "fingerprint": key.fingerprint,
        "roles": key.roles,
        "user_id": known.user_id if known else None,
        "algorithm": known.algorithm if known else None,
        "created": _day(known.created) if known else None,
        "expires": _day(known.expires) if known else None,
        "private_here": key.has_private,
        "problem": key.problem,
        "deleted": key.deleted and key.deleted.isoformat(),
    }


def _day(moment: int | None) -> str | None:
    from datetime import UTC, datetime

    return None if moment is None else datetime.fromtimestamp(moment, UTC).date().isoformat()


def _write(context: Context, shown: list[Shown], opens: list[str], sealed: Collection[str]) -> None:
    from opskit.cli.render import printable, table
    from opskit.repository import deleted_keys

    rows = []
    for key, opened in zip(shown, opens, strict=True):
        known = key.known
        facts = (
            (known.algorithm, str(_day(known.created)), _day(known.expires) or "never", printable(known.user_id))
            if known
            else ("?", "?", "?", _WITHOUT_KEY.get(key.fingerprint, "(no public key in this host's key ring)"))
        )
        private = "yes" if key.has_private else f"deleted {key.deleted}" if key.deleted else "no"
        private += ", sealed" if key.fingerprint in sealed else ""
        rows.append((key.fingerprint, ", ".join(key.roles), private, opened, *facts))
    for line in table(
        rows, ("fingerprint", "roles", "private half here", "opens", "algorithm", "created", "expires", "user id")
    ):
        context.write(line)
    for key in shown:
        if key.problem:
            context.warning(f"{key.fingerprint}: {printable(key.problem)}")
        if _is_exposed(key):
            context.warning(
                f"{key.fingerprint}: the private half of a recipient is on this host, or a card's stub: "
                "whoever breaks in can read every backup; keep it elsewhere"
            )
    rejected = [key.problem for key in shown if key.problem and "recipient" in key.roles]
    if rejected:
        otherwise = "import a renewed public key, or replace the recipient: opskit keys rotate"
        context.hint(deleted_keys.hint(rejected, otherwise))

"""`opskit keys`: who can read the backups, and who is believed; nothing here changes a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.paper import paper

if TYPE_CHECKING:
    from opskit.config.model import Config
    from opskit.gpg import KeyInfo

app = noun("Show the keys of the backups.")
app.command("paper")(paper)


@dataclass(frozen=True)
class Shown:
    """A key of the config: its roles, what this host knows of it (None: no public key here), and what is wrong."""

    fingerprint: str
    roles: tuple[str, ...]
    known: KeyInfo | None
    has_private: bool
    problem: str | None


@app.command("list")
def list_keys(typer_context: typer.Context) -> int | None:
    """List recipients, signers and maintainers; exit 3 if one cannot be used."""
    context = Context.of(typer_context)
    shown = _keys(context.load_config(), _users_keys(context))
    if context.json:
        context.write_json([_as_json(key) for key in shown])
    else:
        _write(context, shown)
    return 3 if any(key.problem for key in shown) else 0


def _keys(config: Config, users: Sequence[KeyInfo]) -> list[Shown]:
    """The keys of the config; `users` are those of the user's own GnuPG home."""
    from opskit.gpg import Keyring, usable_recipients
    from opskit.wiring import keyring_folder, now

    own = Keyring(keyring_folder(config.state_dir)).keys()
    here = {key.fingerprint: key for key in own}
    private = {key.fingerprint for key in [*own, *users] if key.has_secret}
    roles = {
        "recipient": config.keys.recipients,
        "signer": config.keys.signers,
        "maintainer": config.keys.maintainers,
        "host": (config.keys.host,) if config.keys.host else (),
    }
    _, objections = usable_recipients(own, config.keys.recipients, now().timestamp())
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
    }


def _day(moment: int | None) -> str | None:
    from datetime import UTC, datetime

    return None if moment is None else datetime.fromtimestamp(moment, UTC).date().isoformat()


def _write(context: Context, shown: list[Shown]) -> None:
    from opskit.cli.render import printable, table

    rows = []
    for key in shown:
        known = key.known
        facts = (
            (known.algorithm, str(_day(known.created)), _day(known.expires) or "never", printable(known.user_id))
            if known
            else ("?", "?", "?", "(no public key in this host's key ring)")
        )
        private = "yes" if key.has_private else "no"
        rows.append((key.fingerprint, ", ".join(key.roles), private, *facts))
    for line in table(
        rows, ("fingerprint", "roles", "private half here", "algorithm", "created", "expires", "user id")
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
    if any(key.problem and "recipient" in key.roles for key in shown):
        context.hint("import a renewed public key, or change keys.recipients in the config")

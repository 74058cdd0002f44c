"""How old the keys of the backups are, told beside the secrets that are rotated: `keys` rotates them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opskit.config.model import Config
    from opskit.secrets.rotation.schedule import Standing

_SHOWN = 16
"""Digits of a fingerprint that name a key."""


def key_standings(config: Config, now: float) -> list[Standing]:
    """The recipients and the host's own key, by their age, where the config says how old they may get."""
    if config.keys.rotate_every is None:
        return []
    from opskit.gpg import Keyring
    from opskit.secrets.rotation.schedule import Standing
    from opskit.secretstores import KEYRING

    with Keyring(config.state_dir / KEYRING) as keyring:
        created = {key.fingerprint: key.created for key in keyring.keys()}
    every, found = config.keys.rotate_every.total_seconds(), []
    for role, key in [*(("recipient", each) for each in config.keys.recipients), ("host key", config.keys.host)]:
        if key in created:
            due = created[key] + every
            name = f"{role} {key[-_SHOWN:]}"
            command = "keys rotate-host" if role == "host key" else f"keys rotate --replace {key}"
            found.append(Standing(name, None, now - created[key], due, now >= due, command))
    return found

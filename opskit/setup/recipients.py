"""Who can restore, as the config says it: adding, retiring and replacing recipients.

Invariants: the config is written whole or not at all, and keeps its comments; nothing is written where a backup would
be left without a recipient that can be encrypted to. A recipient that goes is *retired*, not forgotten: what it agreed
to must be believed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from opskit.config.model import Keys
from opskit.config.render import with_lists
from opskit.errors import ConfigError, UsageError
from opskit.gpg import KeyInfo, usable_recipients
from opskit.repository import deleted_keys
from opskit.repository.durable import write_durably


def with_added(keys: Keys, fingerprint: str) -> Keys:
    """The keys with one recipient more."""
    return _keys(keys, (*keys.recipients, fingerprint))


def without(keys: Keys, fingerprint: str) -> Keys:
    """The keys with a recipient retired; raises UsageError where it is none, or the last."""
    if fingerprint not in (*keys.recipients, *keys.retired):
        raise UsageError(
            f"{fingerprint} is no recipient: expected one of {', '.join(keys.recipients)}",
            hint="opskit keys list shows the keys",
        )
    left = tuple(each for each in keys.recipients if each != fingerprint)
    if not left:
        raise UsageError(
            f"{fingerprint} is the last recipient: nobody could restore what is backed up from now on",
            hint="opskit keys rotate replaces it by another one in one act",
        )
    return _keys(keys, left)


def replaced(keys: Keys, old: str, new: str) -> Keys:
    """The keys with one recipient in the place of another."""
    return _keys(keys, [new if each == old else each for each in keys.recipients] + [new])


def _keys(keys: Keys, recipients: Sequence[str]) -> Keys:
    kept = tuple(dict.fromkeys(recipients))
    gone = [each for each in (*keys.retired, *keys.recipients) if each not in kept]
    return keys.but(recipients=kept, retired=tuple(dict.fromkeys(gone)))


def require_usable(
    known: Sequence[KeyInfo], recipients: Sequence[str], added: str, now: float, deleted: Mapping[str, str]
) -> list[str]:
    """What speaks against some of the recipients; `now` is epoch seconds, `deleted` as `usable_recipients` takes it.

    Raises UsageError where it speaks against the one who is `added`, or against all: two keys that expired together
    must be renewed or replaced one after the other.
    """
    valid, rejected = usable_recipients(known, recipients, now, deleted)
    if rejected and (not valid or (added and added not in valid)):
        raise UsageError(
            f"not every recipient can be encrypted to: {'; '.join(rejected)}",
            hint=deleted_keys.hint(
                rejected,
                "renew a key (gpg --quick-set-expire) and give its public half to opskit keys add, or add another one",
            ),
        )
    return rejected


def require_editable(path: Path, keys: Keys) -> None:
    """Raise ConfigError where `write` would for the layout of the config."""
    _edited(path, path.read_text("utf-8-sig"), keys)


def write(path: Path, keys: Keys) -> None:
    """Make a config say who the recipients are, and who was one; raises ConfigError where that cannot be edited."""
    text = path.read_text("utf-8-sig")
    edited = _edited(path, text, keys)
    if edited != text:
        write_durably(path, edited.encode(), like_before=True)


def names(path: Path, fingerprint: str) -> bool:
    """Whether a config names a key, as far as it can be read: where it cannot, it may."""
    try:
        return fingerprint in path.read_text("utf-8-sig")
    except (OSError, ValueError):
        return True


def _edited(path: Path, text: str, keys: Keys) -> str:
    wanted = {"recipients": [*keys.recipients], "retired": [*keys.retired]}
    edited = with_lists(text, "keys", wanted)
    if edited is None:
        raise ConfigError(
            f"{path}: the layout of section keys cannot be edited safely: expected a plain mapping without aliases",
            hint=f"write there by hand: {'; '.join(f'{name}: {json.dumps(each)}' for name, each in wanted.items())}",
        )
    return edited

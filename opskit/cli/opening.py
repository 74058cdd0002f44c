"""What `opskit keys list` tells of key objects: which key opens how much, where, and whether one may be destroyed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.config.model import Config
    from opskit.gpg import KeyInfo
    from opskit.operations.rekeying.openers import Openers


@dataclass
class Opening:
    """What was seen; None where this host has no repository yet. `absent` destinations may need any key."""

    found: Openers | None = None
    absent: list[str] = field(default_factory=list)
    sealed_to: dict[str, list[str]] = field(default_factory=dict)
    """Of keys whose private half is sealed at every copy at hand: whose private key opens that."""
    heirs: dict[str, list[str]] = field(default_factory=dict)
    """The same of those that are sealed anywhere."""

    def strangers(self, known: Collection[str]) -> list[str]:
        """Keys that open something and are none of those known."""
        return [] if self.found is None else sorted(set(self.found.found) - set(known))

    def is_safe(self, key: str) -> bool:
        """Whether a key can be destroyed: everything was seen, nothing needs it, and no other host may write for it."""
        from opskit.setup.needed import is_safe_to_destroy

        return self.found is not None and is_safe_to_destroy(key, self.found, self.absent) and not self.holds(key)

    def holds(self, heir: str) -> list[str]:
        """Keys that are sealed to this one and to no present recipient: disks not in the config may need them."""
        return sorted(each for each, who in self.heirs.items() if heir in who)

    def in_words(self, key: str) -> str:
        """What a key opens, for the table."""
        from opskit.cli.render import counted, printable

        if self.found is None:
            return "?"
        parts = [
            f"{counted(len(each.runs), 'run')} at {printable(name)}"
            for name, each in sorted(self.found.of(key).items())
        ]
        return ", ".join(parts) or ("nothing" if not self.absent else "nothing seen")

    def as_json(self, key: str, roles: Sequence[str]) -> dict[str, object]:
        """For machines; `safe_to_destroy` of a retired key alone."""
        if self.found is None:
            return {
                "opens": None, "safe_to_destroy": None, "not_seen": self.absent, "lost_runs": [], "unsure_hosts": [],
                "sealed_to": [],
            }  # fmt: skip
        opens = {
            name: {"key_objects": each.objects, "runs": len(each.runs), "needed": each.needed}
            for name, each in sorted(self.found.of(key).items())
        }
        safe = self.is_safe(key) if "retired" in roles else None
        return {
            "opens": opens, "safe_to_destroy": safe, "not_seen": self.absent, "lost_runs": self.found.lost,
            "unsure_hosts": self.found.unsure, "sealed_to": self.sealed_to.get(key, []),
        }  # fmt: skip

    def tell(self, context: Context, config: Config) -> None:
        """What may become of retired keys, and why not."""
        from opskit.cli.render import counted, printable

        if self.found is None:
            return
        for key in config.keys.retired:
            if self.is_safe(key):
                context.message(f"{key} is safe to destroy: nothing at any destination needs it")
            elif held := self.holds(key):
                context.warning(
                    f"{key}: do not destroy it: it alone opens the sealed key of {', '.join(held)}; a disk may need it"
                )
                if any(map(self.found.is_needed, held)):
                    context.hint("something needs it now; with this key: opskit keys rotate --key FILE")
            elif self.found.is_needed(key):
                places = {name: each.needed for name, each in self.found.of(key).items() if each.needed}
                where = ", ".join(
                    f"{counted(count, 'key object')} at {printable(name)}" for name, count in places.items()
                )
                self._tell_needed(context, key, where)
            elif self.absent or self.found.unread:
                unseen = [*self.absent, *(["what cannot be read or believed"] if self.found.unread else [])]
                context.message(f"{key}: do not destroy it yet: {printable(', '.join(unseen))} was not seen")
                if self.found.unread:
                    context.hint("opskit verify names what cannot be read or believed")
            elif self.found.lost:
                runs = counted(len(self.found.lost), "run")
                context.warning(
                    f"{key}: do not destroy it yet: no destination has the key of {runs} whole. What lies in "
                    "quarantine/, or a copy that turns up, may need it"
                )
                context.hint("opskit verify names what is lost; opskit heal brings it from a copy that has it")
            elif hosts := printable(", ".join(self.found.unsure)):
                context.message(
                    f"{key}: do not destroy it yet: nothing needs it now, but the newest backup of {hosts} was for no "
                    "present recipient: correct keys.recipients of the config there (opskit keys add), then back up"
                )
            else:
                hosts = printable(", ".join(self.found.naming(key)))
                context.message(
                    f"{key}: do not destroy it yet: the newest backup of {hosts} was for it, beside others: there, "
                    "opskit keys remove, then back up"
                )

    def _tell_needed(self, context: Context, key: str, where: str) -> None:
        heirs = ", ".join(self.sealed_to.get(key, ()))
        if not heirs:
            context.warning(f"{key} IS STILL NEEDED: {where}")
            context.hint("to encrypt them to the present recipients: opskit keys rotate --key FILE")
            return
        context.message(f"{key} is sealed at the destinations: whoever has the key of {heirs} opens {where} with it")
        context.hint(
            f"to encrypt them to the present recipients: opskit keys rotate --key FILE, the key file of {heirs}"
        )


def warn_of_expiry(context: Context, config: Config, known: Sequence[KeyInfo]) -> None:
    """Tell of keys that have a part in this config and end within a month."""
    from opskit.gpg import expiring
    from opskit.wiring import now

    keys = config.keys
    wanted = {*keys.recipients, *keys.signers, *keys.maintainers}
    for text in expiring([key for key in known if key.fingerprint in wanted], now().timestamp()):
        context.warning(text)


def deleted_recipients(config: Config) -> list[str]:
    """A sentence for each recipient of this config whose private key was deleted; raises ConfigError."""
    from opskit.repository import deleted_keys

    refused = deleted_keys.objections(config.state_dir)
    return [f"keys.recipients: {each}: {refused[each]}" for each in config.keys.recipients if each in refused]


def look(context: Context, config: Config) -> Opening:
    """Look at the key objects of every destination that can be reached."""
    from opskit import access
    from opskit.cli.reading import history_of
    from opskit.cli.render import printable
    from opskit.errors import OpskitError
    from opskit.repository.sealed_keys import who_opens
    from opskit.setup.needed import openers_of

    try:
        with access.by_config(config, may_be_none=True) as opened:
            found, sealed = openers_of(opened, config, history_of(opened)), opened.sealed_keys()
            gone, present = {each.recipient for each in sealed}, config.keys.recipients
            heirs = {each: who_opens(each, sealed, opened.copies, present) for each in gone}
            anywhere = {each: who_opens(each, sealed, (), present) for each in gone}
            return Opening(found, sorted(opened.absent), {each: who for each, who in heirs.items() if who}, anywhere)
    except OpskitError as error:
        if config.keys.host is not None:
            context.message(printable(f"what the keys open was not seen: {error}"))
        return Opening(absent=sorted(config.destinations))

"""What the copies tell of two recipients, of whom one comes in the place of the other.

No private key is used but to try one. Other hosts say by their newest backups for whom they write; what they made
before they were told is for the old recipient alone, and is encrypted anew as long as its key is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from opskit import wiring
from opskit.access import Access, Held
from opskit.config.model import Config, Keys
from opskit.errors import CacheError, Damaged, NoKey, TargetError, TargetRefused
from opskit.gpg import KeyInfo, Keyring, usable_recipients
from opskit.log import logger
from opskit.operations.rekeying.following import written_for
from opskit.operations.rekeying.openers import Openers
from opskit.operations.rekeying.survey import KeyObject, Survey, survey
from opskit.repository import deleted_keys
from opskit.repository.history import History
from opskit.repository.marks import Marks
from opskit.setup.needed import openers_of

log = logger(__name__)

_TRIALS = 3
"""Key objects that a private key is tried on: it takes gpg a moment each, and they were compared when made."""


_WHO_OPENS = "encrypt them to all recipients first: opskit keys rotate --key FILE, with the key of another one"


@dataclass(frozen=True)
class Copies:
    """The copies at hand, with the config that says who may open them; `keyring` is this host's."""

    config: Config
    opened: Access
    history: History
    marks: Marks
    keyring: Keyring

    def require_usable(self, keys: Keys, new: Sequence[KeyInfo] = ()) -> None:
        """Raise TargetRefused where one of the recipients cannot be encrypted to: left out is left out for good."""
        known = [*self.keyring.keys(), *new]
        deleted = deleted_keys.objections(self.config.state_dir)
        _, rejected = usable_recipients(known, keys.recipients, wiring.now().timestamp(), deleted)
        if rejected:
            raise TargetRefused(
                f"not every recipient can be encrypted to: {'; '.join(rejected)}",
                hint=deleted_keys.hint(
                    rejected,
                    "renew that key (gpg --quick-set-expire) and give its public half to opskit keys add, or remove "
                    "it: opskit keys remove",
                ),
            )

    def require_whole(self, key: KeyInfo, before: KeyInfo | None = None) -> None:
        """Raise TargetRefused where another recipient opens what this one does not, nor the one `before` it.

        Its heir could not either.
        """
        objects = [each for each in self.survey().objects.values() if before is None or not _is_for(each, before)]
        if lacking := _not_for(objects, key, self._others(key)):
            raise TargetRefused(_lacks(lacking, key), hint=_WHO_OPENS)

    def is_opened_by(self, key: KeyInfo, held: Held, partner: KeyInfo | None) -> bool:
        """Whether a recipient opens what this host made and others open, and whether its private key opens some.

        What other hosts made may lack it until they know of it. Raises TargetError where it lacks only what the
        `partner`, whose key comes before or after it, does not open either: that is nothing which applying it mends.
        """
        found, ours = self.survey(), self._ours()
        made = [each for digest, each in found.objects.items() if digest in ours]
        if _not_for(made, key, self._others(key)):
            if partner is not None and not _not_for(made, key, set(partner.key_ids)):
                raise TargetError(_lacks(_not_for(made, key, self._others(key)), key), hint=_WHO_OPENS)
            return False
        mine = [each for each in found.objects.values() if each.is_vouched and _is_for(each, key)]
        try:
            for each in mine[:_TRIALS]:
                held.decrypt(each.data)
        except (NoKey, Damaged) as error:
            log.debug("a private key does not open what is for it", recipient=key.fingerprint, reason=str(error))
            return False
        return True

    def are_for(self, key: KeyInfo) -> bool:
        """Whether any key object that counts is for this recipient."""
        return any(each.is_vouched and _is_for(each, key) for each in self.survey().objects.values())

    def unseen(self) -> str | None:
        """Destinations that cannot be seen, and what cannot be read or believed: any of it may need any key."""
        if self.opened.absent:
            return f"{', '.join(sorted(self.opened.absent))} cannot be reached, and what lies there may need it"
        found = self._openers()
        if found.unread:
            return f"{len(found.unread):,} objects cannot be read or believed, and may need it: opskit verify"
        if found.lost:
            return f"no destination has the key of {len(found.lost):,} runs: opskit heal"
        return None

    def without(self, new: KeyInfo, old: KeyInfo, gone: Collection[str]) -> list[str]:
        """Other hosts whose newest backup was for the old recipient and not for the new one."""
        told = self._told(gone)
        return sorted(host for host, who in told.items() if old.fingerprint in who and new.fingerprint not in who)

    def naming(self, old: KeyInfo, gone: Collection[str]) -> list[str]:
        """Other hosts whose newest backup was for a recipient, beside others or alone."""
        return sorted(set(self._openers().naming(old.fingerprint)) - set(gone))

    def is_nowhere(self, key: KeyInfo) -> bool:
        """Whether the public half of a key never left whoever made it: it comes into this host's key ring first.

        That nothing is for it, as far as can be seen, would prove nothing: others may have it in their configs.
        """
        keys, ours = self.config.keys, {each.fingerprint for each in self.keyring.keys()}
        return key.fingerprint not in {*ours, *keys.recipients, *keys.retired} and not self.are_for(key)

    def unsure(self, gone: Collection[str]) -> list[str]:
        """Other hosts of which nothing shows that they write for any present recipient."""
        return sorted(set(self._openers().unsure) & self._told(gone).keys())

    def need_of(self, key: KeyInfo) -> str | None:
        """What only this key opens, at the copies at hand."""
        needed = {name: each.needed for name, each in self._openers().of(key.fingerprint).items() if each.needed}
        return ", ".join(f"{count:,} key objects at {name}" for name, count in sorted(needed.items())) or None

    def survey(self) -> Survey:
        """The key objects of the copies at hand."""
        return survey(
            self.opened.copies, self.history.snapshots, self.marks, more=list(self._own_runs()),
            workers=self.config.performance.workers,
        )  # fmt: skip

    def renewed(self, config: Config) -> Copies:
        """The same copies once key objects and config were changed: their marks are read again."""
        return replace(self, config=config, marks=self.opened.marks())

    def _told(self, gone: Collection[str]) -> dict[str, frozenset[str]]:
        left_out = {self.config.host, *gone}
        return {host: who for host, who in written_for(self.history.snapshots).items() if host not in left_out}

    def _ours(self) -> set[str]:
        """Digests of the key objects that this host made, or that stand in for others."""
        made = {
            run.key
            for each in self.history.snapshots
            if each.manifest.host == self.config.host
            for run in each.manifest.runs
        }
        return made.union(self._own_runs(), *(each.mark.supersedes for each in self.marks.superseding()))

    def _own_runs(self) -> Iterator[str]:
        try:
            yield from [row.key for row in self.opened.cache.runs().values()] if self.opened.cache else ()
        except CacheError:  # a backup of this host holds it
            return

    def _openers(self) -> Openers:
        return openers_of(self.opened, self.config, self.history)

    def _others(self, key: KeyInfo) -> set[str]:
        """The key ids of the other recipients."""
        others = set(self.config.keys.recipients) - {key.fingerprint}
        return {key_id for each in self.keyring.keys() if each.fingerprint in others for key_id in each.key_ids}


def _lacks(count: int, key: KeyInfo) -> str:
    return f"{count:,} key objects are for other recipients and not for {key.fingerprint}, which would not open them"


def _is_for(each: KeyObject, key: KeyInfo) -> bool:
    return not set(key.key_ids).isdisjoint(each.key_ids)


def _not_for(objects: Collection[KeyObject], key: KeyInfo, others: Collection[str]) -> int:
    """How many key objects that count one of `others` (key ids) opens, and this key does not."""
    return sum(
        each.is_vouched and not _is_for(each, key) and not set(others).isdisjoint(each.key_ids) for each in objects
    )

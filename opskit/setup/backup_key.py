"""The rotation target of opskit's own backup keys: a recipient of the backups, whose private key a secret store keeps.

The value is a recovery-key file. It is *accepted* where the config names its recipient, and where it opens what any
present recipient opens: tried on key objects, as a restore would. Two slots: both keys open everything until the old
one is revoked, which encrypts the run keys of all copies to those who stay.

Invariants: an old key is not revoked before every destination was seen and every other host has written for the new
one, and its value is not given up as long as anything anywhere may need it; both values are at hand when key objects
are encrypted anew, so that nothing is left that only the old one opens. Order and crash-safety of each act are those of
`setup.rekeying` and `operations.rekeying`.

A host that backs up should reach no private key but while somebody rotates: the store is one that asks for that
person's credential.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opskit import access, gpg, wiring
from opskit.access import Access, Held
from opskit.config import load as configs
from opskit.config.model import Config
from opskit.errors import CacheError, ConfigError, Damaged, NoKey, OpskitError, TargetError, TargetRefused, UsageError
from opskit.gpg import KeyInfo, Keyring
from opskit.log import logger
from opskit.operations.lock import exclusive
from opskit.operations.rekeying import coverage
from opskit.operations.rekeying.survey import Survey, survey
from opskit.repository.history import History
from opskit.repository.marks import Marks
from opskit.repository.recovery import keyfile
from opskit.secrets.reference import Secret
from opskit.setup import rekeying
from opskit.setup.needed import openers_of
from opskit.setup.rekeying import Changed, Made, Wish

log = logger(__name__)

_TRIALS = 3
"""Key objects that a private key is tried on: it takes gpg a moment each, and they were compared when made."""


@dataclass(frozen=True)
class BackupKeySettings:
    """`config_file` says who the recipients are, and is written. `user_id` of new keys; None: that of the one before.

    `gone` are hosts that back up no more: it is not waited until they write for a new key.
    """

    config_file: Path
    user_id: str | None = None
    gone: tuple[str, ...] = ()


class BackupKey:
    """Replaces a recipient; see `opskit.secrets.rotation.base.RotationTarget`."""

    keeps_old = True

    def __init__(self, settings: BackupKeySettings) -> None:
        self._settings = settings

    def create(self, current: Secret | None, since: float) -> Secret:
        """A recovery-key file of a new recipient whom nothing names yet. Refused where `current` does not open all."""
        del since  # nothing is left behind by a call that is interrupted
        with self._looking() as there, _held(_required(current)) as (held, (old, *_)):
            rekeying.require_maintainer(there.config)
            there.require_whole(old)
            del held
            with gpg.ephemeral_keyring(None) as keyring:
                made = Made(keyring.generate(self._settings.user_id or old.user_id), keyring, None)
                file = rekeying.key_file(there.config, there.opened.repository, made, there.keyring)
                return Secret(keyfile.encode(file))

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Make it a recipient, and encrypt all run keys to it that `current` opens."""
        with (
            self._working() as there,
            _held(_required(current)) as (held, _),
            gpg.ephemeral_keyring(None) as keyring,
        ):
            keyring.import_keys(_armored(secret))
            (new,) = _private(keyring)
            self._change(there, Wish(made=Made(new.fingerprint, keyring, None)), held)

    def verify(self, secret: Secret) -> bool:
        """Whether it is a recipient's, and opens what was stored before it was made, as far as any recipient does."""
        with self._looking() as there, _held(secret) as (held, (key, *_)):
            return key.fingerprint in there.config.keys.recipients and there.is_opened_by(key, held)

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Retire the recipient; what it opens is encrypted to the others. `final` raises where anything needs it."""
        with self._working() as there, _held(secret, kept) as (held, (old, new)):
            keys = there.config.keys
            if old.fingerprint in keys.recipients and new.fingerprint not in keys.recipients:
                raise TargetRefused(
                    f"{new.fingerprint} is no recipient: nobody would open what {old.fingerprint} opens"
                )
            if old.fingerprint in (*keys.recipients, *keys.retired) and (not final or there.is_left(old, new)):
                there = there.after(self._change(there, Wish(retire=old.fingerprint), held))
            if final and (need := there.need_of(old, self._settings.gone)) is not None:
                raise TargetRefused(f"{old.fingerprint} is still needed: {need}", hint="opskit keys list tells by whom")

    def in_use(self, secret: Secret, kept: Secret, since: float) -> str | None:
        """What keeps the old key from being revoked: what was not seen, and hosts that do not write for the new one."""
        del since  # what stands in the copies counts, whenever it came there
        with self._looking() as there, _held(secret, kept) as (_, (old, new)):
            return there.unseen() or there.waiting_for(old, new, self._settings.gone)

    def _change(self, there: _There, wish: Wish, held: Held) -> Changed:
        before = there.config.keys
        try:
            changed = rekeying.change(
                self._settings.config_file, there.config, there.opened, there.history, there.marks, wish, held
            )
        except (UsageError, ConfigError, NoKey) as error:
            if configs.load(self._settings.config_file).keys == before:
                raise TargetRefused(str(error), hint=error.hint) from error
            raise
        done = changed.rekeyed
        failures = {} if done is None else {name: each.failure for name, each in done.finished.items() if each.failure}
        for name, failure in [*(done.lacking.items() if done else ()), *failures.items()]:
            raise TargetError(f"{name} did not take all key objects: {failure}")
        return changed

    @contextmanager
    def _looking(self, *, writable: bool = False) -> Iterator[_There]:
        """Errors of copies and config as those of targets."""
        try:
            config = configs.load(self._settings.config_file)
            with (
                access.by_config(config, writable=writable) as opened,
                wiring.identity_of(config).keyring as keyring,
            ):
                history = _history(opened)
                yield _There(config, opened, history, opened.marks(), keyring)
        except TargetError:
            raise
        except OpskitError as error:
            raise TargetError(str(error), hint=error.hint) from error

    @contextmanager
    def _working(self) -> Iterator[_There]:
        """While no other run of this host works on the repository."""
        try:
            with exclusive(wiring.lock_file(configs.load(self._settings.config_file))):
                with self._looking(writable=True) as there:
                    yield there
        except TargetError:
            raise
        except OpskitError as error:
            raise TargetError(str(error), hint=error.hint) from error


@dataclass(frozen=True)
class _There:
    """What the copies hold, and who may open it."""

    config: Config
    opened: Access
    history: History
    marks: Marks
    keyring: Keyring

    def after(self, changed: Changed) -> _There:
        """The same copies once key objects were changed: their marks are read again."""
        return _There(self.config.but(keys=changed.after), self.opened, self.history, self.opened.marks(), self.keyring)

    def require_whole(self, key: KeyInfo) -> None:
        """Raise TargetRefused where another recipient opens what this one does not: its heir could not either."""
        found = self._survey()
        if lacking := coverage.not_for(found, key.key_ids, self._others(key)):
            raise TargetRefused(
                f"{len(lacking):,} key objects are for other recipients and not for {key.fingerprint}: "
                "one that came in its place would not open them",
                hint="encrypt them to all of them first: opskit keys rotate --key FILE, with the key of another one",
            )

    def is_opened_by(self, key: KeyInfo, held: Held) -> bool:
        """Whether this key opens what was stored before it was made and others open; some of it is opened."""
        found, made = self._survey(), coverage.made_at(self.history.snapshots, self.marks)
        others = coverage.not_for(found, key.key_ids, self._others(key))
        lacking = [each for each in others if each not in made or made[each].timestamp() < key.created]
        mine = [each for each in found.objects.values() if each.is_vouched and set(key.key_ids) & set(each.key_ids)]
        if lacking or (others and not mine):
            log.warning("key objects are not for this recipient", recipient=key.fingerprint, objects=len(others))
            return False
        try:
            for each in mine[:_TRIALS]:
                held.decrypt(each.data)
        except NoKey as error:
            if "passphrase" in str(error):  # only gpg's words tell a key that is locked from one that does not fit
                raise _misshapen() from None
            return False
        except Damaged:
            return False
        return True

    def unseen(self) -> str | None:
        """Destinations that cannot be seen, and what cannot be read or believed: any of it may need any key."""
        if self.opened.absent:
            return f"{', '.join(sorted(self.opened.absent))} cannot be reached, and what lies there may need it"
        found = openers_of(self.opened, self.config, self.history)
        if found.unread:
            return f"{len(found.unread):,} objects cannot be read or believed, and may need it: opskit verify"
        if found.lost:
            return f"no destination has the key of {len(found.lost):,} runs: opskit heal"
        return None

    def waiting_for(self, old: KeyInfo, new: KeyInfo, gone: Sequence[str]) -> str | None:
        """Other hosts that have stored nothing for the new key yet."""
        found, silent = self._survey(), set(openers_of(self.opened, self.config, self.history).unsure)
        for host, written in self._written_by_others().items():
            last = found.objects.get(written[-1])
            if last and set(last.key_ids) & set(old.key_ids) and not set(last.key_ids) & set(new.key_ids):
                silent.add(host)
        if hosts := sorted(silent - set(gone)):
            return (
                f"{', '.join(hosts)} stored nothing for the new key yet: expected {new.fingerprint} among the "
                "recipients there (opskit keys add), and a backup after that"
            )
        return None

    def is_left(self, old: KeyInfo, new: KeyInfo) -> bool:
        """Whether a key that goes opens more than what other hosts wrote for both: that shows that they follow."""
        told = {digest for written in self._written_by_others().values() for digest in written}
        return any(
            set(each.key_ids) & set(old.key_ids) and not (digest in told and set(each.key_ids) & set(new.key_ids))
            for digest, each in self._survey().objects.items()
            if each.is_vouched
        )

    def need_of(self, old: KeyInfo, gone: Sequence[str]) -> str | None:
        """Why a key that was revoked must be kept all the same."""
        found = openers_of(self.opened, self.config, self.history)
        places = {name: each.needed for name, each in found.of(old.fingerprint).items() if each.needed}
        if places:
            return ", ".join(f"{count:,} key objects at {name}" for name, count in sorted(places.items()))
        if hosts := sorted(set(found.unsure) - set(gone)):
            return f"{', '.join(hosts)} stored nothing since, and may write for it"
        return self.unseen()

    def _written_by_others(self) -> dict[str, list[str]]:
        found = coverage.written_by(self.history.snapshots, self.marks)
        return {host: written for host, written in found.items() if host != self.config.host}

    def _survey(self) -> Survey:
        own = [row.key for row in self.opened.cache.runs().values()] if self.opened.cache else []
        return survey(
            self.opened.copies, self.history.snapshots, self.marks, more=own, workers=self.config.performance.workers
        )

    def _others(self, key: KeyInfo) -> set[str]:
        """The key ids of the other recipients."""
        others = set(self.config.keys.recipients) - {key.fingerprint}
        return {key_id for each in self.keyring.keys() if each.fingerprint in others for key_id in each.key_ids}


@contextmanager
def _held(*values: Secret) -> Iterator[tuple[Held, list[KeyInfo]]]:
    """The private keys of these values, in memory, and each of them; raises TargetRefused."""
    with gpg.ephemeral_keyring(None) as keyring:
        found = []
        for value in values:
            try:
                (fingerprint,) = keyring.import_keys(_armored(value))
            except (Damaged, ValueError):
                raise _misshapen() from None  # the cause may tell of the value
            found.append(fingerprint)
        keys = {each.fingerprint: each for each in _private(keyring)}
        held = Held(
            list(keys.values()),
            lambda data: keyring.decrypt(data, passphrase=b"").payload,
            lambda data, signer: keyring.sign(data, signer, passphrase=b""),
        )
        if not keys.keys() >= set(found):  # a card's stub, or a public key
            raise _misshapen()
        yield held, [keys[each] for each in found]


def _private(keyring: Keyring) -> list[KeyInfo]:
    return [each for each in keyring.keys() if each.has_secret]


def _armored(value: Secret) -> bytes:
    try:
        return keyfile.decode(value.reveal_bytes()).secret
    except Damaged:
        raise _misshapen() from None


def _misshapen() -> TargetRefused:
    return TargetRefused(
        "the value in the store is no recovery-key file: expected one private key, without a passphrase",
        hint="set it once by hand: opskit secrets set REFERENCE < recovery-key.asc",
    )


def _required(current: Secret | None) -> Secret:
    if current is None:
        raise TargetRefused(
            "the store has no key that opens the backups: a new one could not be let in",
            hint="set it once by hand: opskit secrets set REFERENCE < recovery-key.asc",
        )
    return current


def _history(opened: Access) -> History:
    try:
        return opened.history()
    except CacheError:  # a backup on this host holds it
        opened.cache = None
        return opened.history()

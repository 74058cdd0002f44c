"""A recipient of the backups as a rotation target; its private key is what a secret store keeps.

A value is *accepted* where the config names its recipient, and where it opens what this host's backups hold: tried on
key objects, as a restore would. Two slots: both keys open everything until the old one is revoked, which encrypts the
run keys of all copies to those who stay.

Invariants:
- Nothing is written, config or copies, before every recipient who is to stay is known to be one that can be encrypted
  to, and before every other host is known not to write for a key that goes and not for the one that stays.
- After each act the config is read again: it names nobody whose key goes. Only then the old value may go, and with it a
  note in the state folder, so that this host never encrypts to that key again, whatever puts it back into the config.
- All private keys at hand agree to each mark: who knows either of the two follows it.
- Both private keys are at hand when key objects are encrypted anew: nothing is left that only the one which goes opens.

Order and crash-safety of each act are those of `setup.rekeying` and `operations.rekeying`. A host that backs up should
reach no private key but while somebody rotates: the store is one that asks for that person's credential.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opskit import access, gpg, wiring
from opskit.access import Access, Held
from opskit.config import load as configs
from opskit.config.model import Config
from opskit.errors import (
    CacheError,
    NoKey,
    OpskitError,
    RepositoryLocked,
    TargetError,
    TargetRefused,
    UsageError,
)
from opskit.gpg import KeyInfo
from opskit.log import logger
from opskit.operations.keyobjects import require_passphrase
from opskit.operations.lock import exclusive
from opskit.operations.successors import put_where_absent
from opskit.repository import deleted_keys, sealed_keys
from opskit.repository.durable import require_writable
from opskit.repository.history import History
from opskit.repository.identity import read_repository_id
from opskit.repository.recovery import keyfile
from opskit.secrets.reference import Secret
from opskit.setup import recipients, rekeying
from opskit.setup.backup_key import values
from opskit.setup.backup_key.copies import Copies
from opskit.setup.rekeying import Made, Wish

log = logger(__name__)


@dataclass(frozen=True)
class BackupKeySettings:
    """`config_file` says who the recipients are, and is written. `user_id` of new keys; None: that of the one before.

    `gone` are hosts that back up no more: nobody waits until they write for a new key.
    """

    config_file: Path
    user_id: str | None = None
    gone: tuple[str, ...] = ()


class BackupKey:
    """Replaces a recipient; see `opskit.secrets.rotation.base`: RotationTarget, Foreseeing, Keeper."""

    keeps_old = True

    def __init__(self, settings: BackupKeySettings) -> None:
        self._settings = settings
        self._partners: dict[str, KeyInfo] = {}  # by fingerprint, whose key comes before it or after it

    def foresee(self, current: Secret | None, previous: Secret | None) -> None:
        """Refused where it is known that the way forward or back would be, whatever happens meanwhile."""
        with values.held_of(values.required(current)) as (held, (old,)):
            with self._looking() as copies:
                config, path = copies.config, self._settings.config_file
                self._require_recipient(config, old, values.repository_in(values.required(current)))
                values.require_unlocked(held, old)
                rekeying.require_maintainer(config)
                require_passphrase(wiring.identity_of(config))
                copies.require_usable(config.keys)
                copies.require_whole(old)
                recipients.require_editable(path, recipients.with_added(config.keys, "0" * 40))
                require_writable(path)
                self._require_replaceable(config, previous, old)

    def create(self, current: Secret | None, since: float) -> Secret:
        """A recovery-key file of a new recipient whom nothing names yet; no copy is asked."""
        del since  # nothing is left behind by a call that is interrupted
        with (
            self._as_target(),
            values.held_of(values.required(current)) as (_, (old,)),
            gpg.ephemeral_keyring(None) as keyring,
        ):
            config = self._config()
            made = Made(keyring.generate(self._settings.user_id or old.user_id), keyring, None)
            repository = read_repository_id(config.state_dir) or ""
            return Secret(
                keyfile.encode(rekeying.key_file(config, repository, made, wiring.identity_of(config).keyring))
            )

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Make it a recipient beside `current`, and encrypt all run keys to both that either opens."""
        with (
            self._working() as copies,
            values.held_of(values.required(current), secret) as (held, (old, new)),
            gpg.ephemeral_keyring(None) as keyring,
        ):
            self._pair(old, new)
            copies.require_usable(recipients.with_added(copies.config.keys, new.fingerprint), [old, new])
            failures: Mapping[str, OpskitError] = {}
            for key, value in ((old, values.required(current)), (new, secret)):
                # Unless somebody retired it, the other one must not be left out of what is encrypted now.
                keys = copies.config.keys
                if key is new or key.fingerprint not in (*keys.recipients, *keys.retired):
                    keyring.import_keys(values.armored(value))
                    failures = self._change(
                        copies, Wish(made=Made(key.fingerprint, keyring, None), all_agree=True), held
                    )
                    copies = copies.renewed(self._config())
            _warn_of_lacking({**copies.opened.absent, **failures})

    def verify(self, secret: Secret) -> bool:
        """Whether it is a recipient's, and opens what this host stored and others open."""
        with self._looking() as copies, values.held_of(secret) as (held, (key,)):
            is_named = key.fingerprint in copies.config.keys.recipients
            return is_named and copies.is_opened_by(key, held, self._partners.get(key.fingerprint))

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Retire the recipient; what it opens is encrypted to the others. `final` raises where anything needs it."""
        with self._working() as copies, values.held_of(secret, kept) as (held, (old, new)):
            self._pair(old, new)
            if copies.is_nowhere(old):
                return
            self._require_kept(copies, old, new)
            copies = self._retired(copies, old, held)
            if final:
                self._require_unneeded(copies, old)
                self._seal(copies, secret, old, kept)
                deleted_keys.note(copies.config.state_dir, old.fingerprint, wiring.now())

    def need_of(self, secret: Secret, kept: Secret) -> str | None:
        """What was not seen, who cannot be encrypted to, and hosts that do not write as they should."""
        with self._looking() as copies, values.held_of(secret, kept) as (_, (old, new)):
            self._pair(old, new)
            try:
                self._require_kept(copies, old, new)
                copies.require_whole(new, old)
                if old.fingerprint not in copies.config.keys.recipients:
                    self._require_unnamed(copies, old)
            except TargetRefused as error:
                return str(error) if error.hint is None else f"{error} ({error.hint})"
            if hosts := copies.unsure(self._settings.gone):
                return _lacking_at(hosts, new)
            return copies.unseen()

    def _require_recipient(self, config: Config, key: KeyInfo, repository: str | None) -> None:
        """Raise TargetRefused where the value in the store is not the key of a recipient of these backups."""
        if repository not in (None, read_repository_id(config.state_dir)):
            raise TargetRefused(
                f"the value in the store is the recovery key of another repository, {repository}",
                hint=values.SET_BY_HAND,
            )
        if key.fingerprint in config.keys.recipients:
            return
        what = "retired: it opens no new backups" if key.fingerprint in config.keys.retired else "no recipient"
        raise TargetRefused(
            f"{key.fingerprint}, whose private key the store has, is {what}: expected one of "
            f"{', '.join(config.keys.recipients)}",
            hint=f"{values.SET_BY_HAND}\nor make it one again: opskit keys add PUBLICKEYFILE",
        )

    def _require_replaceable(self, config: Config, previous: Secret | None, current: KeyInfo) -> None:
        """Raise TargetRefused where the store has a third key, which a rotation would replace without any proof."""
        found = None if previous is None else values.fingerprint_in(previous)
        if found in (None, current.fingerprint) or found in deleted_keys.read(config.state_dir):
            return
        raise TargetRefused(
            f"the previous value in the store is the private key of {found}: a rotation would put another one in its "
            "place, and nothing shows that no backup needs it",
            hint="where it is of an earlier rotation: opskit rotate status, on every host that rotates it; else keep a "
            "copy elsewhere (opskit secrets get 'REFERENCE?stage=previous'), then opskit secrets delete it there",
        )

    def _require_kept(self, copies: Copies, old: KeyInfo, new: KeyInfo) -> None:
        """Raise TargetRefused where nobody would open what only the old key opens; nothing was changed."""
        keys = copies.config.keys
        if new.fingerprint not in keys.recipients:
            raise TargetRefused(
                f"{self._settings.config_file} does not name {new.fingerprint}: nobody would open what "
                f"{old.fingerprint} opens",
                hint=f"opskit keys add {new.fingerprint}",
            )
        copies.require_usable(recipients.without(keys, old.fingerprint) if old.fingerprint in keys.recipients else keys)
        if hosts := copies.without(new, old, self._settings.gone):
            raise TargetRefused(_lacking_at(hosts, new))

    def _require_unnamed(self, copies: Copies, old: KeyInfo) -> None:
        """Raise TargetRefused where another host still encrypts to it, beside others: it may be left alone there."""
        if hosts := copies.naming(old, self._settings.gone):
            raise TargetRefused(
                f"{', '.join(hosts)} {_back(hosts)} up for {old.fingerprint} still: there, opskit keys remove "
                f"{old.fingerprint}, then back up (with nothing new, too); name hosts that back up no more in `gone`"
            )

    def _pair(self, old: KeyInfo, new: KeyInfo) -> None:
        self._partners |= {old.fingerprint: new, new.fingerprint: old}

    def _seal(self, copies: Copies, secret: Secret, old: KeyInfo, kept: Secret) -> None:
        """Leave the key that goes at every copy, encrypted to those who stay; read back and opened by the one kept.

        Then nothing is lost whatever turns up that only it opens: a host that was asleep, a disk from another safe.
        """
        config, now = copies.config, wiring.now()
        name, data = sealed_keys.make(
            copies.keyring, config.keys.host or "", copies.opened.repository, config.host, old.fingerprint,
            config.keys.recipients, values.armored(secret), now,
        )  # fmt: skip
        for destination, failure in put_where_absent(copies.opened.copies, name, data).items():
            raise TargetError(f"{destination} did not take the sealed key of {old.fingerprint}: {failure}")
        for copy in copies.opened.copies:
            if copy.get(name) != data:
                raise TargetError(f"{copy.destination} gave back another sealed key than it was given")
        with values.held_of(kept) as (held, _):
            opened = [held.decrypt(each.sealed) for each in copies.opened.sealed_keys() if each.name == name]
            if [*map(values.fingerprint_of, opened)] != [old.fingerprint]:
                raise TargetError(f"the sealed key of {old.fingerprint} does not open to what went in")

    def _retired(self, copies: Copies, old: KeyInfo, held: Held) -> Copies:
        """The config names it no more, and it opens nothing more at the copies at hand."""
        keys = copies.config.keys
        named = old.fingerprint if old.fingerprint in (*keys.recipients, *keys.retired) else None
        for name, failure in self._change(copies, Wish(retire=named, all_agree=True), held).items():
            raise TargetError(f"{name} did not take all key objects: {failure}")
        config = self._config()
        if old.fingerprint in config.keys.recipients:
            raise TargetError(
                f"{self._settings.config_file} names {old.fingerprint} again, which was just retired there: expected "
                "that nothing else writes it meanwhile (configuration management, perhaps)"
            )
        return copies.renewed(config)

    def _require_unneeded(self, copies: Copies, old: KeyInfo) -> None:
        self._require_unnamed(copies, old)
        need = copies.unseen() or copies.need_of(old)
        if need is not None:
            raise TargetRefused(f"{old.fingerprint} must be kept: {need}", hint="opskit keys list tells by whom")

    def _change(self, copies: Copies, wish: Wish, held: Held) -> Mapping[str, OpskitError]:
        """The destinations that did not take it all, with reasons; raises TargetRefused where nothing was changed."""
        before = copies.config.keys
        try:
            changed = rekeying.change(
                self._settings.config_file, copies.config, copies.opened, copies.history, copies.marks, wish, held
            )
        except (UsageError, NoKey) as error:
            if self._config().keys == before:
                raise TargetRefused(str(error), hint=error.hint) from error
            raise
        done = changed.rekeyed
        if done is None:
            raise TargetError(f"the key objects were not encrypted anew: {'; '.join(changed.unusable)}")
        for name in [name for name, each in done.finished.items() if each.locked]:
            log.warning(
                "a lock keeps key objects there that were encrypted anew: the old key opens them", destination=name
            )
        return done.lacking | {name: each.failure for name, each in done.finished.items() if each.failure}

    def _config(self) -> Config:
        return configs.load(self._settings.config_file)

    @contextmanager
    def _looking(self, *, writable: bool = False) -> Iterator[Copies]:
        with self._as_target():
            config = self._config()
            with (
                access.by_config(config, writable=writable) as opened,
                wiring.identity_of(config).keyring as keyring,
            ):
                yield Copies(config, opened, _history(opened), opened.marks(), keyring)

    @contextmanager
    def _working(self) -> Iterator[Copies]:
        """While no other run of this host works on the repository."""
        with self._as_target(), exclusive(wiring.lock_file(self._config())):
            with self._looking(writable=True) as copies:
                yield copies

    @contextmanager
    def _as_target(self) -> Iterator[None]:
        """Errors of copies, config and gpg as those of targets; who waits for another run is told so."""
        try:
            yield
        except (TargetError, RepositoryLocked):
            raise
        except OpskitError as error:
            raise TargetError(str(error), hint=error.hint) from error


def _warn_of_lacking(lacking: Mapping[str, OpskitError]) -> None:
    for name, reason in sorted(lacking.items()):
        log.warning("a destination opens by one of both keys only: both are kept", destination=name, reason=str(reason))


def _lacking_at(hosts: Sequence[str], new: KeyInfo) -> str:
    return (
        f"{', '.join(hosts)} {_back(hosts)} up for recipients without {new.fingerprint}: give its public key to opskit "
        "keys add there, then back up (with nothing new, too); name hosts that back up no more in `gone`"
    )


def _back(hosts: Sequence[str]) -> str:
    return "backs" if len(hosts) == 1 else "back"


def _history(opened: Access) -> History:
    try:
        return opened.history()
    except CacheError:  # a backup on this host holds it
        opened.cache = None
        return opened.history()

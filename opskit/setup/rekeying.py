"""What `opskit keys add|remove|rotate` do: first the config, then the key objects of every copy.

Order: the recovery-key file of a new recipient is on disk, its public half in this host's key ring, and the config
written, before anything is encrypted to it. In that order because a backup that begins meanwhile must write for the
new recipients: written afterwards, a crash in between would leave a config that brings the old ones back with the next
rekey. Interrupted anywhere, everything opens with the old key or the new one, and `opskit keys rotate` finishes. A
recovery-key file that came to be of no use is removed; one that a kill left is told of by the next run (`unused_key`).

Nothing is asked of a person here, and nothing is printed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from opskit import gpg, wiring
from opskit.access import Access, Held
from opskit.config.model import Config, Keys
from opskit.errors import Damaged, NoKey, UsageError
from opskit.gpg import KeyInfo, Keyring, owners
from opskit.gpg.listing import normalised
from opskit.operations import initialise as operations
from opskit.operations.keyobjects import require_passphrase, wanted_readers
from opskit.operations.rekeying.rekey import Author, Holder, Rekeyed, rekey
from opskit.operations.rekeying.survey import KeyObject, Survey, survey
from opskit.repository import deleted_keys, sealed_keys
from opskit.repository.durable import require_writable
from opskit.repository.history import History
from opskit.repository.marks import Marks
from opskit.repository.recovery.keyfile import KeyFile
from opskit.setup import recipients, unused_key
from opskit.setup.places import require_new_file
from opskit.setup.unused_key import Left

_TRIALS = 3
"""How many key objects a private key is tried on before anything is changed: one of them may be somebody's trick."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to change: a recipient to add (a key file or fingerprint), or one that is made new; one to retire.

    `made` is a recipient to add whose private key is in memory, and kept elsewhere already.
    """

    add: str | None = None
    retire: str | None = None
    new_recipient: str | None = None
    recovery_key: Path | None = None
    passphrase: bytes | None = field(default=None, repr=False)
    made: Made | None = None
    all_agree: bool = False
    """Every private key at hand agrees to what is done: none of them has to be asked for."""


@dataclass(frozen=True, slots=True)
class Made:
    """A recipient whose private key is in memory."""

    fingerprint: str
    keyring: gpg.Keyring
    passphrase: bytes | None = field(default=None, repr=False)

    def decrypt(self, data: bytes) -> bytes:
        """Open a key object; raises NoKey."""
        return self.keyring.decrypt(data, passphrase=self.passphrase or b"").payload

    def sign(self, data: bytes) -> bytes:
        """A message signed by it."""
        return self.keyring.sign(data, self.fingerprint, passphrase=self.passphrase or b"")


@dataclass(slots=True)
class Changed:
    """What came of it: who could restore before and can now, and what was done to key objects (None: no key).

    `unused_key` is what an earlier run left, or may have left, of a key that opens nothing. `unusable` says which
    recipients cannot be encrypted to: then the config alone was changed, if that was the wish.
    """

    before: Keys
    after: Keys
    rekeyed: Rekeyed | None = None
    only_retired: dict[str, list[str]] = field(default_factory=dict)
    """Key objects that no present recipient opens, and who does."""
    outdated: int = 0
    """Key objects that are not for exactly the recipients, where no key was at hand to change that."""
    recovery_key: Path | None = None
    unused_key: Left | None = None
    unusable: list[str] = field(default_factory=list)
    taken_back: str | None = None
    """Who was added although it was noted that his private key was deleted: the note is gone."""


def at_hand(held: Held | None, keys: Keys) -> Held | None:
    """The private keys that are, or were, recipients' of this config; None where there is none.

    Those that were sealed to them may be of anybody: they only open.
    """
    mine = [each for each in held.keys if each.fingerprint in (*keys.recipients, *keys.retired)] if held else []
    return replace(held, keys=mine) if held and mine else None


def change(
    path: Path, config: Config, opened: Access, history: History, marks: Marks, wish: Wish, held: Held | None,
    *, dry_run: bool = False,
) -> Changed:  # fmt: skip
    """Carry a wish out, or tell what it would come to; `held` are private keys of recipients at hand, if any.

    Raises UsageError for what cannot be meant, NoKey, ConfigError, StoreError.
    """
    require_maintainer(config)
    sealed = opened.sealed_keys()
    if not dry_run:
        sealed_keys.note_deleted(config.state_dir, config.keys.recipients, sealed)
    workers, deleted = config.performance.workers, deleted_keys.objections(config.state_dir)
    own = [row.key for row in opened.cache.runs().values()] if opened.cache else []
    found = survey(opened.copies, history.snapshots, marks, more=own, workers=workers)
    with wiring.identity_of(config).keyring as keyring, _new_one(wish, config) as made:
        public, added = _added(wish, made, config.keys, keyring)
        taken_back = added if deleted.pop(added, None) else None  # whoever adds a key says that somebody has it
        after = _after(config.keys, wish, added)
        known = [*keyring.keys(), *_infos(public)]
        unusable = recipients.require_usable(known, after.recipients, added, wiring.now().timestamp(), deleted)
        able = set(after.recipients) - deleted.keys()
        held = held if not unusable or wish == Wish() else None  # who is left out of key objects is left out for good
        heirs = {each.recipient: sealed_keys.who_opens(each.recipient, sealed, opened.copies, able) for each in sealed}
        _require_openable(found, known, able, heirs, held, wish, unusable)
        if held is not None:
            _require_working(found, held, wish)
            require_passphrase(wiring.identity_of(config))
        holder = _holder(held, made, wish) if held is not None else None
        if holder is not None and wish != Wish():
            holder.require_consent()
        recipients.require_editable(path, after)
        result = Changed(
            config.keys, after, recovery_key=wish.recovery_key if made else None, unusable=unusable,
            taken_back=taken_back,
        )  # fmt: skip
        result.unused_key = unused_key.left(config.state_dir, config.keys, wish.recovery_key)
        if not dry_run:
            require_writable(path)
            _write_key_file(config, opened, wish, made, keyring)
            _settle(path, config, wish, made, public, after, keyring)
            said = [each.created for each in sealed if each.recipient == added]
            if taken_back or said:  # whatever the clock of the host was that sealed it
                deleted_keys.take_back(config.state_dir, added, max([wiring.now(), *said]))
        changed = config.but(keys=after)
        if holder is None:
            _tell_left(result, found, known, after, able)
            return result
        if dry_run and public:
            return _dry(result, config, opened, found, marks, holder, public, workers)
        author = Author(wiring.identity_of(changed), opened.repository, config.host, wiring.now, wiring.boottime)
        result.rekeyed = rekey(opened.copies, found, marks, holder, author, workers=workers, dry_run=dry_run)
    return result


def require_maintainer(config: Config) -> None:
    """Raise NoKey where this host's mark would not be believed: before anything is changed."""
    if config.keys.host not in config.keys.maintainers:
        raise NoKey(
            "this host's key is not a maintainer's, so its marks would not be believed",
            hint="run this where the key of one of keys.maintainers is the host's key",
        )


@contextmanager
def _new_one(wish: Wish, config: Config) -> Iterator[Made | None]:
    if wish.new_recipient is None:
        yield wish.made
        return
    if wish.recovery_key is None:
        raise UsageError("--new-recipient needs --recovery-key FILE: where shall the private half go?")
    unused_key.require_other_file(config.state_dir, config.keys, wish.recovery_key)
    require_new_file(wish.recovery_key)
    with gpg.ephemeral_keyring(None) as keyring:
        fingerprint = keyring.generate(wish.new_recipient, passphrase=wish.passphrase)
        yield Made(fingerprint, keyring, wish.passphrase)


def _added(wish: Wish, made: Made | None, keys: Keys, keyring: Keyring) -> tuple[bytes, str]:
    """The public key of who is added, and its fingerprint; nothing where nobody is."""
    if made is not None:
        return made.keyring.export_public([made.fingerprint]), made.fingerprint
    if wish.add is None:
        return b"", ""
    try:
        (only,), _ = operations.read_recipients([wish.add], wiring.now().timestamp())
    except UsageError:
        # This host may know him, who is a recipient or was one, where the gpg of whoever types does not.
        known, ours = normalised(wish.add), {keys.host, *keys.signers, *keys.maintainers}
        if known in ours or known not in {key.fingerprint for key in keyring.keys()}:
            raise
        return keyring.export_public([known]), known
    return only.public, only.fingerprint


def _after(keys: Keys, wish: Wish, added: str) -> Keys:
    if added and wish.retire and wish.retire in keys.recipients:
        return recipients.replaced(keys, wish.retire, added)
    if added:
        return recipients.with_added(keys, added)
    return recipients.without(keys, wish.retire) if wish.retire else keys


def _infos(public: bytes) -> Sequence[KeyInfo]:
    if not public:
        return []
    with gpg.ephemeral_keyring(public) as scratch:
        return scratch.keys()


def _require_openable(
    found: Survey, known: Sequence[KeyInfo], able: Collection[str], heirs: Mapping[str, Sequence[str]],
    held: Held | None, wish: Wish, unusable: Sequence[str],
) -> None:  # fmt: skip
    """Raise NoKey where a recipient goes without whom some run would be opened by nobody who stays and is `able` to.

    `heirs` are those who open a key that is sealed: present recipients, or else others.
    """
    if wish.retire is None:
        return

    def who_opens(each: KeyObject) -> set[str]:
        who = owners(each.key_ids, known)
        return {*who, *(heir for one in who for heir in heirs.get(one, ()))}

    mine = {key_id for each in ((*held.keys, *held.sealed) if held else ()) for key_id in each.key_ids}
    stuck = [
        digest
        for digest, each in found.objects.items()
        if wish.retire in who_opens(each)
        and not set(able).intersection(who_opens(each))
        and not mine.intersection(each.key_ids)
    ]
    if stuck:
        raise NoKey(
            f"{len(stuck):,} key objects are opened by {wish.retire} and by nobody who would be left",
            # No key helps there: nothing is encrypted anew as long as somebody would be left out of it.
            hint=f"renew (opskit keys add) or remove first who cannot be encrypted to: {'; '.join(unusable)}"
            if unusable
            else "give a private key that opens them, to encrypt them anew: --key FILE",
        )


def _require_working(found: Survey, held: Held, wish: Wish) -> None:
    """Raise NoKey where the private keys at hand open nothing that is for them, or cannot give the consent.

    A wrong passphrase, or a card that is not there, must not leave a config that was changed and nothing else.
    """
    mine = {key_id for each in held.keys for key_id in each.key_ids}
    fitting = [each for each in found.objects.values() if each.is_vouched and mine.intersection(each.key_ids)]
    failure: NoKey | None = None
    for each in fitting[:_TRIALS]:
        with suppress(Damaged):  # told later, with what else cannot be read
            try:
                held.decrypt(each.data)
                failure = None
                break
            except NoKey as error:
                failure = failure or error
    if failure is not None:
        raise NoKey(
            f"the private key at hand cannot be used: {failure}",
            hint=failure.hint
            or "is its card attached? a passphrase that cannot be asked for here: --passphrase REFERENCE",
        ) from failure
    signer = _signer(held)
    if signer is not None and wish != Wish():
        held.sign(b"", signer)


def _signer(held: Held) -> str | None:
    """Whose consent it is to be: the first key at hand that can sign."""
    return next((each.fingerprint for each in held.keys if each.can_sign), None)


def _write_key_file(config: Config, opened: Access, wish: Wish, made: Made | None, keyring: gpg.Keyring) -> None:
    """The recovery-key file of a new recipient, durably."""
    if made is None or wish.recovery_key is None:
        return
    file = key_file(config, opened.repository, made, keyring)
    unused_key.note(config.state_dir, made.fingerprint, wish.recovery_key, file)
    try:
        operations.write_recovery_key(wish.recovery_key, file)
    except BaseException:
        if not os.path.lexists(wish.recovery_key):  # it may stay where the stick turned read-only
            unused_key.forget(config.state_dir)
        raise


def key_file(config: Config, repository: str, made: Made, keyring: gpg.Keyring) -> KeyFile:
    """What the recovery-key file of a recipient says; `keyring` is this host's."""
    keys, secret = config.keys, made.keyring.export_secret(made.fingerprint, passphrase=made.passphrase)
    file = operations.recovery_key(keyring, repository, keys.host or "", secret)
    everyone = list(dict.fromkeys([*keys.signers, *keys.maintainers]))
    return replace(file, signers=keys.signers, maintainers=keys.maintainers, public=keyring.export_public(everyone))


def _settle(
    path: Path, config: Config, wish: Wish, made: Made | None, public: bytes, after: Keys, keyring: gpg.Keyring
) -> None:
    """The public half into this host's key ring, and the config; else a file for whom nothing was made goes again."""
    try:
        if public:
            keyring.import_keys(public)
        recipients.write(path, after)
    except BaseException:
        if made is not None and wish.recovery_key is not None and not recipients.names(path, made.fingerprint):
            wish.recovery_key.unlink(missing_ok=True)
            unused_key.forget(config.state_dir)
        raise
    unused_key.forget(config.state_dir)


def _holder(held: Held, made: Made | None, wish: Wish) -> Holder:
    signers = [each.fingerprint for each in held.keys if each.can_sign]
    consents = [partial(_signed, held, each) for each in (signers if wish.all_agree else signers[:1])]
    return Holder(
        frozenset(key_id for each in (*held.keys, *held.sealed) for key_id in each.key_ids),
        held.decrypt,
        [*consents, *([made.sign] if made else [])],
        [made.decrypt] if made else [],
    )


def _signed(held: Held, signer: str, data: bytes) -> bytes:
    return held.sign(data, signer)


def _dry(
    result: Changed, config: Config, opened: Access, found: Survey, marks: Marks, holder: Holder, public: bytes,
    workers: int,
) -> Changed:  # fmt: skip
    """What a rekey to a recipient would come to whose key this host must not take in yet."""
    with gpg.ephemeral_keyring(public) as scratch:
        own = wiring.identity_of(config)
        present = [each for each in result.after.recipients if each in {key.fingerprint for key in own.keyring.keys()}]
        if present:
            scratch.import_keys(own.keyring.export_public(present))
        identity = replace(own, keyring=scratch, recipients=result.after.recipients)
        author = Author(identity, opened.repository, config.host, wiring.now, wiring.boottime)
        result.rekeyed = rekey(opened.copies, found, marks, holder, author, workers=workers, dry_run=True)
    return result


def _tell_left(result: Changed, found: Survey, known: Sequence[KeyInfo], after: Keys, able: Collection[str]) -> None:
    for digest, each in found.objects.items():
        who = owners(each.key_ids, known)
        if sorted(who) != wanted_readers(after.recipients, passphrase=after.passphrase is not None):
            result.outdated += 1
        if not set(who).intersection(able):
            result.only_retired[digest] = who

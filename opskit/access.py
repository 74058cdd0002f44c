"""Ways into a repository for commands that read it: by the config, or by a location and a key file alone.

Invariant: whose signatures count is known before a manifest is believed: from the config on a host that
has one, from the recovery-key file otherwise. Nothing in the repository is asked about that but certificates, by which
those whose signatures count already say which keys come after theirs.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from opskit import gpg
from opskit.config.model import Config
from opskit.errors import CacheError, CopyUnidentified, Damaged, NoKey, OpskitError, RepositoryNotFound, together
from opskit.gpg import KeyInfo, Keyring, Signed
from opskit.locations import is_bucket
from opskit.operations.session import Host, cache_file, open_copies
from opskit.operations.successors import successors, told
from opskit.operations.unsealing import Unsealing
from opskit.repository import names, sealed_keys
from opskit.repository.believing import Rejected
from opskit.repository.cache import Cache, open_or_replace
from opskit.repository.consent import Agreed, nobody_agrees
from opskit.repository.copy import Copy
from opskit.repository.evidence import Ledger, load_evidence
from opskit.repository.heads import Heads
from opskit.repository.history import History, load_history
from opskit.repository.marks import Marks, load_marks
from opskit.repository.recovery import keyfile
from opskit.repository.recovery.keyfile import KeyFile
from opskit.repository.sealed_keys import SealedKey
from opskit.repository.unlocking import Decrypt
from opskit.stores.base import Store
from opskit.wiring import host_of, read_only, store_at, stores_of

Ask = Callable[[str], bytes]
"""Asks the person for a passphrase; raises NoKey where there is nobody to ask."""

MAX_KEY_FILE = 1024 * 1024


@dataclass(slots=True)
class Access:
    """Opened copies and what it takes to judge them. `cache` and `heads` only on a host with a config.

    `notes` tell what this host's state could not give; `is_host` that there is one, by a config. Without
    `judges_signatures` manifests are taken as they stand, whoever made them: good for comparing hashes alone.
    """

    copies: list[Copy]
    absent: Mapping[str, OpskitError]
    repository: str
    signers: Sequence[str]
    trusted: Path
    cache: Cache | None = None
    heads: Heads | None = None
    recover_sha256: str | None = None
    notes: list[str] = field(default_factory=list)
    judges_signatures: bool = True
    maintainers: Sequence[str] = ()
    is_host: bool = False
    agreed: Agreed = nobody_agrees

    @property
    def lost_heads(self) -> bool:
        """Whether this host's memory of what copies acknowledged is damaged or cannot be read.

        Then a rollback may go unseen. Who reads with a key file has no such memory to lose.
        """
        return self.heads.lost is not None if self.heads is not None else self.is_host

    def verify(self, data: bytes) -> Signed:
        """Check a signed object against the trusted keys; raises Forged."""
        return gpg.verify(data, self.trusted) if self.judges_signatures else gpg.unjudged(data)

    def history(self, source: str | None = None) -> History:
        """All snapshots the copies show."""
        return load_history(
            self.copies,
            self.verify,
            signers=self.signers,
            repository=self.repository,
            cache=self.cache,
            source=source,
        )

    def marks(self, torn: Sequence[Rejected] = ()) -> Marks:
        """All marks the copies show; without the cache while a backup on this host holds it."""
        try:
            return self._marks(self.cache, torn)
        except CacheError:
            return self._marks(None, torn)

    def evidence(self) -> Ledger:
        """All evidence the copies show; without the cache while a backup on this host holds it."""
        try:
            return self._evidence(self.cache)
        except CacheError:
            return self._evidence(None)

    def sealed_keys(self) -> list[SealedKey]:
        """The private keys that were sealed, oldest first; none where no signature is judged."""
        known = self.maintainers if self.judges_signatures else ()
        return sealed_keys.load(self.copies, self.verify, maintainers=known, repository=self.repository)

    def _evidence(self, cache: Cache | None) -> Ledger:
        return load_evidence(self.copies, self.verify, signers=self.signers, repository=self.repository, cache=cache)

    def _marks(self, cache: Cache | None, torn: Sequence[Rejected]) -> Marks:
        return load_marks(
            self.copies, self.verify,
            maintainers=self.maintainers, repository=self.repository, agreed=self.agreed, cache=cache, torn=torn,
        )  # fmt: skip


@contextmanager
def by_config(
    config: Config,
    destinations: Sequence[str] = (),
    *,
    writable: bool = False,
    may_be_none: bool = False,
    is_brief: bool = False,
) -> Iterator[Access]:
    """Open the copies of a config, or those named.

    Raises an error that names each one when none can be opened, unless there `may_be_none`. Copies can be changed only
    if they are opened `writable`. `is_brief`: who only looks does not wait long for a server that does not answer.
    A state folder that cannot be written (a root that was remounted read-only) costs the cache and is noted.
    """
    host = host_of(config)
    notes = list[str]()
    heads = _heads_of(host, notes)  # before the listings: what a backup acknowledges meanwhile is not in them
    stores = stores_of(config, destinations, is_brief=is_brief)
    copies, absent = open_copies(stores if writable else read_only(stores), host.repository)
    if not copies and not may_be_none:
        error = together(absent)
        if isinstance(error, RepositoryNotFound):  # somebody who wants to read wants no new copy
            error.hint = "are the right disks mounted there? --repository DIR --key FILE reads a copy at another place"
        raise error
    identity = host.identity
    cache = _cache_of(host, notes)
    try:
        yield Access(
            copies, absent, host.repository, identity.signers, identity.trusted, cache, heads,
            notes=notes, maintainers=identity.maintainers, is_host=True, agreed=identity.agreed,
        )  # fmt: skip
    finally:
        if cache is not None:
            with contextlib.suppress(CacheError):
                cache.close()


def _cache_of(host: Host, notes: list[str]) -> Cache | None:
    try:
        return open_or_replace(cache_file(host), host.repository)
    except (OSError, CacheError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        notes.append(f"{host.state} cannot be written ({reason}): reading goes on without the cache, only slower")
        return None


def _heads_of(host: Host, notes: list[str]) -> Heads | None:
    try:
        heads = Heads(host.state / "heads" / f"{host.repository}.json")
    except OSError as error:
        notes.append(f"{error.filename}: {error.strerror}: a rollback of a copy cannot be seen")
        return None
    if heads.lost is not None:
        notes.append(heads.lost)
    return heads


def why_none_opens(stores: Mapping[str, Store], repository: str) -> OpskitError | None:
    """Asks every destination anew; the error of all of them, or None where one can be opened."""
    copies, absent = open_copies(stores, repository)
    return None if copies or not absent else together(absent)


@contextmanager
def by_key_file(location: str, key: Path) -> Iterator[Access]:
    """Open one copy with a recovery-key file and nothing else; raises NoKey, RepositoryNotFound, StoreError."""
    gpg.check_programs()
    known = read_key_file(key)
    copies = _open_location(location)
    if known.repository and known.repository != copies[0].repository:
        raise NoKey(
            f"the key file {key} is for repository {known.repository}, this is repository {copies[0].repository}",
            hint="look for the key file of this one, or the copy of that one",
        )
    if not known.signers:
        raise NoKey(
            f"{key} does not say whose signatures to believe: expected a recovery-key file, got a bare key",
            hint="use the file that opskit init wrote, or the config of a host that backs up here",
        )
    with tempfile.TemporaryDirectory(prefix="opskit-") as folder:
        trusted = Path(folder) / "trusted.gpg"
        gpg.write_public_keyring(known.public, trusted)
        signers, maintainers = [*known.signers, *known.maintainers], [*known.maintainers]
        notes = list[str]()
        for each in successors(copies, trusted, signers, copies[0].repository):
            # Who holds the old key could sign anything with that one: its word for another key adds nothing.
            signers.append(each.new)
            maintainers += [each.new] if each.old in maintainers else []
            notes.append(f"{told(each)}: what it signed is believed")
            known = replace(known, public=known.public + each.public.encode())
        if notes:
            gpg.write_public_keyring(known.public, trusted)
        yield Access(
            copies, {}, copies[0].repository, signers, trusted,
            recover_sha256=known.recover_sha256, maintainers=maintainers, notes=notes,
            agreed=_AgreedByKeyFile(known.secret, Path(folder) / "recipient.gpg"),
        )  # fmt: skip


class _AgreedByKeyFile:
    """Whether the recipient whose key file this is agreed to something; gpg takes the key in where that is asked.

    What only recipients agreed to whom a key file cannot know (there were others before, beside and after it) rests on
    the maintainer alone who signed the mark: whoever reads so deletes nothing, and tries the keys that he finds.
    """

    def __init__(self, secret: bytes, public: Path) -> None:
        self._secret, self._public = secret, public

    def __call__(self, data: bytes) -> bytes:
        if not self._public.exists():
            with gpg.ephemeral_keyring(self._secret) as keyring:
                mine = [key.fingerprint for key in keyring.keys() if key.has_secret]
                gpg.write_public_keyring(keyring.export_public(mine), self._public)
        try:
            return gpg.verify(data, self._public).payload
        except gpg.UnknownSigner:
            return gpg.unjudged(data).payload


@contextmanager
def by_location(location: str) -> Iterator[Access]:
    """Open one copy with nothing known from outside: hashes can be compared, signatures are not judged.

    Raises RepositoryNotFound, StoreError, Damaged.
    """
    copies = _open_location(location)
    signers, trusted = [gpg.NOBODY], Path(os.devnull)
    yield Access(
        copies, {}, copies[0].repository, signers, trusted, judges_signatures=False, maintainers=signers,
        agreed=lambda data: gpg.unjudged(data).payload,
    )  # fmt: skip


def _open_location(location: str) -> list[Copy]:
    store = store_at("the repository's location", location)
    copies, absent = open_copies(read_only({"repository": store}), None)
    if copies:
        return copies
    error = absent["repository"]
    if isinstance(error, RepositoryNotFound):
        hint = "is the prefix right?" if is_bucket(location) else _place_hint(Path(store.location))
        raise RepositoryNotFound(f"no opskit repository at {store.location}", hint=hint) from error
    if isinstance(error, CopyUnidentified):
        error.hint = (
            "a host that backs up there writes it anew: opskit heal; recover.py needs none (its sum stands in the "
            "recovery-key file): python3 recover.py --repository DIR --key FILE --target DIR"
        )
    raise error


def _place_hint(folder: Path) -> str:
    """Where the repository seems to lie instead: one level up or down."""
    found = []
    with contextlib.suppress(OSError):
        found = [each for each in (folder.parent, *sorted(folder.iterdir())) if (each / names.REPOSITORY).is_file()]
    if found:
        return f"is it {' or '.join(map(str, found[:3]))}?"
    return f"expected a folder with {names.REPOSITORY} in it: is the right disk mounted there?"


def read_key_file(path: Path) -> KeyFile:
    """Parse a recovery-key file, or a bare OpenPGP private key; raises NoKey."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE)
    except OSError as error:
        raise NoKey(
            f"the key file {path} cannot be read: {(error.strerror or 'error').lower()}",
            hint="expected the recovery-key file that opskit init wrote: is the stick with it mounted?",
        ) from error
    try:
        return keyfile.decode(data)
    except Damaged as error:
        raise NoKey(f"{path}: {error}", hint=error.hint) from error


@contextmanager
def private_key(
    key: Path | None, ask: Ask, passphrase: bytes | None = None, *, opened: Access | None = None
) -> Iterator[Decrypt]:
    """Decrypt with a key file (imported to memory for this block) or, without one, the user's own gpg.

    What that does not open, the keys do that are sealed to it at the copies `opened`.

    A protected key file needs a passphrase: the one given, else `ask` is called, up to three times. What no key opens,
    and a passphrase of its own does, is opened with the one given, else (of the user's own gpg only) with one asked
    for. Raises NoKey.
    """
    if key is None:
        with Keyring(None) as own, _unsealing(opened) as also:
            one = also.beside(lambda data: own.decrypt(data, passphrase=passphrase).payload)
            yield gpg.ByPassphrase(one, ask, passphrase)
        return
    with _imported(key) as keyring, _unsealing(opened) as also:
        opener = also.beside(gpg.Unlocking(keyring, ask, passphrase))
        yield opener if passphrase is None else gpg.ByPassphrase(opener, ask, passphrase)


@dataclass(frozen=True, slots=True)
class Held:
    """Private keys at hand: of a key file, or in the user's own gpg (a card's among them).

    `sign` makes a message signed by the key with that fingerprint; raises NoKey. `sealed` are keys that these opened
    at the copies: `decrypt` opens with them too, but they agree to nothing.
    """

    keys: Sequence[KeyInfo]
    decrypt: Decrypt
    sign: Callable[[bytes, str], bytes]
    sealed: Sequence[KeyInfo] = ()


@contextmanager
def unsealed(held: Held, opened: Access) -> Iterator[Held]:
    """The same with all that is sealed to them at the copies, in memory for this block."""
    with _unsealing(opened) as also:
        found = also.open_all(held.decrypt) if held.keys else []
        yield replace(held, decrypt=also.beside(held.decrypt), sealed=found) if found else held


def _unsealing(opened: Access | None) -> Unsealing:
    return Unsealing(opened.sealed_keys if opened else list)


@contextmanager
def held_keys(key: Path | None, ask: Ask, passphrase: bytes | None = None) -> Iterator[Held]:
    """The private keys at hand, to decrypt and to sign with, as `private_key` finds them; raises NoKey."""
    if key is not None:
        with _imported(key) as keyring:
            opener = gpg.Unlocking(keyring, ask, passphrase)
            yield Held([each for each in keyring.keys() if each.has_secret], opener, opener.sign)
        return
    with Keyring(None) as own:
        found = [each for each in own.keys() if each.has_secret] if _has_own_keys() else []
        yield Held(
            found,
            lambda data: own.decrypt(data, passphrase=passphrase).payload,
            lambda data, signer: own.sign(data, signer, passphrase=passphrase),
        )


def _has_own_keys() -> bool:
    """Whether the user has a key ring: gpg, asked for keys, would make one."""
    home = Path(os.environ.get("GNUPGHOME") or Path.home() / ".gnupg")
    return any((home / name).is_file() for name in ("pubring.kbx", "pubring.gpg"))


@contextmanager
def _imported(key: Path) -> Iterator[Keyring]:
    known = read_key_file(key)
    if not known.secret:
        raise NoKey(f"{key} holds no private key", hint="use the recovery-key file that opskit init wrote")
    with gpg.ephemeral_keyring(None) as keyring:
        try:
            keyring.import_keys(known.secret)
        except Damaged as error:
            raise NoKey(
                f"{key}: gpg finds no whole key in it: expected a private key as it was exported, got a broken one",
                hint="take another copy of the recovery-key file: the one on paper, or from another safe place",
            ) from error
        yield keyring

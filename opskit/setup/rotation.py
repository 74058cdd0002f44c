"""What `opskit keys rotate-host` and `opskit keys trust` do: a new key for this host, and belief in that of another.

Invariants: the order is key, note of it, certificate at the copies, trusted key ring, config, index; after each step
this host can back up, with one key or the other, and running it again goes on where it ended. The old private half is
removed last, when every destination has what it takes to do without. Nothing is believed for a certificate alone: a
person names the fingerprint, or brings the key itself in a file; then it becomes a signer, and no more.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from opskit import encoding, gpg, wiring
from opskit.access import Access
from opskit.config import load as configs
from opskit.config.model import Config, Keys
from opskit.config.render import with_lists
from opskit.errors import ConfigError, Damaged, NoKey, UsageError, together
from opskit.gpg import Keyring
from opskit.gpg.listing import normalised
from opskit.operations import initialise as operations
from opskit.operations.session import open_copies, open_session
from opskit.operations.successors import certify, cover, put_where_absent, successors, take_in, way_to
from opskit.repository.certificates import Certificate
from opskit.repository.durable import require_writable, write_durably
from opskit.setup.rebuild import with_keys

_PENDING = "successor.json"


@dataclass(frozen=True, slots=True)
class Pending:
    """A rotation that has begun: both fingerprints, and the certificate with the name of its object."""

    old: str
    new: str
    name: str
    data: bytes


@dataclass(slots=True)
class Rotated:
    """What came of it: `unready` tells by destination why it does not have all; `removed` of the old private half."""

    old: str
    new: str
    packs: int = 0
    removed: bool = False
    unready: dict[str, str] = field(default_factory=dict)


def rotate(path: Path, config: Config, *, keep_old: bool) -> Rotated:
    """Give this host a new key, or finish what an interrupted run began; alone on the state.

    Raises ConfigError where the config's keys cannot be edited, NoKey, and the copies' errors when none can be reached
    before anything is changed.
    """
    host = wiring.host_of(config)
    _edited(path, config.keys)
    require_writable(path)
    copies, absent = open_copies(wiring.stores_of(config), host.repository)
    if not copies:
        raise together(absent)
    with host.identity.keyring as keyring:
        begun = _begin(config, keyring, host.repository)
        result = Rotated(begun.old, begun.new, unready={name: str(error) for name, error in absent.items()})
        failures = put_where_absent(copies, begun.name, begun.data)
        if len(failures) == len(copies):
            raise together(failures)
        result.unready |= {name: str(error) for name, error in failures.items()}
        keys = _succeeded(config.keys, begun.old, begun.new).but(host=begun.new)
        _believe(config, keyring, keys)
        _write(path, config.keys, keys)
        _cover(configs.load(path), result)
        if not result.unready:
            if not keep_old:
                keyring.remove_private(begun.old)
                result.removed = True
            (config.state_dir / _PENDING).unlink()
    return result


def pending(config: Config) -> Pending | None:
    """The rotation that was begun on this host and not ended; raises Damaged."""
    file = config.state_dir / _PENDING
    try:
        value = encoding.decode_object(file.read_bytes(), what=str(file))
        found = Pending(str(value["old"]), str(value["new"]), str(value["name"]), base64.b64decode(value["data"]))
    except FileNotFoundError:
        return None
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise Damaged(
            f"{file} is damaged: it tells of a rotation", hint="move it away; the next run begins anew"
        ) from (error)
    return found if config.keys.host in (found.old, found.new) else None


def _begin(config: Config, keyring: Keyring, repository: str) -> Pending:
    """The rotation to carry on, or a new one with its key made and its certificate signed, noted durably."""
    known = pending(config)
    if known is not None:
        return known
    old = config.keys.host or ""
    private = [key for key in keyring.keys() if key.has_secret]
    if old not in {key.fingerprint for key in private}:
        raise NoKey(f"the host key {old} has no private half in {keyring.home}", hint=operations.LOST_STATE_HINT)
    named = {*config.keys.signers, *config.keys.maintainers, *config.keys.recipients, old}
    user_id = f"opskit host {config.host}"
    # What a run that was killed left before it noted it.
    left = [key for key in private if key.fingerprint not in named and key.user_id == user_id]
    whole = [key.fingerprint for key in left if key.can_sign and key.can_encrypt]
    for key in left:
        if key.fingerprint not in whole:  # killed between primary key and subkey: it could never open an index
            keyring.remove_private(key.fingerprint)
    new = whole[0] if whole else keyring.generate(user_id)
    _, name, data = certify(keyring, repository, config.host, old, new, wiring.now())
    noted = {"old": old, "new": new, "name": name, "data": base64.b64encode(data).decode()}
    write_durably(config.state_dir / _PENDING, encoding.encode(noted))
    return Pending(old, new, name, data)


def _succeeded(keys: Keys, old: str, new: str) -> Keys:
    """The keys with `new` in every role that `old` has; `old` stays, or what it signed would count no more."""

    def extended(role: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*role, *([new] if old in role else [])]))

    return keys.but(signers=extended(keys.signers), maintainers=extended(keys.maintainers))


def _believe(config: Config, keyring: Keyring, keys: Keys) -> None:
    """Write the trusted key ring: before the config, which must not name a signer whose public key is not there."""
    operations.write_trusted(keyring, wiring.trusted_file(config.state_dir), [*keys.signers, *keys.maintainers])


def _edited(path: Path, keys: Keys) -> str:
    """The config's text with these keys; raises ConfigError where its layout does not allow that."""
    text = path.read_text("utf-8-sig")
    edited = with_keys(text, keys)
    if edited is None:
        raise ConfigError(
            f"{path}: the keys section cannot be edited by a program as it is written",
            hint="write host, signers and maintainers below keys: as plain lists, as `opskit init` does",
        )
    return edited


def _write(path: Path, before: Keys, keys: Keys) -> None:
    if keys != before:
        write_durably(path, _edited(path, keys).encode(), like_before=True)


def _cover(config: Config, result: Rotated) -> None:
    """What the new key needs of the index, at every copy that can be reached."""
    host = wiring.host_of(config)
    with host.identity.keyring, closing(open_session(host, wiring.stores_of(config))) as session:
        result.packs = cover(session, config.performance.workers)
        failed = {copy.destination: str(copy.failed) for copy in session.copies if copy.failed is not None}
        result.unready |= {name: str(error) for name, error in session.absent.items()} | failed


@dataclass(frozen=True, slots=True)
class Trusted:
    """Certificates that were believed now; none where the key was trusted already."""

    way: Sequence[Certificate]
    keys: Keys


def trust_file(path: Path, config: Config, file: Path) -> tuple[str, Keys]:
    """Take the public key in a file into the config as a signer, never a maintainer; gives it, and the keys now.

    Whoever gave the file is believed: no copy is asked. Raises UsageError, ConfigError.
    """
    with gpg.ephemeral_keyring(None) as scratch:
        new = operations.import_recipient(scratch, str(file))
        public = scratch.export_public([new])
    if new in config.keys.recipients:
        raise UsageError(f"{file} holds the key of a recipient, who restores; expected the key of a host, which signs")
    keys = config.keys.but(signers=tuple(dict.fromkeys((*config.keys.signers, new))))
    text = path.read_text("utf-8-sig")
    edited = with_lists(text, "keys", {"signers": [*keys.signers]})
    if edited is None:
        raise ConfigError(f"{path}: the keys section cannot be edited", hint=f"add {new} to keys.signers by hand")
    with wiring.identity_of(config).keyring as keyring:
        keyring.import_keys(public)
        _believe(config, keyring, keys)
    if edited != text:
        write_durably(path, edited.encode(), like_before=True)
    return new, keys


def trust(path: Path, config: Config, opened: Access, fingerprint: str) -> Trusted:
    """Take a certified key into the config in the roles of its predecessor; raises UsageError, Forged, ConfigError."""
    new = normalised(fingerprint)
    if new in (*config.keys.signers, *config.keys.maintainers):
        return Trusted([], config.keys)
    way = way_to(successors(opened.copies, opened.trusted, opened.signers, opened.repository), new)
    if not way:
        raise UsageError(
            f"no signer of the config certified {new} at the copies that can be reached",
            hint="expected all 40 digits of a fingerprint; a key that nobody certified goes into keys.signers by hand",
        )
    keys = config.keys
    for certificate in way:
        keys = _succeeded(keys, certificate.old, certificate.new)
    _edited(path, keys)
    with wiring.identity_of(config).keyring as keyring:
        for certificate in way:
            take_in(keyring, certificate)
        _believe(config, keyring, keys)
    _write(path, config.keys, keys)
    return Trusted(way, keys)

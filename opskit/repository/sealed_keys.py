"""Sealed keys: evidence that holds a recipient's private key, encrypted to the recipients who stay (its heirs).

Hosts that lag, and disks that were away, may hold key objects that only a key opens that is deleted elsewhere. So it is
sealed first, at every copy: whoever has the private key of an heir opens the sealed one, and with it what it opens.

Invariants: only a maintainer's word counts; the object stands in the clear, and nothing in it opens without an heir's
private key; what is sealed was tried, is not protected by a passphrase, and is in memory alone. A sealed key makes
nobody a recipient and agrees to nothing. A kind that older versions do not know: they believe and copy it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from opskit import encoding, gpg
from opskit.errors import Damaged, Forged, NoKey, UsageError
from opskit.gpg import PASSPHRASE, Keyring, owners, recipients_of
from opskit.repository import deleted_keys, names
from opskit.repository.believing import Judge, Rejected, Verify, listed
from opskit.repository.cache import Cache
from opskit.repository.copy import Copy
from opskit.repository.manifest import check_fingerprint, check_label, time_of, time_text

KIND = "sealed-key"
"""The kind of this evidence."""
MAX = 1024 * 1024
"""Bytes of an object; the largest keys that are in use take a tenth of it."""
_TRIAL = b"opskit"


@dataclass(frozen=True, slots=True)
class SealedKey:
    """The private key of `recipient` in a message (`sealed`, armored) to `heirs`: primary fingerprints.

    `name` is the object's; "" of one that is not stored yet.
    """

    repository: str
    host: str
    created: datetime
    recipient: str
    heirs: tuple[str, ...]
    sealed: bytes = field(repr=False)
    name: str = ""

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys that open it."""
        return recipients_of(self.sealed)

    def is_at(self, copy: Copy) -> bool:
        """Whether a copy lists it."""
        return self.name in copy.objects


def make(
    keyring: Keyring,
    signer: str,
    repository: str,
    host: str,
    recipient: str,
    heirs: Sequence[str],
    private: bytes,
    now: datetime,
) -> tuple[str, bytes]:
    """The name of the object that seals `private`, the private key of `recipient`, to `heirs`; and its bytes.

    `keyring` is the host's: it has the heirs' public keys, and the private one of `signer`. Raises UsageError where
    nobody else is an heir; NoKey where an heir cannot be encrypted to, or `private` needs a passphrase; Damaged where
    it is not that private key, or does not open what is encrypted to it.
    """
    if not heirs or recipient in heirs:
        raise UsageError("expected other recipients to seal a private key to, got none, or itself")
    message = keyring.encrypt(_tried(private, recipient), heirs)
    if sorted(owners(recipients_of(message), keyring.keys())) != sorted(heirs):
        raise Damaged("expected a sealed key for every heir and nobody else, gpg made another one")
    payload = encode(SealedKey(repository, host, now.replace(microsecond=0), recipient, tuple(heirs), message))
    made = decode(payload)
    data = keyring.sign(payload, signer)
    if len(data) > MAX:
        raise Damaged(f"expected a sealed key of at most {MAX:,} bytes, got {len(data):,}")
    return names.evidence(made.created, KIND, names.sha256(data)), data


def _tried(private: bytes, recipient: str) -> bytes:
    """The private key, armored, once it is sure to be that one, whole, and not protected by a passphrase."""
    with gpg.ephemeral_keyring(None) as scratch:
        try:
            found = scratch.import_keys(private)
        except Damaged:
            found = []  # the cause could tell of the key
        if found != [recipient]:
            raise Damaged(f"expected the private key of {recipient} alone, got something else")
        text = scratch.export_secret(recipient, passphrase=b"")
        message = None
        with suppress(NoKey):  # it expired: that does not keep it from opening what there is
            message = scratch.encrypt(_TRIAL, [recipient])
        if message is not None and scratch.decrypt(message, passphrase=b"").payload != _TRIAL:
            raise Damaged(f"expected the private key of {recipient} to open what is encrypted to it")
        return text


def encode(sealed: SealedKey) -> bytes:
    """Canonical JSON."""
    said = {"recipient": sealed.recipient, "heirs": [*sealed.heirs], "sealed": sealed.sealed.decode()}
    return encoding.encode(
        {
            "format": 1,
            "kind": "evidence",
            "evidence": KIND,
            "repository": sealed.repository,
            "host": sealed.host,
            "created": time_text(sealed.created),
            KIND: said,
        }
    )


def decode(payload: bytes, name: str = "") -> SealedKey:
    """Parse a payload; raises Damaged. The signature was checked before."""
    value = encoding.decode_object(payload, what="sealed key")
    if (value.get("format"), value.get("kind"), value.get("evidence")) != (1, "evidence", KIND):
        raise Damaged("expected a sealed key of format 1, got something else")
    try:
        said = value[KIND]
        heirs, sealed = _heirs(said), str(said["sealed"]).encode("ascii")
        if len(recipients_of(sealed)) != len(heirs) or PASSPHRASE in recipients_of(sealed):
            raise ValueError("expected a message to each of the heirs and nobody else")
        return SealedKey(
            str(value["repository"]),
            check_label(value["host"]),
            time_of(value["created"]),
            check_fingerprint(said["recipient"]),
            heirs,
            sealed,
            name,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"malformed sealed key: {error}") from error


def _heirs(said: Mapping[str, Any]) -> tuple[str, ...]:
    heirs = said["heirs"]
    if not isinstance(heirs, list) or not heirs:
        raise ValueError("expected a list of heirs")
    found = tuple(map(check_fingerprint, heirs))
    if len({*found, said["recipient"]}) != len(found) + 1:
        raise ValueError("expected heirs that are others than the recipient, each of them once")
    return found


def load(
    copies: Sequence[Copy],
    verify: Verify,
    *,
    maintainers: Collection[str],
    repository: str,
    cache: Cache | None = None,
) -> list[SealedKey]:
    """The sealed keys at the copies that one of `maintainers` made, oldest first; others are left out."""
    judge, rejected = Judge(verify, frozenset(maintainers), repository, "maintainers", cache), list[Rejected]()
    found = []
    for name, holders in listed(copies, _is_one).items():
        small = [copy for copy in holders if copy.objects[name] <= MAX]
        sealed = judge.believed(name, small, partial(_checked, judge), rejected)
        if sealed is not None:
            found.append(sealed)
    return sorted(found, key=lambda each: (each.created, each.name))


def _is_one(name: str) -> bool:
    return name.startswith("evidence/") and f"Z-{KIND}-" in name


def _checked(judge: Judge, name: str, digest: str, _signer: str, payload: bytes) -> SealedKey:
    sealed = decode(payload, name)
    judge.require_repository("a sealed key", sealed.repository)
    if name != names.evidence(sealed.created, KIND, digest):
        raise Forged(f"a sealed key of {sealed.created:%Y-%m-%d %H:%M:%S} stored under another name")
    return sealed


def note_deleted(state: Path, recipients: Collection[str], sealed: Sequence[SealedKey]) -> None:
    """Note which `recipients` of this host's config were sealed: their private key is deleted, or about to be.

    Raises ConfigError where the note cannot be read.
    """
    for each in sealed:
        if each.recipient in recipients:
            deleted_keys.note_elsewhere(state, each.recipient, each.created)


def who_opens(
    recipient: str, sealed: Sequence[SealedKey], copies: Sequence[Copy], present: Collection[str]
) -> list[str]:
    """Whose private key opens one that is sealed at all these copies, by way of others perhaps; nobody's: none.

    Those who are `present` recipients, or else all heirs.
    """
    sealed = [each for each in sealed if all(each.is_at(copy) for copy in copies)]
    found, left = dict[str, None](), [recipient]
    while left:
        goes = left.pop()
        heirs = [heir for each in sealed if each.recipient == goes for heir in each.heirs if heir not in found]
        found.update(dict.fromkeys(heirs))
        left += [heir for heir in heirs if heir not in present]
    return [each for each in found if each in present] or [*found]

"""Reading key listings, and choosing the recipients that can still be encrypted to.

The listing is the colon format of GnuPG's doc/DETAILS. Times are epoch seconds; the present is passed in.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

_ALGORITHMS = {"1": "rsa", "16": "elg", "17": "dsa", "18": "ecdh", "19": "ecdsa", "22": "eddsa"}
_UNUSABLE = frozenset("rid")
"""Validity letters of keys that no date makes usable: revoked, invalid, disabled."""


class KeyInfo(NamedTuple):
    """One key as its home folder knows it.

    `fingerprint` is the primary one, 40 upper hex. `created` and `expires` are epoch seconds; `expires` is the moment
    from which nothing can be encrypted to it (or, without an encryption key, signed by it), None for never.
    `key_ids` are those of all its parts, 16 upper hex each: messages name by them who can open them.
    """

    fingerprint: str
    user_id: str
    created: int
    expires: int | None
    revoked: bool
    has_secret: bool
    can_encrypt: bool
    can_sign: bool
    algorithm: str
    key_ids: tuple[str, ...] = ()


class _Part(NamedTuple):
    """A primary key or subkey of a listing."""

    fields: list[str]
    fingerprint: str
    keygrip: str

    def usable_for(self, capability: str) -> bool:
        return self.fields[1][:1] not in _UNUSABLE and capability in self.fields[11]

    def expires(self) -> int | None:
        return int(self.fields[6]) if self.fields[6] else None


def parse_listing(text: str, keygrips: Collection[str]) -> list[KeyInfo]:
    """The keys of `gpg --list-keys --with-colons --with-keygrip`; `keygrips` names the private halves at hand."""
    blocks: list[list[list[str]]] = []
    for line in text.splitlines():
        fields = [*line.split(":"), *[""] * 20]
        if fields[0] == "pub":
            blocks.append([])
        if blocks:
            blocks[-1].append(fields)
    return [_key(block, keygrips) for block in blocks]


def _key(block: list[list[str]], keygrips: Collection[str]) -> KeyInfo:
    parts = _parts(block)
    primary = parts[0]
    revoked = primary.fields[1].startswith("r")
    encrypting = [part for part in parts if part.usable_for("e")]
    dead = primary.fields[1][:1] in _UNUSABLE or "D" in primary.fields[11]
    return KeyInfo(
        fingerprint=primary.fingerprint,
        user_id=next((_unescaped(row[9]) for row in block if row[0] == "uid"), ""),
        created=int(primary.fields[5] or 0),
        expires=_earliest(primary.expires(), _latest(encrypting) if encrypting else None),
        revoked=revoked,
        has_secret=any(part.keygrip in keygrips for part in parts),
        can_encrypt=bool(encrypting) and not dead,
        can_sign=any(part.usable_for("s") for part in parts) and not dead,
        algorithm=primary.fields[16] or _ALGORITHMS.get(primary.fields[3], "unknown") + primary.fields[2],
        key_ids=tuple(part.fields[4] for part in parts),
    )


def _parts(block: list[list[str]]) -> list[_Part]:
    parts: list[_Part] = []
    for row in block:
        if row[0] in ("pub", "sub"):
            parts.append(_Part(row, "", ""))
        elif row[0] == "fpr" and parts and not parts[-1].fingerprint:
            parts[-1] = parts[-1]._replace(fingerprint=row[9])
        elif row[0] == "grp" and parts:
            parts[-1] = parts[-1]._replace(keygrip=row[9])
    return parts


def _latest(parts: list[_Part]) -> int | None:
    ends = [part.expires() for part in parts]
    return None if None in ends else max(end for end in ends if end is not None)


def _earliest(one: int | None, other: int | None) -> int | None:
    ends = [end for end in (one, other) if end is not None]
    return min(ends) if ends else None


def _unescaped(text: str) -> str:
    # The listing writes a colon and control characters as \xHH of the UTF-8 bytes.
    if "\\x" not in text:
        return text
    raw = bytearray()
    rest = text.encode()
    while rest:
        head, mark, rest = rest.partition(b"\\x")
        raw += head
        if mark:
            raw += bytes([int(rest[:2], 16)])
            rest = rest[2:]
    return raw.decode(errors="replace")


def normalised(fingerprint: str) -> str:
    """A fingerprint as opskit writes it: no spaces or 0x, upper case."""
    return "".join(fingerprint.split()).upper().removeprefix("0X")


def usable_recipients(
    keys: Sequence[KeyInfo], wanted: Sequence[str], now: float, refused: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Split `wanted` fingerprints: those that can be encrypted to at `now` (epoch seconds), and reasons for the rest.

    One expired recipient makes gpg refuse the whole message, so it has to be left out, and said. `refused` are reasons
    that no public key tells, by fingerprint.
    """
    known = {key.fingerprint: key for key in keys}
    valid: list[str] = []
    rejected: list[str] = []
    for fingerprint in dict.fromkeys(map(normalised, wanted)):
        reason = (refused or {}).get(fingerprint) or _objection(known.get(fingerprint), now)
        if reason is None:
            valid.append(fingerprint)
        else:
            rejected.append(f"{fingerprint}: {reason}")
    return valid, rejected


def _objection(key: KeyInfo | None, now: float) -> str | None:
    if key is None:
        return "no such public key on this host"
    if key.revoked:
        return "revoked by its owner"
    if key.created > now:  # gpg, too, takes nothing of such a key for usable
        return f"made in the future, on {_day(key.created)}: check the clock of this host"
    if not key.can_encrypt:
        return "has no key to encrypt to"
    if key.expires is not None and key.expires <= now:
        return f"expired on {_day(key.expires)}"
    return None


def _day(moment: int) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).date().isoformat()


def expiring(keys: Collection[KeyInfo], now: float, within: float = 30 * 86400) -> list[str]:
    """A sentence for each key that is good now and ends within so many seconds; `now` is epoch seconds."""
    found = []
    for key in keys:
        if key.expires is not None and now < key.expires <= now + within:
            day = datetime.datetime.fromtimestamp(key.expires, datetime.UTC).date().isoformat()
            found.append(
                f"{key.fingerprint}: expires on {day}: renew it (gpg --quick-set-expire), or rotate it in time"
            )
    return found

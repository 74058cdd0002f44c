"""Consent: what a recipient signs, so that key objects count as superseded.

Key objects are what every backup depends on, so a maintainer's signature alone must not declare one superseded: a
mark of that kind carries, besides, an OpenPGP message signed with the private key of a recipient, over the same words.
Neither a stolen maintainer key nor a stolen recipient key alone makes a mark that anybody follows.

Invariant: consent and mark say the same, of the same repository, at the same time; a consent for anything else counts
for nothing. It deliberately does not know who the recipients are: `Agreed` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from opskit import encoding
from opskit.errors import Forged, OpskitError
from opskit.gpg import RevokedSigner
from opskit.repository.manifest import time_text

Agreed = Callable[[bytes], bytes]
"""The payload of a message that a recipient signed; raises Forged where nobody who counts did, Damaged, OpskitError."""

Supersedes = Mapping[str, Sequence[str]]
"""Digest of a new key object → those of the old ones whose run keys it holds."""


UNKNOWN_HERE = (
    "if keys were changed on another host of yours, tell this one: opskit keys add PUBLICKEYFILE of the new recipient"
)
"""What to do where a consent is by nobody whom the config names: the usual reason, and the harmless one."""


def words(repository: str, created: datetime, supersedes: Supersedes) -> bytes:
    """What a recipient signs: canonical JSON."""
    return encoding.encode(
        {
            "format": 1,
            "kind": "consent",
            "repository": repository,
            "created": time_text(created),
            "supersedes": as_value(supersedes),
        }
    )


def as_value(supersedes: Supersedes) -> dict[str, list[str]]:
    """As it stands in JSON."""
    return {new: sorted(olds) for new, olds in supersedes.items()}


def require_consent(consents: Sequence[bytes], said: bytes, agreed: Agreed) -> None:
    """Raise Forged unless one of the consents is a recipient's, to the words `said`."""
    failure: OpskitError = Forged("expected the consent of a recipient, got none")
    for each in consents:
        try:
            if agreed(each) == said:
                return
            failure = Forged("the consent in it is to something else")
        except OpskitError as error:
            failure = error
    hint = failure.hint if isinstance(failure, RevokedSigner) else UNKNOWN_HERE
    raise Forged(f"no recipient agrees that key objects are superseded: {failure}", hint=hint) from failure


def nobody_agrees(data: bytes) -> bytes:
    """For readers that know no recipients: no consent counts."""
    del data
    raise Forged("the recipients of this repository are not known here")

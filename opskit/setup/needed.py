"""What the copies at hand tell of the keys that open them: which is needed where, and which may be destroyed."""

from __future__ import annotations

from collections.abc import Collection

from opskit.access import Access
from opskit.config.model import Config
from opskit.errors import CacheError
from opskit.operations.rekeying.openers import Openers, openers
from opskit.repository.history import History
from opskit.wiring import identity_of


def openers_of(opened: Access, config: Config, history: History) -> Openers:
    """Who opens what at every copy that could be opened; what no signature vouches for counts as unread."""
    opened.marks()  # the copies learn what was superseded
    identity = identity_of(config)
    # What only a key opens that was deleted is opened by nobody: then the others are needed.
    keys, recipients = identity.keyring.keys(), set(identity.recipients) - identity.deleted().keys()
    try:
        found = openers(opened.copies, history.snapshots, keys, recipients, opened.cache, host=config.host)
    except CacheError:  # a backup holds it
        found = openers(opened.copies, history.snapshots, keys, recipients, host=config.host)
    # They may be of a host that this config does not know yet, and that writes for an old key.
    found.unread += sorted({name for _, name, _ in history.rejected} - history.holders.keys())
    return found


def is_safe_to_destroy(key: str, found: Openers, absent: Collection[str]) -> bool:
    """Whether everything was seen, nothing needs the private key, and no other host may write for it."""
    unknown = absent or found.unread or found.lost or found.unsure
    return not (unknown or found.is_needed(key) or found.naming(key))

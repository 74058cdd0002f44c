"""Making marks: what a maintainer says of snapshots and objects, signed and put to the copies.

Invariant: one mark, signed once, goes to every copy that can be reached; `sync` brings it to the others. A mark that
no copy took was not made.
"""

from __future__ import annotations

from collections.abc import Sequence

from opskit.errors import NoKey, OpskitError
from opskit.repository import marks, names
from opskit.repository.copy import Copy
from opskit.repository.identity import Identity
from opskit.repository.marks import Mark


def publish(identity: Identity, copies: Sequence[Copy], mark: Mark) -> tuple[str, dict[str, OpskitError]]:
    """Sign a mark and put it to the copies; returns its name and the destinations that did not take it, with reasons.

    Raises NoKey where this host's key is no maintainer's, and the first copy's error where none took it.
    """
    if identity.host_key not in identity.maintainers:
        raise NoKey(
            "this host's key is not a maintainer's, so its marks would not be believed",
            hint="run this where the key of one of keys.maintainers is the host's key",
        )
    data = identity.keyring.sign(marks.encode(mark), identity.host_key)
    name = names.mark(mark.created, mark.kind, names.sha256(data))
    failures = put_to_all(copies, name, data)
    if len(failures) == len(copies):
        raise next(iter(failures.values()))
    return name, failures


def put_to_all(copies: Sequence[Copy], name: str, data: bytes) -> dict[str, OpskitError]:
    """Put one object to every copy; returns the destinations that did not take it, with reasons."""
    failures: dict[str, OpskitError] = {}
    for copy in copies:
        try:
            copy.put(name, data)
        except OpskitError as error:
            failures[copy.destination] = error
    return failures

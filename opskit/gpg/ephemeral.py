"""A key ring for a private key that is here only for a moment.

The folder (mode 0700) lies on a file system in memory; its agent is ended and the folder removed at exit, and at the
next start after a crash. It deliberately refuses a disk: what a disk has held can be read from it later.
(The kernel may swap tmpfs: hosts that restore should encrypt their swap.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.errors import OpskitError
from opskit.gpg import folders
from opskit.gpg.agent import stop_agent
from opskit.gpg.keyring import Keyring

_AGENT_SETTINGS = "disable-scdaemon\nno-allow-external-cache\nno-grab\ns2k-count 65536\n"
"""No smartcard daemon to leave behind; no passphrase into a desktop's password store."""


@contextmanager
def ephemeral_keyring(secret: bytes | None) -> Iterator[Keyring]:
    """A key ring that holds the keys in `secret` (armored or binary; None: nothing yet) until the end of the block.

    Raises Damaged when there is no key in `secret`, OpskitError where no file system in memory is writable.
    """
    base = _base()
    folders.sweep(base, stop_agent)
    path, descriptor = folders.make_folder(base)
    keyring = Keyring(path)
    try:
        (path / "gpg-agent.conf").write_text(_AGENT_SETTINGS)
        keyring.start_agent()  # while the keys are made ready
        if secret is not None:
            keyring.import_keys(secret)
        yield keyring
    finally:
        try:
            keyring.close()
        finally:
            folders.remove_folder(path, descriptor)


def remove_stale_keyrings() -> None:
    """Remove what runs that were killed have left: key rings in memory, and the agents that still hold their keys."""
    for base in folders.candidates():
        folders.sweep(base, stop_agent)


def _base() -> Path:
    for base in folders.candidates():
        if folders.usable(base) and folders.is_in_memory(base):
            return base
    raise OpskitError(
        "expected a writable tmpfs at /run/user, /run or /dev/shm for the private key, found none",
        hint="mount a tmpfs at /dev/shm, or use your own gpg-agent by leaving out --key",
    )

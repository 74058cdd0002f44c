"""The one owner of gpg, gpgv and python-gnupg: encrypting, decrypting, signing, verifying, keeping keys.

Importing it runs nothing and loads nothing heavy; python-gnupg is imported where keys are taken in.
"""

from __future__ import annotations

from opskit.gpg.bulk import decrypt_symmetric, decrypt_with_passphrase, encrypt_symmetric, open_signed
from opskit.gpg.ephemeral import ephemeral_keyring, remove_stale_keyrings
from opskit.gpg.keyring import Decrypted, Keyring
from opskit.gpg.listing import KeyInfo, expiring, usable_recipients
from opskit.gpg.passphrase import ByPassphrase, Unlocking
from opskit.gpg.program import Buffer, MemoryFile, Scratch, Versions, begin_check, check_programs
from opskit.gpg.recipients import PASSPHRASE, owners, recipients_of
from opskit.gpg.verify import NOBODY, RevokedSigner, Signed, UnknownSigner, unjudged, verify, write_public_keyring

__all__ = [
    "NOBODY",
    "PASSPHRASE",
    "Buffer",
    "ByPassphrase",
    "Decrypted",
    "KeyInfo",
    "Keyring",
    "MemoryFile",
    "RevokedSigner",
    "Scratch",
    "Signed",
    "UnknownSigner",
    "Unlocking",
    "Versions",
    "begin_check",
    "check_programs",
    "decrypt_symmetric",
    "decrypt_with_passphrase",
    "encrypt_symmetric",
    "ephemeral_keyring",
    "expiring",
    "open_signed",
    "owners",
    "recipients_of",
    "remove_stale_keyrings",
    "unjudged",
    "usable_recipients",
    "verify",
    "write_public_keyring",
]

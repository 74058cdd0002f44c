"""Passphrases: of a private key, and the backups' own, where no private key at hand opens them.

Invariants: the private key is tried first, and so a passphrase is asked for only where it is of use; a message that no
passphrase opens never leads to a question. Where passphrases come from is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable

from opskit.errors import NoKey, OpskitError
from opskit.gpg.bulk import decrypt_with_passphrase
from opskit.gpg.keyring import Keyring
from opskit.gpg.packets import passphrases_alone

_ATTEMPTS = 3


class Unlocking:
    """Decrypts, asking for the passphrase when the key turns out to have one."""

    def __init__(self, keyring: Keyring, ask: Callable[[str], bytes], passphrase: bytes | None) -> None:
        self._keyring, self._ask, self._passphrase = keyring, ask, passphrase
        self._left = _ATTEMPTS if passphrase is None else 0

    def __call__(self, data: bytes) -> bytes:
        while True:
            try:
                return self._keyring.decrypt(data, passphrase=self._passphrase or b"").payload
            except NoKey as error:
                # only gpg's words tell a key that is locked from one that does not fit
                if "passphrase" not in str(error):
                    raise
            self._passphrase = self._another()

    def sign(self, data: bytes, signer: str) -> bytes:
        """`data` signed by a key of the file, whose passphrase is asked for as in decrypting."""
        while True:
            try:
                return self._keyring.sign(data, signer, passphrase=self._passphrase or b"")
            except OpskitError as error:
                if "passphrase" not in str(error):
                    raise
            self._passphrase = self._another()

    def _another(self) -> bytes:
        if not self._left:
            raise NoKey("the passphrase is wrong", hint="the key file is fine: only its passphrase does not fit")
        again = "" if self._passphrase is None else "the passphrase is wrong; "
        self._left -= 1
        return self._ask(f"{again}passphrase of the key file: ")


class ByPassphrase:
    """Decrypts; what no private key at hand opens, with the backups' own passphrase, where they have one."""

    def __init__(
        self, decrypt: Callable[[bytes], bytes], ask: Callable[[str], bytes], passphrase: bytes | None
    ) -> None:
        self._decrypt, self._ask, self._passphrase = decrypt, ask, passphrase
        self._left = _ATTEMPTS if passphrase is None else 0
        self._fits = False

    def __call__(self, data: bytes) -> bytes:
        if self._fits and passphrases_alone(data) is not None:
            return self._opened(data)
        try:
            return self._decrypt(data)
        except NoKey as error:
            if passphrases_alone(data) is None:
                raise
            return self._opened(data, error)

    def _opened(self, data: bytes, failure: NoKey | None = None) -> bytes:
        question = "passphrase of the backups: "
        while self._passphrase is not None or self._left:
            if self._passphrase is None:
                self._left -= 1
                self._passphrase = self._asked(question, failure)
            try:
                found = decrypt_with_passphrase(data, self._passphrase)
                self._fits = True
                return found
            except NoKey:
                if self._fits or not self._left:
                    break
                self._passphrase, question = None, "the passphrase is wrong; passphrase of the backups: "
        raise NoKey(
            "neither a private key at hand nor the passphrase opens this backup",
            hint="it may be older than the passphrase: --key FILE, the recovery-key file, opens it",
        ) from failure

    def _asked(self, question: str, failure: NoKey | None) -> bytes:
        try:
            return self._ask(question)
        except NoKey as nobody:
            if failure is None:
                raise
            raise NoKey(
                str(failure), hint="say --key FILE, the recovery-key file, or --passphrase REFERENCE, if it has one"
            ) from nobody

"""Opens private keys that were sealed at the copies, once something turns up that the key at hand does not open.

Invariants: without need nothing is read, and no key is asked for anything; each sealed key is opened once, the newest
first and no more of them than it takes; one may open another. They are in memory alone, until the end of the block.
Where a passphrase or a PIN is what lacks nothing is tried: the person would be asked again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType

from opskit.errors import Damaged, NoKey
from opskit.gpg import KeyInfo, Keyring, ephemeral_keyring, recipients_of
from opskit.log import logger
from opskit.repository.sealed_keys import SealedKey
from opskit.repository.unlocking import Decrypt

log = logger(__name__)

_OF_ANOTHER = "No secret key"
"""What gpg says where the message is for others; of a key that is locked it says something else."""


class Unsealing:
    """A context manager; `load` gives what is sealed at the copies, oldest first."""

    def __init__(self, load: Callable[[], Sequence[SealedKey]]) -> None:
        self._load = load
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._ring: Keyring | None = None
        self._keys: dict[str, KeyInfo] = {}
        self._untried: list[SealedKey] | None = None
        self._of_others: list[SealedKey] = []

    def __enter__(self) -> Unsealing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def beside(self, decrypt: Decrypt) -> Decrypt:
        """`decrypt`, and what it does not open by the keys that are sealed to it; may be called from several threads.

        Raises what `decrypt` raises.
        """

        def opened(data: bytes) -> bytes:
            try:
                return decrypt(data)
            except NoKey as error:
                found = self._opened(decrypt, data) if _OF_ANOTHER in str(error) else None
                if found is None:
                    raise
                return found

        return opened

    def open_all(self, decrypt: Decrypt) -> list[KeyInfo]:
        """Open every key that `decrypt` leads to; none where that needs a passphrase that nobody gives."""
        with self._lock, suppress(NoKey):
            while self._open_another(decrypt):
                pass
        return [*self._keys.values()]

    def _opened(self, decrypt: Decrypt, data: bytes) -> bytes | None:
        try:
            wanted = recipients_of(data)
            with self._lock:  # gpg finds no key in a key ring while another one comes in
                while not self._is_open(wanted):
                    if not self._open_another(decrypt):
                        return None
                return self._by_sealed(data)
        except Damaged:
            return None

    def _is_open(self, key_ids: Sequence[str]) -> bool:
        """Whether a key that was opened fits."""
        return any(not set(key_ids).isdisjoint(key.key_ids) for key in self._keys.values())

    def _by_sealed(self, data: bytes) -> bytes:
        assert self._ring is not None
        try:
            return self._ring.decrypt(data, passphrase=b"").payload
        except NoKey as error:
            raise Damaged(f"a sealed key does not open what is for it: {error}") from error

    def _open_another(self, decrypt: Decrypt) -> bool:
        """Open one more; False where there is none that can be opened."""
        if self._untried is None:
            self._untried = [*self._load()]
        for each in [each for each in self._of_others if self._is_open(each.key_ids)]:
            self._of_others.remove(each)
            if self._take_in(each, self._by_sealed):
                return True
        while self._untried:
            each = self._untried.pop()
            if each.recipient in self._keys:
                continue  # another sealed the same
            try:
                if self._take_in(each, self._by_sealed if self._is_open(each.key_ids) else decrypt):
                    return True
            except NoKey as error:
                if _OF_ANOTHER not in str(error):
                    self._untried.clear()
                    raise
                self._of_others.append(each)
        return False

    def _take_in(self, sealed: SealedKey, decrypt: Decrypt) -> bool:
        """Import one that opens with `decrypt`; False where it is not what it says. Raises NoKey."""
        try:
            private = decrypt(sealed.sealed)
            if self._ring is None:
                self._ring = self._stack.enter_context(ephemeral_keyring(None))
            self._ring.import_keys(private)
        except Damaged as error:
            log.warning("a sealed key cannot be opened", object=sealed.name, reason=str(error))
            return False
        found = [each for each in self._ring.keys() if each.has_secret and each.fingerprint == sealed.recipient]
        self._keys.update((each.fingerprint, each) for each in found)
        log.info("a sealed private key was opened", recipient=sealed.recipient, object=sealed.name)
        return bool(found)

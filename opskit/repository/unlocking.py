"""Gets the run keys of a snapshot out of key objects, with a private key that somebody else holds.

A key object costs one run of gpg, and a source that grew over a thousand runs may need a thousand of them: they are
opened side by side.

Invariants: the first object is opened alone, so that nobody is asked twice for one passphrase or PIN; one that does not
open hides no other. What the manifest hints at comes first, and its keys count: the manifest is signed and names it by
its hash, whereas anybody who can write to a copy can put another key object there. Of the others the largest come
first, for they hold the keys of many runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from opskit import encoding
from opskit.errors import Damaged, NoKey, OpskitError, StoreError
from opskit.repository import names
from opskit.repository.manifest import Manifest
from opskit.repository.threads import end

Decrypt = Callable[[bytes], bytes]
"""Opens a message with a private key; may be called from several threads. Raises NoKey, Damaged."""

AT_ONCE = 4


def unlock(
    manifest: Manifest,
    get: Callable[[str], bytes],
    decrypt: Decrypt,
    candidates: Mapping[str, int],
    heirs: Iterable[str] = (),
) -> dict[str, bytes]:
    """The run keys a snapshot needs, by run: from the key objects the manifest hints at, else from any other.

    `candidates` are the key objects at hand with their sizes in bytes, `heirs` those that a believed mark puts in the
    place of what is hinted at. Raises NoKey when no private key at hand opens
    them.
    """
    opening = _Opening({run.id for run in manifest.runs}, get, decrypt)
    hinted = dict.fromkeys(names.key(run.key) for run in manifest.runs)
    opening.open_all(list(hinted))
    vouched = hinted | dict.fromkeys(heirs)
    opening.open_all([name for name in vouched if name not in hinted])
    opening.open_all(sorted(candidates.keys() - vouched.keys(), key=lambda name: (-candidates[name], name)))
    return opening.found()


class _Opening:
    """What was found so far, and what kept the rest from it."""

    def __init__(self, wanted: set[str], get: Callable[[str], bytes], decrypt: Decrypt) -> None:
        self._wanted, self._get, self._decrypt = wanted, get, decrypt
        self._lock = threading.Lock()
        self._has_opened = False
        self._failure: OpskitError | None = None
        self.keys: dict[str, bytes] = {}

    def open_all(self, objects: Sequence[str]) -> None:
        """Open objects until nothing is wanted any more: the first that opens alone, then several at once."""
        left = deque(objects)
        while left and not self._has_opened:
            self._open(left.popleft())
        if not left or self._is_done():
            return
        threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="unlock")
        futures: list[Future[None]] = [threads.submit(self._open, name) for name in left]
        try:
            for future in futures:
                future.result()
        except BaseException as error:
            end(threads, futures, error)
            raise
        end(threads, futures, None)

    def _is_done(self) -> bool:
        with self._lock:
            return self._wanted <= self.keys.keys()

    def _open(self, name: str) -> None:
        """Take in the keys of an object, unless all that is wanted is there."""
        if self._is_done():
            return
        try:
            value = encoding.decode_object(self._decrypt(self._get(name)), what="key object")
        except (NoKey, Damaged, StoreError) as error:
            with self._lock:
                if self._failure is None or isinstance(error, NoKey):
                    self._failure = error
            return
        with self._lock:
            self._has_opened = True
            self.keys = {str(run): str(key).encode() for run, key in value.items()} | self.keys

    def found(self) -> dict[str, bytes]:
        """The keys; raises NoKey, or why an object could not be had, where one is missing."""
        missing = self._wanted - self.keys.keys()
        if missing:
            raise self._failure or NoKey(f"no key object holds the key of run {min(missing)}")
        return self.keys

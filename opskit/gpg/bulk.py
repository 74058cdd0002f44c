"""Symmetric encryption of packs and trees under a run key.

A run key is 256 random bits as 64 hexadecimal characters, used as an OpenPGP passphrase with plain salted S2K: it
needs no stretching, and stretching would cost half a second a call. No key ring, no agent and no home folder takes
part, so any number of calls may run at once, on a read-only or full disk too.

Invariant: no byte of a plaintext is handed out before gpg has ended well, its integrity check has passed, and its
status lines show exactly one binary literal inside exactly one encrypted part. gpg by itself prints tampered text
first and complains later, and takes an unencrypted message for a success.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from opskit.errors import Damaged, NoKey, OpskitError, UsageError
from opskit.gpg.packets import passphrases_alone
from opskit.gpg.program import NOWHERE, Buffer, Finished, MemoryFile, Scratch, run
from opskit.gpg.verify import Signed, verify

CIPHER_OPTIONS = (
    "--cipher-algo", "AES256", "--digest-algo", "SHA256", "--s2k-mode", "1",
    "--s2k-cipher-algo", "AES256", "--s2k-digest-algo", "SHA256",
)  # fmt: skip
"""Said in full because --rfc4880, which keeps 2.4 from writing packets others cannot read, falls back to 3DES."""

STRETCHED = ("--s2k-mode", "3", "--s2k-count", "65011712")
"""For what a person may have thought up: the most that RFC 4880 has, a quarter of a second for each guess."""

_BARE = (
    "--rfc4880", "--batch", "--no-options", "--homedir", NOWHERE, "--no-keyring", "--no-autostart",
    "--no-random-seed-file", "--no-permission-warning", "--no-symkey-cache",
    "--enable-special-filenames", "--output", "-&1",
)  # fmt: skip
"""The output is descriptor 1 said as a file: to its standard output gpg decrypts in pieces of half the size."""
_RUN_KEY = re.compile(rb"[0-9a-f]{64}")
_AES256, _BINARY = "9", "62"
_MDC, _AEAD = "2", "0"
"""How DECRYPTION_INFO names what protects a message. The second also if nothing does, but then GOODMDC is missing."""
_ROOM_FOR_LOGS = 1 << 20
_LARGEST_KEY_OBJECT = 64 << 20
"""Bytes of text: half a million run keys."""
_KEY_TROUBLE = ("Bad session key", "Bad passphrase", "No secret key", "public key decryption failed")
_MACHINE_TROUBLE = ("annot allocate memory", "out of memory", "out of core", "No space left")


def encrypt_symmetric(data: Buffer | MemoryFile, run_key: bytes) -> MemoryFile:
    """`data` as one binary OpenPGP message under `run_key`, in memory; the caller closes it. Raises OpskitError.

    Nothing is compressed.
    """
    options = [*_BARE, *CIPHER_OPTIONS, "-z", "0", "--symmetric"]
    finished = run("gpg", options, data=data, secret=require_run_key(run_key))
    if finished.code != 0 or not finished.output.size():
        finished.output.close()
        raise OpskitError(f"gpg could not encrypt: {finished.last_words()}")
    return finished.output


def decrypt_symmetric(data: Buffer | MemoryFile, run_key: bytes, scratch: Scratch | None = None) -> MemoryFile:
    """The plaintext of a message under `run_key`, as a rewound file in memory: `scratch`, or a new one to close.

    Raises NoKey when the run key does not fit (once in 65,536 wrong keys: Damaged), Damaged when the message does not
    decode. Check the SHA-256 of the object first: only then does NoKey surely mean the key.
    """
    return _decrypt(data, run_key, "--decrypt", scratch)


def decrypt_with_passphrase(data: bytes, passphrase: bytes) -> bytes:
    """The plaintext of a message that a person's passphrase opens, perhaps beside private keys, which are not asked.

    Raises NoKey when it does not, Damaged.
    """
    message = passphrases_alone(data)
    if message is None:
        raise NoKey("no passphrase opens the message: expected a way in for one, got none")
    finished = run("gpg", [*_BARE, "--decrypt"], data=message, secret=passphrase, output_limit=_LARGEST_KEY_OBJECT)
    with finished.output as file:
        require_decrypted(finished, literals=1, aead=True)
        return file.read()


def open_signed(data: Buffer, run_key: bytes, keyring: Path) -> Signed:
    """Open a message made by `Keyring.sign_and_encrypt` with its run key, and check its signature as `verify` does.

    `keyring` is a file made by `write_public_keyring`. Raises as `decrypt_symmetric` and `verify` do.
    """
    with _decrypt(data, run_key, "--unwrap") as file:
        return verify(file.read(), keyring)


def _decrypt(data: Buffer | MemoryFile, run_key: bytes, command: str, scratch: Scratch | None = None) -> MemoryFile:
    # Nothing here is compressed by OpenPGP, so a text longer than its message is a trap to fill the memory.
    size = data.size() if isinstance(data, MemoryFile) else memoryview(data).nbytes
    limit = max(size, _ROOM_FOR_LOGS)
    finished = run(
        "gpg", [*_BARE, command], data=data, secret=require_run_key(run_key), output_limit=limit, scratch=scratch
    )
    try:
        require_decrypted(finished, literals=1 if command == "--decrypt" else 0)
    except BaseException:
        if finished.output is not scratch:
            finished.output.close()
        raise
    return finished.output


def require_run_key(run_key: bytes) -> bytes:
    """`run_key`, if it has the form of one. Raises UsageError, without showing it."""
    if not _RUN_KEY.fullmatch(run_key):
        raise UsageError(f"expected a run key of 64 hexadecimal characters, got {len(run_key)} bytes of another form")
    return run_key


def require_decrypted(finished: Finished, *, literals: int, aead: bool = False) -> None:
    """Judge a decryption by its status lines; `literals` is 0 where only the encryption layer was taken off.

    `aead`: the message may be protected by OCB instead of a modification detection code. gpg 2.3 and newer do that to
    recipients whose keys ask for it, and cannot be kept from it; 2.2.21 and newer read it.

    Raises NoKey, Damaged, or OpskitError where the machine was at fault, with what gpg said.
    """
    if _is_whole(finished, literals, (_MDC, _AEAD) if aead else (_MDC,)):
        return
    why = finished.last_words()
    if any(words in finished.log for words in _MACHINE_TROUBLE):
        raise OpskitError(f"gpg could not decrypt: {why}")
    if finished.count("BADMDC") or finished.count("DECRYPTION_OKAY"):
        raise Damaged(f"the message is damaged: {why}")
    if finished.count("NO_SECKEY") or any(words in finished.log for words in _KEY_TROUBLE):
        raise NoKey(f"no key at hand opens the message: {why}")
    raise Damaged(f"expected one message in AES-256 with an integrity check, got something else: {why}")


def _is_whole(finished: Finished, literals: int, protections: Sequence[str]) -> bool:
    once = ("BEGIN_DECRYPTION", "DECRYPTION_OKAY", "GOODMDC", "END_DECRYPTION")
    words = [line[0] for line in finished.status]
    texts = finished.lines("PLAINTEXT")
    return (
        finished.code == 0
        and all(words.count(word) == 1 for word in once)
        and not any(word in words for word in ("BADMDC", "DECRYPTION_FAILED", "NODATA", "UNEXPECTED"))
        and [line[:2] for line in finished.lines("DECRYPTION_INFO")] in [[[each, _AES256]] for each in protections]
        and len(texts) == literals
        and all(line[:1] == [_BINARY] for line in texts)
        and (not texts or words.index("BEGIN_DECRYPTION") < words.index("PLAINTEXT") < words.index("END_DECRYPTION"))
    )

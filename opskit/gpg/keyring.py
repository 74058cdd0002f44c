"""A GnuPG home folder: its keys, and what is done with them.

Whatever is asked of it runs gpg directly, with every input and output in memory and the status lines checked. Only
taking keys in goes through python-gnupg, imported there: its constructor alone runs gpg once.

Invariants: messages can be read by GnuPG 2.2 and 2.4 alike; the network is never asked; a passphrase goes through a
pipe; nothing is written into the home but by `create`, `generate`, `import_keys` and `remove_private`, so that a full
disk does not stop a signature. Calls from several threads are safe.

It deliberately keeps no trust database: which key may do what is the config's business.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from opskit.errors import Damaged, NoKey, OpskitError, ProgramMissing, UsageError
from opskit.gpg import folders
from opskit.gpg.agent import start_agent, stop_agent
from opskit.gpg.bulk import CIPHER_OPTIONS, STRETCHED, require_decrypted, require_run_key
from opskit.gpg.listing import KeyInfo, normalised, parse_listing
from opskit.gpg.packets import PLAIN, SIGNED, literal_payload, unpack, without_passphrases
from opskit.gpg.program import Buffer, Finished, child_environment, find_program, run
from opskit.gpg.verify import LARGEST_PAYLOAD, SIGNED_LIMIT, Signed, verify

if TYPE_CHECKING:
    import gnupg

_LONGEST_HOME = 80
"""A Unix socket's name holds 107 bytes; gpg appends to the home's at most `/S.gpg-agent.browser`."""

_QUIET_HOME = (
    "--rfc4880", "--batch", "--no-options", "--no-permission-warning", "--no-symkey-cache",
    "--trust-model", "always", "--no-auto-check-trustdb",
    "--no-auto-key-locate", "--no-auto-key-retrieve", "--disable-dirmngr", "--display-charset", "utf-8",
)  # fmt: skip
_PREFERENCES = "SHA512 SHA384 SHA256 AES256 AES192 AES ZLIB Uncompressed"
"""Of keys made here. gpg 2.3 and newer would add OCB, and then encrypt to such keys in packets that RFC 4880 lacks."""
_READ_ONLY = ("--no-random-seed-file", "--lock-never")
"""Only where gpg writes nothing into the home: then a lock file is the one thing a full disk could refuse."""

_TRANSFER = ("--batch", "--no-options", "--trust-model", "always", "--no-auto-check-trustdb", "--disable-dirmngr")
"""With --batch a protected private key is taken in as it is, without asking for its passphrase."""

_AGENT_ATTEMPTS = 4
_AGENT_TROUBLE = (
    "No agent running",
    "can't connect to the agent",
    "End of file",
    "Broken pipe",
    "Connection reset",
    "IPC",
)


class Decrypted(NamedTuple):
    """A plaintext, and the primary fingerprint of who signed it (None: nobody did)."""

    payload: bytes
    signer: str | None


class Keyring:
    """One GnuPG home folder, or the user's own (`home` None), whose agent may hold smartcards and is never ended."""

    def __init__(self, home: Path | None) -> None:
        self.home = home
        self._alias: tuple[Path, int] | None = None
        self._alias_lock = threading.Lock()
        self._starting: subprocess.Popen[bytes] | None = None
        self._listing = threading.Lock()
        self._ahead: threading.Thread | None = None
        self._listed: tuple[tuple[int, ...] | None, list[KeyInfo]] | None = None

    def __enter__(self) -> Keyring:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def create(self) -> None:
        """Make the folder (mode 0700) where it is absent."""
        if self.home is not None:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.home.chmod(0o700)

    def start_agent(self) -> None:
        """Begin to start the agent while other work goes on; the first signature then need not wait for it."""
        if self.home is None or self._starting is not None or not self.home.is_dir():
            return
        # Where gpg-agent is outside PATH, gpg still knows where: only the head start is lost.
        with contextlib.suppress(ProgramMissing):
            self._starting = start_agent(self._short_home())

    def close(self) -> None:
        """End the agent of this home (never the user's own) and remove what was made for a long path."""
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None
        if self._starting is not None:
            self._starting.wait()
            self._starting = None
        if self.home is not None and self.home.is_dir():
            stop_agent(self._short_home())
        if self._alias is not None:
            folders.remove_folder(*self._alias)
            self._alias = None

    def generate(self, user_id: str, *, passphrase: bytes | None = None) -> str:
        """Make an Ed25519 key (certify, sign) with a Curve25519 subkey (encrypt), neither expiring.

        Returns the primary fingerprint. Raises UsageError for a user id of several lines, OpskitError.
        """
        if not user_id.isprintable() or not user_id.strip():
            raise UsageError("expected a user id of one line, such as 'Name <mail@example.org>'")
        self.create()
        self._listed = None
        # --gnupg because 2.4 makes no Ed25519 key under --rfc4880; --yes because two keys may have one name here.
        options = ["--gnupg", "--pinentry-mode", "loopback", "--yes", "--default-preference-list", _PREFERENCES]
        primary = ["--quick-generate-key", "--", user_id, "ed25519", "cert,sign", "never"]
        made = self._gpg([*options, *primary], secret=passphrase or b"")
        made.output.close()
        fingerprint = made.lines("KEY_CREATED")[0][1]
        subkey = ["--quick-add-key", fingerprint, "cv25519", "encr", "never"]
        self._gpg([*options, *subkey], secret=passphrase or b"").output.close()
        return fingerprint

    def import_keys(self, data: bytes) -> list[str]:
        """Take in public or private keys, armored or not; returns their primary fingerprints.

        Raises Damaged when there is no whole key in `data`.
        """
        self.create()
        self._listed = None
        transfer = self._python_gnupg()
        self._await_agent()
        result = transfer.import_keys(data)
        fingerprints = list(dict.fromkeys(found for found in result.fingerprints if found))
        if not fingerprints:
            raise Damaged("expected OpenPGP keys, got something else")
        return fingerprints

    def export_public(self, fingerprints: Sequence[str]) -> bytes:
        """The public keys, ASCII-armored. Raises NoKey when one is not here."""
        wanted = [self._present(fingerprint) for fingerprint in fingerprints]
        if not wanted:
            return b""  # gpg, given no name, would give out every key
        text = self._gpg(["--armor", "--export", *wanted], extra=_READ_ONLY, agent=False).read()
        if not text:
            raise NoKey(f"gpg gave out no public key for {', '.join(wanted)}")
        return text

    def export_secret(self, fingerprint: str, *, passphrase: bytes | None = None) -> bytes:
        """The private key, ASCII-armored, protected by its passphrase if it has one. Raises NoKey."""
        loopback = [] if passphrase is None else ["--pinentry-mode", "loopback"]
        options = [*_READ_ONLY, *loopback, "--armor", "--export-secret-keys", self._present(fingerprint)]
        finished = self._run(options, b"", passphrase)
        text = finished.read()
        if finished.code != 0 or not text:
            raise NoKey(f"gpg gave out no private key for {fingerprint}: {finished.last_words()}")
        return text

    def remove_private(self, fingerprint: str) -> None:
        """Remove a private key, if it is here, and keep its public half. Raises OpskitError."""
        self._listed = None
        if any(key.has_secret and key.fingerprint == normalised(fingerprint) for key in self.keys()):
            self._gpg(["--yes", "--delete-secret-keys", normalised(fingerprint)]).output.close()
            self._listed = None

    def _present(self, fingerprint: str) -> str:
        wanted = normalised(fingerprint)
        if wanted not in {key.fingerprint for key in self.keys()}:
            raise NoKey(f"no key {wanted} in {self.home or 'the GnuPG home of this user'}")
        return wanted

    def keys(self) -> list[KeyInfo]:
        """Every key of the home. A private half counts as present when its file is (a smartcard's stub too)."""
        if self.home is not None and not self.home.is_dir():
            return []
        with self._listing:
            state = self._state()
            if state is None or self._listed is None or self._listed[0] != state:
                finished = self._gpg(["--with-colons", "--with-keygrip", "--list-keys"], extra=_READ_ONLY, agent=False)
                found = parse_listing(finished.read().decode(errors="replace"), self._keygrips())
                self._listed = (state, found)
            return list(self._listed[1])

    def begin_listing(self) -> None:
        """Begin to list the keys while other work goes on: `keys` then finds the answer there, or waits for it."""
        self._ahead = threading.Thread(target=self._list_ahead, name="listing")
        self._ahead.start()

    def _list_ahead(self) -> None:
        with contextlib.suppress(OpskitError, OSError):  # whoever needs the keys asks again, and is told
            self.keys()

    def _state(self) -> tuple[int, ...] | None:
        """What tells whether a listing is still true: a backup asks for its keys four times. None: nothing does."""
        if self.home is None:  # the user's own may lie elsewhere (keyboxd, smartcards)
            return None
        found: list[int] = []
        try:
            for path in (self._public_file(), self.home / "private-keys-v1.d"):
                status = path.stat()
                found += (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            return None
        return tuple(found)

    def encrypt(self, data: Buffer, recipients: Sequence[str], *, passphrase: bytes | None = None) -> bytes:
        """`data`, ASCII-armored, to every one of `recipients` (full primary fingerprints). Raises NoKey.

        With `passphrase`, a person's, that opens it too, and each guess at it is made slow.
        """
        if not recipients:
            raise NoKey("expected at least one recipient, got none")
        also = [] if passphrase is None else [*STRETCHED, "--symmetric"]
        options = [*CIPHER_OPTIONS, "--armor", *_to(recipients), *also, "--encrypt"]
        return self._gpg(options, data=data, extra=_READ_ONLY, secret=passphrase).read()

    def sign(self, data: Buffer, signer: str, *, passphrase: bytes | None = None) -> bytes:
        """`data` signed by `signer` inside one compressed binary message. Raises NoKey.

        Without `passphrase` the agent asks for one where the key needs it.
        """
        _require_signable(data)
        loopback = [] if passphrase is None else ["--pinentry-mode", "loopback"]
        options = [*CIPHER_OPTIONS, *loopback, "-z", "6", *_by(signer), "--sign"]
        return self._gpg(options, data=data, extra=_READ_ONLY, secret=passphrase).read()

    def sign_and_encrypt(self, data: Buffer, *, signer: str, recipient: str, run_key: bytes) -> bytes:
        """`data` signed, then encrypted so that the recipient's private key or the run key alone opens it."""
        _require_signable(data)
        options = [*CIPHER_OPTIONS, "-z", "0", *_by(signer), *_to([recipient]), "--sign", "--encrypt", "--symmetric"]
        return self._gpg(options, data=data, extra=_READ_ONLY, secret=require_run_key(run_key)).read()

    def decrypt(self, data: Buffer, *, passphrase: bytes | None = None) -> Decrypted:
        """Open a message with a private key of this home; a signature must be good and by a key of this home.

        Without `passphrase` the agent asks for one where the key needs it. Raises NoKey, Damaged, UnknownSigner,
        Forged.
        """
        loopback = [] if passphrase is None else ["--pinentry-mode", "loopback"]
        # 2.4 would ask a person for the run key of an index object, or for the passphrase of a key object, before it
        # tries the private key.
        finished = self._run([*_READ_ONLY, *loopback, "--unwrap"], without_passphrases(bytes(data)), passphrase)
        message = finished.read()
        require_decrypted(finished, literals=0, aead=True)
        plain, packets = unpack(message, limit=SIGNED_LIMIT)
        tags = [packet.tag for packet in packets]
        if tags == PLAIN:
            return Decrypted(literal_payload(packets[0]), None)
        if tags != SIGNED:
            raise Damaged(f"expected one text or one signed text, got packets {tags[:8]}")
        signed = verify(plain, self._public_file())
        return Decrypted(signed.payload, signed.fingerprint)

    def verify(self, data: bytes) -> Signed:
        """The payload of an object made by `sign`, if a key of this home signed it; raises as `gpg.verify` does."""
        return verify(data, self._public_file())

    def _gpg(
        self,
        arguments: Sequence[str],
        *,
        data: Buffer = b"",
        extra: Sequence[str] = (),
        secret: bytes | None = None,
        agent: bool = True,
    ) -> Finished:
        """Run gpg and raise what went wrong. Without `agent` the call needs no private key."""
        finished = self._run([*extra, *arguments], data, secret, agent=agent)
        if finished.code != 0:
            finished.output.close()
            if finished.count("INV_RECP") or finished.count("INV_SGNR") or "No secret key" in finished.log:
                raise NoKey(f"a key cannot be used: {finished.last_words()}")
            raise OpskitError(f"gpg failed: {finished.last_words()}")
        return finished

    def _run(self, arguments: Sequence[str], data: Buffer, secret: bytes | None, *, agent: bool = True) -> Finished:
        home = [] if self.home is None else ["--homedir", str(self._short_home())]
        if agent:
            self._await_agent()
        command = [*_QUIET_HOME, *home, *arguments]
        for _attempt in range(_AGENT_ATTEMPTS):
            finished = run("gpg", command, data=data, secret=secret)
            if finished.code == 0 or not any(words in finished.log for words in _AGENT_TROUBLE):
                return finished
            # Another command of opskit has just ended the agent they shared: a new one starts by itself.
            finished.output.close()
        raise OpskitError(f"the gpg-agent of {self._place()} does not answer: {finished.last_words()}")

    def _await_agent(self) -> None:
        """Wait until an agent that was started listens: gpg, finding none, would start a second one."""
        if self._starting is not None:
            self._starting.wait()

    def _python_gnupg(self) -> gnupg.GPG:
        import gnupg

        # At level DEBUG it logs the first 256 bytes of the keys it takes in, private ones too.
        gnupg.logger.disabled = True
        return gnupg.GPG(
            gpgbinary=find_program("gpg"),
            gnupghome=None if self.home is None else str(self._short_home()),
            options=list(_TRANSFER),
            env=child_environment(),
        )

    def _short_home(self) -> Path:
        """The home under a name short enough for a Unix socket; longer ones end in "No agent running"."""
        assert self.home is not None
        home = self.home.absolute()
        if len(os.fsencode(home)) <= _LONGEST_HOME:
            return home
        with self._alias_lock:
            if self._alias is None:
                self._alias = _alias_of(home)
            return self._alias[0] / "home"

    def _place(self) -> Path:
        return self.home or Path(os.environ.get("GNUPGHOME") or Path.home() / ".gnupg")

    def _keygrips(self) -> set[str]:
        return {path.stem for path in (self._place() / "private-keys-v1.d").glob("*.key")}

    def _public_file(self) -> Path:
        keybox = self._place() / "pubring.kbx"
        return keybox if keybox.exists() else self._place() / "pubring.gpg"


def _alias_of(home: Path) -> tuple[Path, int]:
    for base in [*folders.candidates(), Path("/tmp")]:  # of a random name, mode 0700, and holds only a link
        if folders.usable(base):
            folders.sweep(base, stop_agent)
            path, descriptor = folders.make_folder(base)
            (path / "home").symlink_to(home)
            return path, descriptor
    raise OpskitError(
        f"the path {home} is too long for gpg: expected at most {_LONGEST_HOME} bytes",
        hint="choose a shorter state_dir",
    )


def _require_signable(data: Buffer) -> None:
    # What `verify` would refuse to read must fail now, not on the day of a recovery.
    size = memoryview(data).nbytes
    if size > LARGEST_PAYLOAD:
        raise OpskitError(f"expected at most {LARGEST_PAYLOAD} bytes to sign, got {size}")


def _to(recipients: Sequence[str]) -> list[str]:
    return [word for recipient in recipients for word in ("--recipient", _full(recipient))]


def _by(signer: str) -> list[str]:
    return ["--local-user", _full(signer)]


def _full(fingerprint: str) -> str:
    # A short id or a name may fit a stranger's key as well.
    wanted = normalised(fingerprint)
    if not re.fullmatch("[0-9A-F]{40}|[0-9A-F]{64}", wanted):
        raise UsageError(f"expected a full fingerprint of 40 hexadecimal digits, got {fingerprint!r}")
    return wanted

"""SSH keys that log in to an account of this machine. The value is a private key in OpenSSH's form, without passphrase.

A key is accepted because of a line in the account's file of authorized keys (`lines`, `file`). A new one is allowed
what the one before is: its options (`from="…"`, `command="…"`) are carried over. Switched off, a line is a comment.

Invariants: a private key is in memory alone; `ssh` gets it as its standard input, which it reads as a file and does not
pass on (-n). It proves itself by a login that uses that key and nothing else: no agent, no shared connection, no
ssh_config. Keys that log in otherwise (certificates, AuthorizedKeysCommand, a second file) are out of reach here, and
seen, as they are still accepted once revoked.

It deliberately reaches no file on other machines: who would carry it there needs a way in that is not the key itself.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opskit.errors import ProgramMissing, TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import TIMEOUT
from opskit.secrets.rotation.commands import Answer, Programs
from opskit.secrets.rotation.targets.ssh import file, lines

_FAILED = 255
"""The exit status by which ssh says that it failed itself."""


@dataclass(frozen=True)
class SshSettings:
    """Which file accepts the key, and where it must log in."""

    authorized_keys: Path
    """On this machine; it must be there, and no symbolic link."""
    user: str
    host: str = "localhost"
    """The name by which the users of the key connect, and `known_hosts` knows the machine."""
    port: int = 22
    known_hosts: Path | None = None
    """Whose keys are believed; None: the usual files. A host that is not in it is not talked to."""
    command: tuple[str, ...] = ("true",)
    """What must be possible there with the key; the account's shell reads it. A forced command is run instead of it."""
    statuses: tuple[int, ...] = (0,)
    """With which exit status that command shows that it works."""
    comment: str = "opskit"
    """At the end of the lines that are added."""
    options: str = ""
    """Of the first key, where there is none before it whose options could be carried over; "" allows everything."""


class SshKeys:
    """The lines of one file of authorized keys."""

    keeps_old = True

    def __init__(self, settings: SshSettings, programs: Programs) -> None:
        self._settings, self._programs = settings, programs

    def create(self, current: Secret | None, since: float) -> Secret:
        """A new ed25519 key."""
        del current, since
        serialization, ed25519 = _cryptography()
        return Secret(
            ed25519.Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Have a line for the key, beside the one of `current`; TargetRefused where that one is not in the file."""
        public = public_of(secret)
        like = None if current is None else lines.key_of(public_of(current))

        def edit(text: str) -> str:
            changed = lines.with_key(text, f"{public} {self._settings.comment}", like, self._settings.options)
            if changed is None:
                raise TargetRefused(
                    f"{self._settings.authorized_keys} has no line of the current key: expected one, as the new key "
                    "gets its options",
                    hint=f"is that the file of {self._settings.user}, and does the key log in by it?",
                )
            return changed

        file.change(self._settings.authorized_keys, edit)

    def verify(self, secret: Secret) -> bool:
        """Whether a login with the key succeeds."""
        public_of(secret)
        answer = self._logged_in(secret)
        if answer.status in self._settings.statuses:
            return True
        if answer.status != _FAILED:
            raise TargetError(
                f"{self._where}: the login succeeded, and then: {answer}",
                hint="name a command that the account may run, and the exit status by which it shows that it works",
            )
        if self._is_refusal(answer):
            return False
        raise TargetError(
            f"{self._where}: expected an answer to the login, got: {answer}", hint="run ssh -v by hand to see more"
        )

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Comment the lines of the key out, or remove them; TargetRefused where the kept one has none."""
        key, other = (lines.key_of(public_of(each)) for each in (secret, kept))

        def edit(text: str) -> str:
            if key == other or not lines.accepts(text, other):
                raise TargetRefused(
                    f"{self._settings.authorized_keys} has no line of another key that is kept: nothing was changed",
                    hint=f"is that the file of {self._settings.user}?",
                )
            return lines.without_key(text, key, final=final)

        file.change(self._settings.authorized_keys, edit)

    @property
    def _where(self) -> str:
        return f"{self._settings.user}@{self._settings.host}"

    def _logged_in(self, secret: Secret) -> Answer:
        ssh = shutil.which("ssh", path=self._programs.environ.get("PATH"))
        if ssh is None:
            raise ProgramMissing("expected the program ssh, found none in PATH", hint="install openssh-client")
        options = {
            "IdentitiesOnly": "yes", "IdentityAgent": "none", "PreferredAuthentications": "publickey",
            "BatchMode": "yes", "ControlPath": "none", "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no",
            "LogLevel": "ERROR", "ConnectTimeout": f"{TIMEOUT:.0f}",
        }  # fmt: skip
        if self._settings.known_hosts is not None:
            options |= {"UserKnownHostsFile": f'"{self._settings.known_hosts}"', "GlobalKnownHostsFile": "/dev/null"}
        # By its standard input: ssh closes all other descriptors, and may not look into the memory of who started it.
        argv = [ssh, "-F", "none", "-n", "-T", "-i", "/proc/self/fd/0", "-p", str(self._settings.port),
                *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
                "--", self._where, *self._settings.command]  # fmt: skip
        # ssh wants the end of line that stores and people lose.
        key = Secret(secret.reveal_bytes().strip() + b"\n")
        return self._programs.run(argv, None, stdin=key, timeout=3 * TIMEOUT)

    def _is_refusal(self, answer: Answer) -> bool:
        """By the line in which ssh itself says so last; a program that it ran there may say the like of elsewhere."""
        last = answer.said.rpartition(" / ")[2]
        return last.startswith(f"{self._where}: Permission denied (") and "Load key" not in answer.said


def public_of(secret: Secret) -> str:
    """The public half, as it stands in files; raises TargetRefused where the value is no private key."""
    serialization, _ = _cryptography()
    data = secret.reveal_bytes()
    load = serialization.load_ssh_private_key if b"OPENSSH" in data[:40] else serialization.load_pem_private_key
    try:
        public: bytes = load(data, None).public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )  # fmt: skip
    except Exception:  # of many kinds, of which none may be shown: ValueError, TypeError, UnsupportedAlgorithm, …
        raise TargetRefused(
            "the value in the store has another shape: expected an OpenSSH private key without passphrase",
            hint="set it once by hand, as it is in use now: opskit secrets set REFERENCE",
        ) from None
    return public.decode()


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # 0.1 s, and an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ProgramMissing(
            "SSH keys are made by the Python package cryptography: expected it, got none",
            hint="install it beside opskit: pip install 'opskit[ssh]'",
        ) from None
    return serialization, ed25519

"""Keys for these tests, and gpg itself for what opskit would never write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from opskit.gpg import Buffer, Keyring, encrypt_symmetric, write_public_keyring

RUN_KEY = b"0123456789abcdef" * 4
PLAIN_OPTIONS = ("--batch", "--no-options", "--yes", "--quiet", "--trust-model", "always", "--no-permission-warning")


class Owner(NamedTuple):
    """A key, its home folder, and the file of public keys by which gpgv knows it."""

    keyring: Keyring
    fingerprint: str
    public_file: Path

    @property
    def home(self) -> Path:
        assert self.keyring.home is not None
        return self.keyring.home


def raw_gpg(home: Path, *arguments: str, data: bytes = b"", secret: bytes | None = None) -> bytes:
    """gpg with nothing of opskit around it; `secret` is a passphrase."""
    command = ["gpg", "--homedir", str(home), *PLAIN_OPTIONS]
    reader, writer = os.pipe()
    os.write(writer, (secret or b"") + b"\n")
    os.close(writer)
    if secret is not None:
        command += ["--pinentry-mode", "loopback", "--passphrase-fd", str(reader)]
    try:
        done = subprocess.run([*command, *arguments], input=data, capture_output=True, pass_fds=[reader])
    finally:
        os.close(reader)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def make_owner(home: Path, name: str) -> Owner:
    keyring = Keyring(home)
    fingerprint = keyring.generate(f"{name} <{name}@example.org>")
    public_file = home.parent / f"{home.name}.pub"
    write_public_keyring(keyring.export_public([fingerprint]), public_file)
    return Owner(keyring, fingerprint, public_file)


def dated_key(home: Path, name: str, made: str, life: str) -> str:
    """A signing key made on the day `made` (YYYYMMDD) that lives for `life`; returns its fingerprint."""
    moment = f"{made}T000000!"
    raw_gpg(home, "--faked-system-time", moment, "--quick-gen-key", name, "ed25519", "cert,sign", life, secret=b"")
    listing = raw_gpg(home, "--with-colons", "--list-keys", f"={name}").decode()
    fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr"))
    arguments = ["--quick-add-key", fingerprint, "cv25519", "encr", life]
    raw_gpg(home, "--faked-system-time", moment, *arguments, secret=b"")
    return fingerprint


def agents_of(home: Path) -> list[int]:
    """The processes of living gpg-agents that were started for `home` or a link to it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"gpg-agent") for word in words[:4]) and b"--homedir" in words:
                named = Path(os.fsdecode(words[words.index(b"--homedir") + 1]))
                if named == home or named.resolve() == home.resolve():
                    found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
            continue
    return found


def private_folder(path: Path) -> Path:
    """A new home folder in which a passphrase is quick to try."""
    path.mkdir(mode=0o700)
    (path / "gpg-agent.conf").write_text("s2k-count 65536\n")
    return path


def encrypted(data: Buffer, run_key: bytes) -> bytes:
    """A message under a run key, as bytes."""
    with encrypt_symmetric(data, run_key) as message:
        return message.read()

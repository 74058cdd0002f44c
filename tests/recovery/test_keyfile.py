"""The recovery-key file: what is written can be read, by opskit and by gpg itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from opskit.errors import Damaged
from opskit.repository.recovery.keyfile import KeyFile, decode, encode
from tests.recovery.conftest import Made


def test_round_trip(made: Made) -> None:
    """decode gives back what encode was given."""
    key = KeyFile("5e" * 16, "ab" * 32, ["A1" * 20], ["B2" * 20, "C3" * 20], made.lab.secret, made.lab.public)
    assert decode(encode(key)) == key
    assert decode(encode(key).replace(b"\n", b"\r\n")).signers == key.signers


def test_bare_private_key(made: Made) -> None:
    """An armored private key by itself is a recovery-key file that knows nothing else."""
    assert decode(made.lab.secret) == KeyFile(None, None, [], [], made.lab.secret, b"")


def test_gpg_imports_it(made: Made, keys: Path) -> None:
    """`gpg --import FILE` takes in the private key and the signers' public keys, header lines and all."""
    home = keys / "import"
    home.mkdir(mode=0o700)
    command = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--no-options",
        "--status-fd",
        "1",
        "--import",
        str(made.lab.key),
    ]
    status = subprocess.run(command, capture_output=True, text=True).stdout
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    assert f"IMPORT_OK 17 {made.lab.recipient}" in status and f"IMPORT_OK 1 {made.lab.host}" in status


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"recovery key 1", b"recovery key 2"),
        (b"signers: A", b"signers: x"),
        (b"sha256: a", b"sha256: Z"),
        (b"PRIVATE", b"PUBLIC"),
    ],
)
def test_wrong_files_are_refused(made: Made, old: bytes, new: bytes) -> None:
    """A later form, a malformed value or a missing private key is Damaged, and no key material is shown."""
    data = encode(KeyFile("5e" * 16, "ab" * 32, ["A1" * 20], [], made.lab.secret, made.lab.public))
    with pytest.raises(Damaged) as caught:
        decode(data.replace(old, new))
    assert made.lab.secret.splitlines()[3].decode() not in str(caught.value)


def test_values_that_cannot_be_read_back(made: Made) -> None:
    """encode refuses a value with a line end, instead of writing a file that reads differently."""
    with pytest.raises(Damaged):
        encode(KeyFile("a\nsigners: B", None, [], [], made.lab.secret, b""))

"""The note of a recovery-key file: what is accused of opening nothing is what was to be written, byte for byte."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from opskit.config.model import Keys
from opskit.errors import UsageError
from opskit.repository.recovery import keyfile
from opskit.repository.recovery.keyfile import KeyFile
from opskit.setup import unused_key
from opskit.setup.unused_key import Found

MINE, NEW = "A" * 40, "B" * 40
KEYS = Keys(recipients=(MINE,))
ARMOR = b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n%s\n-----END PGP PRIVATE KEY BLOCK-----\n"
FILE = KeyFile("r" * 32, "0" * 64, [MINE], [MINE], ARMOR % b"new", b"")
WRITTEN = keyfile.encode(FILE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key was to go when a run was killed; nothing is there yet."""
    unused_key.note(tmp_path, NEW, tmp_path / "stick.asc", FILE)
    return tmp_path / "stick.asc"


def left_at(path: Path) -> Found:
    found = unused_key.left(path.parent, KEYS)
    assert found is not None and (found.file, found.fingerprint) == (path, NEW)
    return found.found


def test_the_very_file_is_accused(path: Path) -> None:
    """And the next key may not go there; nor is it told of where the key is a recipient's, or is to go there."""
    path.write_bytes(WRITTEN)
    assert left_at(path) is Found.WHOLE
    with pytest.raises(UsageError, match="opens no backup"):
        unused_key.require_other_file(path.parent, KEYS, path)
    unused_key.require_other_file(path.parent, KEYS, path.with_name("other"))
    assert unused_key.left(path.parent, KEYS, path) is None
    assert unused_key.left(path.parent, Keys(recipients=(MINE, NEW))) is None
    assert unused_key.left(path.parent, Keys(recipients=(MINE,), retired=(NEW,))) is None


@pytest.mark.parametrize(
    "data",
    [
        keyfile.encode(replace(FILE, secret=ARMOR % b"good")), WRITTEN + b"# mine\n", ARMOR % b"bare", b"notes\n",
        b"x" * (2 << 20),
    ],
    ids=["a good key", "edited", "a bare key", "no key", "large"],
)  # fmt: skip
def test_whatever_else_is_there_is_not_accused(path: Path, data: bytes) -> None:
    """Sticks are swapped, and keys copied: it is told as not being the file in question."""
    path.write_bytes(data)
    assert left_at(path) is Found.OTHER
    unused_key.require_other_file(path.parent, KEYS, path)


def test_what_is_no_file_is_not_accused(path: Path) -> None:
    """Nothing at all, a link to the very bytes, a pipe, which hangs nobody, and a folder."""
    assert left_at(path) is Found.OTHER
    (path.parent / "elsewhere").write_bytes(WRITTEN)
    path.symlink_to(path.parent / "elsewhere")
    assert left_at(path) is Found.OTHER
    path.unlink()
    os.mkfifo(path)
    assert left_at(path) is Found.OTHER
    path.unlink()
    path.mkdir()
    assert left_at(path) is Found.OTHER


@pytest.mark.parametrize("data", [b"", WRITTEN[:9], WRITTEN[:-20], WRITTEN[:99] + b"\0" * 400, b"\0" * 512])
def test_a_torn_file_is_called_not_whole(path: Path, data: bytes) -> None:
    """As a kill or a power cut leaves it: nobody is told that it opens nothing, and it is not overwritten."""
    path.write_bytes(data)
    assert left_at(path) is Found.TORN
    with pytest.raises(UsageError, match="not whole") as refused:
        unused_key.require_other_file(path.parent, KEYS, path)
    assert "remove" not in str(refused.value.hint)

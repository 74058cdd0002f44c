"""What GnuPG 2.4 writes, 2.2 opens, and the other way round (where both are at hand)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opskit.gpg import (
    Keyring,
    check_programs,
    decrypt_symmetric,
    open_signed,
    verify,
    write_public_keyring,
)
from opskit.gpg.program import find_program
from tests.gpg.conftest import folder_of_gpg
from tests.gpg.keys import RUN_KEY, encrypted

TEXT = b"a text \x00\xff\r\n" * 5000
Switch = Callable[[bool], None]


@pytest.mark.parametrize("new_writes", [True, False], ids=["2.4 writes", "2.2 writes"])
def test_every_kind_of_object_opens_with_the_other(gpg24: Switch, tmp_path: Path, new_writes: bool) -> None:
    """Packs, key objects, index objects and manifests written by one version open with the other."""
    gpg24(new_writes)
    assert (check_programs().gpg >= (2, 3, 0)) is new_writes
    with Keyring(tmp_path / "writer") as writer:
        name = writer.generate("writer")
        secret, public = writer.export_secret(name), writer.export_public([name])
        pack, key, manifest = (
            encrypted(TEXT, RUN_KEY),
            writer.encrypt(TEXT, [name]),
            writer.sign(TEXT, name),
        )
        index = writer.sign_and_encrypt(TEXT, signer=name, recipient=name, run_key=RUN_KEY)
    gpg24(not new_writes)
    write_public_keyring(public, tmp_path / "signers.gpg")
    with decrypt_symmetric(pack, RUN_KEY) as file:
        assert file.read() == TEXT
    assert verify(manifest, tmp_path / "signers.gpg").fingerprint == name
    assert open_signed(index, RUN_KEY, tmp_path / "signers.gpg").payload == TEXT
    with Keyring(tmp_path / "reader") as reader:
        assert reader.import_keys(secret) == [name]
        assert reader.decrypt(key) == (TEXT, None)
        assert reader.decrypt(index) == (TEXT, name)


def test_the_switch_really_switches(gpg24: Switch) -> None:
    """The two programs of these tests are different ones."""
    gpg24(True)
    new = find_program("gpg")
    gpg24(False)
    assert find_program("gpg") != new


def test_the_version_that_is_missing_is_named(tmp_path: Path) -> None:
    """Whichever of the two the system has, the pair is found when the other is named, and the skip names the other."""

    def made(version: str) -> Path:
        program = tmp_path / version / "gpg"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho 'gpg (GnuPG) {version}'\n")
        program.chmod(0o755)
        return program.parent

    old, new = made("2.2.40"), made("2.4.4")
    for system, other, name, lacks in ((old, new, "OPSKIT_GPG24", "2.4"), (new, old, "OPSKIT_GPG22", "2.2")):
        environ = {"PATH": str(system)}
        with pytest.raises(pytest.skip.Exception, match=f"gpg {lacks} not found .*: set {name}"):
            folder_of_gpg(lacks, environ)
        assert folder_of_gpg(lacks, {**environ, name: str(other)}) == other
        assert folder_of_gpg("2.2" if lacks == "2.4" else "2.4", environ) == system

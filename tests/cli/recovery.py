"""A host whose recovery key lies in a secret store, to be rotated."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from opskit.gpg import Keyring
from tests.cli.hosts import Answer, Machine, fill, run
from tests.cli.test_keys_rotate import recipients
from tests.gpg.keys import private_folder, raw_gpg

ENTRY = """
rotations:
  recovery:
    secret: gpg://{state}/secrets.gpg#recovery
    backup_key: {{user_id: "Next <next@example.org>"}}
"""


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A host with a run at two copies, whose recovery key is in a secret store."""
    machine = Machine(tmp_path_factory.mktemp("m"))
    fill(machine.source)
    assert machine.init().code == 0
    machine.config.write_text(machine.config.read_text() + ENTRY.format(state=machine.state))
    set_value(machine, machine.key.read_bytes())
    assert machine.run("backup").code == 0
    return machine


@pytest.fixture
def host(first: Machine, tmp_short: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same host, to be changed; whoever types has no keys of his own."""
    monkeypatch.setenv("GNUPGHOME", str(tmp_short / "none"))
    machine = first.copy_to(tmp_short / "host")
    assert machine.run("backup").code == 0  # what was copied may have lost its holes
    return machine


def reference(machine: Machine) -> str:
    return f"gpg://{machine.state}/secrets.gpg#recovery"


def set_value(machine: Machine, value: bytes) -> None:
    """Make this the current value of the store."""
    process = machine.start("secrets", "set", reference(machine), stdin=-1)
    _, err = process.communicate(value, timeout=60)
    assert process.returncode == 0, err


def value(machine: Machine) -> Path:
    """The current value of the store, as a key file."""
    path = machine.folder / f"key-{len(list(machine.folder.iterdir()))}.asc"
    path.write_bytes(machine.run("secrets", "get", "-n", reference(machine)).data)
    return path


def restores(machine: Machine, key: Path, copy: Path, snapshot: str = "latest") -> bool:
    """Whether a key file alone brings everything back from a copy."""
    target = machine.folder / f"restored-{len(list(machine.folder.iterdir()))}"
    code = run("restore", snapshot, "--repository", copy, "--key", key, "--target", target).code
    assert code in (0, 12)
    return code == 0


def last(machine: Machine) -> Any:
    """The last rotation of the recovery key, as `rotate status` tells it."""
    (found,) = machine.run("--json", "rotate", "status").json
    return found["last"]


def succeeds(machine: Machine, *words: object) -> Answer:
    answer = machine.run(*words)
    assert answer.code == 0, answer.err
    return answer


def waits(machine: Machine, why: str) -> None:
    """`retire` keeps the old key, says why, and leaves the way back open."""
    answer = machine.run("rotate", "retire", "recovery", "--now")
    assert answer.code == 3 and "the old value is kept" in answer.err and why in answer.err, answer.err


def public_half(machine: Machine, fingerprint: str) -> Path:
    """The public key of a recipient, as a file."""
    path = machine.folder / f"{fingerprint}.pub"
    with Keyring(machine.state / "gnupg") as ring:
        path.write_bytes(ring.export_public([fingerprint]))
    return path


def expire(machine: Machine, key: Path, fingerprint: str) -> None:
    """Let a recipient of this host expire, whose private key is in a file."""
    home = private_folder(machine.folder / f"expiring-{fingerprint[:8]}")
    text = key.read_bytes()
    raw_gpg(home, "--import", data=text[text.index(b"-----BEGIN PGP PRIVATE") :])
    for part in ((), ("*",)):
        raw_gpg(home, "--quick-set-expire", fingerprint, "seconds=1", *part, secret=b"")
    with Keyring(machine.state / "gnupg") as ring:
        ring.import_keys(raw_gpg(home, "--armor", "--export", fingerprint))
    time.sleep(2.1)


def name_recipients(machine: Machine, *fingerprints: str) -> None:
    """Write the config by hand, or by configuration management."""
    text = machine.config.read_text()
    edited = re.sub(r"recipients: \[[^\]]*\]", f"recipients: [{', '.join(fingerprints)}]", text)
    edited = re.sub(r"\n *retired: \[[^\]]*\]", "", edited)
    machine.config.write_text(edited)
    assert recipients(machine) == ([*fingerprints], [])

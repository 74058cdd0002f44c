"""A recipient of backups: a real host with a snapshot at two copies."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from opskit.secrets.reference import Secret
from opskit.setup.backup_key.target import BackupKey, BackupKeySettings
from tests.cli.hosts import Machine
from tests.contracts.targets import KINDS, Lab


@cache
def _first() -> Machine:
    folder = Path(tempfile.mkdtemp(prefix="opskit-recipient-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    machine = Machine(folder)
    machine.source.mkdir()
    (machine.source / "token").write_text("a token\n")
    assert machine.init().code == 0
    assert machine.run("backup").code == 0
    return machine


@contextmanager
def _lab(folder: Path) -> Iterator[Lab]:
    shutil.rmtree(folder)
    machine = _first().copy_to(folder)
    target = BackupKey(BackupKeySettings(machine.config))
    yield Lab(target, Secret(machine.key.read_bytes()))


KINDS["backup-key"] = _lab

"""SSH keys, at a real sshd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opskit.secrets.rotation.targets.ssh.target import public_of
from tests.contracts.targets import KINDS, Lab
from tests.secrets.rotation import ssh_server


@contextmanager
def _lab(_folder: Path) -> Iterator[Lab]:
    if (reason := ssh_server.missing()) is not None:
        pytest.skip(reason)
    account = ssh_server.running()
    account.accepts(public_of(account.first))
    yield Lab(account.target(), account.first)


KINDS["ssh"] = _lab

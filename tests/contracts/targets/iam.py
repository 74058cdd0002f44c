"""Access keys of an IAM user that an admin manages, at moto."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.secrets.rotation.targets.iam import IamSettings, iam_keys
from tests.contracts.targets import KINDS, Lab
from tests.secrets.rotation.iam_server import aws


@contextmanager
def _lab(_folder: Path) -> Iterator[Lab]:
    with aws() as iam:
        user = iam.user()
        first = iam.key(user)
        yield Lab(iam_keys(IamSettings(user, admin=lambda: iam.admin)), first, makes_values=True)


KINDS["iam"] = _lab

"""Access keys of an IAM user, managed by an admin's key and by the user itself, at moto."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.secrets.rotation.targets.iam import IamSettings, iam_keys
from tests.contracts.targets import KINDS, Lab
from tests.secrets.rotation.iam_server import SELF_SERVICE, aws


@contextmanager
def _by_admin(_folder: Path) -> Iterator[Lab]:
    with aws() as iam:
        user = iam.user()
        first = iam.key(user)
        yield Lab(iam_keys(IamSettings(user, admin=lambda: iam.admin)), first, makes_values=True)


@contextmanager
def _by_itself(_folder: Path) -> Iterator[Lab]:
    with aws() as iam:
        user = iam.user(*SELF_SERVICE)
        first = iam.key(user)
        yield Lab(iam_keys(IamSettings(user, is_self_managed=True)), first, makes_values=True)


KINDS["iam"] = _by_admin
KINDS["iam-self-managed"] = _by_itself

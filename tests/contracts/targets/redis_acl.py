"""A user of two real Redis servers, which keep their users in different places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.targets.redis_acl import RedisUser
from tests.contracts.targets import KINDS, Lab
from tests.secrets.rotation.redis_nodes import redis_nodes, settings


@contextmanager
def _redis(_folder: Path) -> Iterator[Lab]:
    with redis_nodes("aclfile", "config") as nodes:
        yield Lab(RedisUser(settings(*nodes)), Secret("first"))


KINDS["redis-user"] = _redis

"""TLS keys with certificates of a small CA, shown by a server made of Python's ssl."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.targets.tls import Endpoint, TlsKeys, TlsSettings
from tests.contracts.targets import KINDS, Lab
from tests.secrets.rotation.tls_server import NAMES, ca, listening


@contextmanager
def _lab(folder: Path) -> Iterator[Lab]:
    with listening(folder) as server:
        settings = TlsSettings(folder, NAMES, ca(), server.reload, (Endpoint("127.0.0.1", server.port),))
        target = TlsKeys(settings, Programs({"PATH": os.environ["PATH"]}), time.time)
        first = target.create(None, 0.0)
        target.apply(first, None)
        yield Lab(target, first)


KINDS["tls"] = _lab

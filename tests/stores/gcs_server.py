"""Servers for the tests of Google Cloud Storage.

One is gcp-storage-emulator of PyPI, in a process of its own: it speaks the JSON API, takes no notice of
`ifGenerationMatch` and knows neither pages nor accounts. The other is ours (`gcs_rules`), and keeps those rules.
"""

from __future__ import annotations

import atexit
import importlib.util
import sys
import uuid
from contextlib import ExitStack
from functools import cache

from opskit.stores.url import Gcs
from tests.stores import gcs_rules
from tests.stores.gcs_rules import Bucket, Rules
from tests.stores.programs import serving

BUCKET = "copies"
# Serves on a free port, which it prints, until its standard input ends.
_EMULATOR = f"""
import sys
from gcp_storage_emulator.server import create_server
with create_server("127.0.0.1", 0, in_memory=True, default_bucket="{BUCKET}") as server:
    print(server._api._httpd.server_address[1], flush=True)
    sys.stdin.read()
"""


def missing() -> str | None:
    """Why nothing of it can be had here, or None."""
    for module, package in (("google.auth", "google-auth"), ("gcp_storage_emulator", "gcp-storage-emulator")):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"no {package} here: pip install 'opskit[test]'"
    return None


@cache
def emulator() -> str:
    """The address of the emulator of this test session, started when it is first asked for, stopped at the end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(serving([sys.executable, "-W", "ignore", "-c", _EMULATOR]))


@cache
def rules() -> Rules:
    """The server that keeps the rules, of this test session; it has one bucket, and short pages."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(gcs_rules.served(Rules({BUCKET: Bucket()}, largest_page=5)))


@cache
def key(*may: str) -> str:
    """The JSON key of an account that may do this at that server; all, unless something is named."""
    return rules().account("-".join(may) or "admin", *(may or gcs_rules.ALL))


def service(address: str | None = None, prefix: str | None = None, secret: str | None = None) -> Gcs:
    """A place of its own in the bucket of the server that keeps the rules."""
    place = uuid.uuid4().hex if prefix is None else prefix
    return Gcs(address or rules().address, BUCKET, place, lambda: secret or key(), timeout=10, page_size=7)


def lenient() -> Gcs:
    """A place of its own in the bucket of the emulator."""
    return Gcs(emulator(), BUCKET, uuid.uuid4().hex, conditional=False, timeout=10)

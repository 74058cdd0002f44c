"""A real server of Azure's protocol for tests: Microsoft's Azurite, of npm, in a process of its own.

It is looked for in PATH and in `.azurite` of the checkout. It keeps everything in memory.
"""

from __future__ import annotations

import atexit
import importlib
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from opskit.stores.url import Azure, AzureSecrets

ACCOUNT = "devstoreaccount1"
# The one that Azurite has for everybody, in its documentation.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "copies"
_LOCAL = Path(__file__).parents[2] / ".azurite" / "node_modules" / ".bin"


def missing() -> str | None:
    """Why no server can be had here, or None."""
    try:
        importlib.import_module("azure.storage.blob")
    except ImportError:
        return "no azure-storage-blob here: pip install 'opskit[test]'"
    return None if _program() else "no azurite here: npm install --prefix .azurite azurite"


def _program() -> str | None:
    return shutil.which("azurite-blob", path=os.pathsep.join((os.environ.get("PATH", ""), str(_LOCAL))))


@contextmanager
def served() -> Iterator[str]:
    """The address of the account, in which there is one container."""
    program = _program()
    assert program is not None
    # Azurite knows the newest version of the protocol later than the SDK does.
    command = [program, "--silent", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    with (
        TemporaryDirectory(prefix="opskit-azurite-") as folder,
        subprocess.Popen(
            [*command, "--blobHost", "127.0.0.1", "--blobPort", "0"], cwd=folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            said = next(found for line in process.stdout if (found := re.search(r"listens on (http\S+)", line)))
            address = f"{said[1]}/{ACCOUNT}"
            _make(address)
            yield address
        finally:
            process.terminate()


def _make(address: str) -> None:
    from azure.storage.blob import ContainerClient

    with ContainerClient(address, CONTAINER, {"account_name": ACCOUNT, "account_key": KEY}) as client:
        client.create_container()


@cache
def running() -> str:
    """The account at the server of this test session, started when it is first asked for and stopped at the end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(served())


def service(address: str | None = None, prefix: str | None = None, **secrets: str) -> Azure:
    """A place of its own in the container, by the account's key unless other secrets are given."""
    opened = AzureSecrets(**(secrets or {"account_key": KEY}))
    place = uuid.uuid4().hex if prefix is None else prefix
    return Azure(address or running(), ACCOUNT, CONTAINER, place, lambda: opened, timeout=10, page_size=7)

"""A real WebDAV server for tests (wsgidav on cheroot), in a process of its own.

Run as a program with a folder it serves on a free port, which it prints, until its standard input ends.
"""

from __future__ import annotations

import atexit
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from tempfile import TemporaryDirectory

USER, PASSWORD = "web1", "hunter2-very-secret"


def missing() -> str | None:
    """Why no server can be had here, or None."""
    absent = [name for name in ("webdav4", "wsgidav", "cheroot") if importlib.util.find_spec(name) is None]
    return f"no {', '.join(absent)} here: pip install 'opskit[test]'" if absent else None


@contextmanager
def served() -> Iterator[str]:
    """A server's address."""
    from tests.stores.programs import serving  # the program that this file is too finds no package

    with TemporaryDirectory(prefix="opskit-webdav-") as folder:
        with serving([sys.executable, "-W", "ignore", __file__, folder]) as address:
            yield address


@cache
def running() -> str:
    """The server of this test session, started when it is first asked for and stopped at the end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(served())


def _say(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()


def _serve(folder: str) -> None:
    import threading

    from cheroot.wsgi import Server
    from wsgidav.wsgidav_app import WsgiDAVApp

    accounts = {USER: {"password": PASSWORD}}
    config = {
        "provider_mapping": {"/": folder},
        "simple_dc": {"user_mapping": {"*": accounts}},
        "logging": {"enable": False},
        "verbose": 0,
    }
    server = Server(("127.0.0.1", 0), WsgiDAVApp(config), numthreads=12)
    server.prepare()
    threading.Thread(target=server.serve, daemon=True).start()
    _say(int(server.bind_addr[1]))


if __name__ == "__main__":
    _serve(sys.argv[1])

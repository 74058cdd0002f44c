"""An S3 endpoint for tests: moto in a process of its own, so that its threads and sockets are not ours.

Run as a program it serves on a free port, which it prints, until its standard input ends: whoever started it may die.
moto decides conditional puts without a lock, and stores the part of a body that arrived; here each request is taken in
whole, and one lock around them makes them what S3 promises.
"""

from __future__ import annotations

import atexit
import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from opskit.stores.s3 import Connection, S3Place, S3Store

KEY_ID, SECRET = "AKIAEXAMPLE", "hunter2-very-secret"


@dataclass
class Server:
    """A running endpoint; `store` makes stores in it, closed at the end."""

    port: int
    connections: list[Connection] = field(default_factory=list)

    def connection(self, *, port: int | None = None, place: dict[str, Any] | None = None, **options: Any) -> Connection:
        """A way to a place of its own: bucket "plain", a new prefix."""
        asked = {"bucket": "plain", "prefix": uuid.uuid4().hex, **(place or {})}
        made = Connection(
            S3Place(endpoint=f"http://127.0.0.1:{port or self.port}", **asked),
            lambda: (KEY_ID, SECRET),
            **{"connect_timeout": 5.0, "read_timeout": 20.0, "attempts": 3, **options},
        )
        self.connections.append(made)
        return made

    def store(self, connection: Connection | None = None, **options: Any) -> S3Store:
        """An empty store."""
        return S3Store(connection or self.connection(), lambda: datetime.now(UTC), **options)

    def close(self) -> None:
        """Close what was opened."""
        for each in self.connections:
            each.close()


@contextmanager
def served() -> Iterator[Server]:
    """An endpoint with the buckets "plain" and "locking", the latter with versions and object lock."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        server = Server(int(process.stdout.readline()))
        try:
            with_buckets(server)
            yield server
        finally:
            server.close()
            process.stdin.close()
            process.terminate()


def with_buckets(server: Server) -> None:
    """Make the two buckets."""
    connection = server.connection()
    connection.client().create_bucket(Bucket="plain")
    connection.client().create_bucket(Bucket="locking", ObjectLockEnabledForBucket=True)


@cache
def running() -> Server:
    """The endpoint of this test session, started when it is first asked for and stopped at the end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(served())


@cache
def shared_client() -> Any:
    """One client of the running endpoint for all who are not particular."""
    return running().connection(connections=10).client()


def serve() -> None:
    """The program."""
    import threading

    import moto.s3.models
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    for name in ("S3_UPLOAD_PART_MIN_SIZE", "UPLOAD_PART_MIN_SIZE"):
        if hasattr(moto.s3.models, name):
            setattr(moto.s3.models, name, 1)

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as S3 does

        def log(self, *_: Any) -> None:
            """Say nothing."""

    application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Any:
        expected = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(expected) if expected else b""
        if len(body) != expected:
            start_response("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        environ["wsgi.input"] = io.BytesIO(body)
        with lock:
            return application(environ, start_response)

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve()

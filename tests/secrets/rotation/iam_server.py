"""AWS IAM and STS for tests: moto in a process of its own, which checks signatures and permissions as AWS does.

moto accepts keys that were switched off; here they are unknown to it, as AWS has it. `POST /age` moves the dates of a
key, and every request, as it came in, is appended to a file: what AWS's own records could hold at most.
Run as a program it serves on a free port, which it prints with the key of an admin, until its standard input ends.
"""

from __future__ import annotations

import atexit
import http.client
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import document

REGION = "eu-west-1"
SELF_SERVICE = ("ListAccessKeys", "CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey", "GetAccessKeyLastUsed")


@dataclass(frozen=True)
class Iam:
    """The service, and an admin's key to it."""

    port: int
    admin: Secret
    requests: Path
    """What came in so far."""

    def client(self) -> Any:
        """The admin's client."""
        return _client(self.port, self.admin)

    def user(self, *actions: str) -> str:
        """A new user, who may do that to keys."""
        name = f"app-{uuid.uuid4().hex[:12]}"
        self.client().create_user(UserName=name, Path="/team/")
        if actions:
            allowed = {"Effect": "Allow", "Action": [f"iam:{action}" for action in actions], "Resource": "*"}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
            self.client().put_user_policy(UserName=name, PolicyName="keys", PolicyDocument=policy)
        return name

    def key(self, user: str) -> Secret:
        """A new key of a user."""
        made = self.client().create_access_key(UserName=user)["AccessKey"]
        return document({"access_key_id": made["AccessKeyId"], "secret_access_key": made["SecretAccessKey"]})

    def keys(self, user: str) -> dict[str, str]:
        """The keys of a user, and whether each is Active."""
        listed = self.client().list_access_keys(UserName=user)["AccessKeyMetadata"]
        return {each["AccessKeyId"]: each["Status"] for each in listed}

    def age(self, key: Secret, created: float, used: float | None) -> None:
        """Have a key made and last used at those times (epoch seconds; None: never)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("POST", "/age", json.dumps([id_of(key), created, used]))
        assert connection.getresponse().status == 200
        connection.close()


@cache
def _client(port: int, admin: Secret) -> Any:
    login = json.loads(admin.reveal())
    return boto3.session.Session(login["access_key_id"], login["secret_access_key"], region_name=REGION).client(
        "iam", endpoint_url=f"http://127.0.0.1:{port}"
    )


def id_of(key: Secret) -> str:
    """The public part."""
    return str(json.loads(key.reveal())["access_key_id"])


@cache
def running() -> Iam:
    """The service of this test session, started when it is first asked for and stopped at the end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(_served())


@contextmanager
def _served() -> Iterator[Iam]:
    with TemporaryDirectory(prefix="opskit-iam-") as folder:
        requests = Path(folder) / "requests"
        command = [sys.executable, "-W", "ignore", __file__, str(requests)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            port, admin = json.loads(process.stdout.readline())
            try:
                yield Iam(port, document(admin), requests)
            finally:
                process.stdin.close()
                process.terminate()


@contextmanager
def aws(port: int | None = None) -> Iterator[Iam]:
    """The environment of a host whose AWS that service is, or a port before it; nobody is logged in."""
    service = running()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or service.port}",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }.items():
            patch.setenv(name, value)
        yield service


Rule = Callable[[Callable[[], tuple[int, bytes]]], tuple[int, bytes] | None]
"""What comes back for a request, which it is given to have it done; None: nothing, the connection is cut."""


@contextmanager
def between(**rules: Rule) -> Iterator[Iam]:
    """The environment of such a host, with rules for actions by name."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            rule = rules.get(parse_qs(body.decode())["Action"][0], lambda done: done())
            answer = rule(lambda: self._done(body))
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def _done(self, body: bytes) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", running().port)
            connection.request("POST", self.path, body, dict(self.headers))
            response = connection.getresponse()
            answer = response.status, response.read()
            connection.close()
            return answer

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, aws(server.server_port) as service:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


def refused(code: str, status: int, message: str = "") -> tuple[int, bytes]:
    """An answer of AWS that says no."""
    text = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, f"{text}<RequestId>1</RequestId></ErrorResponse>".encode()


def serve(requests: Path) -> None:
    """The program."""
    import io
    from datetime import UTC, datetime

    import moto.settings
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.iam import access_control
    from moto.iam.models import AccessKeyLastUsed, iam_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    backend: Any = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]

    class KnownKey(access_control.IAMUserAccessKey):
        def __init__(self, account_id: str, partition: str, access_key_id: str, headers: dict[str, str]) -> None:
            super().__init__(account_id, partition, access_key_id, headers)
            if backend.access_keys[access_key_id].status != "Active":
                raise access_control.CreateAccessKeyFailure(reason="InvalidId")

    access_control.IAMUserAccessKey = KnownKey  # type: ignore[misc]

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            """Say nothing."""

    def moment(seconds: float) -> datetime:
        return datetime.fromtimestamp(int(seconds), UTC).replace(tzinfo=None)

    def age(key_id: str, created: float, used: float | None) -> None:
        key = backend.access_keys[key_id]
        key.create_date = moment(created)
        key.last_used = None if used is None else AccessKeyLastUsed(moment(used), "s3", REGION)

    application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        with lock:
            if environ["PATH_INFO"] == "/age":
                age(*json.loads(body))
                start_response("200 OK", [("Content-Length", "0")])
                return [b""]
            with requests.open("ab") as file:
                file.write(repr(sorted(environ.items(), key=lambda item: item[0])).encode() + body + b"\n")
            return application(environ, start_response)

    everything = {"Effect": "Allow", "Action": "iam:*", "Resource": "*"}
    backend.create_user(REGION, "admin")
    backend.put_user_policy("admin", "all", json.dumps({"Version": "2012-10-17", "Statement": [everything]}))
    admin = backend.create_access_key("admin", "AKIA")
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    key = {"access_key_id": admin.access_key_id, "secret_access_key": admin.secret_access_key}
    sys.stdout.write(json.dumps([server.server_port, key]) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))

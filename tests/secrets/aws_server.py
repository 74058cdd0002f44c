"""AWS Secrets Manager for tests: the process that serves S3 (tests/stores/s3_server.py) speaks this too.

The store finds it as it would find any endpoint, by AWS's own environment variables.
"""

from __future__ import annotations

import http.client
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest

from opskit.secrets.reference import Reference
from tests.stores.s3_server import running

REGION = "eu-west-1"
ENDPOINT = "AWS_ENDPOINT_URL_SECRETS_MANAGER"


class Account:
    """What somebody else does to the secrets, with a client of his own. Names begin with a prefix of this test."""

    def __init__(self) -> None:
        self.client: Any = _client()
        self._prefix = uuid.uuid4().hex

    def reference(self, name: str, field: str | None = None, **options: str) -> Reference:
        """To a secret of this test."""
        return Reference("aws-sm", f"{self._prefix}/{name}", field, tuple(options.items()))

    def exists(self, name: str, text: str) -> None:
        """Have a secret there, unless it is."""
        with suppress(self.client.exceptions.ResourceExistsException):
            self.client.create_secret(Name=name, SecretString=text)

    def text(self, reference: Reference, label: str) -> str:
        """The whole secret under a label."""
        return str(self.client.get_secret_value(SecretId=reference.locator, VersionStage=label)["SecretString"])

    def labels(self, reference: Reference) -> dict[str, str]:
        """Which version has a label."""
        versions = self.client.describe_secret(SecretId=reference.locator).get("VersionIdsToStages", {})
        return {label: version for version, labels in versions.items() for label in labels}


@cache
def _client() -> Any:
    return boto3.session.Session().client("secretsmanager")


@contextmanager
def aws() -> Iterator[Account]:
    """The environment of a host with access to AWS."""
    with pytest.MonkeyPatch.context() as patch:
        environment = {
            ENDPOINT: f"http://127.0.0.1:{running().port}",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "hunter2-of-aws",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        yield Account()


Rule = Callable[[dict[str, Any]], tuple[int, bytes] | None]
"""What a request is answered with, its status and body; None lets it through."""


def refused(code: str, message: str = "") -> tuple[int, bytes]:
    """An answer of AWS that says no."""
    return 400, json.dumps({"__type": code, "Message": message}).encode()


class _Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rules: dict[str, Rule]

    def do_POST(self) -> None:
        """Answer by a rule for the operation, or as AWS does."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        rule = self.rules.get(operation)
        status, answer = (rule(json.loads(body)) if rule else None) or self._forwarded(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _forwarded(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", running().port)
        connection.request("POST", self.path, body, dict(self.headers))
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def between(rules: dict[str, Rule]) -> Iterator[None]:
    """Have requests of new clients answered by rules, by the name of their operation."""
    handler = type("Handler", (_Forwarding,), {"rules": rules})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, pytest.MonkeyPatch.context() as patch:
        server.daemon_threads = True
        patch.setenv(ENDPOINT, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()

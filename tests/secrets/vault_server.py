"""A Vault of our own: KV version 2, tokens and AppRole as the HTTP API documentation of Vault says they answer.

It keeps versions, check-and-set, soft deletion, namespaces and the seal; no policies beside "this token or not". Its
errors repeat what it was sent, which a real one's do not: no message may show that. A real server is used beside it
where there is one (`real`).
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hvs.token-of-the-test"
ROLE_ID = "role-of-the-test"
SECRET_ID = "secret-id-of-the-test"
CONFLICT = "check-and-set parameter did not match the current version"
Answer = tuple[int, dict[str, Any]]


@dataclass
class Vault:
    """What the server keeps, and how it shall behave."""

    url: str = ""
    secrets: dict[str, list[dict[str, Any] | None]] = field(default_factory=dict)
    """Versions by namespace and path (`MOUNT/PATH`), from 1; None for a deleted one."""
    engines: dict[str, str] = field(default_factory=lambda: {"secret": "2", "old": "1", "team/kv": "2"})
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    sealed: bool = False
    loses: bool = False
    """Whether writes are acknowledged and thrown away."""
    redirect: str | None = None
    before_write: list[Callable[[], None]] = field(default_factory=list)
    """Each is called once, before a write is looked at: a writer that was faster."""
    logins: int = 0
    writes: int = 0
    seen: list[dict[str, str]] = field(default_factory=list)
    """The headers of all requests."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, path: str, data: dict[str, Any]) -> None:
        """Write a version as somebody else."""
        with self.lock:
            self.secrets.setdefault(path, []).append(data)

    def delete(self, path: str) -> None:
        """Delete the latest version, softly."""
        self.secrets[path][-1] = None

    def latest(self, path: str) -> dict[str, Any] | None:
        """The data of the latest version."""
        return self.secrets[path][-1]

    def answer(self, method: str, url: str, headers: dict[str, str], body: dict[str, Any]) -> Answer:
        """What the API says."""
        parts = urlsplit(url)
        path, query = unquote(parts.path).removeprefix("/v1/"), parse_qs(parts.query)
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if path == "auth/approle/login":
            return self._login(body)
        if headers.get("x-vault-token") not in self.tokens:
            return 403, {"errors": ["permission denied", f"invalid token {headers.get('x-vault-token')}"]}
        if path.startswith("sys/internal/ui/mounts/"):
            return self._engine(path.removeprefix("sys/internal/ui/mounts/"))
        mount = next((each for each in self.engines if path.startswith(f"{each}/")), None)
        if mount is None:
            return 404, {"errors": [f'no handler for route "{path}". route entry not found.']}
        inside = path.removeprefix(f"{mount}/")
        if self.engines[mount] != "2" or not inside.startswith("data/"):
            return self._unversioned(method, path, body)
        key = f"{headers.get('x-vault-namespace', '')}{mount}/{inside.removeprefix('data/')}"
        return self._write(key, body) if method == "POST" else self._read(key, int(query.get("version", ["0"])[0]))

    def _login(self, body: dict[str, Any]) -> Answer:
        if body != {"role_id": ROLE_ID, "secret_id": SECRET_ID}:
            return 400, {"errors": ["invalid role or secret ID", json.dumps(body)]}
        self.logins += 1
        token = f"hvs.by-role-{self.logins}"
        self.tokens.add(token)
        return 200, {"auth": {"client_token": token}}

    def _engine(self, path: str) -> Answer:
        mount = next((each for each in self.engines if f"{path}/".startswith(f"{each}/")), None)
        if mount is None:
            return 403, {"errors": ["preflight capability check returned 403"]}
        return 200, {"data": {"path": f"{mount}/", "type": "kv", "options": {"version": self.engines[mount]}}}

    def _unversioned(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        if method == "POST":
            self.put(path, body)
            return 204, {}
        data = self.secrets.get(path, [None])[-1]
        return (404, {"errors": []}) if data is None else (200, {"data": data})

    def _read(self, key: str, version: int) -> Answer:
        versions = self.secrets.get(key, [])
        number = version or len(versions)
        if not 0 < number <= len(versions):
            return 404, {"errors": []}
        data, deleted = versions[number - 1], "" if versions[number - 1] is not None else "2026-11-22T10:00:00Z"
        metadata = {
            "version": number,
            "deletion_time": deleted,
            "destroyed": False,
            "created_time": "2026-11-21T10:00:00Z",
        }
        return 200 if data is not None else 404, {"data": {"data": data, "metadata": metadata}}

    def _write(self, key: str, body: dict[str, Any]) -> Answer:
        if self.before_write:
            self.before_write.pop(0)()
        with self.lock:
            versions = self.secrets.setdefault(key, [])
            if body["options"].get("cas", len(versions)) != len(versions):
                return 400, {"errors": [CONFLICT]}
            self.writes += 1
            if not self.loses:
                versions.append(body["data"])
            return 200, {"data": {"version": len(versions) + self.loses, "deletion_time": "", "destroyed": False}}


@contextmanager
def served(tls: ssl.SSLContext | None = None) -> Iterator[Vault]:
    """An empty one, at a free port of this machine."""
    vault = Vault()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            vault.seen.append(headers)
            if vault.redirect is not None:
                self.send_response(307)
                self.send_header("Location", vault.redirect + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status, document = vault.answer(self.command, self.path, headers, json.loads(body) if body else {})
            text = b"" if status == 204 else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if status == 503:
                self.send_header("Retry-After", "3600")
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_DELETE = _do

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the output belongs to the tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        vault.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield vault
        finally:
            server.shutdown()
            thread.join()


def program() -> str | None:
    """A real one on this machine."""
    return shutil.which("bao") or shutil.which("vault")


@cache
def real() -> str:
    """The address of a real development server of this test session; its root token is TOKEN, its engine `secret`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(program()), "server", "-dev", "-dev-no-store-token", f"-dev-listen-address={listen}"]
    stack = ExitStack()
    process = stack.enter_context(
        subprocess.Popen(
            [*command, f"-dev-root-token-id={TOKEN}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    )
    stack.callback(process.terminate)
    atexit.register(stack.close)
    _wait(f"http://{listen}")
    return f"http://{listen}"


def _wait(url: str) -> None:
    """Until the engine `secret` is there, which comes a little after the server answers."""
    request = urllib.request.Request(f"{url}/v1/sys/mounts", headers={"X-Vault-Token": TOKEN})
    for _ in range(300):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if re.search(rb'"secret/"', answer.read()):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the server at {url} did not come up")

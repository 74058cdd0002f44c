"""A server that keeps the rules which Google documents for the JSON API of Cloud Storage: the ones opskit relies on.

No emulator that a registry ships keeps them, and no account at Google is used. It is ours, so it proves no more than
that our requests hold to the documentation as it was read. The rules, and the pages of cloud.google.com/storage/docs
that state them:

- `ifGenerationMatch=0` lets an upload succeed only where there is no live object, else 412: "Request preconditions",
  section "Precondition criteria"; "Objects: insert", optional query parameters.
- An object is made only if the `md5Hash` or `crc32c` in its metadata fits its bytes, else 400: "Data validation",
  section "Server-side validation".
- A multipart upload is `multipart/related` of two parts, metadata in JSON and bytes: "Upload an object by using a
  multipart upload".
- A listing is in the order of names, in pages of at most 1,000, `nextPageToken` leads on, `items` is left out where it
  is empty, `fields` selects: "Objects: list"; "JSON API overview", section "Partial response".
- Downloads take one `Range` (206; 416 behind the end): "Objects: get"; their headers: "HTTP headers for JSON".
- Errors are JSON with `error.code` and `error.errors[].reason`: "HTTP status and error codes for JSON". Those of a
  download are text. Deleting gives 204 without a body: "Objects: delete".
- Replacing takes `storage.objects.delete` beside `storage.objects.create`: "IAM permissions for JSON methods".
- A bucket's retention policy forbids to delete and replace, 403 `retentionPolicyNotMet`: "Bucket Lock".
- A service account logs in by a JWT that its key signed (RFC 7523): "OAuth 2.0 for server to server applications".
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

ALL = frozenset({"create", "delete", "get", "list"})
_SCOPE = "https://www.googleapis.com/auth/devstorage."


class Failure(Exception):
    """An error as Google words it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def body(self) -> bytes:
        """The JSON of it."""
        details = [{"message": self.message, "domain": "global", "reason": self.reason}]
        return json.dumps({"error": {"code": self.status, "message": self.message, "errors": details}}).encode()


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


@dataclass
class Bucket:
    """Objects by name, bytes and metadata; `is_retained`: a retention policy keeps them."""

    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    is_retained: bool = False


@dataclass
class Rules:
    """All that the server knows.

    `denies_first`: what an account may do is judged before conditions are. `is_careless`: what breaks them, it stores
    all the same. A page may have less than was asked for.
    """

    buckets: dict[str, Bucket] = field(default_factory=dict)
    may: dict[str, frozenset[str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    denies_first: bool = False
    is_careless: bool = False
    largest_page: int = 1000
    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _generations: Iterator[int] = field(default_factory=lambda: count(1_700_000_000_000_000))

    def account(self, name: str, *may: str, key: RSAPrivateKey | None = None) -> str:
        """The JSON key of a service account that may do this; `key`: one that is not believed."""
        from cryptography.hazmat.primitives import serialization  # like google-auth it may be absent

        email = f"{name}@example.iam.gserviceaccount.com"
        self.may[email] = frozenset(may)
        pem = (key or private_key()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        about = {"type": "service_account", "client_email": email, "token_uri": f"{self.address}/token"}
        return json.dumps(about | {"private_key_id": "1", "private_key": pem.decode(), "project_id": "example"})

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to a request."""
        split = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        with self._lock:
            self.requests.append(f"{method} {target}")
            if (method, split.path) == ("POST", "/token"):
                return self._token(body)
            try:
                return self._judged(method, split.path, query, headers, body)
            except Failure as failure:
                is_text = query.get("alt") == "media"
                return Answer(failure.status, failure.message.encode() if is_text else failure.body())

    def _judged(self, method: str, path: str, query: dict[str, str], headers: Mapping[str, str], body: bytes) -> Answer:
        found = re.fullmatch(r"(/upload)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?", path)
        if not found:
            raise Failure(404, "notFound", "Not Found")
        may = self._permissions(headers)
        bucket = self.buckets.get(found[2])
        if bucket is None:
            raise Failure(404, "notFound", "The specified bucket does not exist.")
        name = unquote(found[3] or "")
        if method == "POST" and found[1] and not name:
            return self._insert(bucket, query, headers, body, may)
        acts: dict[tuple[str, bool], Callable[[], Answer]] = {
            ("GET", False): lambda: _list(bucket, query, may, self.largest_page),
            ("GET", True): lambda: _get(bucket, name, query, headers, may),
            ("DELETE", True): lambda: _delete(bucket, name, may),
        }
        act = acts.get((method, bool(name)))
        if act is None or found[1]:
            raise Failure(405, "methodNotAllowed", "Method Not Allowed")
        return act()

    def _permissions(self, headers: Mapping[str, str]) -> frozenset[str]:
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            raise Failure(401, "required", "Anonymous caller does not have access to the Google Cloud Storage bucket.")
        if token not in self.tokens:
            raise Failure(401, "authError", "Invalid Credentials")
        return self.may[self.tokens[token]]

    def _token(self, body: bytes) -> Answer:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        given = {name: values[-1] for name, values in parse_qs(body.decode()).items()}
        head, claims, signature = given["assertion"].split(".")
        said = json.loads(_decoded(claims))
        try:
            private_key().public_key().verify(
                _decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            wrong = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            return Answer(400, json.dumps(wrong).encode())
        assert said["aud"] == "https://oauth2.googleapis.com/token" and said["scope"].startswith(_SCOPE)
        token = f"ya29.{secrets.token_hex(16)}"
        self.tokens[token] = said["iss"]
        return Answer(200, json.dumps({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}).encode())

    def _insert(
        self,
        bucket: Bucket,
        query: dict[str, str],
        headers: Mapping[str, str],
        body: bytes,
        may: frozenset[str],
    ) -> Answer:
        about, data = _parts(headers, body)
        assert query["uploadType"] == "multipart"
        is_there = about["name"] in bucket.objects
        _need("create", may)
        if is_there and self.denies_first:
            _need("delete", may)
        if is_there and query.get("ifGenerationMatch") == "0" and not self.is_careless:
            raise Failure(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        if is_there:
            _need("delete", may)
            _expect_no_retention(bucket)
        md5 = _encoded(hashlib.md5(data, usedforsecurity=False).digest())
        if about.get("md5Hash", md5) != md5 and not self.is_careless:
            text = f'Provided MD5 hash "{about["md5Hash"]}" doesn\'t match calculated MD5 hash "{md5}".'
            raise Failure(400, "invalid", text)
        made = {
            "kind": "storage#object", "name": about["name"], "size": str(len(data)), "md5Hash": md5,
            "generation": str(next(self._generations)), "storageClass": about.get("storageClass", "STANDARD"),
            "timeCreated": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }  # fmt: skip
        bucket.objects[about["name"]] = data, made
        return Answer(200, json.dumps(_selected(made, query)).encode())


def _parts(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """Metadata and bytes of a multipart upload (RFC 2387)."""
    found = re.fullmatch(r"multipart/related; boundary=(\S+)", headers["Content-Type"])
    assert found
    mark = f"--{found[1]}".encode()
    before, first, rest = body.split(mark, 2)
    second, end = rest.rsplit(b"\r\n" + mark, 1)
    assert not before and end.strip() == b"--"
    head, _, metadata = first.partition(b"\r\n\r\n")
    assert b"application/json" in head
    _, _, data = second.partition(b"\r\n\r\n")
    return json.loads(metadata), data


def _list(bucket: Bucket, query: dict[str, str], may: frozenset[str], most: int) -> Answer:
    _need("list", may)
    after = _decoded(query["pageToken"]).decode() if "pageToken" in query else ""
    prefix = query.get("prefix", "")
    names = sorted((each for each in bucket.objects if each.startswith(prefix) and each > after), key=str.encode)
    most = min(most, int(query.get("maxResults", 1000)))
    page: dict[str, Any] = {"kind": "storage#objects"}
    if names[most:]:
        page["nextPageToken"] = _encoded(names[most - 1].encode())
    if names:
        page["items"] = [bucket.objects[each][1] for each in names[:most]]
    return Answer(200, json.dumps(_selected(page, query)).encode())


def _get(bucket: Bucket, name: str, query: dict[str, str], headers: Mapping[str, str], may: frozenset[str]) -> Answer:
    _need("get", may)
    if name not in bucket.objects:
        raise Failure(404, "notFound", f"No such object: {name}")
    data, about = bucket.objects[name]
    if query.get("alt") != "media":
        return Answer(200, json.dumps(_selected(about, query)).encode())
    more = {"X-Goog-Hash": f"md5={about['md5Hash']}", "X-Goog-Stored-Content-Length": about["size"]}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
    if not asked:
        return Answer(200, data, more)
    start, end = int(asked[1]), min(len(data), int(asked[2] or len(data)) + 1)
    if start >= len(data):
        raise Failure(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
    return Answer(206, data[start:end], more | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})


def _delete(bucket: Bucket, name: str, may: frozenset[str]) -> Answer:
    _need("delete", may)
    if name not in bucket.objects:
        raise Failure(404, "notFound", f"No such object: {name}")
    _expect_no_retention(bucket)
    del bucket.objects[name]
    return Answer(204)


def _need(permission: str, may: frozenset[str]) -> None:
    if permission not in may:
        raise Failure(403, "forbidden", f"Permission 'storage.objects.{permission}' denied on resource.")


def _expect_no_retention(bucket: Bucket) -> None:
    if bucket.is_retained:
        raise Failure(403, "retentionPolicyNotMet", "Object is subject to bucket's retention policy.")


def _selected(found: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
    """The fields that were asked for."""
    chosen: dict[str, Any] = {}
    for name, inner in re.findall(r"(\w+)(?:\(([\w,]+)\))?", query.get("fields", "")):
        if name in found and inner:
            chosen[name] = [{key: each[key] for key in inner.split(",")} for each in found[name]]
        elif name in found:
            chosen[name] = found[name]
    return chosen if "fields" in query else found


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@cache
def private_key(_number: int = 0) -> RSAPrivateKey:
    """The key of all service accounts; with another number one that nobody believes."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(65537, 2048)


@contextmanager
def served(rules: Rules) -> Iterator[Rules]:
    """The server in the block, at `rules.address`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one piece
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if len(body) < int(self.headers.get("Content-Length", 0)):
                self.close_connection = True
                return
            found = rules.answer(self.command, self.path, self.headers, body)
            self.send_response(found.status)
            for name, value in {"X-GUploader-UploadID": "1", **found.headers}.items():
                self.send_header(name, value)
            if found.status != 204:
                self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _answer

        def log_message(self, *_words: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            if not isinstance(sys.exception(), OSError):  # connections are meant to break in some tests
                super().handle_error(request, client_address)

    with Server(("127.0.0.1", 0), Handler) as server:
        rules.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield rules
        finally:
            server.shutdown()
            thread.join()

"""What the S3 store does beyond the contract: errors in words, locks, what an endpoint honours, policies."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import DataNotFoundError
from botocore.loaders import create_loader
from botocore.utils import parse_timestamp
from urllib3 import HTTPResponse

from opskit.errors import (
    ClocksApart,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreFull,
    StoreRefused,
    UnresolvedReference,
)
from opskit.stores.s3 import Connection, Honours, S3Place, S3Store, iam_policy, probe
from opskit.stores.s3.connection import _timestamp
from opskit.stores.s3.model import Model
from tests.stores import s3_server
from tests.stores.proxy import Fault, Proxy, answer, failure, proxied

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
DENIED = failure("403 Forbidden", "AccessDenied")


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's pauses between its tries are no part of what is tested here."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _seconds: None))


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before the endpoint."""
    with proxied(s3_server.running().port) as each:
        yield each


@pytest.fixture
def store(proxy: Proxy) -> Iterator[S3Store]:
    """A store behind the proxy, its clock at NOW."""
    connection = s3_server.running().connection(port=proxy.port)
    yield S3Store(connection, lambda: NOW)
    connection.close()


def locking(**place: Any) -> S3Store:
    """A store in the bucket that has object lock; the clock is the real one, as the endpoint's is."""
    server = s3_server.running()
    connection = server.connection(place={"bucket": "locking", **place})
    connection._client = s3_server.shared_client()
    return server.store(connection)


SKEWED = failure("403 Forbidden", "RequestTimeTooSkewed", "Date: Sun, 22 Nov 2026 05:20:00 GMT")
# What the endpoint answers, the error, words that the message or the hint must have.
ANSWERS = [
    (DENIED, StoreRefused, ["cannot write one", "expected the permission s3:PutObject", "arn:aws:s3:::plain/"]),
    (failure("404 Not Found", "NoSuchBucket"), StoreError, ["no such bucket", "plain"]),
    (failure("403 Forbidden", "InvalidAccessKeyId"), StoreRefused, ["expected credentials that the endpoint knows"]),
    (failure("403 Forbidden", "SignatureDoesNotMatch"), StoreRefused, ["secret_access_key"]),
    (failure("400 Bad Request", "ExpiredToken"), StoreRefused, ["a session that has expired", "log in again"]),
    (failure("403 Forbidden", "QuotaExceeded"), StoreFull, ["expected space, got QuotaExceeded"]),
    (failure("507 Insufficient Storage", "XMinioStorageFull"), StoreFull, ["expected space"]),
    (SKEWED, ClocksApart, ["1200 s behind", "expected 2026-11-22T05:20:00Z, got 2026-11-22T05:00:00Z", "clock"]),
    (failure("503 Slow Down", "SlowDown"), StoreError, ["overloaded or throttles"]),
    (failure("403 Forbidden", "InvalidObjectState"), StoreRefused, ["Glacier", "restore it first"]),
    (failure("400 Bad Request", "KMS.DisabledException"), StoreRefused, ["the encryption key cannot be used"]),
    (failure("400 Bad Request", "Curious"), StoreError, ["expected success, got Curious: said the endpoint"]),
    (answer("403 Forbidden"), StoreRefused, ["s3:PutObject"]),
]


@pytest.mark.parametrize(("answered", "kind", "words"), ANSWERS, ids=[words[0][:40] for _, _, words in ANSWERS])
def test_each_refusal_says_what_and_what_next(
    store: S3Store, proxy: Proxy, answered: bytes, kind: type[StoreError], words: list[str]
) -> None:
    """Each kind of answer that says no has its exception, what was expected and got, and a hint."""
    proxy.plan = [Fault(answer=answered)] * 6  # of the first client, then of the patient one
    with pytest.raises(kind) as caught:
        store.put("one", b"x")
    assert type(caught.value) is kind and caught.value.hint
    for word in words:
        assert word in f"{caught.value}\n{caught.value.hint}"


@pytest.mark.parametrize(
    "answered",
    [
        failure("301 Moved Permanently", "PermanentRedirect", "x-amz-bucket-region: eu-north-1"),
        failure("400 Bad Request", "AuthorizationHeaderMalformed", more="<Region>eu-north-1</Region>"),
        failure("400 Bad Request", "IllegalLocationConstraintException", "x-amz-bucket-region: eu-north-1"),
    ],
    ids=["301", "malformed", "illegal"],
)
def test_the_right_region_is_named(store: S3Store, proxy: Proxy, answered: bytes) -> None:
    """A bucket of another region is refused with the region to write into the config."""
    proxy.plan = [Fault(answer=answered)] * 6
    with pytest.raises(StoreRefused, match="expected eu-north-1") as caught:
        store.put("one", b"x")
    assert "region: eu-north-1" in str(caught.value.hint)


def heads_of(store: S3Store) -> list[dict[str, str]]:
    """The header fields of each request that the store sends from now on."""
    heads: list[dict[str, str]] = []

    def note(request: Any, **_: object) -> None:
        fields = {name: each.decode() if isinstance(each, bytes) else each for name, each in request.headers.items()}
        heads.append({name.lower(): each for name, each in fields.items()})

    store.bucket.connection.answered()
    store.bucket.connection.client().meta.events.register("before-send.s3", note)
    return heads


def test_every_request_names_the_owner() -> None:
    """Whatever a store with an owner does, each of its requests expects the bucket to be that account's."""
    server = s3_server.running()
    connection = server.connection(place={"bucket": "locking", "owner": "123456789012", "object_lock_days": 1})
    store = server.store(connection)
    heads = heads_of(store)
    store.put("packs/one", b"1")
    server.store(connection, threshold=1).put("packs/two", b"22")
    list(store.list())
    store.get("packs/one")
    store.get("packs/one", offset=1)
    store.get("packs/one", length=0)
    store.extend_lock(["packs/one"], datetime.now(UTC) + timedelta(days=3))
    with pytest.raises(StoreRefused):
        store.delete("packs/one")
    assert len(heads) > 9
    assert {head.get("x-amz-expected-bucket-owner") for head in heads} == {"123456789012"}
    told = probe(S3Store(connection, lambda: datetime.now(UTC), sleep=lambda _seconds: None))
    assert told.owner is False and any("owner" in line for line in told.shortcomings()), "moto takes any owner"
    assert all("x-amz-expected-bucket-owner" in head for head in heads)
    named = {head["x-amz-expected-bucket-owner"] for head in heads}
    assert named == {"123456789012", "111122223333"}, "the probe tries a stranger"


def test_a_bucket_of_somebody_else_is_refused(proxy: Proxy) -> None:
    """Where the owner is named, a refusal says whose bucket was expected; the probe sees that owners are minded."""
    connection = s3_server.running().connection(port=proxy.port, place={"owner": "123456789012"})
    store = S3Store(connection, lambda: NOW)
    proxy.plan = [Fault(answer=DENIED)]
    with pytest.raises(StoreRefused, match="expected a bucket of account 123456789012, and the permission") as caught:
        store.put("one", b"x")
    assert "whom the bucket belongs to" in str(caught.value.hint)
    proxy.plan = [Fault("PUT", path=".owner", answer=DENIED)]
    assert probe(store).owner
    connection.close()


def test_no_message_shows_a_secret(store: S3Store, proxy: Proxy) -> None:
    """Whatever the endpoint echoes about credentials stays out of message, hint, repr and cause."""
    echo = f"you sent {s3_server.SECRET}"
    for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        proxy.plan = [Fault(answer=failure("403 Forbidden", code, message=echo))]
        with pytest.raises(StoreRefused) as caught:
            store.put("one", b"x")
        assert s3_server.SECRET not in f"{caught.value!r} {caught.value} {caught.value.hint}"
    assert s3_server.SECRET not in repr(vars(store.bucket.connection)) + repr(store)
    assert logging.getLogger("botocore").getEffectiveLevel() >= logging.WARNING


def test_credentials_are_asked_for_late_and_their_absence_is_told() -> None:
    """A store that is not used resolves no reference; a reference that cannot be resolved is UnresolvedReference."""

    def unresolved() -> tuple[str, str]:
        raise UnresolvedReference("env:S3_KEY is not set")

    store = S3Store(Connection(S3Place("plain", endpoint="http://127.0.0.1:9"), unresolved), lambda: NOW)
    with pytest.raises(UnresolvedReference):
        store.put("one", b"x")


def test_without_any_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Where the AWS chain finds nothing the store is refused, and the hint says where to put them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = S3Store(Connection(S3Place("plain", endpoint="http://127.0.0.1:9")), lambda: NOW)
    with pytest.raises(StoreRefused, match="expected credentials") as caught:
        store.put("one", b"x")
    assert "access_key_id" in str(caught.value.hint)


def test_an_endpoint_where_nothing_listens(proxy: Proxy) -> None:
    """An endpoint that cannot be reached is a StoreError naming it."""
    place = S3Place("plain", endpoint="http://127.0.0.1:9")
    store = S3Store(Connection(place, lambda: ("a", "b"), attempts=1, connect_timeout=0.5), lambda: NOW)
    with pytest.raises(StoreError, match="cannot be reached"):
        store.put("one", b"x")


def test_credentials_that_may_only_put(store: S3Store, proxy: Proxy) -> None:
    """With nothing but s3:PutObject puts work and taken names are told; the rest names the permission that lacks."""
    store.put("packs/one", b"x")
    with pytest.raises(ObjectExists):
        store.put("packs/one", b"x")
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("s3:ListBucket", lambda: list(store.list("packs"))),
        ("s3:GetObject", lambda: store.get("packs/one")),
        ("s3:GetObject", lambda: store.delete("packs/one")),
    ]
    for permission, act in attempts:
        proxy.plan = [Fault("GET", answer=DENIED), Fault("HEAD", answer=answer("403 Forbidden"))]
        with pytest.raises(StoreRefused, match=permission):
            act()
    proxy.plan = [Fault("PUT", is_lost=True), Fault("HEAD", answer=answer("403 Forbidden"))]
    with pytest.raises(ObjectExists):  # whether it is our own cannot be seen, so it counts as a stranger's
        store.put("packs/two", b"x")


def test_what_a_put_asks_for_is_kept() -> None:
    """Storage class, encryption, SHA-256 and the mark of the put are found with the object."""
    server = s3_server.running()
    connection = server.connection(place={"storage_class": "STANDARD_IA", "sse": "aws:kms", "kms_key": "alias/k"})
    connection._client = s3_server.shared_client()
    for store in (server.store(connection), server.store(connection, threshold=1)):
        name = f"one-{id(store)}"
        store.put(name, b"abc")
        found = store.bucket.look(name)
        assert found is not None
        assert (found["StorageClass"], found["ServerSideEncryption"]) == ("STANDARD_IA", "aws:kms")
        assert found["Metadata"]["opskit-sha256"] == hashlib.sha256(b"abc").hexdigest()
        assert len(found["Metadata"]["opskit-put"]) == 24


def test_other_keys_are_no_objects() -> None:
    """Folder markers, hidden keys and keys that are no names are passed over, in place and in order."""
    store = s3_server.running().store()
    for name in ("a", "b/one"):
        store.put(name, b"x")
    shared = store.bucket.connection.client()
    for key in ("", "b/", ".hidden", "a b", "b/ä"):
        shared.put_object(Bucket=store.place.bucket, Key=store.place.folder + key or "x", Body=b"")
    assert [info.name for info in store.list()] == ["a", "b/one"]
    store.close()


@pytest.mark.parametrize("threshold", [64 * 1024 * 1024, 1024 * 1024])
def test_bytes_are_sent_from_where_they_lie(threshold: int) -> None:
    """A put, whole or in parts, takes next to no memory for the bytes it sends."""
    data = memoryview(bytearray(os.urandom(12 * 1024 * 1024))).toreadonly()
    store = s3_server.running().store(threshold=threshold, part_size=4 * 1024 * 1024)
    store.put("small", b"x")  # what is made once is made
    tracemalloc.start()
    try:
        store.put("packs/one", data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1024 * 1024
    assert store.get("packs/one") == data


def test_known_hashes_are_signed_and_kept() -> None:
    """The SHA-256 in a name is signed, asserted and noted without hashing; other bytes, and parts, are hashed once."""
    promised = hashlib.sha256(b"promised").hexdigest()
    store = s3_server.running().store(digest_in=lambda name: promised if "named" in name else None, threshold=5)
    heads = heads_of(store)
    store.put("packs/named", b"abc")
    store.put("packs/other", b"abc")
    store.put("packs/parts", b"abcdef")
    hashes = [promised, *(hashlib.sha256(data).hexdigest() for data in (b"abc", b"", b"abcdef"))]
    assert [head["x-amz-content-sha256"] for head in heads[:4]] == hashes
    for head, digest in zip(heads[:2], hashes[:2], strict=True):
        assert head["x-amz-meta-opskit-sha256"] == digest
        assert head["x-amz-checksum-sha256"] == base64.b64encode(bytes.fromhex(digest)).decode()
    with pytest.raises(StoreError, match="SHA-256"):
        store.get("packs/named")


@pytest.mark.parametrize("endpoint", [None, "https://s3.example.org"])
def test_known_hashes_are_signed_over_tls_too(endpoint: str | None) -> None:
    """What AWS or another service gets over TLS is signed with the hash of its bytes, as is what is sent in clear."""
    place = S3Place("bucket", region="eu-central-1", endpoint=endpoint)
    store = S3Store(Connection(place, lambda: (s3_server.KEY_ID, s3_server.SECRET)), lambda: NOW)
    seen: list[Any] = []

    def answered(request: Any, **_: object) -> AWSResponse:
        seen.append(request)
        raw = HTTPResponse(body=io.BytesIO(), status=200, preload_content=False)
        return AWSResponse(request.url, 200, {"ETag": "x", "Content-Length": "0"}, raw)

    store.bucket.connection.client().meta.events.register_first("before-send.s3", answered)
    store.put("one", b"abc")
    (request,) = seen
    assert request.url.startswith("https://") and "SignedHeaders=" in request.headers["Authorization"].decode()
    assert request.headers["X-Amz-Content-SHA256"].decode() == hashlib.sha256(b"abc").hexdigest()


# Object lock


def test_a_put_locks_at_once_and_a_lock_is_only_extended() -> None:
    """With object_lock_days every object is locked from its put; extending never shortens; the earliest date counts."""
    store = locking(object_lock_days=5)
    before = datetime.now(UTC)
    store.put("packs/one", b"1")
    store.put("packs/two", b"2")
    locked = store.locked_until(["packs/one", "packs/two"])
    assert locked is not None
    assert before + timedelta(days=5, seconds=-2) <= locked <= datetime.now(UTC) + timedelta(days=5, seconds=1)
    later = (before + timedelta(days=30, microseconds=1)).replace(microsecond=300)
    assert store.extend_lock(["packs/one"], later) == later.replace(microsecond=0) + timedelta(seconds=1)
    assert store.locked_until(["packs/two", "packs/one"]) == locked
    held = store.extend_lock(["packs/one", "packs/two"], before + timedelta(days=10))
    assert held == store.locked_until(["packs/two"]) and held >= before + timedelta(days=10)
    one = store.locked_until(["packs/one"])
    assert one is not None and one >= later
    assert store.extend_lock([], later) is None and store.locked_until([]) is None


def test_a_locked_object_cannot_be_deleted() -> None:
    """Deleting a locked object is StoreRefused with the date, and it stays; without a lock it goes for good."""
    store = locking(object_lock_days=1)
    store.put("packs/one", b"1")
    with pytest.raises(StoreRefused, match="locked until 20"):
        store.delete("packs/one")
    # Also where the store does not look first.
    version = (store.bucket.look("packs/one") or {})["VersionId"]
    with pytest.raises(StoreRefused, match="s3:DeleteObject"):
        store.bucket.ask("delete_object", "packs/one", VersionId=version)
    assert store.get("packs/one") == b"1"
    free = locking()
    free.put("packs/one", b"1")
    free.delete("packs/one")
    versions = free.bucket.ask("list_objects_v2", Prefix=free.place.folder)
    assert versions["KeyCount"] == 0
    assert free.bucket.send("list_object_versions", Prefix=free.place.folder).get("Versions", []) == []


def test_an_overwritten_object_comes_back() -> None:
    """What an intruder put over an object in a bucket with versions, delete removes; the object shows again."""
    store = locking(object_lock_days=1)
    store.put("packs/one", b"good")
    store.bucket.send("put_object", Key=store.place.key("packs/one"), Body=b"ransom")
    assert store.get("packs/one") == b"ransom"
    store.delete("packs/one")
    assert store.get("packs/one") == b"good"


def test_locks_of_what_is_absent_or_unlocked() -> None:
    """An absent object is ObjectNotFound; one without a lock makes the answer None."""
    store = locking()
    store.put("packs/free", b"1")
    assert store.locked_until(["packs/free"]) is None
    for act in (store.locked_until, lambda names: store.extend_lock(names, datetime.now(UTC) + timedelta(days=1))):
        with pytest.raises(ObjectNotFound, match="packs/absent"):
            act(["packs/free", "packs/absent"])


def test_a_bucket_without_object_lock_is_refused() -> None:
    """Extending a lock where the bucket has none is a StoreError about that, not silence."""
    server = s3_server.running()
    connection = server.connection()
    connection._client = s3_server.shared_client()
    store = server.store(connection)
    store.put("packs/one", b"1")
    with pytest.raises(StoreError, match="cannot lock packs/one"):
        store.extend_lock(["packs/one"], datetime.now(UTC) + timedelta(days=1))


# What an endpoint honours


def keys_of(store: S3Store) -> list[str]:
    """All keys below the prefix, hidden ones too."""
    page = store.bucket.ask("list_objects_v2", Prefix=store.place.folder)
    return [entry["Key"] for entry in page.get("Contents", [])]


def test_probe_finds_out_and_cleans_up(store: S3Store, proxy: Proxy) -> None:
    """What holds is found by trying, and nothing is left behind. (moto stores bytes that do not fit their checksum.)"""
    honours = probe(store)
    assert honours == Honours(
        conditional=True, checksums=False, versions=False, object_lock=None, owner=None, is_clean=True
    )
    assert keys_of(store) == []
    assert ["SHA-256" in line for line in honours.shortcomings()] == [True]


def test_probe_of_an_endpoint_that_ignores_conditions(store: S3Store, proxy: Proxy) -> None:
    """A second put that is answered by success, or a header that is refused, means that conditions are not honoured."""
    taken = answer("200 OK", "", 'ETag: "x"')
    proxy.plan = [Fault("PUT"), Fault("PUT", answer=taken)]
    assert not probe(store).conditional
    proxy.plan = [Fault("PUT", answer=failure("501 Not Implemented", "NotImplemented"))]
    found = probe(store)
    assert not found.conditional and "If-None-Match" in found.shortcomings()[0]
    assert keys_of(store) == []


def test_probe_of_an_endpoint_that_checks_bytes(store: S3Store, proxy: Proxy) -> None:
    """Wrong bytes refused and right ones taken mean that checksums are honoured; both refused, that they are not."""
    bad = failure("400 Bad Request", "BadDigest")
    proxy.plan = [Fault("PUT", path=".bytes", answer=bad)]
    assert probe(store).checksums
    proxy.plan = [Fault("PUT", path=".bytes", answer=bad)] * 2
    assert not probe(store).checksums


def test_probe_with_credentials_that_may_only_put(store: S3Store, proxy: Proxy) -> None:
    """What cannot be removed is said, and no listing shows it; a bucket that takes nothing is an error."""
    proxy.plan = [Fault("DELETE", answer=DENIED)] * 9
    assert not probe(store).is_clean
    assert keys_of(store) != [] and list(store.list()) == []
    proxy.plan = [Fault("PUT", answer=DENIED)]
    with pytest.raises(StoreRefused, match="s3:PutObject"):
        probe(store)


def test_probe_tries_a_lock() -> None:
    """A lock is tried where it is asked for: true where a locked object could not be deleted, else false and said."""
    server = s3_server.running()
    for bucket, expected in (("locking", True), ("plain", False)):
        connection = server.connection(place={"bucket": bucket, "object_lock_days": 1})
        connection._client = s3_server.shared_client()
        slept: list[float] = []
        found = probe(S3Store(connection, lambda: datetime.now(UTC), sleep=slept.append))
        assert found.object_lock is expected and found.versions is expected
        # Nobody waited for the lock to end, so what was locked is still there and that is said.
        assert found.is_clean is not expected and bool(slept) is expected
        assert any("object lock" in line for line in found.shortcomings()) is not expected


def test_without_checksums_md5_guards_the_bytes(store: S3Store, proxy: Proxy) -> None:
    """Each put proves its bytes by a checksum that the endpoint knows."""
    heads = heads_of(store)
    store.put("one", b"abc")
    S3Store(store.bucket.connection, lambda: NOW, checksums=False).put("two", b"abc")
    assert heads[0]["x-amz-checksum-sha256"] == base64.b64encode(hashlib.sha256(b"abc").digest()).decode()
    assert heads[0]["if-none-match"] == "*" and "content-md5" in heads[1] and "x-amz-checksum-sha256" not in heads[1]


# Policies


def test_policies_allow_what_their_part_needs_and_nothing_else() -> None:
    """Only that of maintenance can delete or replace, none can list beyond the prefix; putting is conditional."""
    put, backup, maintain = (
        json.loads(iam_policy("b", "web1", may=may, object_lock=True, kms_key="arn:k"))["Statement"]
        for may in ("put", "backup", "maintain")
    )
    actions = [{action for each in policy for action in each["Action"]} for policy in (put, backup, maintain)]
    assert "s3:PutObject" in actions[0] and not actions[0] & {"s3:GetObject", "s3:ListBucket", "s3:DeleteObject"}
    assert actions[0] < actions[1] and "s3:DeleteObject" not in actions[1]
    assert {"s3:DeleteObject", "s3:DeleteObjectVersion"} <= actions[2]
    for policy in (put, backup):
        conditions = [each["Condition"] for each in policy if each["Action"] == ["s3:PutObject"]]
        assert conditions == [
            {"Null": {"s3:if-none-match": "false"}},
            {"Bool": {"s3:ObjectCreationOperation": "false"}},
        ]
    for each in (*backup, *maintain):
        assert each["Resource"] in ("arn:aws:s3:::b/web1/*", "arn:k") or each["Sid"] == "List"
        assert each["Sid"] != "List" or each["Condition"] == {"StringLike": {"s3:prefix": ["web1", "web1/*"]}}
    assert "arn:aws:s3:::b/*" in iam_policy("b") and "kms" not in iam_policy("b")


def test_locations_read_as_they_are_typed() -> None:
    """A place shows as what a person types to reach it, the endpoint included, and never with anything else."""
    assert S3Place("b").location == "s3://b" and S3Place("b", "web1/x", region="eu-1").location == "s3://b/web1/x"
    place = S3Place("b", "p", endpoint="https://s3.example.org:9000", region="eu-1")
    assert place.location == "s3://b/p?endpoint=https://s3.example.org:9000&region=eu-1"


@pytest.mark.parametrize(
    "text",
    ["2026-11-22T05:00:00Z", "2026-11-22T05:00:00.250Z", "Sun, 22 Nov 2026 05:00:00 GMT", "1795323600", 1795323600,
     "2026-11-22T05:00:00", "2026-11-22T06:00:00+01:00", "20261122T050000Z"],
)  # fmt: skip
def test_times_are_read_as_botocore_reads_them(text: Any) -> None:
    """The quick way to read a time agrees with botocore's own on every form that endpoints use."""
    assert _timestamp(text) == parse_timestamp(text)


def test_the_model_is_the_one_that_botocore_finds(tmp_path: Path) -> None:
    """What the quick search finds of S3 is what botocore's own finds, folders of the user's included."""
    (tmp_path / "s3" / "2099-01-01").mkdir(parents=True)
    (tmp_path / "s3" / "2099-01-01" / "paginators-1.json").write_text('{"pagination": {}}')
    quick, own = Model(str(tmp_path)), create_loader(str(tmp_path))
    assert quick.search_paths == own.search_paths and Model(None).search_paths == create_loader().search_paths
    for kind in ("service-2", "endpoint-rule-set-1", "paginators-1"):
        assert quick.load_service_model("s3", kind) == own.load_service_model("s3", kind)
    assert quick.load_service_model("s3", "paginators-1") == {"pagination": {}}
    assert quick.load_data("endpoints") == own.load_data("endpoints")
    with pytest.raises(DataNotFoundError):
        quick.load_data("none")


def test_boto3_is_loaded_by_those_who_use_it() -> None:
    """Building everything else loads neither boto3 nor botocore: they would double the start-up time."""
    program = (
        "import sys, opskit.wiring, opskit.access, opskit.setup; print([m for m in sys.modules if m[:3] == 'bot'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_endpoint_tells_the_checksum_that_it_keeps(store: S3Store) -> None:
    """Of an object put whole it is that of its bytes; of one put without there is none, of one in parts never that."""
    data = os.urandom(5000)
    store.put("whole", data)
    assert store.checksum_of("whole") == hashlib.sha256(data).hexdigest()
    client = store.bucket.connection.client()
    key = store.bucket.place.key
    client.put_object(Bucket="plain", Key=key("without"), Body=data)
    assert store.checksum_of("without") is None
    in_parts = S3Store(store.bucket.connection, lambda: NOW, threshold=5 * 2**20, part_size=5 * 2**20)
    in_parts.put("parts", bytes(6 * 2**20))
    assert store.checksum_of("parts") != hashlib.sha256(bytes(6 * 2**20)).hexdigest()
    with pytest.raises(ObjectNotFound):
        store.checksum_of("absent")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-sha256": base64.b64encode(bytes(32)).decode(), "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-sha256": base64.b64encode(bytes(32)).decode() + "-2"},
        {"x-amz-checksum-sha256": base64.b64encode(bytes(20)).decode()},
        {"x-amz-checksum-sha256": "no checksum at all"},
        {"x-amz-checksum-crc32": "AAAAAA=="},
    ],
)
def test_other_checksums_are_none(store: S3Store, proxy: Proxy, headers: dict[str, str]) -> None:
    """What is not plainly the SHA-256 of a whole object says nothing of its bytes."""
    fields = [f"{name}: {value}" for name, value in headers.items()]
    proxy.plan = [Fault(answer=answer("200 OK", "", 'ETag: "x"', *fields))]
    assert store.checksum_of("any") is None

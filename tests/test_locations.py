"""Places as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit import locations, log, wiring
from opskit.config.model import LocalDestination, S3Bucket, S3Destination
from opskit.errors import UnresolvedReference, UsageError
from opskit.secrets.reference import Reference
from opskit.stores.local import LocalStore
from opskit.stores.s3 import S3Store
from opskit.stores.wrappers.limits import Limited
from opskit.stores.wrappers.retry import Retrying

OWNED = "s3://bucket/p?owner=012345678901"


def test_a_bucket_is_read_from_its_location() -> None:
    """Bucket, prefix, endpoint, region and owner are taken from the text, and the store shows the same text again."""
    for text in (
        "s3://bucket",
        "s3://bucket/a/b",
        "s3://bucket/p?endpoint=https://s3.example.org:9000&region=eu-1",
        OWNED,
    ):
        bucket = locations.bucket_at("--repository", text)
        assert wiring.location_of(S3Destination(s3=bucket)) == text
        assert wiring.store_at("--repository", text).location == text
    assert locations.bucket_at("x", "s3://bucket/a/") == S3Bucket(bucket="bucket", prefix="a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://host/x", "expected a folder or s3://"),
        ("s3://", "bucket: expected the name of a bucket"),
        ("s3://bucket/a b", "prefix: expected 1 to 5 parts"),
        ("s3://bucket/../x", "prefix: expected"),
        ("s3://bucket/x?endpoint=https://user:pw@host", "endpoint: expected an address"),
        ("s3://bucket/x?endpoint=", "endpoint: expected"),
        ("s3://bucket/x?color=red", "expected a folder or s3://"),
        ("s3://bucket/x?owner=me", "owner: expected the id of an AWS account, 12 digits, got 'me'"),
        ("s3://bucket/x#y", "expected a folder or s3://"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str) -> None:
    """A place that no config could hold is UsageError that names the option and what was expected."""
    with pytest.raises(UsageError, match=words) as caught:
        locations.bucket_at("--destination offsite", text)
    assert str(caught.value).startswith("--destination offsite: ")


def test_what_init_writes_for_a_place(tmp_path: Path) -> None:
    """A folder becomes a path; a bucket of AWS is elsewhere, and of one with an endpoint nobody knows."""
    assert locations.destination_at("x", str(tmp_path)) == {"path": str(tmp_path)}
    assert locations.destination_at("x", "s3://bucket/p") == {
        "s3": {"bucket": "bucket", "prefix": "p"},
        "offsite": True,
    }
    assert locations.destination_at("x", OWNED)["s3"] == {"bucket": "bucket", "prefix": "p", "owner": "012345678901"}
    there = locations.destination_at("x", "s3://bucket?endpoint=https://nas")
    assert there == {"s3": {"bucket": "bucket", "endpoint": "https://nas"}}


def test_the_same_place_is_recognised(tmp_path: Path) -> None:
    """A destination typed again is known by folder, or by bucket, prefix and endpoint; the region does not count."""
    folder = LocalDestination(path=tmp_path)
    bucket = S3Destination(s3=S3Bucket(bucket="bucket", prefix="p", region="eu-1"))
    assert locations.is_same_place(folder, "x", f"{tmp_path}/")
    assert locations.is_same_place(bucket, "x", "s3://bucket/p")
    for there, text in ((folder, "s3://bucket/p"), (bucket, str(tmp_path)), (bucket, "s3://bucket/q")):
        assert not locations.is_same_place(there, "x", text)
    assert locations.located("x", "s3://bucket/p") == "s3://bucket/p"
    assert locations.located("x", "here") == str(Path("here").absolute())


def test_a_bucket_gets_its_wrappers() -> None:
    """A bucket is read again where it broke off, within its limits; beneath is the store, made as was found out."""
    destination = S3Destination(s3=S3Bucket(bucket="bucket", object_lock_days=3), upload_limit=10)
    store = wiring.store_of(destination, conditional=False)
    inside = wiring.innermost(store)
    assert isinstance(store, Retrying) and isinstance(store.inner, Limited) and isinstance(inside, S3Store)
    assert inside.place.object_lock_days == 3 and not inside._writer._ways.conditional
    assert isinstance(wiring.store_of(destination.but(upload_limit=None)).inner, S3Store)  # type: ignore[attr-defined]


def test_only_folders_are_made(tmp_path: Path) -> None:
    """Preparing makes a folder, and asks a bucket nothing."""
    store = wiring.store_at("x", str(tmp_path / "new"))
    wiring.prepare(store)
    assert isinstance(store, LocalStore) and list(store.list()) == []
    bucket = wiring.store_at("x", "s3://bucket?endpoint=http://127.0.0.1:9")
    wiring.prepare(bucket)
    inside = wiring.innermost(bucket)
    assert isinstance(inside, S3Store) and inside.bucket.connection._client is None


def test_credentials_are_resolved_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """References to an access key are resolved at each use, not when the store is made, and no log shows the secret."""
    key, secret = Reference.parse("env:TEST_S3_ID"), Reference.parse("env:TEST_S3_SECRET")
    store = wiring.innermost(
        wiring.store_of(S3Destination(s3=S3Bucket(bucket="bucket", access_key_id=key, secret_access_key=secret)))
    )
    assert isinstance(store, S3Store) and store.bucket.connection._credentials is not None
    with pytest.raises(UnresolvedReference, match="TEST_S3"):
        store.bucket.connection._credentials()
    monkeypatch.setenv("TEST_S3_ID", "AKIA")
    monkeypatch.setenv("TEST_S3_SECRET", "not-for-logs-5")
    assert store.bucket.connection._credentials() == ("AKIA", "not-for-logs-5")
    assert "not-for-logs-5" not in log.redact("x not-for-logs-5 y")

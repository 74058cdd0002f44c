"""The printed IAM policies, held against an endpoint that enforces them: enough for their part, and for no other.

moto enforces users, signatures, actions and resources, but knows no conditions of S3. It gets the policies without
them; that every request meets them is looked for in the requests themselves.
"""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import boto3
import pytest

from opskit.errors import ObjectExists, StoreRefused
from opskit.stores.s3 import Connection, S3Place, S3Store, iam_policy, probe
from opskit.stores.s3.policy import May
from tests.stores import s3_server
from tests.stores.s3_server import Server

PREFIX = "web1"
PARTS: tuple[May, ...] = ("put", "backup", "maintain")


class Guarded(NamedTuple):
    """An endpoint that asks who comes, and the access keys of those it knows."""

    server: Server
    users: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def enforcing() -> Iterator[Guarded]:
    """Such an endpoint, with a user for each part."""
    with s3_server.served() as server:
        made: dict[str, tuple[str, str]] = {may: user(server, may) for may in PARTS}
        url = f"http://127.0.0.1:{server.port}/moto-api/reset-auth"
        request = urllib.request.Request(url, b"0", {"Content-Type": "text/plain"}, method="POST")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
        yield Guarded(server, made)


def user(server: Server, may: May) -> tuple[str, str]:
    """The access key of a new user who has the printed policy and no other."""
    document = json.loads(iam_policy("locking", PREFIX, may=may, object_lock=True))
    for statement in document["Statement"]:
        statement.pop("Condition", None)
    session = boto3.session.Session(s3_server.KEY_ID, s3_server.SECRET, region_name="us-east-1")
    client: Any = session.client("iam", endpoint_url=f"http://127.0.0.1:{server.port}")  # type: ignore[call-overload]
    client.create_user(UserName=may)
    client.put_user_policy(UserName=may, PolicyName=may, PolicyDocument=json.dumps(document))
    key = client.create_access_key(UserName=may)["AccessKey"]
    client.close()
    return key["AccessKeyId"], key["SecretAccessKey"]


def store_for(guarded: Guarded, may: str, prefix: str = PREFIX, lock_days: int | None = 1, **options: Any) -> S3Store:
    """The store as that user reaches it, locking what is put."""
    place = S3Place("locking", prefix, endpoint=f"http://127.0.0.1:{guarded.server.port}", object_lock_days=lock_days)
    connection = Connection(place, lambda: guarded.users[may], attempts=2)
    guarded.server.connections.append(connection)
    return S3Store(connection, lambda: datetime.now(UTC), sleep=lambda _seconds: None, **options)


PUT, BACKUP, MAINTAIN = {"put", "backup", "maintain"}, {"backup", "maintain"}, {"maintain"}
UNTIL = timedelta(days=3)
ACTS: list[tuple[str, set[str], Callable[[S3Store], object]]] = [
    ("put", PUT, lambda store: store.put(f"packs/{uuid.uuid4().hex}", b"x")),
    ("lock", PUT, lambda store: store.extend_lock(["packs/there"], datetime.now(UTC) + UNTIL)),
    ("probe", PUT, probe),
    ("list", BACKUP, lambda store: list(store.list())),
    ("read", BACKUP, lambda store: store.get("packs/there")),
    ("read a range", BACKUP, lambda store: store.get("packs/there", offset=1, length=1)),
    ("delete", MAINTAIN, lambda store: store.bucket.ask("delete_object", f"packs/{uuid.uuid4().hex}")),
]


@pytest.mark.parametrize("may", PARTS)
@pytest.mark.parametrize(("name", "parts", "act"), ACTS, ids=[name for name, _, _ in ACTS])
def test_a_policy_allows_its_part_and_no_more(
    enforcing: Guarded, may: str, name: str, parts: set[str], act: Callable[[S3Store], object]
) -> None:
    """Each act works with the policies of the parts that need it, and is refused by name with any other."""
    maintainer = store_for(enforcing, "maintain")
    try:
        maintainer.put("packs/there", b"there")
    except ObjectExists:
        assert maintainer.get("packs/there") == b"there"
    if may in parts:
        act(store_for(enforcing, may))
        return
    with pytest.raises(StoreRefused, match="expected the permission s3:"):
        act(store_for(enforcing, may))


@pytest.mark.parametrize("may", PARTS)
def test_large_objects_need_no_more(enforcing: Guarded, may: str) -> None:
    """An object in parts is put with every policy; one that fails in the middle is cleaned up with each of them."""
    name = f"packs/{uuid.uuid4().hex}"
    store_for(enforcing, may, threshold=10, part_size=100).put(name, bytes(250))
    assert store_for(enforcing, "backup").get(name) == bytes(250)


@pytest.mark.parametrize("may", ["put", "backup"])
def test_only_maintenance_deletes(enforcing: Guarded, may: str) -> None:
    """Deleting is refused by the permission that lacks, and the object stays; the probe says what it left behind."""
    name = f"packs/{uuid.uuid4().hex}"
    store = store_for(enforcing, may, lock_days=None)
    store.put(name, b"x")
    with pytest.raises(StoreRefused, match="s3:DeleteObject and" if may == "backup" else "s3:GetObject"):
        store.delete(name)
    with pytest.raises(StoreRefused, match="s3:DeleteObject and"):
        store.bucket.ask("delete_object", name)
    assert store_for(enforcing, "backup").get(name) == b"x"
    assert not probe(store).is_clean


@pytest.mark.parametrize("may", PARTS)
def test_another_prefix_is_out_of_reach(enforcing: Guarded, may: str) -> None:
    """Nothing can be put or read beside the prefix, nor below one that begins the same."""
    for prefix in ("web2", f"{PREFIX}0", ""):
        store = store_for(enforcing, may, prefix)
        with pytest.raises(StoreRefused):
            store.put("packs/one", b"x")
        with pytest.raises(StoreRefused):
            store.get("packs/one")


def test_a_wrong_secret_is_told(enforcing: Guarded) -> None:
    """The endpoint recomputes signatures, so those of puts with known hashes are right; another secret is refused."""
    identity, _ = enforcing.users["backup"]
    enforcing.users["thief"] = identity, "guessed"
    with pytest.raises(StoreRefused, match="credentials that the endpoint knows, got SignatureDoesNotMatch"):
        store_for(enforcing, "thief").put("packs/one", b"x")


def test_every_request_meets_the_conditions(enforcing: Guarded) -> None:
    """What puts is conditional or a part of what will be, what lists names the prefix: as the policies demand it."""
    store = store_for(enforcing, "backup", threshold=10, part_size=100)
    seen: list[Any] = []
    store.bucket.connection.answered()
    store.bucket.connection.client().meta.events.register(
        "before-send.s3", lambda request, **_: seen.append((request.method, request.url, request.headers))
    )
    probe(store)
    for size in (5, 250):
        store.put(f"packs/{uuid.uuid4().hex}", bytes(size))
    list(store.list())
    list(store.list("packs"))
    for method, url, headers in seen:
        is_part = "?uploads" in url or "partNumber=" in url
        if method in {"PUT", "POST"} and not is_part and "?retention" not in url:
            assert headers.get("If-None-Match") == b"*", url
        if "list-type" in url:
            assert "prefix=web1%2F" in url
    kinds = {(method, "uploadId" in url) for method, url, _ in seen}
    assert {("PUT", False), ("PUT", True), ("POST", True), ("GET", False)} <= kinds

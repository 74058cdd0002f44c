"""An S3 store over a network and an endpoint that fail: right bytes or a StoreError, never anything between."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Iterator
from copy import copy
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opskit.errors import ObjectExists, ObjectNotFound, StoreError
from opskit.stores.s3 import S3Store, is_passing
from opskit.stores.s3.failures import BrokenOff
from opskit.stores.wrappers.retry import Retrying
from tests.stores import s3_server
from tests.stores.proxy import Fault, Proxy, answer, failure, proxied

SLOW_DOWN = failure("503 Slow Down", "SlowDown")
DATA = os.urandom(300_000)
HASH = hashlib.sha256(b"x").hexdigest()
SEEN = [f"packs/{number:02}" for number in range(12)]


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's pauses between its tries, a second or more, are no part of what is tested here."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _seconds: None))


@pytest.fixture(scope="module")
def lasting_proxy() -> Iterator[Proxy]:
    """A proxy before the endpoint."""
    with proxied(s3_server.running().port) as each:
        yield each


@pytest.fixture(scope="module")
def lasting_pair(lasting_proxy: Proxy) -> Iterator[Pair]:
    """A place whose clients serve all tests here: making one takes longer than most of them."""
    made = Pair(lasting_proxy)
    yield made
    made.store.close()


@pytest.fixture
def proxy(lasting_proxy: Proxy) -> Proxy:
    """The proxy, without faults, its memory empty."""
    lasting_proxy.plan, lasting_proxy.requests = [], []
    return lasting_proxy


@pytest.fixture
def pair(proxy: Proxy, lasting_pair: Pair) -> Pair:
    """Both ways to one place."""
    return lasting_pair.elsewhere()


@pytest.fixture
def in_parts(proxy: Proxy, lasting_pair: Pair) -> Pair:
    """The same with objects that go in parts."""
    return lasting_pair.elsewhere(threshold=1000, part_size=100_000)


class Pair:
    """One place, reached through the proxy and directly."""

    def __init__(self, proxy: Proxy, **options: int) -> None:
        server = s3_server.running()
        connection = server.connection(port=proxy.port, read_timeout=0.3)
        directly = server.connection(place={"prefix": connection.place.prefix})
        directly._client = s3_server.shared_client()
        self.store = server.store(connection, page_size=5, **options)
        self.direct = server.store(directly, page_size=5)

    def elsewhere(self, **options: int) -> Pair:
        """Another place, by the same two ways."""
        other = copy(self)
        server = s3_server.running()
        through, directly = server.connection(), server.connection()
        directly.place = through.place
        through._client, directly._client = self.store.bucket.connection.client(), s3_server.shared_client()
        other.store = server.store(through, page_size=5, **options)
        other.direct = server.store(directly, page_size=5)
        return other


def again(store: S3Store) -> Retrying:
    """The store as it is wired, without pauses."""
    return Retrying(store, is_passing, sleep=lambda _seconds: None, chance=lambda: 1.0)


PASSING = [
    Fault(request_bytes=0),
    Fault(request_bytes=100_000),
    Fault(is_lost=True),
    Fault(answer=SLOW_DOWN),
    Fault(answer=failure("500 Internal Server Error", "InternalError")),
    Fault(answer=b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\n<html"),
    Fault(answer=b"\x00\xff garbage that is no HTTP\r\n\r\n", method="PUT"),
    Fault(hangs=True),
    Fault(delay=0.05),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: repr(fault)[:60])
def test_a_put_outlives_a_passing_fault(pair: Pair, proxy: Proxy, fault: Fault) -> None:
    """A put whose request or answer is lost once, or that is answered by an overload, succeeds, with its bytes."""
    proxy.plan = [fault]
    pair.store.put("packs/one", DATA)
    assert proxy.plan == []
    assert pair.direct.get("packs/one") == DATA


@pytest.mark.parametrize("count", [1, 2])
def test_a_lost_answer_is_not_mistaken_for_a_stranger(pair: Pair, proxy: Proxy, count: int) -> None:
    """When a put's answer was lost and its repetition finds the name taken by itself, the put has succeeded."""
    proxy.plan = [Fault("PUT", is_lost=True)] * count
    pair.store.put("keys/one", b"mine")
    assert [line.split()[0] for line in proxy.requests] == ["PUT"] * (count + 1) + ["HEAD"]


def test_a_stranger_is_not_mistaken_for_a_lost_answer(pair: Pair, proxy: Proxy) -> None:
    """A name taken before raises ObjectExists after a lost answer too, even where the bytes are the same."""
    pair.direct.put("keys/one", b"same")
    proxy.plan = [Fault("PUT", is_lost=True)]
    with pytest.raises(ObjectExists):
        pair.store.put("keys/one", b"same")
    proxy.plan = [Fault("PUT", answer=SLOW_DOWN)]
    with pytest.raises(ObjectExists):
        pair.store.put("keys/one", b"other")
    assert pair.direct.get("keys/one") == b"same"


def test_a_conflict_between_writers_is_tried_again(pair: Pair, proxy: Proxy) -> None:
    """409 ConditionalRequestConflict decides nothing, so the put asks again; without end it is a StoreError."""
    conflict = Fault("PUT", answer=failure("409 Conflict", "ConditionalRequestConflict"))
    pair.store._writer._sleep = lambda _seconds: None
    proxy.plan = [conflict] * 3
    pair.store.put("marks/one", b"mine")
    assert pair.direct.get("marks/one") == b"mine"
    proxy.plan = [conflict] * 8
    with pytest.raises(StoreError, match="conflicts"):
        pair.store.put("marks/two", b"mine")


def test_a_portal_that_accepts_everything_stores_nothing(pair: Pair, proxy: Proxy) -> None:
    """A "200 OK" that S3 did not give is no success: of a put, a get, a look or a list."""
    pair.direct.put("there", b"x")
    portal = answer("200 OK", "<html><body>Welcome to our hotel</body></html>")
    for act in (
        lambda: pair.store.put("one", b"x"),
        lambda: pair.store.get("there"),
        lambda: list(pair.store.list()),
    ):
        proxy.plan = [Fault(answer=portal)]
        with pytest.raises(StoreError, match="expected"):
            act()
    proxy.plan = [Fault(answer=answer("200 OK"))]
    with pytest.raises(StoreError, match="ETag"):
        pair.store.get("there", length=0)
    gc.collect()  # a body that was left unread, and its connection, would complain here


@pytest.mark.parametrize(("cut", "kept"), [*product(["reset", "closed"], [0, 1, 150_000, 299_999]), ("held", 7)])
def test_a_body_that_breaks_off_is_read_again(pair: Pair, proxy: Proxy, cut: str, kept: int) -> None:
    """A body cut anywhere, in any way, is BrokenOff to the store and right bytes through the retry wrapper."""
    pair.direct.put("packs/one", DATA)
    fault = Fault("GET", answer_bytes=kept, cut=cut)
    proxy.plan = [fault]
    with pytest.raises(BrokenOff):
        pair.store.get("packs/one")
    proxy.plan = [fault]
    assert again(pair.store).get("packs/one", offset=1) == DATA[1:]
    assert proxy.plan == []


def test_changed_bytes_are_not_given_out(pair: Pair, proxy: Proxy) -> None:
    """A byte that changes on its way is noticed in a whole object; always changed, it stays an error."""
    pair.direct.put("packs/one", DATA)
    proxy.plan = [Fault("GET", flips=True)]
    assert again(pair.store).get("packs/one") == DATA
    proxy.plan = [Fault("GET", flips=True)] * 4
    with pytest.raises(BrokenOff, match="SHA-256"):
        again(pair.store).get("packs/one")


def test_another_range_than_asked_for_is_not_given_out(pair: Pair, proxy: Proxy) -> None:
    """The whole object, or other bytes of it, in answer to a range are refused."""
    pair.direct.put("packs/one", b"0123456789")
    whole = answer("200 OK", "0123456789", 'ETag: "x"')
    other = answer("206 Partial Content", "012", 'ETag: "x"', "Content-Range: bytes 0-2/10")
    for wrong in (whole, other):
        proxy.plan = [Fault("GET", answer=wrong)]
        with pytest.raises(BrokenOff, match="bytes=3-5"):
            pair.store.get("packs/one", offset=3, length=3)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="continuation-token", answer=failure("403 Forbidden", "AccessDenied")),
        Fault(path="continuation-token", answer=failure("400 Bad Request", "InvalidArgument")),
        Fault(path="continuation-token", answer=answer("200 OK", "<ListBucketResult></ListBucketResult>")),
        Fault(path="continuation-token", answer=answer("200 OK", "<html>")),
        Fault(
            path="continuation-token",
            answer=answer("200 OK", "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"),
        ),
    ],
    ids=["denied", "bad", "empty", "garbage", "no token"],
)
def test_a_listing_that_fails_on_its_second_page_is_no_short_list(pair: Pair, proxy: Proxy, fault: Fault) -> None:
    """Whatever the second page says but itself, the listing is an exception."""
    for name in SEEN:
        pair.direct.put(name, b"x")
    proxy.plan = [fault] * 12  # as many as all tries together
    with pytest.raises(StoreError):
        list(again(pair.store).list())
    assert len(proxy.plan) < 12
    proxy.plan = []
    assert [info.name for info in pair.store.list()] == SEEN


def test_pages_are_asked_for_until_the_last(pair: Pair, proxy: Proxy) -> None:
    """A listing takes one request a page, also across pages that were cut or refused at first."""
    for name in SEEN:
        pair.direct.put(name, b"x")
    assert [info.name for info in pair.store.list("packs")] == SEEN
    assert len(proxy.requests) == 3
    proxy.plan = [Fault(path="continuation-token", answer_bytes=60), Fault(answer=SLOW_DOWN)]
    assert [info.name for info in pair.store.list("packs")] == SEEN


def test_a_listing_that_goes_back_is_refused(pair: Pair, proxy: Proxy) -> None:
    """Pages that repeat, or come unsorted, are an exception: they would hide or double objects."""
    entry = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-11-22T05:00:00Z</LastModified></Contents>"
    prefix = pair.store.place.folder
    page = "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>"
    for keys in (("b", "a"), ("a", "a")):
        body = page.format("".join(entry.format(prefix + key) for key in keys))
        proxy.plan = [Fault(answer=answer("200 OK", body))]
        with pytest.raises(StoreError, match="rising"):
            list(pair.store.list())


def unfinished(store: S3Store) -> list[str]:
    """Uploads in parts that were begun and neither completed nor removed."""
    page = store.bucket.send("list_multipart_uploads", Prefix=store.place.folder)
    return [upload["Key"] for upload in page.get("Uploads", [])]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: repr(fault)[:60])
@pytest.mark.parametrize("path", ["?uploads", "partNumber=2", "?uploadId"])
def test_an_upload_in_parts_outlives_a_passing_fault(in_parts: Pair, proxy: Proxy, fault: Fault, path: str) -> None:
    """Beginning, any part and the completion may each be lost or repeated once; the object is whole or the error clear.

    Whoever begins an upload and does not hear of it cannot remove it: those are for a lifecycle rule.
    """
    proxy.plan = [Fault(**{**vars(fault), "path": path, "method": ""})]
    in_parts.store.put("packs/one", DATA)
    assert proxy.plan == []
    assert in_parts.direct.get("packs/one") == DATA
    if path != "?uploads":
        assert unfinished(in_parts.direct) == []


def test_a_failed_upload_in_parts_leaves_nothing(in_parts: Pair, proxy: Proxy) -> None:
    """When a part is refused for good, there is no object and no part, and the name is free."""
    proxy.plan = [Fault(path="partNumber=2", answer=failure("400 Bad Request", "BadDigest"))]
    with pytest.raises(StoreError, match="BadDigest"):
        in_parts.store.put("packs/one", DATA)
    assert unfinished(in_parts.direct) == [] and list(in_parts.direct.list()) == []
    in_parts.store.put("packs/one", DATA)


def test_what_a_listing_did_not_show_is_not_looked_at(pair: Pair, proxy: Proxy) -> None:
    """Where puts cannot be conditional, a whole listing saves looking for names that promise a hash, and no others."""

    def asked(name: str, data: bytes = b"x") -> list[str]:
        proxy.requests = []
        store.put(name, data)
        return [line.split()[0] for line in proxy.requests]

    connection = pair.store.bucket.connection
    store = s3_server.running().store(
        connection, page_size=5, conditional=False, digest_in=lambda name: HASH if name.startswith("packs/") else None
    )
    for name in SEEN[:7]:
        pair.direct.put(name, b"x")
    list(store.list("packs"))
    assert asked("packs/begun") == ["HEAD", "PUT"], "a part of a listing says nothing"
    proxy.plan = [Fault(path="continuation-token", answer=failure("403 Forbidden", "AccessDenied"))]
    with pytest.raises(StoreError):
        list(store.list())
    next(listing := store.list())
    assert asked("packs/broken") == ["HEAD", "PUT"], "nor does one that broke off, or goes on"
    list(listing)
    assert asked("packs/new") == ["PUT"] and asked("index/new") == ["HEAD", "PUT"]
    for taken in ("packs/new", "packs/broken", SEEN[0], SEEN[6]):
        with pytest.raises(ObjectExists):
            store.put(taken, b"y")
        assert pair.direct.bucket.look(taken)
    proxy.plan = [Fault("PUT", is_lost=True)]
    assert asked("packs/lost") == ["PUT", "PUT"]


def test_an_endpoint_that_stays_away_is_a_store_error(pair: Pair, proxy: Proxy) -> None:
    """An endpoint that refuses, hangs or throttles without end is a plain StoreError that says so, for every method."""
    pair.direct.put("there", b"x")
    for fault, words in [
        (Fault(hangs=True), "cannot be reached"),
        (Fault(answer=SLOW_DOWN), "overloaded"),
        (Fault(request_bytes=0), "cannot be reached"),
    ]:
        for act in (
            lambda: pair.store.put("one", b"x"),
            lambda: pair.store.get("there"),
            lambda: list(pair.store.list()),
            lambda: pair.store.delete("there"),
        ):
            proxy.plan = [fault] * 3
            with pytest.raises(StoreError, match=words) as caught:
                act()
            assert type(caught.value) is StoreError and caught.value.hint
    proxy.plan = []
    assert pair.direct.get("there") == b"x"
    with pytest.raises(ObjectNotFound):
        pair.direct.get("one")


def test_an_endpoint_that_never_spoke_gets_little_time(proxy: Proxy) -> None:
    """Silence at the first request ends after few, short tries; once anything was answered, patience begins."""
    connection = s3_server.running().connection(
        port=proxy.port, read_timeout=0.6, attempts=5, first_read_timeout=0.1, first_attempts=2
    )
    store = s3_server.running().store(connection)
    for _ in range(2):
        proxy.plan, proxy.requests = [Fault(hangs=True)] * 9, []
        with pytest.raises(StoreError, match="cannot be reached, no answer came: Read timeout") as caught:
            store.get("one")
        assert len(proxy.requests) == 2 and "whether the service is up" in str(caught.value.hint)
    proxy.plan, proxy.requests = [Fault(answer=SLOW_DOWN)] * 4, []
    with pytest.raises(ObjectNotFound):  # overloaded, but there: as patient as ever
        store.get("one")
    assert len(proxy.requests) == 5
    proxy.plan, proxy.requests = [Fault(delay=0.3)], []
    with pytest.raises(ObjectNotFound):
        store.get("one")
    proxy.plan = [Fault("PUT", hangs=True)] * 4
    store.put("one", DATA)
    assert store.get("one") == DATA and [line[:3] for line in proxy.requests] == ["GET", *["PUT"] * 5, "GET"]


def test_a_busy_first_answer_repeats_the_whole_body(proxy: Proxy) -> None:
    """A first put that is refused as too much, and repeated by the patient client, sends all its bytes again."""
    store = s3_server.running().store(s3_server.running().connection(port=proxy.port))
    proxy.plan = [Fault("PUT", answer=SLOW_DOWN)] * 4
    store.put("one", DATA)
    assert store.get("one") == DATA and proxy.plan == []


def test_a_lost_first_answer_is_remembered_by_the_patient_client(proxy: Proxy) -> None:
    """A put that was carried out unheard, before the endpoint was overloaded, is known again as our own."""
    store = s3_server.running().store(s3_server.running().connection(port=proxy.port))
    proxy.plan = [Fault("PUT", is_lost=True), *[Fault("PUT", answer=SLOW_DOWN)] * 2]
    store.put("one", DATA)
    assert proxy.plan == []
    store = s3_server.running().store(
        s3_server.running().connection(port=proxy.port, place={"prefix": store.place.prefix})
    )
    proxy.plan = [Fault("PUT", answer=SLOW_DOWN)] * 3
    with pytest.raises(ObjectExists):
        store.put("one", DATA)


faults = st.builds(
    Fault,
    method=st.sampled_from(["", "PUT", "GET", "HEAD", "POST", "DELETE"]),
    request_bytes=st.none() | st.integers(0, 2000),
    is_lost=st.booleans(),
    answer_bytes=st.none() | st.integers(0, 2000),
    cut=st.sampled_from(["reset", "closed"]),
    answer=st.sampled_from([None, None, SLOW_DOWN, answer("200 OK", "hello")]),
    flips=st.booleans(),
)


@settings(suppress_health_check=list(HealthCheck))
@given(plan=st.lists(faults, max_size=8), size=st.integers(0, 2500), parts=st.booleans())
def test_right_bytes_or_an_error(pair: Pair, proxy: Proxy, plan: list[Fault], size: int, parts: bool) -> None:
    """Under any faults a put stores all or nothing, a get gives the bytes, a list all names, or each raises."""
    here = pair.elsewhere(**({"threshold": 500, "part_size": 900} if parts else {}))
    store, data = again(here.store), os.urandom(size)
    here.direct.put("before", data)
    proxy.plan = list(plan)
    is_put = outcome_of(lambda: store.put("packs/one", data)) is None
    for name in ("before", "packs/one"):
        assert outcome_of(lambda name=name: store.get(name)) in (data, StoreError)
    listed = outcome_of(lambda: [info.name for info in store.list()])
    stored = {info.name: here.direct.get(info.name) for info in here.direct.list()}
    assert set(stored.values()) == {data}
    assert set(stored) == {"before", "packs/one"} if is_put else {"before"} <= set(stored)
    assert listed in (sorted(stored), StoreError)


def outcome_of(act: Callable[[], object]) -> object:
    """What comes of it; StoreError for one of them, but a free name that counts as taken is an error."""
    try:
        return act()
    except ObjectExists:
        raise
    except StoreError:
        return StoreError


def test_a_first_put_that_meets_an_overload_arrives_whole(proxy: Proxy) -> None:
    """A put that is the first request of all, and is refused until patience begins, is sent anew, whole."""
    pair, body = Pair(proxy), bytes(range(256)) * 1000
    proxy.plan = [Fault("PUT", answer=SLOW_DOWN)] * 3
    again(pair.store).put("packs/ab/first", body)
    assert pair.direct.get("packs/ab/first") == body and not proxy.plan

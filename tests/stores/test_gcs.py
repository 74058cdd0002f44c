"""What the contract does not say of a store at Google: what goes wrong there, and what credentials may do."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from opskit.errors import ObjectExists, ObjectNotFound, StoreError, StoreRefused, UnresolvedReference
from opskit.stores.base import Store
from opskit.stores.url import Gcs, UrlStore, is_passing
from opskit.stores.url.gcs import service as gcs_service
from opskit.stores.url.gcs.wire import Body
from opskit.stores.wrappers.retry import Retrying
from tests.stores import gcs_rules, gcs_server
from tests.stores.gcs_rules import Bucket, Failure, Rules
from tests.stores.proxy import Fault, Proxy, answer, proxied

pytestmark = pytest.mark.skipif(gcs_server.missing() is not None, reason=str(gcs_server.missing()))


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before the server that keeps the rules."""
    with proxied(int(gcs_server.rules().address.rpartition(":")[2])) as found:
        yield found


@pytest.fixture
def alone() -> Iterator[Rules]:
    """A server of its own."""
    with gcs_rules.served(Rules({gcs_server.BUCKET: Bucket()})) as found:
        yield found


def store_of(service: Gcs) -> UrlStore:
    """The store above a service."""
    return UrlStore(service, "gs://here")


def through(proxy: Proxy, prefix: str = "x") -> UrlStore:
    """The same place by way of the proxy, which has answered before."""
    service = gcs_server.service(f"http://127.0.0.1:{proxy.port}", prefix)
    service._login.headers()  # logins go past the proxy
    return store_of(service)


def words(failure: Failure, status: str, *headers: str) -> bytes:
    """An error of Google's as an answer."""
    return answer(status, failure.body().decode(), *headers)


def acts(store: Store) -> list[Callable[[], object]]:
    """Each thing that can be asked of a store."""
    return [
        lambda: list(store.list()),
        lambda: list(store.list("packs")),
        lambda: store.put("packs/a", b"x"),
        lambda: store.get("packs/a"),
        lambda: store.get("packs/a", offset=1, length=1),
        lambda: store.delete("packs/a"),
        lambda: store.get("packs/a", length=0),
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_key_that_is_not_believed_is_a_refusal_and_never_shows(number: int) -> None:
    """A login that fails is StoreRefused whatever was asked, with Google's words; the key is in no message."""
    secret = gcs_server.rules().account("stranger", "list", key=gcs_rules.private_key(1))
    store = store_of(gcs_server.service(secret=secret))
    with pytest.raises(StoreRefused, match=r"no login: .*Invalid JWT Signature") as caught:
        acts(store)[number]()
    shown = f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"
    assert "PRIVATE KEY" not in shown and "assertion" not in shown


@pytest.mark.parametrize("secret", ["hunter2", '{"private_key": "hunter2"}', '["hunter2"]'])
def test_a_key_that_is_none_is_a_refusal(secret: str) -> None:
    """What is no JSON key of a service account is told as what it is, without being repeated."""
    store = store_of(gcs_server.service(secret=secret))
    with pytest.raises(StoreRefused, match="not the JSON key of a service account") as caught:
        list(store.list())
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in repr(error)
        error = error.__cause__


def test_a_token_that_is_believed_no_more(alone: Rules) -> None:
    """What the service says to a token is a refusal; the token is in no message."""
    store = store_of(gcs_server.service(alone.address, "", alone.account("a", *gcs_rules.ALL)))
    store.put("a", b"x")
    (token,) = alone.tokens
    alone.tokens.clear()
    with pytest.raises(StoreRefused, match="got 401: authError Invalid Credentials") as caught:
        store.get("a", length=0)
    assert token not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_secret_that_cannot_be_had_is_told_as_that() -> None:
    """A reference that leads nowhere is no broken connection: nothing is tried again for it."""

    def secret() -> str:
        raise UnresolvedReference("env:NOTHING: expected a variable, got none")

    service = Gcs(gcs_server.rules().address, gcs_server.BUCKET, "", secret)
    with pytest.raises(UnresolvedReference):
        list(store_of(service).list())


def test_the_usual_chain(alone: Rules, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, what Google's own tools use logs in, but only where there is TLS; elsewhere no token goes out."""
    file = f"{tmp_path}/key.json"
    with open(file, "w") as out:
        out.write(alone.account("a", *gcs_rules.ALL))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
    with pytest.raises(StoreError, match="the connection broke"):
        list(store_of(Gcs("https://127.0.0.1:9", gcs_server.BUCKET)).list())
    assert len(alone.tokens) == 1, "it logged in, and went on to an address where nobody listens"
    with pytest.raises(StoreRefused, match="401: required Anonymous caller"):
        list(store_of(Gcs(alone.address, gcs_server.BUCKET)).list())
    assert len(alone.tokens) == 1


def test_without_any_credentials(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual chain that finds nothing is a refusal."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(StoreRefused, match="no credentials: "):
        list(store_of(Gcs("https://127.0.0.1:9", gcs_server.BUCKET)).list())


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_machine_whose_own_account_is_out_of_reach(
    proxy: Proxy, tmp_path: object, monkeypatch: pytest.MonkeyPatch, is_silent: bool
) -> None:
    """A metadata server that breaks off or is silent refused no login, and is asked once."""
    from google.auth.compute_engine import _metadata

    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{proxy.port}")
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", f"127.0.0.1:{proxy.port}")
    monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", False)
    google = ("Metadata-Flavor: Google",)
    proxy.plan += [Fault(answer=answer("200 OK", "", *google)), Fault(answer=answer("200 OK", "example", *google))]
    proxy.plan.append(Fault(hangs=True) if is_silent else Fault(is_lost=True))
    words = "cannot be reached: no answer to a login came in time" if is_silent else "the connection broke: Protocol"
    with pytest.raises(StoreError, match=words) as caught:
        list(store_of(Gcs("https://127.0.0.1:9", gcs_server.BUCKET, timeout=0.5)).list())
    assert is_passing(caught.value) is not is_silent and not isinstance(caught.value, StoreRefused)
    assert len(proxy.requests) == 3 and "/instance/service-accounts/" in proxy.requests[-1]


@pytest.mark.parametrize("number", range(7))
def test_a_missing_bucket_is_an_error(number: int) -> None:
    """It is no empty store and no missing object, and nobody makes it."""
    service = Gcs(gcs_server.rules().address, "no-such", "", gcs_server.key)
    with pytest.raises(StoreError, match="the bucket is absent") as caught:
        acts(store_of(service))[number]()
    assert not isinstance(caught.value, ObjectNotFound) and not is_passing(caught.value)


@pytest.mark.parametrize("number", range(7))
def test_an_answer_that_is_none_of_googles_is_an_error(proxy: Proxy, number: int) -> None:
    """A portal that says yes or no to everything is no empty listing, no stored, absent or deleted object."""
    store = through(proxy)
    statuses = ("200 OK", "201 Created", "206 Partial Content", "302 Found", "404 Not Found", "412 Precondition Failed")
    for status in statuses:
        for body in ("<html></html>", "{}", '{"error": "no"}', '{"error": {"message": "no"}}', "[]", ""):
            proxy.plan[:] = [Fault(answer=answer(status, body))] * 2
            with pytest.raises(StoreError, match="none of Google's") as caught:
                acts(store)[number]()
            assert type(caught.value) is StoreError


def test_other_bytes_than_were_asked_for_are_an_error(proxy: Proxy) -> None:
    """A part that begins elsewhere, and one that is shorter than the answer says, never count as what was asked for."""
    store = through(proxy)
    for said in ("bytes 0-1/9", "bytes 5-5/9", "bytes 5-8/9", "bytes 4-4/9", "bytes 4-5/*", "4-5/9"):
        proxy.plan[:] = [Fault(answer=answer("206 Partial Content", "ab", f"Content-Range: {said}"))]
        with pytest.raises(StoreError):
            store.get("a", offset=4, length=2)
    proxy.plan[:] = [Fault(answer=answer("206 Partial Content", "ab", "Content-Range: bytes 4-5/9"))]
    assert store.get("a", offset=4, length=2) == b"ab"
    proxy.plan[:] = [Fault(answer=answer("200 OK", "123456789", "X-Goog-Hash: md5=x"))]
    assert store.get("a", offset=4, length=2) == b"56", "from one that knows no ranges"


@pytest.mark.parametrize(("length", "whole"), [(3, 3), (9, 5), (None, 5)])
def test_a_part_that_ends_too_early_is_an_error(proxy: Proxy, length: int | None, whole: int) -> None:
    """An answer that is whole in itself, and ends before the range and the object do, is tried again."""
    store = through(proxy)
    for size in range(1, whole + 1):
        said = f"Content-Range: bytes 4-{3 + size}/9"
        proxy.plan[:] = [Fault(answer=answer("206 Partial Content", "56789"[:size], said))]
        if size == whole:
            assert store.get("a", offset=4, length=length) == b"56789"[:size]
            continue
        with pytest.raises(StoreError, match="expected bytes up to") as caught:
            store.get("a", offset=4, length=length)
        assert is_passing(caught.value)


def test_requests_share_a_connection(proxy: Proxy) -> None:
    """What is asked one after the other goes over one connection, whatever the answers were."""
    store = through(proxy, uuid.uuid4().hex)
    for number in range(3):
        store.put(f"packs/{number}", b"x")
        assert store.get(f"packs/{number}", offset=9, length=1) == b""
        store.delete(f"packs/{number}")
        for act in (store.get, store.delete):
            with pytest.raises(ObjectNotFound):
                act(f"packs/{number}")
    assert list(store.list()) == [] and proxy.connections == 1


def test_a_redirect_is_not_followed(proxy: Proxy, alone: Rules) -> None:
    """A token goes to no server but the one that was named, whatever that one answers."""
    store = through(proxy)
    for number in range(7):
        proxy.plan[:] = [Fault(answer=answer("307 Temporary Redirect", "", f"Location: {alone.address}/a"))]
        with pytest.raises(StoreError, match="307"):
            acts(store)[number]()
    assert alone.requests == [] and len(proxy.requests) == 7


def test_a_listing_with_an_item_that_is_none_is_an_error(proxy: Proxy) -> None:
    """An item without a name, a time or a numeric size, and a listing that leads to itself, are no listings."""
    item = '{"name": "x/a", "size": "1", "timeCreated": "2026-11-22T10:00:00Z"}'
    store = through(proxy)
    for right, wrong in (('"name"', '"nome"'), ('"1"', '"l"'), ('"timeCreated"', '"time"'), ("-22T", "-32T")):
        page = f'{{"kind": "storage#objects", "items": [{item.replace(right, wrong)}]}}'
        proxy.plan[:] = [Fault(answer=answer("200 OK", page))]
        with pytest.raises(StoreError, match="an item of a listing"):
            list(store.list())
    proxy.plan[:] = [Fault(answer=answer("200 OK", '{"kind": "storage#objects", "nextPageToken": "a"}'))] * 2
    with pytest.raises(StoreError, match="does not go on"):
        list(store.list())
    page = f'{{"kind": "storage#objects", "items": [{item}]}}'
    proxy.plan[:] = [Fault(answer=answer("200 OK", page))]
    assert [each.name for each in store.list()] == ["a"]


def test_a_listing_that_breaks_off_at_a_later_page_is_an_error(proxy: Proxy) -> None:
    """Names of the first pages alone are never a listing."""
    prefix = uuid.uuid4().hex
    store = through(proxy, prefix)
    for number in range(20):
        store.put(f"packs/{number:02}", b"x")
    failure = words(Failure(503, "backendError", "Backend Error"), "503 Service Unavailable")
    proxy.plan.append(Fault("GET", "pageToken", answer=failure))
    with pytest.raises(StoreError, match="503: backendError") as caught:
        list(store.list())
    assert is_passing(caught.value)
    assert len(list(store.list())) == len(list(store.list("packs"))) == 20
    pages = [each for each in proxy.requests if prefix in each and each.startswith("GET") and "pageToken" in each]
    assert len(pages) == 1 + 3 + 3, "twenty names in pages of five"


@pytest.mark.parametrize("sent", [0, 1, 60_000, 199_999])
def test_a_put_that_breaks_off_shows_no_part(proxy: Proxy, sent: int) -> None:
    """Cut off after any part of the body, nothing is listed, and the same name can be put again."""
    prefix = uuid.uuid4().hex
    store, direct = through(proxy, prefix), store_of(gcs_server.service(prefix=prefix))
    proxy.plan.append(Fault("POST", request_bytes=sent))
    with pytest.raises(StoreError) as caught:
        store.put("packs/a", b"x" * 200_000)
    assert is_passing(caught.value) and list(direct.list()) == []
    store.put("packs/a", b"x" * 200_000)
    assert direct.get("packs/a") == b"x" * 200_000


def test_what_passes_is_tried_again(proxy: Proxy) -> None:
    """A lost answer, a busy service, too many requests and a cut body end well, and nothing is stored twice."""
    store = Retrying(through(proxy, uuid.uuid4().hex), is_passing, sleep=lambda _seconds: None, chance=lambda: 0.5)
    proxy.plan.append(Fault("POST", is_lost=True))
    store.put("packs/a", b"x" * 100_000)
    busy = answer("502 Bad Gateway", "<html>That’s an error.</html>")
    fast = words(Failure(403, "rateLimitExceeded", "slower, please"), "403 Forbidden")
    proxy.plan += [Fault("GET", answer=busy), Fault("GET", answer_bytes=500), Fault("GET", answer=fast)]
    assert store.get("packs/a") == b"x" * 100_000
    proxy.plan += [Fault("GET", answer_bytes=100), Fault("GET", answer=busy)]
    assert [each.name for each in store.list()] == ["packs/a"]
    proxy.plan.append(Fault("DELETE", is_lost=True))
    store.delete("packs/a")
    assert list(store.list()) == []


def test_a_server_that_hangs_ends_in_an_error(proxy: Proxy) -> None:
    """One that never answers, and one that falls silent amid an answer, is a broken connection after the time-out."""
    service = Gcs(f"http://127.0.0.1:{proxy.port}", gcs_server.BUCKET, uuid.uuid4().hex, gcs_server.key, timeout=0.3)
    store = store_of(service)
    store.put("a", b"x" * 1000)
    for fault in (Fault("GET", hangs=True), Fault("GET", answer_bytes=500, cut="held")):
        proxy.plan.append(fault)
        with pytest.raises(StoreError, match="no answer came in time") as caught:
            store.get("a")
        assert is_passing(caught.value)
    assert sum(each.startswith("GET") for each in proxy.requests) == 2, "nobody but Retrying repeats"
    proxy.plan.append(Fault("POST", hangs=True))
    with pytest.raises(StoreError, match="no answer came in time"):
        store.put("b", b"x" * 1_000_000)
    assert store.get("a") == b"x" * 1000


def test_a_server_that_never_answered_is_not_waited_for_long(proxy: Proxy) -> None:
    """As long as nothing was heard a silence is no mishap that passes, and `first_timeout` holds."""
    address = f"http://127.0.0.1:{proxy.port}"
    service = Gcs(address, gcs_server.BUCKET, "x", gcs_server.key, timeout=100, first_timeout=0.1)
    proxy.plan[:] = [Fault(hangs=True)]
    with pytest.raises(StoreError, match="the service cannot be reached: no answer came in time") as caught:
        list(store_of(service).list())
    assert not is_passing(caught.value)
    assert list(store_of(service).list()) == []


def test_a_body_that_changed_on_its_way_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each put carries the MD5 of its bytes: the service refuses others, and the put is tried again."""
    store = store_of(gcs_server.service())
    with monkeypatch.context() as patch:
        patch.setattr(gcs_service, "Body", lambda parts: Body((parts[0], b"P" + parts[1][1:], parts[2])))
        with pytest.raises(StoreError, match="Provided MD5 hash") as caught:
            store.put("packs/a", b"payload")
    assert is_passing(caught.value) and list(store.list()) == []


def test_what_cannot_be_reached_passes() -> None:
    """A port where nobody listens is a broken connection, told at once."""
    store = store_of(Gcs("http://127.0.0.1:9", gcs_server.BUCKET))
    with pytest.raises(StoreError, match="the connection broke") as caught:
        list(store.list())
    assert is_passing(caught.value)


@pytest.mark.parametrize("denies_first", [False, True])
def test_credentials_that_may_only_create(alone: Rules, denies_first: bool) -> None:
    """An account without delete stores, lists and reads, but neither replaces nor deletes, whichever no comes first."""
    alone.denies_first = denies_first
    store = store_of(gcs_server.service(alone.address, "", alone.account("put-only", "create", "get", "list")))
    assert store.probe() == (True, True)
    store.put("packs/a", b"first")
    with pytest.raises(ObjectExists):
        store.put("packs/a", b"second")
    with pytest.raises(StoreRefused):
        store.put("packs/a", b"second", replace=True)
    with pytest.raises(StoreRefused, match=r"403: forbidden Permission 'storage\.objects\.delete'"):
        store.delete("packs/a")
    assert store.get("packs/a") == b"first" and [each.name for each in store.list()] == ["packs/a"]


def test_a_retention_policy_holds_against_us(alone: Rules) -> None:
    """What a bucket keeps can be put and read, and what would replace or delete it is a refusal with Google's words."""
    alone.buckets[gcs_server.BUCKET].is_retained = True
    store = store_of(gcs_server.service(alone.address, "", alone.account("a", *gcs_rules.ALL)))
    store.put("a", b"x")
    for act in (lambda: store.delete("a"), lambda: store.put("a", b"y", replace=True)):
        with pytest.raises(StoreRefused, match="retentionPolicyNotMet"):
            act()
    assert store.get("a") == b"x"


def test_what_an_endpoint_honours_is_found_out() -> None:
    """The server that keeps the rules honours both, the emulator takes no notice of the condition; nothing stays."""
    for service, conditional in ((gcs_server.service(), True), (gcs_server.lenient(), False)):
        store = store_of(service)
        found = store.probe()
        assert found is not None and found == (conditional, True)
        assert ("ignores ifGenerationMatch" in " ".join(found.shortcomings())) is not conditional
        assert not [each.name for each in service._listed(service._folder)], "the probe was removed"


def test_an_endpoint_that_stores_anything_honours_nothing(alone: Rules) -> None:
    """One that tells the MD5 of other bytes than were announced stored them: it refuses nothing."""
    alone.is_careless = True
    found = store_of(gcs_server.service(alone.address, "", alone.account("a", *gcs_rules.ALL))).probe()
    assert found is not None and (found.conditional, found.checksums) == (False, False)
    assert "ignores MD5 checksums" in " ".join(found.shortcomings())
    assert alone.buckets[gcs_server.BUCKET].objects == {}


def test_an_upload_is_one_request_with_all_it_promises(alone: Rules) -> None:
    """An object of many megabytes goes in one POST under ifGenerationMatch=0, and has the storage class asked for."""
    service = Gcs(
        alone.address, gcs_server.BUCKET, "p", lambda: alone.account("a", *gcs_rules.ALL), storage_class="NEARLINE"
    )
    store_of(service).put("packs/a", b"x" * (9 << 20))
    (request,) = [each for each in alone.requests if "/token" not in each]
    assert request.startswith("POST /upload/storage/v1/b/copies/o?uploadType=multipart&") and (
        "ifGenerationMatch=0" in request
    )
    assert alone.buckets[gcs_server.BUCKET].objects["p/packs/a"][1]["storageClass"] == "NEARLINE"


def test_proxies_of_the_environment_are_used(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go by `http_proxy` unless `no_proxy` names the server."""
    address = gcs_server.emulator()
    monkeypatch.setenv("http_proxy", f"http://user:word@127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    store = store_of(gcs_server.lenient())
    proxy.plan.append(Fault(answer=answer("407 Proxy Authentication Required")))
    with pytest.raises(StoreError, match="407"):
        list(store.list())
    assert proxy.requests[-1].startswith(f"GET {address}/storage/v1/b/copies/o?")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert list(store.list()) == []

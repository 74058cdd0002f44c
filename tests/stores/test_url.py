"""What the contract does not say of a store at a WebDAV server: what goes wrong there, and what is left."""

from __future__ import annotations

import time
import uuid

import pytest

from opskit.errors import ObjectExists, StoreError, StoreRefused
from opskit.stores.base import sweepable
from opskit.stores.url import Dav, UrlStore, is_passing
from opskit.stores.wrappers.retry import Retrying
from tests.stores import url_servers
from tests.stores.proxy import Fault, proxied

pytestmark = pytest.mark.skipif(url_servers.missing() is not None, reason=str(url_servers.missing()))


def dav(address: str | None = None, password: str = url_servers.PASSWORD) -> Dav:
    """A folder at the server of this session, or behind another address."""
    return Dav(address or f"{url_servers.running()}/{uuid.uuid4().hex}", url_servers.USER, lambda: password, timeout=5)


def test_a_wrong_password_is_a_refusal_and_never_shows() -> None:
    """The server's no is StoreRefused, and the password is in no message."""
    store = UrlStore(dav(password="not-it-at-all"), "here")
    with pytest.raises(StoreRefused, match="expected permission, got 401") as caught:
        store.create()
    assert "not-it-at-all" not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"


def test_a_missing_root_is_an_error_and_is_never_made() -> None:
    """Without its folder nothing is listed or written; it is no empty store, and its parent is not made either."""
    address = f"{url_servers.running()}/{uuid.uuid4().hex}"
    store = UrlStore(dav(address), "here")
    for act in (lambda: list(store.list()), lambda: list(store.list("packs")), lambda: store.put("packs/a", b"x")):
        with pytest.raises(StoreError, match="the folder is absent"):
            act()
    with pytest.raises(StoreError):
        UrlStore(dav(f"{address}/below"), "here").create()


def test_what_cannot_be_reached_passes() -> None:
    """A port where nobody listens is a broken connection."""
    with pytest.raises(StoreError, match="the connection broke") as caught:
        list(UrlStore(dav("http://127.0.0.1:9/x"), "here").list())
    assert is_passing(caught.value)


@pytest.mark.parametrize("sent", [0, 1, 60_000, 199_999])
def test_a_put_that_breaks_off_shows_no_part(sent: int) -> None:
    """Cut off after any part of the body, nothing is listed, and the same name can be put again."""
    folder = uuid.uuid4().hex
    direct = UrlStore(dav(f"{url_servers.running()}/{folder}"), "here")
    direct.create()
    with proxied(int(url_servers.running().rpartition(":")[2])) as proxy:
        store = UrlStore(dav(f"http://127.0.0.1:{proxy.port}/{folder}"), "here")
        proxy.plan.append(Fault("PUT", request_bytes=sent))
        with pytest.raises(StoreError) as caught:
            store.put("packs/a", b"x" * 200_000)
        assert is_passing(caught.value) and list(direct.list()) == []
        store.put("packs/a", b"x" * 200_000)
    assert len(direct.get("packs/a")) == 200_000


def test_what_killed_puts_left_is_swept_by_age() -> None:
    """Only files of opskit's own unfinished names that nobody wrote to for long are removed."""
    service = dav()
    store = UrlStore(service, "here")
    store.create()
    assert store.sweep(now=time.time() + 9000, older_than=0) == (0, 0), "nothing was put yet"
    store.put("a", b"x")
    ours, others = ".tmp/77-0123456789abcdef", ".tmp/notes"
    for path in (ours, others):
        assert service._client().http.put(service._at(path), content=b"part").is_success
    assert store.sweep(now=time.time(), older_than=3600) == (0, 0)
    assert store.sweep(now=time.time() + 9000, older_than=3600, dry_run=True) == (1, 4)
    assert store.sweep(now=time.time() + 9000, older_than=3600) == (1, 4)
    assert [each.leaf for each in service.entries(".tmp")] == ["notes"] and store.get("a") == b"x"


def test_a_sweep_outlives_a_broken_line() -> None:
    """An answer that is lost amid a sweep costs another try, where wiring's wrapper is asked: all is removed."""
    folder = uuid.uuid4().hex
    service = dav(f"{url_servers.running()}/{folder}")
    UrlStore(service, "here").create()
    UrlStore(service, "here").put("a", b"x")
    for number in range(3):
        path = f".tmp/7{number}-0123456789abcdef"
        assert service._client().http.put(service._at(path), content=b"part").is_success
    with proxied(int(url_servers.running().rpartition(":")[2])) as proxy:
        inside = UrlStore(dav(f"http://127.0.0.1:{proxy.port}/{folder}"), "here")
        wrapped = sweepable(Retrying(inside, is_passing, sleep=lambda _seconds: None, chance=lambda: 0.5))
        assert wrapped is not None
        proxy.plan.append(Fault("DELETE", answer_bytes=10))
        wrapped.sweep(now=time.time() + 9000, older_than=3600)
        assert proxy.plan == []
    assert service.entries(".tmp") == []


def test_an_answer_that_is_no_webdav_is_no_empty_store() -> None:
    """A portal or a proxy that says "200 OK" to everything is an error, for listing and reading alike."""
    folder = uuid.uuid4().hex
    with proxied(int(url_servers.running().rpartition(":")[2])) as proxy:
        store = UrlStore(dav(f"http://127.0.0.1:{proxy.port}/{folder}"), "here")
        portal = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/html\r\n\r\n<html></html>"
        proxy.plan += [Fault(answer=portal)] * 4
        for act in (lambda: list(store.list()), lambda: store.get("a"), lambda: store.put("a", b"x")):
            with pytest.raises(StoreError):
                act()


@pytest.mark.parametrize("status", ["202 Accepted", "200 OK"])
def test_a_name_that_was_only_promised_is_no_object(status: str) -> None:
    """A server that says yes to the last step and does nothing has stored nothing, and that is an error."""
    folder = uuid.uuid4().hex
    with proxied(int(url_servers.running().rpartition(":")[2])) as proxy:
        store = UrlStore(dav(f"http://127.0.0.1:{proxy.port}/{folder}"), "here")
        store.create()
        proxy.plan.append(Fault("MOVE", answer=f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()))
        with pytest.raises(StoreError):
            store.put("packs/a", b"x" * 1000)
        assert list(store.list()) == []
        store.put("packs/a", b"x" * 1000)


def test_a_taken_name_is_refused_whatever_the_server_does() -> None:
    """Where a server takes no notice of Overwrite, the look before keeps what is there."""
    store = UrlStore(dav(), "here")
    store.create()
    store.put("a", b"first")
    with pytest.raises(ObjectExists):
        store.put("a", b"second")
    assert store.get("a") == b"first"
    assert "WebDAV cannot promise" in store.shortcomings()[0]

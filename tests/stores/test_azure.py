"""What the contract does not say of a store at Azure: what goes wrong there, and what credentials may do."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest

from opskit.errors import ObjectExists, ObjectNotFound, StoreError, StoreRefused
from opskit.stores.base import Store
from opskit.stores.url import Azure, AzureSecrets, UrlStore, azure, is_passing
from opskit.stores.wrappers.retry import Retrying
from tests.stores import azure_server
from tests.stores.proxy import Fault, Proxy, answer, proxied

pytestmark = pytest.mark.skipif(azure_server.missing() is not None, reason=str(azure_server.missing()))


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before the server."""
    with proxied(int(azure_server.running().rpartition(":")[2].partition("/")[0])) as found:
        yield found


def through(proxy: Proxy, prefix: str) -> UrlStore:
    """The same place by way of the proxy."""
    address = f"http://127.0.0.1:{proxy.port}/{azure_server.ACCOUNT}"
    return UrlStore(azure_server.service(address, prefix), "az://here")


def sas(permission: str) -> str:
    """A signature that lets do so much in the container."""
    from azure.storage.blob import generate_container_sas

    return str(
        generate_container_sas(
            azure_server.ACCOUNT,
            azure_server.CONTAINER,
            azure_server.KEY,
            permission=permission,
            expiry=datetime.now(UTC) + timedelta(hours=1),
        )
    )


def acts(store: Store) -> list[Callable[[], object]]:
    """Each thing that can be asked of a store."""
    return [
        lambda: list(store.list()),
        lambda: list(store.list("packs")),
        lambda: store.put("packs/a", b"x"),
        lambda: store.get("packs/a"),
        lambda: store.get("packs/a", offset=1, length=1),
        lambda: store.delete("packs/a"),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_wrong_key_is_a_refusal_and_never_shows(number: int) -> None:
    """The service's no is StoreRefused whatever was asked, and neither the key nor what was signed is in a message."""
    wrong = azure_server.KEY[:-8] + "AAAAAA=="
    store = UrlStore(azure_server.service(account_key=wrong), "az://here")
    with pytest.raises(StoreRefused, match="expected permission, got 403") as caught:
        acts(store)[number]()
    shown = f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"
    assert wrong[:20] not in shown and "string to sign" not in shown


def test_a_key_that_is_none_is_a_refusal() -> None:
    """What is not even base64 is told as what it is, without being repeated."""
    store = UrlStore(azure_server.service(account_key="hunter2"), "az://here")
    with pytest.raises(StoreRefused) as caught:
        list(store.list())
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_without_any_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual chain that finds nothing is a refusal, and no login goes where there is no TLS."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")  # no login of this host's own
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    for address, words in ((azure_server.running(), "only goes by https"), ("https://127.0.0.1:9/x", "expected perm")):
        service = Azure(address, azure_server.ACCOUNT, azure_server.CONTAINER)
        with pytest.raises(StoreRefused, match=words):
            list(UrlStore(service, "az://here").list())


@pytest.mark.parametrize("number", range(6))
def test_a_missing_container_is_an_error(number: int) -> None:
    """It is no empty store and no missing object, and nobody makes it."""
    service = Azure(azure_server.running(), azure_server.ACCOUNT, "no-such", "", lambda: AzureSecrets(azure_server.KEY))
    with pytest.raises(StoreError, match="the container is absent") as caught:
        acts(UrlStore(service, "az://here"))[number]()
    assert not isinstance(caught.value, ObjectNotFound) and not is_passing(caught.value)


@pytest.mark.parametrize("number", range(6))
def test_an_answer_that_is_none_of_azures_is_an_error(proxy: Proxy, number: int) -> None:
    """A portal that says yes or no to everything is no empty listing, no stored, absent or deleted object."""
    store = through(proxy, "x")
    for status in ("200 OK", "201 Created", "202 Accepted", "404 Not Found", "412 Precondition Failed"):
        proxy.plan[:] = [Fault(answer=answer(status, "<html></html>"))] * 2
        with pytest.raises(StoreError, match="none of Azure's") as caught:
            acts(store)[number]()
        assert type(caught.value) is StoreError


@pytest.mark.parametrize("sent", [0, 1, 60_000, 199_999])
def test_a_put_that_breaks_off_shows_no_part(proxy: Proxy, sent: int) -> None:
    """Cut off after any part of the body, nothing is listed, and the same name can be put again."""
    prefix = uuid.uuid4().hex
    store, direct = through(proxy, prefix), UrlStore(azure_server.service(prefix=prefix), "az://here")
    proxy.plan.append(Fault("PUT", request_bytes=sent))
    with pytest.raises(StoreError) as caught:
        store.put("packs/a", b"x" * 200_000)
    assert is_passing(caught.value) and list(direct.list()) == []
    store.put("packs/a", b"x" * 200_000)
    assert direct.get("packs/a") == b"x" * 200_000


def test_what_passes_is_tried_again(proxy: Proxy) -> None:
    """A lost answer, a busy service and a cut body end well, and nothing is stored twice."""
    store = Retrying(through(proxy, uuid.uuid4().hex), is_passing, sleep=lambda _seconds: None, chance=lambda: 0.5)
    proxy.plan.append(Fault("PUT", is_lost=True))
    store.put("packs/a", b"x" * 100_000)
    busy = answer("503 Server Busy", "", "x-ms-error-code: ServerBusy", "x-ms-version: 2021-12-02")
    proxy.plan += [Fault("GET", answer=busy), Fault("GET", answer_bytes=500)]
    assert store.get("packs/a") == b"x" * 100_000
    proxy.plan += [Fault("GET", answer_bytes=100), Fault("GET", answer=busy)]
    assert [each.name for each in store.list()] == ["packs/a"]
    proxy.plan.append(Fault("DELETE", is_lost=True))
    store.delete("packs/a")
    assert list(store.list()) == []


def test_a_body_that_changed_on_its_way_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each put carries the MD5 of its bytes: the service refuses others, and the put is tried again."""
    store = UrlStore(azure_server.service(), "az://here")
    with monkeypatch.context() as patch:
        patch.setattr(azure, "BytesIO", lambda data: BytesIO(b"P" + data[1:]))
        with pytest.raises(StoreError, match=r"(?i)md5") as caught:
            store.put("packs/a", b"payload")
    assert is_passing(caught.value) and list(store.list()) == []


def test_what_cannot_be_reached_passes() -> None:
    """A port where nobody listens is a broken connection, told at once."""
    store = UrlStore(azure_server.service("http://127.0.0.1:9/devstoreaccount1"), "az://here")
    with pytest.raises(StoreError, match="the connection broke") as caught:
        list(store.list())
    assert is_passing(caught.value)


def test_credentials_that_may_only_create() -> None:
    """A signature without write and delete stores, lists and reads, but neither replaces nor deletes: put-only."""
    prefix = uuid.uuid4().hex
    store = UrlStore(azure_server.service(prefix=prefix, sas_token=sas("rcl")), "az://here")
    store.put("packs/a", b"first")
    with pytest.raises(ObjectExists):
        store.put("packs/a", b"second")
    with pytest.raises(StoreRefused):
        store.put("packs/a", b"second", replace=True)
    with pytest.raises(StoreRefused) as caught:
        store.delete("packs/a")
    assert "sig=" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert store.get("packs/a") == b"first" and [each.name for each in store.list()] == ["packs/a"]


def test_folders_of_a_hierarchical_namespace_are_no_objects() -> None:
    """Such accounts list a folder as an empty object with a mark; it is passed over."""
    service = azure_server.service()
    store = UrlStore(service, "az://here")
    store.put("packs/a", b"x")
    service._client().get_blob_client(f"{service._folder}packs").upload_blob(b"", metadata={"hdi_isfolder": "true"})
    assert [each.name for each in store.list()] == [each.name for each in store.list("packs")] == ["packs/a"]

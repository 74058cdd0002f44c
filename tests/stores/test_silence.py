"""Stores at servers that take a connection and never answer: who waits how long, and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opskit.errors import ObjectNotFound, StoreError
from opskit.stores.base import Store
from opskit.stores.sftp import Connection, SftpPlace, SftpStore
from opskit.stores.sftp import is_passing as sftp_passes
from opskit.stores.url import Azure, AzureSecrets, Dav, Gcs, UrlStore, is_passing
from opskit.stores.url.service import Service
from opskit.stores.wrappers.retry import Retrying
from tests.stores import azure_server, gcs_rules, gcs_server, sftp_server, url_servers
from tests.stores.proxy import Fault, Proxy, proxied
from tests.stores.silence import Silent, silent

needs_dav = pytest.mark.skipif(url_servers.missing() is not None, reason=str(url_servers.missing()))
needs_gcs = pytest.mark.skipif(gcs_server.missing() is not None, reason=str(gcs_server.missing()))
needs_sftp = pytest.mark.skipif(sftp_server.missing() is not None, reason=str(sftp_server.missing()))
FIRST = 0.2


@pytest.fixture
def nobody() -> Iterator[Silent]:
    """A port where nobody answers."""
    with silent() as found:
        yield found


def dav(port: int) -> Dav:
    return Dav(f"http://127.0.0.1:{port}/x", timeout=60, first_timeout=FIRST)


def azure(port: int) -> Azure:
    pytest.importorskip("azure.storage.blob")
    address = f"http://127.0.0.1:{port}/account"
    return Azure(address, "account", "copies", secrets=lambda: AzureSecrets("QUJD"), timeout=60, first_timeout=FIRST)


def gcs(port: int) -> Gcs:
    return Gcs(f"http://127.0.0.1:{port}", "copies", timeout=60, first_timeout=FIRST)


def retried(store: Store, passes: Callable[[StoreError], bool]) -> Retrying:
    """The store as wiring makes it."""
    return Retrying(store, passes, sleep=lambda _: None, chance=lambda: 0.5)


@pytest.mark.parametrize("service", [pytest.param(dav, marks=needs_dav), azure, gcs])
def test_a_service_that_never_spoke_is_asked_once(service: Callable[[int], Service], nobody: Silent) -> None:
    """Every method gives up after the short time, and nothing is tried again: it is not there."""
    store = retried(UrlStore(service(nobody.port), "far"), is_passing)
    acts: list[Callable[[], object]] = [
        lambda: store.get("a"), lambda: store.get("a", offset=1, length=1), lambda: list(store.list()),
        lambda: store.put("a", b"x"), lambda: store.delete("a"),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(StoreError, match=r"far: cannot .*: the service cannot be reached: no answer came in time"):
            act()
        assert nobody.connections() == 1


def assert_patience(proxy: Proxy, service: Service) -> None:
    """After the first word an answer may take three times as long as that might have, and one that never comes is
    asked for again."""
    store = retried(UrlStore(service, "far"), is_passing)
    for delay in (0, 3 * FIRST):
        proxy.plan.append(Fault(delay=delay))
        with pytest.raises(ObjectNotFound):
            store.get("a")
    proxy.plan.append(Fault(hangs=True))
    with pytest.raises(ObjectNotFound):
        store.get("a")


@needs_dav
def test_a_webdav_server_that_spoke_is_waited_for() -> None:
    """Once anything was heard, an answer may take longer than the first one, and silence is worth another try."""
    with proxied(int(url_servers.running().rpartition(":")[2])) as proxy:
        service = Dav(
            f"http://127.0.0.1:{proxy.port}/none", url_servers.USER, lambda: url_servers.PASSWORD,
            timeout=2, first_timeout=FIRST,
        )  # fmt: skip
        assert_patience(proxy, service)


@pytest.mark.skipif(azure_server.missing() is not None, reason=str(azure_server.missing()))
def test_an_account_that_spoke_is_waited_for() -> None:
    """Once anything was heard, an answer may take longer than the first one, and silence is worth another try."""
    with proxied(int(azure_server.running().rpartition(":")[2].partition("/")[0])) as proxy:
        service = Azure(
            f"http://127.0.0.1:{proxy.port}/{azure_server.ACCOUNT}", azure_server.ACCOUNT, azure_server.CONTAINER,
            secrets=lambda: AzureSecrets(azure_server.KEY), timeout=2, first_timeout=FIRST,
        )  # fmt: skip
        assert_patience(proxy, service)


@needs_sftp
def test_requests_that_wait_for_one_connection_share_its_failure(nobody: Silent, tmp_path: Path) -> None:
    """Requests made side by side to a server that hangs wait once in all, not each after the other; later ones anew."""
    (tmp_path / "hosts").write_text("")
    place = SftpPlace("127.0.0.1", "/x", port=nobody.port, known_hosts=tmp_path / "hosts")
    store = retried(SftpStore(Connection(place, connect_timeout=1.5)), sftp_passes)

    def ask(name: str) -> str:
        with pytest.raises(StoreError, match=r"cannot be reached: no answer came within 1\.5 s") as caught:
            store.get(name)
        return str(caught.value.hint)

    for _ in range(2):
        with ThreadPoolExecutor(3) as threads:
            assert all("check host" in hint for hint in threads.map(ask, "abc"))
        assert nobody.connections() == 1


@needs_gcs
def test_requests_that_wait_for_one_login_share_its_failure(nobody: Silent) -> None:
    """Requests made side by side wait once in all for a login that is not answered, and it is no refusal."""
    address = f"http://127.0.0.1:{nobody.port}"
    key = gcs_rules.Rules(address=address).account("a")
    store = retried(UrlStore(Gcs(address, "copies", "", lambda: key, timeout=60, first_timeout=1.0), "far"), is_passing)

    def ask(name: str) -> str:
        with pytest.raises(StoreError, match="the service cannot be reached: no answer to a login came in time") as it:
            store.get(name)
        return str(it.value.hint)

    for _ in range(2):
        with ThreadPoolExecutor(3) as threads:
            assert all("check the address" in hint for hint in threads.map(ask, "abc"))
        assert nobody.connections() == 1

"""Places at servers as people type them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from opskit import endpoints, locations, remotes, servers, wiring
from opskit.config.load import parse
from opskit.config.model import Destination, LocalDestination, S3Destination
from opskit.config.remote import AzureDestination, GcsDestination, SftpDestination, SftpServer, WebdavDestination
from opskit.errors import ConfigError, UsageError
from opskit.operations.status.places import place_of
from opskit.stores.base import at_once
from opskit.stores.sftp import SftpStore
from opskit.stores.wrappers.limits import Limited
from opskit.stores.wrappers.retry import Retrying


def sftp(text: str) -> SftpServer:
    """What an address says."""
    found = servers.destination_at("x", text)
    assert isinstance(found, SftpDestination)
    return found.sftp


def test_a_server_is_read_from_its_address() -> None:
    """Account, host, port and folder are taken from the text, and the store shows the same text again."""
    for text in ("sftp://h/srv/a", "sftp://u@h.example.org:23/a", "sftp://u@h/~/a/b", "sftp://[::1]:2222/a"):
        found = servers.destination_at("x", text)
        assert wiring.location_of(found) == text
        assert wiring.store_at("x", text).location == text
    assert sftp("sftp://u@h:23/~/a") == SftpServer(host="h", port=23, user="u", path="a")
    more = sftp("sftp://h/a?identity_file=~/k&known_hosts=/h&password=env:PW")
    assert (more.identity_file, more.known_hosts) == (Path("~/k").expanduser(), Path("/h"))
    assert str(more.password) == "env:PW"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sftp://u:hunter2@h/a", "an address with a password in it"),
        ("sftp://h", "got no path"),
        ("sftp:///a", "got no host"),
        ("sftp://h:0/a", "port: expected 1 to 65535"),
        ("sftp://h:x/a", "a port that is none"),
        ("sftp://h:99999/a", "a port that is none"),
        ("sftp://h/a#b", "'#' has no meaning"),
        ("sftp://h/a?colour=red", "unknown option 'colour', expected one of"),
        ("sftp://h/a?password=hunter2", "password: "),
        ("sftp://h/a?host=b", "host stands in the address and behind it"),
        ("sftp://h o/a", "host: expected a host name"),
        ("sftp://h/%0aa", "path: expected a path"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str) -> None:
    """An address that no config could hold is UsageError that names the option, and never shows a password."""
    with pytest.raises(UsageError, match=words) as caught:
        locations.destination_at("--destination far", text)
    assert (
        str(caught.value).startswith("--destination far: ") and "hunter2" not in f"{caught.value} {caught.value.hint}"
    )


def test_what_init_writes_for_a_server() -> None:
    """The address becomes the keys of the config's entry, and the same place is known however it is logged in to."""
    text = "sftp://u@h:23/~/a?known_hosts=/etc/hosts-of-ssh"
    given = locations.destination_at("x", text)
    assert given == {
        "sftp": {"host": "h", "port": 23, "user": "u", "path": "a", "known_hosts": "/etc/hosts-of-ssh"}
    }  # fmt: skip
    there = servers.destination_at("x", text)
    assert locations.is_same_place(there, "x", "sftp://u@h:23/~/a/")
    for other in ("sftp://u@h:23/a", "sftp://u@h/~/a", "s3://bucket", "/a"):
        assert not locations.is_same_place(there, "x", other)
    assert not locations.is_same_place(LocalDestination(path=Path("/a")), "x", text)
    assert locations.located("x", text) == text


def test_a_server_gets_its_wrappers() -> None:
    """A server is asked again where the line broke, within its limits and by as many at once as the config says."""
    there = SftpDestination(sftp=SftpServer(host="h", path="a"), upload_limit=10, parallel=5)
    store = wiring.store_of(there)
    assert isinstance(store, Retrying) and isinstance(store.inner, Limited)
    assert isinstance(wiring.innermost(store), SftpStore) and at_once(store) == 5
    assert at_once(wiring.store_of(there.but(parallel=None))) == 3


def test_only_servers_have_stores_at_servers() -> None:
    """Each kind of destination that is neither folder nor bucket is known; another is told, with python -O too."""
    assert set(get_args(Destination)) - {LocalDestination, S3Destination} == set(get_args(remotes.AtServer))
    folder: Any = LocalDestination(path=Path("/a"))
    with pytest.raises(AssertionError, match="Expected code to be unreachable"):
        remotes.store_of(folder, wiring.resolver({}).resolve)
    with pytest.raises(AssertionError, match="Expected code to be unreachable"):
        remotes.location_of(folder)


def test_a_webdav_server_is_read_from_its_address() -> None:
    """The scheme says whether there is TLS; user and reference go to keys of their own, and the location comes back."""
    text = "webdavs://u@dav.example.org:8443/a/b?password=env:PW"
    found = servers.destination_at("x", text)
    assert isinstance(found, WebdavDestination)
    assert (found.webdav.url, found.webdav.user) == ("https://dav.example.org:8443/a/b", "u")
    assert wiring.store_at("x", text).location == text.partition("?")[0]
    assert place_of(found) == "server dav.example.org" and locations.is_same_place(found, "x", f"{text}&ca_file=/c")
    assert locations.destination_at("x", "webdav://h/a") == {"webdav": {"url": "http://h/a"}}
    with pytest.raises(UsageError, match="password in it"):
        servers.destination_at("x", "webdav://u:p@h/a")


def test_a_container_is_read_from_its_address() -> None:
    """Account, container and prefix are the parts of the address; the rest are options, secrets by reference."""
    text = "az://account1/copies/web1/a"
    found = servers.destination_at("x", f"{text}?sas_token=env:SAS")
    assert isinstance(found, AzureDestination)
    assert (found.azure.account, found.azure.container, found.azure.prefix) == ("account1", "copies", "web1/a")
    assert wiring.store_at("x", text).location == text and place_of(found) == "azure account1.blob.core.windows.net"
    assert locations.is_same_place(found, "x", f"{text}?account_key=env:KEY")
    assert locations.is_same_place(found, "x", f"{text}?endpoint=https://account1.blob.core.windows.net/")
    assert not locations.is_same_place(found, "x", "az://account1/copies/web1")
    given = {"account": "account1", "container": "copies"}
    assert locations.destination_at("x", "az://account1/copies") == {"azure": given, "offsite": True}
    elsewhere = "az://account1/copies?endpoint=http://127.0.0.1:10000/account1"
    assert wiring.store_at("x", elsewhere).location == elsewhere
    assert locations.destination_at("x", elsewhere).keys() == {"azure"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("az://account1", "got no container"),
        ("az://hunter2@account1/copies", "unknown option 'user'"),
        ("az://account1:hunter2@account1/copies", "an address with a password in it"),
        ("az://ac-count/copies", "account: expected the name of a storage account"),
        ("az://account1/Copies", "container: expected the name of a container"),
        ("az://account1/copies?account_key=hunter2", "account_key: "),
        ("az://account1/copies?sas_token=sv=1", "sas_token: "),
        ("az://account1/copies/a//b", "prefix: expected 1 to 5 parts"),
    ],
)
def test_what_is_no_container_is_refused(text: str, words: str) -> None:
    """An address that no config could hold is UsageError, and never shows a secret."""
    with pytest.raises(UsageError, match=words) as caught:
        locations.destination_at("--destination far", text)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_a_bucket_of_google_is_read_from_its_address() -> None:
    """Bucket and prefix are the parts of the address; the rest are options, the key by reference."""
    text = "gs://example-bucket/web1/a"
    found = servers.destination_at("x", f"{text}?service_account=env:KEY&storage_class=NEARLINE")
    assert isinstance(found, GcsDestination)
    assert (found.gcs.bucket, found.gcs.prefix, found.gcs.storage_class) == ("example-bucket", "web1/a", "NEARLINE")
    assert wiring.store_at("x", text).location == text
    assert place_of(found) == "gcs storage.googleapis.com/example-bucket"
    assert locations.is_same_place(found, "x", f"{text}?service_account=env:OTHER")
    assert locations.is_same_place(found, "x", f"{text}?endpoint=https://storage.googleapis.com/")
    for other in ("gs://example-bucket/web1", "gs://other-bucket/web1/a", "s3://example-bucket/web1/a"):
        assert not locations.is_same_place(found, "x", other)
    assert locations.destination_at("x", "gs://abc") == {"gcs": {"bucket": "abc"}, "offsite": True}
    elsewhere = "gs://abc/web1?endpoint=http://127.0.0.1:9023"
    assert wiring.store_at("x", elsewhere).location == elsewhere
    assert locations.destination_at("x", elsewhere).keys() == {"gcs"}
    assert endpoints.assumed(found) == {"conditional": True, "checksums": True}
    there = servers.destination_at("x", elsewhere)
    assert endpoints.assumed(there) == {"conditional": False, "checksums": False}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gs://", "got no bucket"),
        ("gs://hunter2@bucket/a", "unknown option 'user'"),
        ("gs://u:hunter2@bucket/a", "an address with a password in it"),
        ("gs://bucket:99/a", "unknown option 'port'"),
        ("gs://b", "bucket: expected the name of a bucket"),
        ("gs://bucket/a//b", "prefix: expected 1 to 5 parts"),
        ("gs://bucket/a?service_account={hunter2}", "service_account: "),
        ("gs://bucket/a?bucket=other", "stands in the address and behind it"),
        ("gs://bucket/a?endpoint=hunter2@x", "endpoint: expected an address"),
    ],
)
def test_what_is_no_bucket_is_refused(text: str, words: str) -> None:
    """An address that no config could hold is UsageError, and never shows a secret."""
    with pytest.raises(UsageError, match=words) as caught:
        locations.destination_at("--destination far", text)
    assert "{hunter2}" not in f"{caught.value} {caught.value.hint}"


def test_all_folders_at_one_server_are_in_one_place() -> None:
    """Two accounts or folders at a server fail together, so they count as one copy."""
    one, two = (servers.destination_at("x", text) for text in ("sftp://u@H:23/a", "sftp://v@h/b"))
    assert place_of(one) == place_of(two) == "server h"


CONFIG = """version: 1
sources: {s: {paths: [/srv]}}
keys: {recipients: [AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA, BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB]}
destinations:
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  a: {gcs: {prefix: abc}}", "destinations.a.gcs.bucket: missing, expected name of the bucket"),
        ("  a: {gcs: {bucket: abc, service_account: 'hunter2'}}", "destinations.a.gcs.service_account: "),
        ("  a: {gcs: {bucket: abc}}\n  b: {gcs: {bucket: abc}}", "is the place of destination 'a' too"),
        ("  a: {azure: {account: abc}}", "destinations.a.azure.container: missing, expected name of the container"),
        ("  a: {azure: {account: abc, container: cde, sas_token: 'sig=hunter2'}}", "destinations.a.azure.sas_token: "),
        (
            "  a: {azure: {account: abc, container: cde, sas_token: 'env:X', account_key: 'env:Y'}}",
            "has no use beside account_key, expected one of them",
        ),
        (
            "  a: {azure: {account: abc, container: cde}}\n  b: {azure: {account: abc, container: cde}}",
            "is the place of destination 'a' too",
        ),
        ("  a: {sftp: {host: h}}", "destinations.a.sftp.path: missing, expected folder at the server"),
        ("  a: {sftp: {host: 'u@h', path: a}}", "5:20: destinations.a.sftp.host: malformed, expected a host name"),
        ("  a: {sftp: {host: h, path: a, pasword: x}}", "did you mean 'password'?"),
        ("  a: {sftp: {host: h, path: a, password: hunter2}}", "5:42: destinations.a.sftp.password: "),
        ("  a: {sftp: {host: h, path: a, port: 0}}", "5:38: destinations.a.sftp.port: too small, expected 1 or more"),
        ("  a: {webdav: {url: 'https://u:hunter2@h/a'}}", "destinations.a.webdav.url: malformed, expected an address"),
        ("  a: {webdav: {url: 'https://h/a', password: 'env:X'}}", "stands alone, expected user beside it"),
        ("  a: {sftp: {host: h, path: a}, parallel: 99}", "destinations.a.parallel: too large, expected 16 or less"),
        ("  a: {sftp: {host: h, path: a, passphrase: 'env:X'}}", "expected identity_file: beside it"),
        ("  a: {sftp: {host: h, path: a}}\n  b: {sftp: {host: H, path: a/}}", "is the place of destination 'a' too"),
    ],
)
def test_mistakes_in_the_config_get_their_line(text: str, line: str) -> None:
    """A mistake about a server is an error with file, line and column, and never repeats what may be a secret."""
    with pytest.raises(ConfigError) as caught:
        parse(CONFIG + text + "\n", "c.yaml", Path("/"))
    assert line in str(caught.value) and "hunter2" not in str(caught.value), caught.value

"""Stores at servers, from what the config says of them: the part of wiring that only hosts with one load.

Each kind loads its own libraries, and no other's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, assert_never
from urllib.parse import quote

from opskit import log
from opskit.config.remote import (
    AzureDestination,
    GcsDestination,
    Remote,
    SftpDestination,
    SftpServer,
    WebdavDestination,
)
from opskit.errors import StoreError
from opskit.secrets.reference import Reference, Secret
from opskit.stores import sftp, url
from opskit.stores.base import Store
from opskit.stores.sftp import SftpPlace
from opskit.stores.wrappers.limits import Limited
from opskit.stores.wrappers.retry import Retrying

Resolve = Callable[[Reference], Secret]
"""What a reference stands for; raises UnresolvedReference."""

AtServer = SftpDestination | WebdavDestination | AzureDestination | GcsDestination
"""What is neither a folder nor a bucket. mypy sees to it that each kind has its case here."""

BRIEF = 10.0
"""Seconds that a destination has to be heard of where somebody only looks; who stores waits longer."""

PARALLEL = 3
"""Requests with large bodies that make good use of a line, however long an answer takes."""


def store_of(destination: AtServer, resolve: Resolve, *, is_brief: bool = False, conditional: bool = True) -> Store:
    """The store of a destination at a server, within its limits, that tries again what passes.

    `is_brief`: as long as nothing was heard of the server it is waited for BRIEF seconds only. `conditional`: whether
    its endpoint can keep a put from replacing, where that differs from one to another.
    """
    first: dict[str, Any] = {"first_timeout": BRIEF} if is_brief else {}
    match destination:
        case WebdavDestination():
            return _webdav_store(destination, resolve, first)
        case AzureDestination():
            return _azure_store(destination, resolve, first)
        case GcsDestination():
            return _gcs_store(destination, resolve, first | {"conditional": conditional})
        case SftpDestination():
            return _sftp_store(destination, resolve, {"connect_timeout": BRIEF} if is_brief else {})
        case _:
            assert_never(destination)


def location_of(destination: AtServer) -> str:
    """What a person would type to name the place of a destination at a server."""
    match destination:
        case WebdavDestination():
            scheme, _, rest = destination.webdav.url.partition("://")
            user = f"{quote(destination.webdav.user)}@" if destination.webdav.user else ""
            return f"{'webdavs' if scheme == 'https' else 'webdav'}://{user}{rest}"
        case AzureDestination():
            there = destination.azure
            text = "/".join(each for each in (f"az://{there.account}", there.container, there.prefix) if each)
            return f"{text}?endpoint={quote(there.endpoint, safe='/:')}" if there.endpoint else text
        case GcsDestination():
            google = destination.gcs
            text = "/".join(each for each in (f"gs://{google.bucket}", google.prefix) if each)
            return f"{text}?endpoint={quote(google.endpoint, safe='/:')}" if google.endpoint else text
        case SftpDestination():
            return _sftp_place(destination.sftp).location
        case _:
            assert_never(destination)


def _sftp_store(destination: SftpDestination, resolve: Resolve, first: Mapping[str, Any]) -> Store:
    connection = sftp.Connection(
        _sftp_place(destination.sftp),
        _sftp_secrets(destination.sftp, resolve),
        parallel=destination.parallel or PARALLEL,
        **first,
    )
    return wrapped(sftp.SftpStore(connection), destination, sftp.is_passing)


def _webdav_store(destination: WebdavDestination, resolve: Resolve, first: Mapping[str, Any]) -> Store:
    server = destination.webdav
    service = url.Dav(
        server.url, server.user, lambda: revealed(server.password, resolve),
        ca_file=None if server.ca_file is None else str(server.ca_file), **first,
    )  # fmt: skip
    inside = url.UrlStore(service, location_of(destination), at_once=destination.parallel or PARALLEL)
    return wrapped(inside, destination, url.is_passing)


def _azure_store(destination: AzureDestination, resolve: Resolve, first: Mapping[str, Any]) -> Store:
    there = destination.azure
    service = url.Azure(
        there.address, there.account, there.container, there.prefix or "",
        lambda: url.AzureSecrets(revealed(there.account_key, resolve), revealed(there.sas_token, resolve)),
        **first,
    )  # fmt: skip
    inside = url.UrlStore(service, location_of(destination), at_once=destination.parallel or PARALLEL)
    return wrapped(inside, destination, url.is_passing)


def _gcs_store(destination: GcsDestination, resolve: Resolve, more: Mapping[str, Any]) -> Store:
    there = destination.gcs
    service = url.Gcs(
        there.address, there.bucket, there.prefix or "", lambda: revealed(there.service_account, resolve),
        storage_class=there.storage_class, **more,
    )  # fmt: skip
    inside = url.UrlStore(service, location_of(destination), at_once=destination.parallel or PARALLEL)
    return wrapped(inside, destination, url.is_passing)


def probed(store: Store) -> url.Honours | None:
    """What the endpoint of such a store honours; None where there is nothing to find out. Raises StoreError."""
    return store.probe() if isinstance(store, url.UrlStore) else None


def wrapped(inside: Store, destination: Remote, is_passing: Callable[[StoreError], bool]) -> Store:
    """A store within the limits of its destination, in KiB a second, that tries again what passes."""
    up, down = (limit and limit * 1024 for limit in (destination.upload_limit, destination.download_limit))
    if up or down:
        inside = Limited(inside, upload_rate=up, download_rate=down, clock=time.monotonic, sleep=time.sleep)
    return Retrying(inside, is_passing, sleep=time.sleep, chance=random.random)


def revealed(reference: Reference | None, resolve: Resolve) -> str | None:
    """A secret, which no message shows from now on; None without a reference. Raises UnresolvedReference."""
    if reference is None:
        return None
    found = resolve(reference)
    log.register_secret(found.reveal_bytes())
    return found.reveal()


def _sftp_place(server: SftpServer) -> SftpPlace:
    return SftpPlace(
        server.host, server.path,
        port=server.port, user=server.user, identity_file=server.identity_file, known_hosts=server.known_hosts,
    )  # fmt: skip


def _sftp_secrets(server: SftpServer, resolve: Resolve) -> Callable[[], sftp.Secrets]:
    """Resolves what opens the account, when it is needed."""
    return lambda: sftp.Secrets(revealed(server.password, resolve), revealed(server.passphrase, resolve))

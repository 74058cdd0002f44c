"""The part of the schema for destinations elsewhere: SFTP, WebDAV, Azure, Google, and what all reached by a line share.

As in `model`, nothing is judged here. No address takes a user name or a password: those have keys of their own, and a
password is a reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from opskit.config.entry import Entry, key
from opskit.config.terms import (
    ACCOUNT_NAME_PATTERN,
    AZURE_ACCOUNT_PATTERN,
    CONTAINER_PATTERN,
    ENDPOINT_PATTERN,
    GCS_BUCKET_PATTERN,
    HOST_PATTERN,
    LABEL_PATTERN,
    PREFIX_PATTERN,
    SERVER_PATH_PATTERN,
    STORAGE_CLASS_PATTERN,
    WEBDAV_PATTERN,
    Between,
    Matches,
)
from opskit.secrets.reference import Reference

_Label = Annotated[str, Matches(LABEL_PATTERN)]
_User = Annotated[str, Matches(ACCOUNT_NAME_PATTERN)]
_Rate = Annotated[int, Between(1, 1_000_000_000)]


class Remote(Entry):
    """What every destination has that is reached by a line."""

    offsite: bool = key("whether this copy is at another place than the original", default=False)
    upload_limit: _Rate | None = key(
        "most that is sent on the average, in KiB a second; default: no limit", default=None
    )
    download_limit: _Rate | None = key(
        "most that is received on the average, in KiB a second; default: no limit", default=None
    )
    parallel: Annotated[int, Between(1, 16)] | None = key("requests at once; default: 3", default=None)


class SftpServer(Entry):
    """An account at an SFTP server, and the folder there."""

    host: Annotated[str, Matches(HOST_PATTERN)] = key("name or address of the server")
    path: Annotated[str, Matches(SERVER_PATH_PATTERN)] = key(
        "folder at the server; without a leading '/' it begins in the folder that the account logs in to"
    )
    port: Annotated[int, Between(1, 65535)] = key("port of the server", default=22)
    user: _User | None = key("account at the server; default: the name of the user who runs opskit", default=None)
    identity_file: Path | None = key(
        "private key that logs in; default: those of the ssh agent and of ~/.ssh", default=None
    )
    passphrase: Reference | None = key("reference to the passphrase of that key; default: none", default=None)
    password: Reference | None = key("reference to the account's password; default: none", default=None)
    known_hosts: Path | None = key(
        "file that says whose key the server has; default: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts",
        default=None,
    )


class SftpDestination(Remote):
    """A folder at an SFTP server: a storage box, a NAS, any account of OpenSSH."""

    kind: ClassVar[str] = "sftp"

    sftp: SftpServer = key("the server and folder that hold the repository")
    medium: _Label = key("label of the kind of medium, for the 3-2-1 rule", default="server")


class WebdavServer(Entry):
    """A collection of a WebDAV server."""

    url: Annotated[str, Matches(WEBDAV_PATTERN)] = key("address of the folder, without a user name")
    user: _User | None = key("who logs in; default: nobody", default=None)
    password: Reference | None = key("reference to that user's password", default=None)
    ca_file: Path | None = key("certificates that are believed; default: those of the system", default=None)


class WebdavDestination(Remote):
    """A folder at a WebDAV server: Nextcloud, a storage box, a NAS."""

    kind: ClassVar[str] = "webdav"

    webdav: WebdavServer = key("the server and folder that hold the repository")
    medium: _Label = key("label of the kind of medium, for the 3-2-1 rule", default="server")


class AzureContainer(Entry):
    """A container of a storage account at Azure."""

    account: Annotated[str, Matches(AZURE_ACCOUNT_PATTERN)] = key("name of the storage account")
    container: Annotated[str, Matches(CONTAINER_PATTERN)] = key("name of the container, which must exist")
    prefix: Annotated[str, Matches(PREFIX_PATTERN)] | None = key(
        "what all names in the container begin with; default: nothing", default=None
    )
    endpoint: Annotated[str, Matches(ENDPOINT_PATTERN)] | None = key(
        "address of the account; default: https://ACCOUNT.blob.core.windows.net", default=None
    )
    account_key: Reference | None = key("reference to a key of the account", default=None)
    sas_token: Reference | None = key(
        "reference to a shared access signature; default: without either, what Azure's own tools use", default=None
    )

    @property
    def address(self) -> str:
        """Where the account is, without a "/" at its end."""
        return (self.endpoint or f"https://{self.account}.blob.core.windows.net").rstrip("/")


class AzureDestination(Remote):
    """A container of Azure Blob Storage."""

    kind: ClassVar[str] = "azure"

    azure: AzureContainer = key("the container that holds the repository")
    medium: _Label = key("label of the kind of medium, for the 3-2-1 rule", default="object-storage")


class GcsBucket(Entry):
    """A bucket of Google Cloud Storage."""

    bucket: Annotated[str, Matches(GCS_BUCKET_PATTERN)] = key("name of the bucket, which must exist")
    prefix: Annotated[str, Matches(PREFIX_PATTERN)] | None = key(
        "what all names in the bucket begin with; default: nothing", default=None
    )
    endpoint: Annotated[str, Matches(ENDPOINT_PATTERN)] | None = key(
        "address of the service; default: https://storage.googleapis.com", default=None
    )
    service_account: Reference | None = key(
        "reference to the JSON key of a service account; default: what Google's own tools use", default=None
    )
    storage_class: Annotated[str, Matches(STORAGE_CLASS_PATTERN)] | None = key(
        "storage class of new objects; default: that of the bucket", default=None
    )

    @property
    def address(self) -> str:
        """Where the service is, without a "/" at its end."""
        return (self.endpoint or "https://storage.googleapis.com").rstrip("/")


class GcsDestination(Remote):
    """A bucket of Google Cloud Storage."""

    kind: ClassVar[str] = "gcs"

    gcs: GcsBucket = key("the bucket that holds the repository")
    medium: _Label = key("label of the kind of medium, for the 3-2-1 rule", default="object-storage")

"""Where an S3 store lies and how objects are kept there; how names become keys and keys names.

Pure values: nothing here asks an endpoint, and nothing here is a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket, a prefix in it, the endpoint that serves it, and what each put asks for.

    `prefix` has no "/" at either end. Without `endpoint` it is AWS; with one, the bucket stands in the path, not in the
    host name. `owner` is the id of the account that the bucket must belong to. `object_lock_days` locks every object
    for that long from its put on, in `lock_mode`: nobody can shorten a COMPLIANCE lock; GOVERNANCE yields to whoever
    has the permission to bypass it.
    """

    bucket: str
    prefix: str = ""
    region: str | None = None
    endpoint: str | None = None
    owner: str | None = None
    storage_class: str | None = None
    sse: Literal["AES256", "aws:kms"] | None = None
    kms_key: str | None = None
    object_lock_days: int | None = None
    lock_mode: Literal["COMPLIANCE", "GOVERNANCE"] = "COMPLIANCE"

    @property
    def location(self) -> str:
        """What a person would type to reach this place."""
        text = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        region = self.region if self.endpoint else None
        given = [("endpoint", self.endpoint), ("region", region), ("owner", self.owner)]
        options = "&".join(f"{name}={quote(value, safe='/:')}" for name, value in given if value)
        return f"{text}?{options}" if options else text

    @property
    def folder(self) -> str:
        """What every key of this place begins with."""
        return f"{self.prefix}/" if self.prefix else ""

    def key(self, name: str) -> str:
        """The key of an object."""
        return self.folder + name

"""A store in an S3 bucket: AWS, and every endpoint that speaks its protocol.

Importing it loads botocore, so `wiring` does that only where a destination is of this kind.
"""

from __future__ import annotations

from opskit.stores.s3.connection import Connection
from opskit.stores.s3.failures import is_passing
from opskit.stores.s3.place import S3Place
from opskit.stores.s3.policy import iam_policy
from opskit.stores.s3.probing import Honours, probe
from opskit.stores.s3.store import S3Store

__all__ = ["Connection", "Honours", "S3Place", "S3Store", "iam_policy", "is_passing", "probe"]

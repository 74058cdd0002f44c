"""The IAM policies that AWS needs for each part that a host can play at a bucket.

Each allows what its part needs and nothing else. The first two can neither delete nor replace anything: a put is
allowed only with `If-None-Match`, which AWS enforces whatever the client wants (condition keys as in Amazon's S3
user guide, "Enforce conditional writes"). It deliberately speaks AWS only; other endpoints have policies of their own.
"""

from __future__ import annotations

import json
from typing import Any, Literal

May = Literal["put", "backup", "maintain"]


def iam_policy(
    bucket: str, prefix: str = "", *, may: May = "put", object_lock: bool = False, kms_key: str | None = None
) -> str:
    """A policy as JSON text. `kms_key` is the ARN of the key where objects are encrypted by one.

    - "put": only put new objects; no listing, no reading.
    - "backup": also list and read (what is read is encrypted), which `opskit backup` needs to store nothing twice.
    - "maintain": also delete and replace: for the host that prunes and heals.
    """
    objects = f"arn:aws:s3:::{bucket}/{f'{prefix}/' if prefix else ''}*"
    statements = [*_puts(objects, may), _statement("CleanUp", ["s3:AbortMultipartUpload"], objects)]
    if object_lock:
        statements.append(_statement("Lock", ["s3:PutObjectRetention", "s3:GetObjectRetention"], objects))
    if may != "put":
        statements += [_statement("Read", ["s3:GetObject"], objects), _lists(bucket, prefix)]
    if may == "maintain":
        statements.append(_statement("Delete", ["s3:DeleteObject", "s3:DeleteObjectVersion"], objects))
    if kms_key:
        statements.append(_statement("Encrypt", ["kms:GenerateDataKey", "kms:Decrypt"], kms_key))
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)


def _statement(sid: str, actions: list[str], resource: str, **condition: dict[str, Any]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource, **condition}


def _puts(objects: str, may: May) -> list[dict[str, Any]]:
    if may == "maintain":
        return [_statement("Put", ["s3:PutObject"], objects)]
    return [
        _statement("PutNew", ["s3:PutObject"], objects, Condition={"Null": {"s3:if-none-match": "false"}}),
        # Beginning an upload of several parts and sending one cannot be conditional; completing it can, and must.
        _statement("PutParts", ["s3:PutObject"], objects, Condition={"Bool": {"s3:ObjectCreationOperation": "false"}}),
    ]


def _lists(bucket: str, prefix: str) -> dict[str, Any]:
    resource = f"arn:aws:s3:::{bucket}"
    if not prefix:
        return _statement("List", ["s3:ListBucket"], resource)
    condition = {"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}}
    return _statement("List", ["s3:ListBucket"], resource, Condition=condition)

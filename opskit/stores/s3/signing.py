"""Signs requests with the SHA-256 that is known of their bytes, over TLS too.

botocore hashes what it sends once more where it signs it at all, which it does over plain HTTP only. With the
hash signed, an endpoint that looks at it refuses bytes that changed on their way. Everything else about the signature
stays botocore's (AWS Signature Version 4).
"""

from __future__ import annotations

from typing import Any

from botocore import auth

from opskit.stores.s3.body import Body

_VERSION = "opskit-s3v4"
_BODIES = ("PutObject", "UploadPart")


class _Signature(auth.S3SigV4Auth):
    """Version 4 as S3 wants it, with the hash that comes with the body."""

    def payload(self, request: Any) -> str:
        """What stands for the body in what is signed."""
        body = request.body
        return body.sha256 if isinstance(body, Body) else str(super().payload(request))


def _chosen(signature_version: Any, context: dict[str, Any], **_: object) -> str | None:
    """Ours, where it would be the plain version 4; multi-region and express buckets sign in other ways."""
    return _VERSION if signature_version in ("s3v4", "v4") and context.get("auth_type") in (None, "v4") else None


def sign_known_hashes(client: Any) -> None:
    """Have `client` sign so whatever it puts as a Body."""
    auth.AUTH_TYPE_MAPS[_VERSION] = _Signature
    for operation in _BODIES:
        client.meta.events.register_first(f"choose-signer.s3.{operation}", _chosen)

"""`aws-sm://NAME-OR-ARN`: secrets in AWS Secrets Manager. Importing it loads no boto3; the first request does."""

from __future__ import annotations

from opskit.secrets.stores.aws.store import AwsSecretStore

__all__ = ["AwsSecretStore"]

"""`aws-sm://NAME-OR-ARN[#json.key][?region=…]`: a secret of AWS Secrets Manager, whole or one key of its JSON object.

The stages are AWS's own labels of versions: AWSPENDING, AWSCURRENT, AWSPREVIOUS. A read always names one; a version
without a value counts as absent, and so does a secret that is scheduled for deletion.

What AWS does otherwise than the contract of stores, and what is made of it:

- The first version of a secret is always AWSCURRENT, and that label never leaves a secret again. So where there is to
  be no current value, a placeholder holds the label (`PLACEHOLDER`), which counts as absent here. Programs that read
  AWS themselves see it.
- AWSPENDING often stays on the version that became current. Nothing is pending then. So a promotion is done in the
  moment when AWSCURRENT moves, and one that was interrupted after it is finished by a repetition.
- Moving AWSCURRENT moves AWSPREVIOUS too; where the contract wants that left alone, it is put back afterwards.
- Deleting the last value schedules the secret for deletion, after `RECOVERY_DAYS` in which AWS can give it back. A
  value that is set meanwhile restores the secret, not its old values. AWS deletes versions without a label in time.
- Stages belong to the whole document. A key whose neighbours differ between pending and current is neither set as
  pending nor promoted nor deleted there: that would undo what somebody else is doing to the same secret.

It writes text only, and deliberately does not rotate by AWS's own functions.
"""

from __future__ import annotations

import json
import re
import uuid

from opskit.errors import SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.base import Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.stores.aws.document import Document, parsed, value_at, with_value, without
from opskit.secrets.stores.aws.service import Service

PLACEHOLDER = '{"opskit": "no value yet"}'
RECOVERY_DAYS = 7
"""The shortest that AWS has."""
MOST_BYTES = 65536

_LABELS = {Stage.PENDING: "AWSPENDING", Stage.CURRENT: "AWSCURRENT", Stage.PREVIOUS: "AWSPREVIOUS"}
_STAGES = {label: stage for stage, label in _LABELS.items()}
_PENDING, _CURRENT, _PREVIOUS = _LABELS.values()
# Under this one a version arrives that is to be current: so AWSCURRENT is only ever moved from a version that was seen.
_ARRIVING = "opskit-arriving"
_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}")
_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]{1,519}")

Labels = dict[str, str]
"""Which version has a label."""


class AwsSecretStore:
    """Keeps secrets in AWS Secrets Manager, with the credentials that boto3 finds."""

    def __init__(self) -> None:
        self._service = Service()

    def get(self, reference: Reference, stage: Stage) -> Secret:
        """The value in a stage; binary secrets too, where no key is named."""
        _check(reference)
        value = self._value(reference, stage)
        if value is None:
            raise SecretAbsent(
                f"{reference} cannot be resolved: expected a {stage} value, AWS Secrets Manager has none",
                hint=f"opskit secrets set '{reference}'" if stage is Stage.CURRENT else None,
            )
        return Secret(value)

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        """Keep a value in a stage; a secret that is not there is made, under the AWS key of Secrets Manager."""
        _check(reference)
        text = secret.reveal()
        _check_size(reference, text)
        labels = self._prepared(reference)
        if reference.field is not None:
            text = json.dumps(self._changed(reference, reference.field, stage, text))
            _check_size(reference, text)
        self._keep(reference, stage, text, labels)

    def promote(self, reference: Reference) -> None:
        """Move AWSCURRENT to the pending version, then take AWSPENDING off; finishes one that was interrupted there."""
        _check(reference)
        labels = self._labels(reference)
        pending, current = labels.get(_PENDING), labels.get(_CURRENT)
        if pending is None or pending != current:
            if pending is None or self._value(reference, Stage.PENDING) is None:
                raise SecretAbsent(f"{reference} has no pending value to be made the current one")
            self._require_same_neighbours(reference)
            replaces = self._content(reference, Stage.CURRENT) is not None
            self._move(reference, _CURRENT, to=pending, off=current)
            if current is not None and not replaces:
                self._restore_previous(reference, labels)
        self._move(reference, _PENDING, off=pending)

    def delete(self, reference: Reference, stage: Stage) -> None:
        """Take a value out of its stage; the last one takes the secret with it, in `RECOVERY_DAYS`."""
        _check(reference)
        try:
            labels = self._labels(reference)
        except SecretAbsent:
            return
        if stage is Stage.PENDING:
            self._delete_pending(reference, labels)
        elif self._value(reference, stage) is not None:
            self._delete_kept(reference, stage, labels)

    def _delete_pending(self, reference: Reference, labels: Labels) -> None:
        """The label goes even from a version without a value: it would keep AWS's own rotation from starting."""
        if _PENDING not in labels:
            return
        if reference.field is not None and self._content(reference, Stage.PENDING) is not None:
            if self._value(reference, Stage.PENDING) is None:
                return
            self._require_same_neighbours(reference)
        self._move(reference, _PENDING, off=labels[_PENDING])

    def _delete_kept(self, reference: Reference, stage: Stage, labels: Labels) -> None:
        """The current or previous value, that is known to be there."""
        if reference.field is not None and (rest := without(self._document(reference, stage), reference.field)):
            self._keep(reference, stage, json.dumps(rest), labels)
        elif stage is Stage.PREVIOUS:
            self._move(reference, _PREVIOUS, off=labels[_PREVIOUS])
        elif self._is_last(reference, labels):
            self._service.ask(reference, "delete_secret", RecoveryWindowInDays=RECOVERY_DAYS)
        else:
            self._keep(reference, Stage.CURRENT, PLACEHOLDER, labels)

    def _is_last(self, reference: Reference, labels: Labels) -> bool:
        """Whether nothing but the current version would be lost with the secret; labels of others count."""
        others = {label for label, version in labels.items() if version != labels[_CURRENT] and label != _ARRIVING}
        if others - set(_STAGES):
            return False
        return all(self._content(reference, _STAGES[label]) is None for label in others)

    # What is there

    def _content(self, reference: Reference, stage: Stage) -> str | bytes | None:
        """The whole secret in a stage, None where there is none."""
        try:
            answer = self._service.ask(reference, "get_secret_value", VersionStage=_LABELS[stage])
        except SecretAbsent:
            return None
        if stage is Stage.PENDING and _CURRENT in answer.get("VersionStages", ()):
            return None
        content: str | bytes | None = answer.get("SecretString", answer.get("SecretBinary"))
        return None if content == PLACEHOLDER else content

    def _document(self, reference: Reference, stage: Stage) -> Document:
        """The JSON object in a stage; an empty one where there is none."""
        content = self._content(reference, stage)
        if content is None:
            return {}
        return parsed(reference, content if isinstance(content, str) else "")

    def _value(self, reference: Reference, stage: Stage) -> str | bytes | None:
        if reference.field is None:
            return self._content(reference, stage)
        return value_at(reference, self._document(reference, stage), reference.field)

    def _labels(self, reference: Reference) -> Labels:
        """Raises SecretAbsent where there is no secret, or none any more."""
        answer = self._service.ask(reference, "describe_secret")
        if answer.get("DeletedDate") is not None:
            raise SecretAbsent(f"{reference} cannot be resolved: expected a secret, it is scheduled for deletion")
        versions = answer.get("VersionIdsToStages") or {}
        return {label: version for version, labels in versions.items() for label in labels}

    def _require_same_neighbours(self, reference: Reference) -> None:
        """Raises SecretStoreError where other keys differ between the pending document and the current one."""
        if reference.field is None or self._content(reference, Stage.PENDING) is None:
            return
        pending, current = (self._document(reference, stage) for stage in (Stage.PENDING, Stage.CURRENT))
        if without(pending, reference.field) != without(current, reference.field):
            whole = Reference(reference.scheme, reference.locator, None, (*reference.options, ("stage", "pending")))
            raise SecretStoreError(
                f"{reference} is in a document with a pending version of other keys: expected the same keys there as "
                "in the current one, got others",
                hint=f"finish that rotation first, or forget all that is pending: opskit secrets delete '{whole}'",
            )

    # What is changed

    def _changed(self, reference: Reference, field: str, stage: Stage, text: str) -> Document:
        """The document that is to be in a stage; a pending one has its neighbours from the current one."""
        if stage is Stage.PENDING:
            self._require_same_neighbours(reference)
        base = self._document(reference, Stage.PREVIOUS if stage is Stage.PREVIOUS else Stage.CURRENT)
        return with_value(reference, base, field, text)

    def _prepared(self, reference: Reference) -> Labels:
        """The labels of a secret that is there, and whose AWSCURRENT is on some version."""
        try:
            is_there = self._service.ask(reference, "describe_secret").get("DeletedDate") is None
        except SecretAbsent:
            self._create(reference)
            return self._labels(reference)
        if not is_there:
            self._service.ask(reference, "restore_secret")
        labels = self._labels(reference)
        if _CURRENT not in labels:  # made without a value, as Terraform does
            self._put(reference, PLACEHOLDER, _CURRENT)
        elif not is_there:
            self._forget_all(reference, labels)
        return self._labels(reference)

    def _create(self, reference: Reference) -> None:
        if reference.locator.startswith("arn:"):
            raise SecretStoreError(
                f"{reference}: expected a secret that is there, as AWS chooses the ARN of a new one",
                hint="write its name instead of the ARN, and ?region=… where it is not the usual one",
            )
        self._service.ask(
            reference,
            "create_secret",
            Name=reference.locator,
            SecretString=PLACEHOLDER,
            ClientRequestToken=str(uuid.uuid4()),
        )

    def _forget_all(self, reference: Reference, labels: Labels) -> None:
        """What was deleted stays so when the secret is restored for a new value."""
        kept = {label: version for label, version in labels.items() if label != _PREVIOUS}
        self._keep(reference, Stage.CURRENT, PLACEHOLDER, kept)
        if _PENDING in labels:
            self._move(reference, _PENDING, off=labels[_PENDING])

    def _keep(self, reference: Reference, stage: Stage, text: str, labels: Labels) -> None:
        """Put a text into a stage, and leave the other stages as `labels` has them."""
        if stage is not Stage.CURRENT:
            self._put(reference, text, _LABELS[stage])
            return
        version = self._put(reference, text, _ARRIVING)
        self._move(reference, _CURRENT, to=version, off=labels[_CURRENT])
        self._restore_previous(reference, labels)
        self._move(reference, _ARRIVING, off=version)

    def _put(self, reference: Reference, text: str, label: str) -> str:
        """A new version with a label; its id. The label leaves the version that had it."""
        answer = self._service.ask(
            reference,
            "put_secret_value",
            SecretString=text,
            VersionStages=[label],
            ClientRequestToken=str(uuid.uuid4()),
        )
        return str(answer["VersionId"])

    def _restore_previous(self, reference: Reference, labels: Labels) -> None:
        """Undo what AWS did with AWSPREVIOUS when AWSCURRENT moved off the version that `labels` says."""
        self._move(reference, _PREVIOUS, to=labels.get(_PREVIOUS), off=labels[_CURRENT])

    def _move(self, reference: Reference, label: str, *, to: str | None = None, off: str | None = None) -> None:
        """Take a label off one version and put it on another, if any; AWS refuses where it is not on the first."""
        versions = {"RemoveFromVersionId": off, "MoveToVersionId": to}
        given = {name: version for name, version in versions.items() if version is not None}
        self._service.ask(reference, "update_secret_version_stage", VersionStage=label, **given)


def _check(reference: Reference) -> None:
    if not (_NAME.fullmatch(reference.locator) or _ARN.fullmatch(reference.locator)):
        raise UnresolvedReference(
            f"{reference} is malformed: expected a name of A-Z, a-z, 0-9 and /_+=.@- or the ARN of a secret"
        )
    for name, _ in reference.options:
        if name != "region":
            raise UnresolvedReference(f"{reference} has an unknown option: expected region or stage, got '{name}'")


def _check_size(reference: Reference, text: str) -> None:
    size = len(text.encode())
    if not 0 < size <= MOST_BYTES:
        raise SecretStoreError(
            f"{reference}: expected a secret of 1 to {MOST_BYTES} bytes, got {size}",
            hint="AWS Secrets Manager takes no other; a document of JSON counts as a whole",
        )

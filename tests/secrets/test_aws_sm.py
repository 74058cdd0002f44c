"""What is particular to AWS Secrets Manager; the contract of all stores is in tests/contracts/test_secret_store.py."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import traceback
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.base import Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.setting import set_secret, value_in
from opskit.secrets.stores.aws import AwsSecretStore
from opskit.secretstores import resolver
from tests.secrets.aws_server import ENDPOINT, REGION, Account, aws, between, refused

SENTINEL = "hunter2-Xq9"


@pytest.fixture
def account() -> Iterator[Account]:
    """An account in which no secret has a name of this test."""
    with aws() as made:
        yield made


def held(reference: Reference) -> dict[str, str]:
    """The values of a secret by stage, read by a new client."""
    store = AwsSecretStore()
    found = {stage: value_in(store, reference, stage) for stage in Stage}
    return {stage: secret.reveal() for stage, secret in found.items() if secret is not None}


def twice_set(reference: Reference) -> AwsSecretStore:
    """The store, after a secret was set to "old" and then to "new"."""
    store = AwsSecretStore()
    set_secret(store, reference, Secret("old"))
    set_secret(store, reference, Secret("new"))
    return store


def refusal(reference: Reference) -> SecretStoreError:
    """How reading fails."""
    with pytest.raises(SecretStoreError) as caught:
        AwsSecretStore().get(reference, Stage.CURRENT)
    assert caught.value.exit_code == 31 and caught.value.hint
    return caught.value


def test_names_and_arns_lead_to_the_same_secret(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ARN reads and writes the secret of a name, and needs no region besides."""
    reference = account.reference("db")
    twice_set(reference)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    arn = Reference("aws-sm", account.client.describe_secret(SecretId=reference.locator)["ARN"])
    set_secret(AwsSecretStore(), arn, Secret("newest"))
    assert held(arn) == {"current": "newest", "previous": "new"}
    assert held(account.reference("db", region=REGION)) == held(arn)
    assert held(account.reference("db", region="us-west-2")) == {}


def test_no_secret_is_made_by_its_arn(account: Account) -> None:
    """AWS chooses the ARN of a new secret, so setting one that is not there says to use the name."""
    arn = Reference("aws-sm", f"arn:aws:secretsmanager:{REGION}:123456789012:secret:{uuid.uuid4()}-AbCdEf")
    with pytest.raises(SecretStoreError, match="AWS chooses the ARN") as caught:
        AwsSecretStore().set(arn, Stage.PENDING, Secret("x"))
    assert caught.value.hint is not None and "name" in caught.value.hint


def test_references_resolve_with_their_stage(account: Account) -> None:
    """The table of schemes reads the current value by default, and the stage that a reference names."""
    reference = account.reference("db", "password")
    twice_set(reference)
    assert resolver({}).resolve(str(reference)).reveal() == "new"
    assert resolver({}).resolve(f"{reference}?stage=previous&region={REGION}").reveal() == "old"
    with pytest.raises(SecretAbsent):
        resolver({}).resolve(f"{reference}?stage=pending")


def test_schemes_are_made_without_boto3() -> None:
    """Commands that use no secret of AWS do not pay for boto3."""
    program = "import sys; from opskit.secretstores import resolver; resolver({}); print('botocore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_promoted_value_is_what_is_read(account: Account) -> None:
    """Every read names its stage: without, this endpoint answers with the value from before the promotion."""
    reference = account.reference("db")
    assert twice_set(reference).get(reference, Stage.CURRENT).reveal() == "new"
    unnamed = account.client.get_secret_value(SecretId=reference.locator)["SecretString"]
    assert unnamed != "new"  # the endpoint is one that can tell


def test_keys_keep_their_neighbours(account: Account) -> None:
    """Setting, promoting and deleting a key leaves every other key of the document as it is."""
    reference = account.reference("rds", "login.password")
    around = {"login": {"user": "déjà"}, "port": 5432, "list": [1, None]}
    account.exists(reference.locator, json.dumps(around))
    twice_set(reference)
    expected = around | {"login": {"user": "déjà", "password": "new"}}
    assert json.loads(account.text(reference, "AWSCURRENT")) == expected
    AwsSecretStore().delete(reference, Stage.CURRENT)
    assert json.loads(account.text(reference, "AWSCURRENT")) == around
    assert held(reference) == {"previous": "old"}


def test_two_keys_are_not_rotated_at_once(account: Account) -> None:
    """While a key has a pending value, none of another key replaces it, and a change meanwhile is not undone."""
    one, two, whole = account.reference("db", "one"), account.reference("db", "two"), account.reference("db")
    store = AwsSecretStore()
    set_secret(store, two, Secret("two-old"))
    store.set(one, Stage.PENDING, Secret("one-pending"))
    for act in (
        lambda: store.set(two, Stage.PENDING, Secret("two-new")),
        lambda: store.promote(two),
        lambda: store.delete(two, Stage.PENDING),
    ):
        with pytest.raises(SecretStoreError, match="pending version of other keys") as caught:
            act()
        assert caught.value.hint is not None and f"'{whole}?stage=pending'" in caught.value.hint
    store.set(two, Stage.CURRENT, Secret("two-newer"))
    with pytest.raises(SecretStoreError, match="pending version of other keys"):
        store.promote(one)
    store.delete(account.reference("db", "three"), Stage.PENDING)
    assert held(one) == {"pending": "one-pending"} and held(two)["current"] == "two-newer"
    store.delete(whole, Stage.PENDING)
    set_secret(store, one, Secret("one-new"))
    assert (held(one)["current"], held(two)["current"]) == ("one-new", "two-newer")


@pytest.mark.parametrize(
    ("document", "field", "value"),
    [
        ('{"port": 5432}', "port", "5432"),
        ('{"tls": true}', "tls", "true"),
        ('{"a": {"b": {"c": "deep"}}}', "a.b.c", "deep"),
        ('{"a": null}', "a", None),
        ('{"a": "text"}', "a.b", None),
        ('{"a": {"b": 1}}', "a", "an object or a list"),
        (f'["{SENTINEL}"]', "a", "a JSON object"),
        (f"not JSON {SENTINEL}", "a", "a JSON object"),
        (f'{{"a": "{SENTINEL}\\ud800"}}', "a", "half of a pair"),
    ],
)
def test_keys_are_found_in_documents(account: Account, document: str, field: str, value: str | None) -> None:
    """A key gives its text, number or boolean; null is absent; all else is told without its content."""
    reference = account.reference("db", field)
    account.exists(reference.locator, document)
    try:
        assert AwsSecretStore().get(reference, Stage.CURRENT).reveal() == value
    except SecretAbsent:
        assert value is None
    except SecretStoreError as error:
        assert value is not None and value in f"{error}{error.hint}"
        assert SENTINEL not in "".join(traceback.format_exception(error))


def test_binary_secrets_are_read_whole(account: Account) -> None:
    """A binary secret comes back byte for byte, and has no keys."""
    reference = account.reference("key")
    account.client.create_secret(Name=reference.locator, SecretBinary=b"\x00\xff")
    assert AwsSecretStore().get(reference, Stage.CURRENT).reveal_bytes() == b"\x00\xff"
    assert "a JSON object" in str(refusal(account.reference("key", "a")))


def test_a_secret_made_without_a_value_takes_one(account: Account) -> None:
    """A secret that Terraform made empty has no value in any stage, and its first one waits as pending like others."""
    reference = account.reference("db")
    account.client.create_secret(Name=reference.locator)
    assert held(reference) == {}
    AwsSecretStore().set(reference, Stage.PENDING, Secret("first"))
    assert held(reference) == {"pending": "first"}
    AwsSecretStore().promote(reference)
    assert held(reference) == {"current": "first"}


@pytest.mark.parametrize("field", [None, "key"])
def test_a_stage_without_a_value_is_absent(field: str | None, account: Account) -> None:
    """AWS's rotation may leave AWSPENDING on a version without a value: nothing to read or promote, but to delete."""
    reference = account.reference("db", field)
    twice_set(reference).set(reference, Stage.PENDING, Secret("x"))

    def empty(body: dict[str, Any]) -> tuple[int, bytes] | None:
        return refused("ResourceNotFoundException") if body["VersionStage"] == "AWSPENDING" else None

    with between({"GetSecretValue": empty}):
        assert held(reference) == {"current": "new", "previous": "old"}
        with pytest.raises(SecretAbsent):
            AwsSecretStore().promote(reference)
        AwsSecretStore().delete(reference, Stage.PENDING)
    assert set(account.labels(reference)) == {"AWSCURRENT", "AWSPREVIOUS"}


def test_an_interrupted_promotion_is_finished_by_a_repetition(account: Account) -> None:
    """Cut off after AWSCURRENT moved, it is done for readers; a repetition costs no value and takes AWSPENDING off."""
    reference = account.reference("db")
    twice_set(reference).set(reference, Stage.PENDING, Secret("newest"))

    def cut(body: dict[str, Any]) -> tuple[int, bytes] | None:
        return refused("AccessDeniedException") if body["VersionStage"] == "AWSPENDING" else None

    with between({"UpdateSecretVersionStage": cut}), pytest.raises(SecretStoreError):
        AwsSecretStore().promote(reference)
    assert account.labels(reference)["AWSPENDING"] == account.labels(reference)["AWSCURRENT"]
    assert held(reference) == {"current": "newest", "previous": "new"}
    AwsSecretStore().promote(reference)
    assert "AWSPENDING" not in account.labels(reference)
    assert held(reference) == {"current": "newest", "previous": "new"}
    with pytest.raises(SecretAbsent):
        AwsSecretStore().promote(reference)


@pytest.mark.parametrize("stage", [Stage.CURRENT, Stage.PREVIOUS])
def test_other_stages_stay_when_one_is_set(stage: Stage, account: Account) -> None:
    """AWS moves AWSPREVIOUS along with AWSCURRENT; setting the current value does not show it."""
    reference = account.reference("db")
    store = twice_set(reference)
    store.set(reference, Stage.PENDING, Secret("waiting"))
    store.set(reference, stage, Secret("given"))
    assert held(reference) == {"pending": "waiting", "current": "new", "previous": "old"} | {stage: "given"}
    assert set(account.labels(reference)) == {"AWSPENDING", "AWSCURRENT", "AWSPREVIOUS"}


def test_the_previous_value_outlives_the_current_one(account: Account) -> None:
    """Deleted alone, the current value leaves the others; a promotion then replaces no value, and costs none."""
    reference = account.reference("db")
    store = twice_set(reference)
    store.delete(reference, Stage.CURRENT)
    assert held(reference) == {"previous": "old"}
    set_secret(store, reference, Secret("newest"))
    assert held(reference) == {"current": "newest", "previous": "old"}


def test_a_secret_that_is_to_be_deleted_is_absent_until_it_is_set(account: Account) -> None:
    """The last value takes the secret with it in seven days; a new one brings the secret back, not the old value."""
    reference = account.reference("db")
    store = AwsSecretStore()
    set_secret(store, reference, Secret("old"))
    store.delete(reference, Stage.CURRENT)
    found = account.client.describe_secret(SecretId=reference.locator)
    assert round((found["DeletedDate"] - found["LastChangedDate"]).total_seconds() / 86400) == 7
    assert held(reference) == {}
    store.delete(reference, Stage.CURRENT)
    with pytest.raises(SecretAbsent):
        store.promote(reference)
    store.set(reference, Stage.PENDING, Secret("new"))
    assert held(reference) == {"pending": "new"}


def test_a_restored_secret_has_no_old_value_in_any_stage(account: Account) -> None:
    """What somebody deleted with values in every stage comes back with the one that is set."""
    reference = account.reference("db")
    twice_set(reference).set(reference, Stage.PENDING, Secret("waiting"))
    account.client.delete_secret(SecretId=reference.locator, RecoveryWindowInDays=7)
    AwsSecretStore().set(reference, Stage.CURRENT, Secret("given"))
    assert held(reference) == {"current": "given"}


def test_a_secret_with_labels_of_others_stays(account: Account) -> None:
    """A version that somebody else labelled is not deleted with the last value that opskit knows."""
    reference = account.reference("db")
    store = AwsSecretStore()
    set_secret(store, reference, Secret("value"))
    account.client.put_secret_value(SecretId=reference.locator, SecretString="theirs", VersionStages=["blue"])
    store.delete(reference, Stage.CURRENT)
    assert held(reference) == {} and account.text(reference, "blue") == "theirs"


def test_a_lost_write_is_found(account: Account) -> None:
    """Where AWS answers a put that it does not keep, setting fails and the current value is untouched."""
    reference = account.reference("db")
    twice_set(reference)
    lost = json.dumps({"ARN": "arn:x", "VersionId": str(uuid.uuid4())}).encode()
    with between({"PutSecretValue": lambda _: (200, lost)}):
        with pytest.raises(SecretStoreError, match="did not keep its pending value"):
            set_secret(AwsSecretStore(), reference, Secret(SENTINEL))
    assert held(reference) == {"current": "new", "previous": "old"}


def test_without_a_region_it_says_where_to_write_one(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """No region in the reference, the environment or a profile: the hint shows ?region=."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "?region=" in str(refusal(account.reference("db")).hint)


def test_without_credentials_it_says_so(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain of credentials ends in nothing."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = refusal(account.reference("db"))
    assert "expected AWS credentials" in str(error) and "profile" in str(error.hint)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "no url"])
def test_a_wrong_endpoint_is_named(endpoint: str, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there, or no address at all: the hint names the variables that may be wrong."""
    monkeypatch.setenv(ENDPOINT, endpoint)
    assert "AWS_ENDPOINT_URL" in str(refusal(account.reference("db")).hint)


def test_a_portal_is_not_taken_for_aws(account: Account) -> None:
    """A page with status 200 is no answer of AWS, and no absent secret either."""
    with between({"GetSecretValue": lambda _: (200, b"{}")}):
        assert "without an ARN" in str(refusal(account.reference("db")))


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("AccessDeniedException", "secretsmanager:GetSecretValue"),
        ("ExpiredTokenException", "log in again"),
        ("UnrecognizedClientException", "profile"),
        ("ThrottlingException", "try again later"),
        ("DecryptionFailure", "kms:Decrypt"),
        ("InvalidRequestException", "replica"),
        ("NeverHeardOf\n", "look the code up"),
    ],
)
def test_refusals_say_what_to_do(code: str, hint: str, account: Account) -> None:
    """Each refusal of AWS is an error of the store with its code and a hint, and repeats nothing else."""
    with between({"GetSecretValue": lambda _: refused(code, f"you sent {SENTINEL}")}):
        error = refusal(account.reference("db"))
    assert hint in str(error.hint) and code.strip() in str(error) and str(error).isprintable()
    assert SENTINEL not in "".join(traceback.format_exception(error))


def test_values_are_in_no_message_and_no_log(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    """What botocore would log of requests, and what AWS quotes of them in a refusal, shows nowhere."""
    reference = account.reference("db")
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "botocore"):
        set_secret(AwsSecretStore(), reference, Secret(SENTINEL))
        with between({"PutSecretValue": lambda body: refused("ValidationException", body["SecretString"])}):
            with pytest.raises(SecretStoreError) as caught:
                AwsSecretStore().set(reference, Stage.PENDING, Secret(SENTINEL))
    assert SENTINEL not in caplog.text
    assert SENTINEL not in "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)


@pytest.mark.parametrize("value", ["", "x" * 65537, "é" * 32769])
def test_values_that_aws_does_not_take_are_refused(value: str, account: Account) -> None:
    """Nothing, and more than 64 KiB, are refused before a secret is made for them."""
    reference = account.reference("db")
    with pytest.raises(SecretStoreError, match="expected a secret of 1 to 65536 bytes"):
        AwsSecretStore().set(reference, Stage.PENDING, Secret(value))
    with pytest.raises(account.client.exceptions.ResourceNotFoundException):
        account.labels(reference)


def test_a_document_that_grows_too_large_is_refused(account: Account) -> None:
    """The limit is of the whole document: a short value may be one too many."""
    reference = account.reference("db", "key")
    account.exists(reference.locator, json.dumps({"other": "x" * 65500}))
    with pytest.raises(SecretStoreError, match="expected a secret of 1 to 65536 bytes"):
        AwsSecretStore().set(reference, Stage.PENDING, Secret("x" * 30))
    assert "AWSPENDING" not in account.labels(reference)


@pytest.mark.parametrize("text", ["aws-sm://a%20b", "aws-sm://arn:aws:s3:::bucket", "aws-sm://db?version=3"])
def test_references_that_aws_cannot_have_are_refused(text: str) -> None:
    """A name that Secrets Manager does not allow, an ARN of something else, and an unknown option are malformed."""
    with pytest.raises(UnresolvedReference) as caught:
        AwsSecretStore().get(Reference.parse(text), Stage.CURRENT)
    assert isinstance(caught.value, OpskitError) and not isinstance(caught.value, SecretAbsent)

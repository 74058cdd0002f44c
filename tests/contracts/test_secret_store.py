"""The contract of a SecretStore (opskit/secrets/base.py), sentence by sentence, over every implementation."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.gpg import Keyring
from opskit.repository.durable import alone, write_durably
from opskit.secrets.base import SecretStore, Stage, StoreScheme
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.setting import set_secret, value_in
from opskit.secrets.stores.aws import AwsSecretStore
from opskit.secrets.stores.dotenv import DotenvStore, FileTools
from opskit.secrets.stores.gpgfile import GpgFileStore, Tools
from opskit.secrets.stores.keyrings import KeyringStore
from opskit.secrets.stores.vault import Access, VaultStore
from tests.secrets import vault_server
from tests.secrets.aws_server import aws
from tests.secrets.backends import KeyringInMemory

Subject = tuple[SecretStore, Callable[[str], Reference]]
"""A store, and what makes a reference to the secret of a name in it."""
VALUES = ["plain", "with blanks and 'quotes' \"two\" \\ $x #y", "line one\nline two\n", "déjà 🔑", "x" * 4096]


def _gpg_file(folder: Path) -> Iterator[Subject]:
    with Keyring(folder / "k") as keyring:
        key = keyring.generate("host <host@example.org>")
        tools = Tools(
            lambda path, data: keyring.decrypt(data).payload,
            lambda data: keyring.encrypt(data, [key]),
            write_durably,
            alone,
        )
        path = folder / "secrets.gpg"
        yield GpgFileStore(tools), lambda name: Reference("gpg", str(path), name)


def _dotenv(folder: Path) -> Iterator[Subject]:
    path = folder / ".env"
    path.touch(mode=0o600)
    path.write_text('# a comment\nexport OTHER="x" # kept\nEMPTY\n\n')
    before = path.read_text()

    def reference(name: str) -> Reference:
        return Reference("dotenv", str(path), "".join(each if each.isalnum() else f"_{ord(each):x}" for each in name))

    yield DotenvStore(FileTools(write_durably, alone)), reference
    assert path.read_text().startswith(before) and path.stat().st_mode & 0o777 == 0o600


def _keyring(folder: Path) -> Iterator[Subject]:
    del folder
    backend = KeyringInMemory()
    yield KeyringStore(lambda: backend), lambda name: Reference("keyring", f"opskit-test/{name}")


def _vault_at(url: str) -> Subject:
    pytest.importorskip("hvac")
    folder = uuid.uuid4().hex  # of this test alone, as the real server lives for all of them
    return VaultStore(Access(url, vault_server.TOKEN)), lambda name: Reference("vault", f"secret/{folder}/app", name)


def _vault(_: Path) -> Iterator[Subject]:
    with vault_server.served() as vault:
        yield _vault_at(vault.url)


def _real_vault(_: Path) -> Iterator[Subject]:
    if vault_server.program() is None:
        pytest.skip("no real vault here: neither bao nor vault is on PATH")
    yield _vault_at(vault_server.real())


def _aws(field: str | None, neighbours: str | None) -> Callable[[Path], Iterator[Subject]]:
    def made(_: Path) -> Iterator[Subject]:
        with aws() as server:

            def name(secret: str) -> Reference:
                """AWS takes no blanks in names. Neighbours of a key are there before it is."""
                reference = server.reference(secret.replace(" ", "+"), field)
                if neighbours is not None:
                    server.exists(reference.locator, neighbours)
                return reference

            yield AwsSecretStore(), name

    return made


KINDS = {
    "gpg file": _gpg_file,
    "dotenv": _dotenv,
    "key ring": _keyring,
    "vault": _vault,
    "real vault": _real_vault,
    "aws-sm": _aws(None, None),
    "aws-sm key": _aws("db.password", None),
    "aws-sm key among others": _aws("db.password", '{"db": {"user": "u"}, "port": 5432}'),
}


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_short: Path) -> Iterator[Subject]:
    """Each kind of store, empty."""
    yield from KINDS[request.param](tmp_short)


def held(store: SecretStore, reference: Reference) -> dict[str, str]:
    """The values of a secret, by stage."""
    found = {stage: value_in(store, reference, stage) for stage in Stage}
    return {stage: secret.reveal() for stage, secret in found.items() if secret is not None}


@pytest.mark.parametrize("value", VALUES)
def test_what_is_set_is_got(value: str, subject: Subject) -> None:
    """A value comes back as it was given, from its stage alone; a .env file may refuse one, and is not changed then."""
    store, name = subject
    if isinstance(store, DotenvStore) and any(each in value for each in "'\\\n"):
        file = Path(name("db").locator)
        before = file.read_bytes()
        with pytest.raises(SecretStoreError):
            store.set(name("db"), Stage.PENDING, Secret(value))
        assert file.read_bytes() == before and held(store, name("db")) == {}
        return
    store.set(name("db"), Stage.PENDING, Secret(value))
    assert held(store, name("db")) == {"pending": value}
    store.set(name("db"), Stage.CURRENT, Secret("other-value"))
    assert held(store, name("db")) == {"pending": value, "current": "other-value"}
    store.set(name("db"), Stage.PENDING, Secret("third-value"))
    assert held(store, name("db")) == {"pending": "third-value", "current": "other-value"}


def test_promotion_moves_every_stage_up(subject: Subject) -> None:
    """Pending becomes current, current becomes previous, what was previous is gone, and nothing is pending."""
    store, name = subject
    for number in range(3):
        store.set(name("db"), Stage.PENDING, Secret(f"value-{number}"))
        store.promote(name("db"))
    assert held(store, name("db")) == {"current": "value-2", "previous": "value-1"}


def test_nothing_pending_is_not_promoted(subject: Subject) -> None:
    """Without a pending value, promotion fails and changes nothing: a repetition costs no value."""
    store, name = subject
    with pytest.raises(SecretAbsent):
        store.promote(name("db"))
    set_secret(store, name("db"), Secret("value-1"))
    set_secret(store, name("db"), Secret("value-2"))
    with pytest.raises(SecretAbsent):
        store.promote(name("db"))
    assert held(store, name("db")) == {"current": "value-2", "previous": "value-1"}


def test_secrets_do_not_touch_one_another(subject: Subject) -> None:
    """What happens to one secret leaves others alone, of similar names too."""
    store, name = subject
    names = ["db", "db2", "d b", "DB", "db.user"]
    for each in names:
        set_secret(store, name(each), Secret(f"value of {each}"))
    set_secret(store, name("db"), Secret("another"))
    store.delete(name("db2"), Stage.CURRENT)
    assert [held(store, name(each)) for each in names] == [
        {"current": "another", "previous": "value of db"},
        {},
        {"current": "value of d b"},
        {"current": "value of DB"},
        {"current": "value of db.user"},
    ]


def test_one_stage_is_deleted_alone(subject: Subject) -> None:
    """Deleting forgets one value; one that is not there is no error."""
    store, name = subject
    store.delete(name("db"), Stage.PREVIOUS)
    set_secret(store, name("db"), Secret("value-1"))
    set_secret(store, name("db"), Secret("value-2"))
    store.delete(name("db"), Stage.PENDING)
    store.delete(name("db"), Stage.PREVIOUS)
    assert held(store, name("db")) == {"current": "value-2"}
    store.delete(name("db"), Stage.CURRENT)
    assert held(store, name("db")) == {}


def test_a_reference_names_its_stage(subject: Subject) -> None:
    """As a scheme, the current value is the default; ?stage= says another, and nothing else."""
    store, name = subject
    set_secret(store, name("db"), Secret("value-1"))
    set_secret(store, name("db"), Secret("value-2"))
    scheme, reference = StoreScheme(store), name("db")

    def got(stage: str) -> str:
        options = (*reference.options, ("stage", stage))
        return scheme.resolve(Reference(reference.scheme, reference.locator, reference.field, options)).reveal()

    assert (scheme.resolve(reference).reveal(), got("current"), got("previous")) == ("value-2", "value-2", "value-1")
    for stage, error in (("pending", SecretAbsent), ("next", UnresolvedReference)):
        with pytest.raises(error):
            got(stage)


def test_an_absent_secret_is_told_from_a_store_that_fails(subject: Subject) -> None:
    """A name that nobody set is SecretAbsent, with exit code 30."""
    store, name = subject
    with pytest.raises(SecretAbsent) as caught:
        store.get(name("never-set"), Stage.CURRENT)
    assert caught.value.exit_code == 30 and str(name("never-set")) in str(caught.value)


def test_no_message_shows_a_value(subject: Subject) -> None:
    """Whatever fails, no value stands in the message."""
    store, name = subject
    set_secret(store, name("db"), Secret("hunter2-current"))
    store.set(name("db"), Stage.PENDING, Secret("hunter2-pending"))
    with pytest.raises(OpskitError) as caught:
        set_secret(store, name("db"), Secret("hunter2-another"))
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"
    assert caught.value.exit_code == 31
    assert held(store, name("db")) == {"pending": "hunter2-pending", "current": "hunter2-current"}

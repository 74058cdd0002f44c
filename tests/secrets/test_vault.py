"""Secrets in Vault: nothing of other writers is lost, and the token goes to nobody else."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest

from opskit import secretstores
from opskit.config.load import load
from opskit.errors import OpskitError, SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.base import Stage, staged
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.setting import set_secret
from opskit.secrets.stores.vault import Access, VaultStore
from tests.secrets import vault_server
from tests.secrets.vault_server import ROLE_ID, SECRET_ID, TOKEN, Vault

pytest.importorskip("hvac")

DB = Reference.parse("vault://secret/app#db")
VALUE = "hunter2-value"


@pytest.fixture
def vault() -> Iterator[Vault]:
    """An empty server."""
    with vault_server.served() as served:
        yield served


@pytest.fixture
def store(vault: Vault) -> VaultStore:
    """The store over it, with a token that is good."""
    return VaultStore(Access(vault.url, TOKEN))


def resolved(text: str, environ: dict[str, str]) -> str:
    """What a reference stands for, through the wiring."""
    return secretstores.resolver(environ).resolve(text).reveal()


def refusal(act: Callable[[], object]) -> OpskitError:
    """The error of an act; neither it nor its traceback shows a token, an id or a value."""
    with pytest.raises(OpskitError) as caught:
        act()
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)
    lines = [line for line in told.splitlines() if not line.startswith("    ")]  # those are source text
    assert not [secret for secret in (TOKEN, ROLE_ID, SECRET_ID, "hunter2", "hvs.") if secret in "\n".join(lines)]
    return caught.value


def read_with(vault: Vault, **variables: str) -> Callable[[], str]:
    """Reading DB of a server, with these variables."""
    return lambda: resolved(str(DB), {"VAULT_ADDR": vault.url, **variables})


def test_a_value_is_read_through_the_wiring(vault: Vault) -> None:
    """`vault:` and `vault://` read the key of the latest version, with the token and namespace of the environment."""
    vault.put("team/secret/app", {"db": VALUE, "db__previous": "old"})
    environ = {"VAULT_ADDR": vault.url, "VAULT_TOKEN": TOKEN, "VAULT_NAMESPACE": "team/"}
    assert resolved("vault:secret/app#db", environ) == VALUE
    assert resolved("ref+vault://secret/app#db?stage=previous", environ) == "old"


def test_a_fixed_version_is_read_and_never_written(vault: Vault, store: VaultStore) -> None:
    """`?version=` reads that version, and is refused by what writes."""
    for number in (1, 2):
        vault.put("secret/app", {"db": f"value-{number}"})
    first = Reference.parse("vault://secret/app#db?version=1")
    assert store.get(first, Stage.CURRENT).reveal() == "value-1"
    with pytest.raises(SecretAbsent):
        store.get(Reference.parse("vault://secret/app#db?version=3"), Stage.CURRENT)
    for write in (
        lambda: store.set(first, Stage.PENDING, Secret("x")),
        lambda: store.promote(first),
        lambda: store.delete(first, Stage.CURRENT),
        lambda: store.get(first, Stage.PREVIOUS),
        lambda: set_secret(store, first, Secret("x")),
    ):
        assert "only read" in str(refusal(write))
    assert len(vault.secrets["secret/app"]) == 2


def test_a_hint_can_be_typed(vault: Vault, store: VaultStore) -> None:
    """The reference that a hint names is one, also where the given one has options."""
    reference = Reference.parse("vault://team/kv/app#db?mount=team/kv")
    store.set(reference, Stage.PENDING, Secret("old"))
    hint = str(refusal(lambda: set_secret(store, reference, Secret(VALUE))).hint)
    store.delete(*staged(Reference.parse(hint.split("'")[1])))
    assert vault.latest("team/kv/app") == {}


def test_a_mount_may_have_several_parts(vault: Vault, store: VaultStore) -> None:
    """`?mount=` says how much of the path is the mount; without it, the error says what to add."""
    reference = Reference.parse("vault://team/kv/app#db?mount=team/kv")
    set_secret(store, reference, Secret(VALUE))
    assert vault.latest("team/kv/app") == {"db": VALUE}
    for written, hint in (
        ("vault://team/kv/app#db", "?mount=a/b names one"),
        ("vault://secret/sub/app#db?mount=secret/sub", "add ?mount=secret"),
    ):
        error = refusal(lambda written=written: store.get(Reference.parse(written), Stage.CURRENT))
        assert isinstance(error, SecretStoreError) and hint in str(error.hint)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("vault://secret/app", "names a whole secret"),
        ("vault://secret#db", "expected a mount and a path in it"),
        ("vault:///secret/app#db", "expected a mount and a path in it"),
        ("vault://secret/../sys/app#db", "expected a mount and a path in it"),
        ("vault://secret/%2e%2e/sys#db", "expected a mount and a path in it"),
        ("vault://secret//app#db", "expected a mount and a path in it"),
        ("vault://a/b/app#db?mount=b", "expected a mount and a path in it"),
        ("vault://secret/app#db?version=0", "expected ?version=N"),
        ("vault://secret/app#db?cas=1", "expected mount, stage or version, got 'cas'"),
        ("vault://secret/app#db__pending", "ends in __pending"),
        ("vault://secret/app#db__previous", "ends in __previous"),
    ],
)
def test_references_that_lead_nowhere(written: str, message: str, vault: Vault, store: VaultStore) -> None:
    """A reference that cannot be meant is refused before anything is asked, by reading and by writing."""
    reference = Reference.parse(written)
    for act in (
        lambda: store.get(reference, Stage.CURRENT),
        lambda: store.set(reference, Stage.CURRENT, Secret(VALUE)),
    ):
        error = refusal(act)
        assert isinstance(error, UnresolvedReference) and message in str(error)
    assert vault.seen == []


def test_a_faster_writer_loses_nothing(vault: Vault, store: VaultStore) -> None:
    """A write that another one came before is made anew from what that one wrote; all keys are kept."""
    vault.put("secret/app", {"db": "old", "mail": "1", "count": 3})
    store.set(DB, Stage.PENDING, Secret(VALUE))
    for number in range(3):
        vault.before_write.append(
            lambda number=number: vault.put("secret/app", {**(vault.latest("secret/app") or {}), "mail": f"m{number}"})
        )
    store.promote(DB)
    assert vault.latest("secret/app") == {"db": VALUE, "db__previous": "old", "mail": "m2", "count": 3}


def test_the_first_writer_of_a_secret_is_not_overwritten(vault: Vault, store: VaultStore) -> None:
    """A secret that came to be between reading and writing keeps what is in it."""
    vault.before_write.append(lambda: vault.put("secret/app", {"mail": "1"}))
    store.set(DB, Stage.CURRENT, Secret(VALUE))
    assert vault.latest("secret/app") == {"mail": "1", "db": VALUE}


def test_a_writer_that_never_wins_gives_up(vault: Vault, store: VaultStore) -> None:
    """Where others always come first, nothing of theirs is touched, and an error says so."""

    def again() -> None:
        vault.put("secret/app", {"mail": str(len(vault.secrets.get("secret/app", [])))})
        vault.before_write.append(again)

    vault.before_write.append(again)
    error = refusal(lambda: store.set(DB, Stage.CURRENT, Secret(VALUE)))
    assert isinstance(error, SecretStoreError) and "others wrote" in str(error)
    assert vault.writes == 0


def test_many_writers_at_once(vault: Vault) -> None:
    """Threads that share a store and write keys of one secret lose none."""
    store = VaultStore(Access(vault.url, TOKEN))
    references = [Reference("vault", "secret/app", f"key{number}") for number in range(4)]
    threads = [threading.Thread(target=set_secret, args=(store, each, Secret(VALUE))) for each in references]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert vault.latest("secret/app") == {f"key{number}": VALUE for number in range(4)}


def test_a_deleted_version_is_absent_and_can_be_followed(vault: Vault, store: VaultStore) -> None:
    """A secret whose latest version was deleted is absent; a new value becomes the next version."""
    vault.put("secret/app", {"db": "old"})
    vault.delete("secret/app")
    assert isinstance(refusal(lambda: store.get(DB, Stage.CURRENT)), SecretAbsent)
    set_secret(store, DB, Secret(VALUE))
    assert vault.latest("secret/app") == {"db": VALUE} and vault.secrets["secret/app"][0] is None


def test_what_is_there_already_makes_no_version(vault: Vault, store: VaultStore) -> None:
    """Setting the same again, or deleting nothing, writes nothing: the engine keeps only so many versions."""
    store.set(DB, Stage.CURRENT, Secret(VALUE))
    store.set(DB, Stage.CURRENT, Secret(VALUE))
    store.delete(DB, Stage.PREVIOUS)
    assert vault.writes == 1


def test_a_value_that_is_no_text_is_refused(vault: Vault, store: VaultStore) -> None:
    """A number is not turned into some text."""
    vault.put("secret/app", {"db": 17})
    assert "expected a string" in str(refusal(lambda: store.get(DB, Stage.CURRENT)))


def test_a_store_that_loses_a_write_is_found(vault: Vault, store: VaultStore) -> None:
    """Where the server acknowledges and does not keep, set_secret fails, and the value before is still current."""
    set_secret(store, DB, Secret("old"))
    vault.loses = True
    error = refusal(lambda: set_secret(store, DB, Secret(VALUE)))
    assert "did not keep its pending value" in str(error)
    assert vault.latest("secret/app") == {"db": "old"}


@pytest.mark.parametrize("mount", ["old", "none"])
def test_another_engine_is_told_from_an_absent_secret(mount: str, vault: Vault, store: VaultStore) -> None:
    """KV version 1, or no engine at all, is an error of the store, and nothing is written there."""
    reference = Reference("vault", f"{mount}/app", "db")
    for act in (
        lambda: store.get(reference, Stage.CURRENT),
        lambda: store.set(reference, Stage.CURRENT, Secret(VALUE)),
    ):
        error = refusal(act)
        assert isinstance(error, SecretStoreError) and "KV version 2" in str(error)
    assert vault.secrets == {}
    vault.secrets["old/data/app"] = [{"data": {"db": VALUE}}]
    assert isinstance(refusal(lambda: store.get(Reference("vault", "old/app", "db"), Stage.CURRENT)), SecretStoreError)


def test_a_sealed_vault(vault: Vault, store: VaultStore) -> None:
    """A sealed one is told as such, at once, whatever it says of when to come again."""
    vault.sealed = True
    error = refusal(lambda: store.set(DB, Stage.CURRENT, Secret(VALUE)))
    assert isinstance(error, SecretStoreError) and "sealed" in str(error)
    assert len(vault.seen) == 1


def test_an_expired_token(vault: Vault, store: VaultStore) -> None:
    """A token that is refused is told as such, by reading and by writing."""
    store.set(DB, Stage.CURRENT, Secret(VALUE))
    vault.tokens.clear()
    for act in (lambda: store.get(DB, Stage.CURRENT), lambda: store.set(DB, Stage.CURRENT, Secret("other"))):
        error = refusal(act)
        assert isinstance(error, SecretStoreError) and "permission denied" in str(error)


def test_nobody_there() -> None:
    """Where nothing listens, the error says which address, after few attempts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = refusal(lambda: VaultStore(Access(f"http://127.0.0.1:{port}", TOKEN)).get(DB, Stage.CURRENT))
    assert isinstance(error, SecretStoreError) and f"127.0.0.1:{port} cannot be reached" in str(error)


def test_one_who_listens_and_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers is given up, and what was sent to it is not sent again."""
    monkeypatch.setattr("opskit.secrets.stores.vault.server._SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = VaultStore(Access(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN))
        assert "does not answer" in str(refusal(lambda: store.get(DB, Stage.CURRENT)))
        silent.settimeout(0.2)
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):
            silent.accept()


def test_a_redirect_does_not_get_the_token(vault: Vault, store: VaultStore) -> None:
    """Another server that the first one sends us to is never asked."""
    with vault_server.served() as hostile:
        hostile.put("secret/app", {"db": "theirs"})
        vault.redirect = hostile.url
        for act in (lambda: store.get(DB, Stage.CURRENT), lambda: store.set(DB, Stage.CURRENT, Secret(VALUE))):
            assert "a redirect is not followed" in str(refusal(act).hint)
        assert hostile.seen == [] and len(vault.seen) == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make a certificate")
def test_a_server_must_show_a_certificate_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes to a server with a certificate of VAULT_CACERT for its name, and to no other."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*new.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("VAULT_SKIP_VERIFY", "1")
    with vault_server.served(context) as vault:
        vault.put("secret/app", {"db": VALUE})
        right, wrong = vault.url.replace("127.0.0.1", "localhost"), vault.url
        for address, authority in ((right, None), (wrong, str(certificate))):
            error = refusal(
                lambda a=address, c=authority: VaultStore(Access(a, TOKEN, ca_file=c)).get(DB, Stage.CURRENT)
            )
            assert isinstance(error, SecretStoreError) and "is not trusted" in str(error)
        error = refusal(lambda: VaultStore(Access(right, TOKEN, ca_file="/none")).get(DB, Stage.CURRENT))
        assert "expected a readable certificate file, got /none" in str(error) and vault.seen == []
        assert VaultStore(Access(right, TOKEN, ca_file=str(certificate))).get(DB, Stage.CURRENT).reveal() == VALUE


def test_nothing_comes_from_the_surroundings(vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a proxy, a .netrc, nor the token of this process is used: only what was passed in."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password hunter2\n")
    (tmp_path / ".vault-token").write_text("hvs.of-somebody-else")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAULT_TOKEN", "hvs.of-this-process")
    with vault_server.served() as proxy:
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        secret_id = tmp_path / "id"
        secret_id.write_text(SECRET_ID)
        secret_id.chmod(0o600)
        vault.put("secret/app", {"db": VALUE})
        assert read_with(vault, VAULT_ROLE_ID=ROLE_ID, VAULT_SECRET_ID_FILE=str(secret_id))() == VALUE
        assert proxy.seen == []
    assert [each.get("x-vault-token") for each in vault.seen] == [None, "hvs.by-role-1"]
    assert not [each for each in vault.seen if "authorization" in each]


@pytest.mark.parametrize(
    "address",
    [
        "http://vault.example.org:8200",
        "http://10.0.0.1:8200",
        "http://127.0.0.1.example.org",
        "http://localhost.example.org",
        "http://127.0.0.1@example.org",
        "http://example.org\\@127.0.0.1",
        "http://example.org#@127.0.0.1",
        "http://[2001:db8::1]:8200",
        "vault.example.org:8200",
        "unix:///run/vault.sock",
        "https://user:hunter2@vault.example.org",
        "https://vault.example.org:port",
        "https://vault.example.org?namespace=a",
        "https://vault.example.org#a",
        "https://",
    ],
)
def test_addresses_that_are_not_safe(address: str) -> None:
    """Plain http to another machine is refused, however it is written, and what is no address; no name is asked for."""
    error = refusal(lambda: VaultStore(Access(address, TOKEN)).get(DB, Stage.CURRENT))
    assert isinstance(error, SecretStoreError) and str(error).startswith("VAULT_ADDR is ")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://vault.example.org/", "https://vault.example.org:443"),
        ("https://vault.example.org:8200/behind/", "https://vault.example.org:8200/behind"),
        ("http://localhost:8200", "http://localhost:8200"),
        ("http://127.8.0.1:8200", "http://127.8.0.1:8200"),
        ("http://[::1]:8200", "http://[::1]:8200"),
    ],
)
def test_addresses_that_are_safe(address: str, url: str) -> None:
    """https, and http to this machine."""
    assert Access(address).url() == url


def test_what_is_missing_is_named(vault: Vault, tmp_path: Path) -> None:
    """Without an address or a login, the error names the variables."""
    error = refusal(lambda: resolved(str(DB), {"VAULT_TOKEN": TOKEN}))
    assert "VAULT_ADDR" in str(error) and "VAULT_ADDR" in str(error.hint)
    error = refusal(read_with(vault, HOME=str(tmp_path), VAULT_TOKEN=""))
    assert "VAULT_TOKEN" in str(error) and "VAULT_ROLE_ID" in str(error.hint)
    error = refusal(read_with(vault, VAULT_ROLE_ID=ROLE_ID))
    assert "VAULT_SECRET_ID_FILE" in str(error)
    for variable in ("VAULT_TOKEN", "VAULT_NAMESPACE"):
        variables = {"VAULT_TOKEN": TOKEN, variable: "hunter2\nX-Other: 1"}
        assert f"{variable} is malformed" in str(refusal(read_with(vault, **variables)))
    assert vault.seen == []


def test_the_token_file_of_vault_login(vault: Vault, tmp_path: Path) -> None:
    """~/.vault-token is the last resort, refused while others can read it, and read again when it was replaced."""
    vault.put("secret/app", {"db": VALUE})
    file = tmp_path / ".vault-token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    read = read_with(vault, HOME=str(tmp_path))
    assert "is open to others" in str(refusal(read)) and vault.seen == []
    file.chmod(0o600)
    assert read() == VALUE
    vault.tokens = {"hvs.anew"}
    file.write_text("hvs.anew")
    assert read() == VALUE


def test_a_role_logs_in_once(vault: Vault, tmp_path: Path) -> None:
    """AppRole logs in once for all references of a process, and again when its token has expired."""
    secret_id = tmp_path / "secret-id"
    secret_id.write_text(f"{SECRET_ID}\n")
    secret_id.chmod(0o600)
    vault.put("secret/app", {"db": VALUE})
    read = read_with(vault, VAULT_ROLE_ID=ROLE_ID, VAULT_SECRET_ID_FILE=str(secret_id))
    assert [read() for _ in range(3)] == [VALUE] * 3
    assert vault.logins == 1
    vault.tokens.clear()
    assert read() == VALUE
    assert vault.logins == 2


def test_a_role_that_is_refused(vault: Vault, tmp_path: Path) -> None:
    """A secret id that is wrong, or that others can read, is told as such; one of systemd's credentials is taken."""
    secret_id = tmp_path / "secret-id"
    secret_id.write_text("hvs.wrong")
    secret_id.chmod(0o440)
    variables = {"VAULT_ROLE_ID": ROLE_ID, "VAULT_SECRET_ID_FILE": str(secret_id)}
    assert "is open to others" in str(refusal(read_with(vault, **variables))) and vault.seen == []
    error = refusal(read_with(vault, CREDENTIALS_DIRECTORY=str(tmp_path), **variables))
    assert "does not take the role id and secret id" in str(error) and vault.logins == 0


def test_without_the_library(vault: Vault, monkeypatch: pytest.MonkeyPatch, store: VaultStore) -> None:
    """Where hvac is absent, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "hvac", None)
    error = refusal(lambda: store.get(DB, Stage.CURRENT))
    assert isinstance(error, SecretStoreError) and "pip install 'opskit[vault]'" in str(error.hint)


def test_a_resolver_loads_no_library() -> None:
    """Those who have no secret in Vault do not pay for it."""
    code = (
        "import sys; from opskit import secretstores; secretstores.resolver({'VAULT_ADDR': 'https://x'});"
        "print({'hvac', 'requests', 'ssl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_no_repr_shows_a_token() -> None:
    """What is known of the login shows neither token nor role."""
    shown = repr(Access("https://x", TOKEN, role_id=ROLE_ID))
    assert TOKEN not in shown and ROLE_ID not in shown


def test_the_store_of_a_reference_can_be_written(vault: Vault) -> None:
    """What the wiring gives for a vault reference keeps a value, which its resolver then finds."""
    environ = {"VAULT_ADDR": vault.url, "VAULT_TOKEN": TOKEN}
    config = load(Path(str(resources.files("opskit.config") / "example.yaml")))
    set_secret(secretstores.store_of(DB, config, environ, lambda: 0.0), DB, Secret(VALUE))
    assert resolved(str(DB), environ) == VALUE

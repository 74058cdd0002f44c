"""The stores that the secrets of a story lie in: how each is reached, made to fail, and all that it was ever given."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from opskit.gpg import Keyring
from opskit.secrets.stores.aws.store import PLACEHOLDER
from tests.cli.sentinels.stage import Stage
from tests.secrets import aws_server, vault_server


@dataclass
class Place:
    """Where secrets lie; `values` gives all that were ever there, temporary ones too."""

    reference: Callable[[str], str]
    """To a secret by its name."""
    values: Callable[[], list[bytes]]
    fails: Callable[[], object]
    works: Callable[[], object]
    environ: dict[str, str] = field(default_factory=dict)


@contextmanager
def gpg(stage: Stage) -> Iterator[Place]:
    """The host's own file."""
    path = stage.machine.state / "secrets.gpg"

    def values() -> list[bytes]:
        found = []
        with Keyring(stage.machine.state / "gnupg") as keyring:
            for data in {contents[0] for where, contents in stage.recorded("file") if where == str(path)}:
                for stages in json.loads(keyring.decrypt(data).payload)["secrets"].values():
                    found += [each.encode() for each in stages.values()]
        return found

    yield Place(lambda name: f"gpg://{path}#{name}", values, lambda: path.chmod(0o644), lambda: path.chmod(0o600))


@contextmanager
def dotenv(stage: Stage) -> Iterator[Place]:
    """A .env file, which holds values in the clear."""
    path = stage.machine.folder / ".env"
    stage.private.append(path)

    def values() -> list[bytes]:
        versions = [contents[0] for where, contents in stage.recorded("file") if where == str(path)]
        return [value for data in versions for value in re.findall(rb"^\w+='([^']*)'", data, re.MULTILINE)]

    yield Place(
        lambda name: f"dotenv://{path}#{name.upper()}", values, lambda: path.chmod(0o644), lambda: path.chmod(0o600)
    )


@contextmanager
def keyring(stage: Stage) -> Iterator[Place]:
    """A key ring in a file, whose errors repeat what it was given."""
    path = stage.machine.folder / "key-ring"
    locked = path.with_name(f"{path.name}.locked")
    stage.private.append(path)

    def values() -> list[bytes]:
        lines = path.read_text().splitlines() if path.exists() else []
        return [value.encode() for _, _, value in map(json.loads, lines) if value]

    environ = {"SENTINEL_KEYRING": str(path)}
    yield Place(lambda name: f"keyring://app/{name}", values, locked.touch, locked.unlink, environ)


@contextmanager
def vault(stage: Stage) -> Iterator[Place]:
    """The double, whose errors repeat what it was sent."""
    with vault_server.served() as server:
        stage.secrets.add("token of vault", vault_server.TOKEN.encode())
        stage.given.add("VAULT_TOKEN")

        def values() -> list[bytes]:
            versions = [each for path in server.secrets.values() for each in path if each]
            return [value.encode() for each in versions for value in each.values() if isinstance(value, str)]

        environ = {"VAULT_ADDR": server.url, "VAULT_TOKEN": vault_server.TOKEN}
        works = lambda: server.tokens.add(vault_server.TOKEN)  # noqa: E731
        yield Place(lambda name: f"vault://secret/{name}#value", values, server.tokens.clear, works, environ)


@contextmanager
def aws(stage: Stage) -> Iterator[Place]:
    """AWS Secrets Manager, by moto."""
    environ = {
        aws_server.ENDPOINT: f"http://127.0.0.1:{aws_server.running().port}", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "hunter2-of-aws", "AWS_DEFAULT_REGION": aws_server.REGION,
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }  # fmt: skip
    stage.secrets.add("key of AWS", environ["AWS_SECRET_ACCESS_KEY"].encode())
    stage.given.add("AWS_SECRET_ACCESS_KEY")
    with aws_server.aws() as account:
        names = set[str]()

        def reference(name: str) -> str:
            names.add(account.reference(name).locator)
            return str(account.reference(name))

        def values() -> list[bytes]:
            texts = []
            for name in names:
                for each in account.client.list_secret_version_ids(SecretId=name, IncludeDeprecated=True)["Versions"]:
                    found = account.client.get_secret_value(SecretId=name, VersionId=each["VersionId"])
                    texts.append(found["SecretString"])
            return [each.encode() for each in texts if each != PLACEHOLDER]

        def fails() -> None:
            stage.environ[aws_server.ENDPOINT] = "http://127.0.0.1:9"

        yield Place(reference, values, fails, lambda: stage.environ.update(environ), environ)


PLACES: dict[str, Callable[[Stage], AbstractContextManager[Place]]] = {
    "gpg": gpg,
    "dotenv": dotenv,
    "keyring": keyring,
    "vault": vault,
    "aws-sm": aws,
}
"""All that take values, by scheme."""

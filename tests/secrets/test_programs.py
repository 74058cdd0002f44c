"""1Password, Bitwarden and LastPass, by programs that answer as theirs do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.reference import Reference
from opskit.secrets.stores import programs
from opskit.secrets.stores.programs import PROGRAMS, ProgramScheme

VALUE = "hunter2 'Xq9\\"
ITEM = {
    "name": "db", "notes": "a note",
    "login": {"username": "app", "password": VALUE, "totp": None, "uris": [{"match": None, "uri": "https://db"}]},
    "fields": [{"name": "api key", "value": "own-field"}, {"name": "notes", "value": "own-notes"}],
}  # fmt: skip


@pytest.fixture
def resolve(tmp_path: Path) -> Callable[..., str]:
    """Resolves a reference with a program in PATH that runs a piece of shell, and notes what it was given."""

    def resolve(reference: str, script: str, **environ: str) -> str:
        parsed = Reference.parse(reference)
        program = tmp_path / PROGRAMS[parsed.scheme].name
        program.write_text(f'#!/bin/sh\nenv > {tmp_path}/environ\nprintf "%s\\n" "$@" > {tmp_path}/argv\n{script}\n')
        program.chmod(0o755)
        given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), **environ}
        return ProgramScheme(PROGRAMS[parsed.scheme], given).resolve(parsed).reveal()

    return resolve


def said(value: str) -> str:
    """Shell that writes this to stdout."""
    return "printf %s '" + value.replace("'", "'\\''") + "'"


@pytest.mark.parametrize(
    ("reference", "answer", "value", "argv"),
    [
        ("op://prod/db/password", VALUE, VALUE, ["read", "--no-newline", "op://prod/db/password"]),
        (
            "op://prod/my%20db/extra/key?attribute=otp", VALUE, VALUE,
            ["read", "--no-newline", "op://prod/my db/extra/key?attribute=otp"],
        ),
        ("bw://db", json.dumps(ITEM), VALUE, ["--nointeraction", "get", "item", "db"]),
        ("bw://db#username", json.dumps(ITEM), "app", ["--nointeraction", "get", "item", "db"]),
        ("bw://db#uri", json.dumps(ITEM), "https://db", ["--nointeraction", "get", "item", "db"]),
        ("bw://db#api%20key", json.dumps(ITEM), "own-field", ["--nointeraction", "get", "item", "db"]),
        ("bw://db#notes", json.dumps(ITEM), "own-notes", ["--nointeraction", "get", "item", "db"]),
        ("lpass://work/db", f"{VALUE}\n", VALUE, ["show", "--quiet", "--password", "work/db"]),
        ("lpass://work/db#notes", "a\nb\n", "a\nb", ["show", "--quiet", "--notes", "work/db"]),
        ("lpass://work/db#api%20key", "x\n", "x", ["show", "--quiet", "--field=api key", "work/db"]),
    ],
)  # fmt: skip
def test_what_is_asked_and_answered(
    reference: str, answer: str, value: str, argv: list[str], resolve: Callable[..., str], tmp_path: Path
) -> None:
    """Each reference becomes the program's own question, and its answer the value, byte for byte."""
    assert resolve(reference, said(answer)) == value
    assert (tmp_path / "argv").read_text().splitlines() == argv


def test_the_program_sees_what_it_needs(resolve: Callable[..., str], tmp_path: Path) -> None:
    """Its own session, and nothing else that stands in our environment."""
    resolve("bw://db", said(json.dumps(ITEM)), BW_SESSION="session", AWS_SECRET_ACCESS_KEY="hunter3", OP_TOKEN="x")
    environ = (tmp_path / "environ").read_text()
    assert "BW_SESSION=session" in environ and "hunter3" not in environ and "OP_TOKEN" not in environ


@pytest.mark.parametrize(
    ("reference", "script", "kind", "message"),
    [
        (
            "op://prod/db/password",
            "echo '[ERROR] \"db\" isn'\\''t an item in \"prod\"' >&2; exit 1",
            SecretAbsent,
            "item",
        ),
        ("op://prod/db/password", "echo '[ERROR] not signed in' >&2; exit 1", SecretStoreError, "not signed in"),
        ("bw://db", "echo 'Not found.' >&2; exit 1", SecretAbsent, "Not found"),
        ("bw://db", "echo 'Vault is locked.' >&2; exit 1", SecretStoreError, "Vault is locked"),
        ("bw://db", "echo 'More than one result was found.' >&2; exit 1", SecretStoreError, "More than one"),
        ("bw://db#nope", said(json.dumps(ITEM)), SecretAbsent, "field 'nope'"),
        ("bw://db", "echo hunter2", SecretStoreError, "as the JSON of an item"),
        ("bw://db", "echo '[\"hunter2\"]'", SecretStoreError, "as the JSON of an item"),
        ("lpass://db", "echo 'Error: Could not find specified account(s).' >&2; exit 1", SecretAbsent, "specified"),
        ("lpass://db", "echo 'Error: Could not find decryption key.' >&2; exit 1", SecretStoreError, "decryption"),
        ("lpass://db", "echo hunter2; exit 3", SecretStoreError, "exit code 3"),
        ("lpass://db", "echo hunter2; echo no hunter2 >&2; exit 3", SecretStoreError, r"no \[secret\]"),
        ("bw://-x", "exit 0", UnresolvedReference, "expected the name or id"),
        ("lpass://-x", "exit 0", UnresolvedReference, "expected the name or id"),
        ("op://prod/db", "exit 0", UnresolvedReference, "expected op://VAULT/ITEM/FIELD"),
        ("bw://db?raw=1", "exit 0", UnresolvedReference, "unknown option"),
    ],
)
def test_what_fails(
    reference: str, script: str, kind: type[OpskitError], message: str, resolve: Callable[..., str]
) -> None:
    """A secret that is not there is told from a vault that cannot be asked, and no value is repeated."""
    with pytest.raises(OpskitError, match=message) as caught:
        resolve(reference, script)
    assert type(caught.value) is kind and "hunter2" not in f"{caught.value}{caught.value.hint}"
    assert caught.value.__cause__ is None


def test_a_program_that_waits_for_somebody(resolve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds nobody to ask, and is ended when it takes too long."""
    monkeypatch.setattr(programs, "TIMEOUT", 0.5)
    with pytest.raises(SecretStoreError, match="did not give bw://db within"):
        resolve("bw://db", "read answer; exec sleep 60")


def test_a_program_that_is_not_there() -> None:
    """The message says what to install, and how to log in."""
    scheme = ProgramScheme(PROGRAMS["op"], {"PATH": "/nonexistent"})
    with pytest.raises(SecretStoreError, match="expected it in PATH") as caught:
        scheme.resolve(Reference.parse("op://a/b/c"))
    assert "OP_SERVICE_ACCOUNT_TOKEN" in str(caught.value.hint)

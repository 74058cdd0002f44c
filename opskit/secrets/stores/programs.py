"""`op://`, `bw://` and `lpass://`: secrets in 1Password, Bitwarden and LastPass, read by the programs of those.

    op://VAULT/ITEM/FIELD, op://VAULT/ITEM/SECTION/FIELD      as `op read` takes it
    bw://ITEM[#FIELD]        by name or id; FIELD is password (the default), username, notes, uri or a custom field
    lpass://[FOLDER/]ITEM[#FIELD]     the same, by name or id

They are read, never written: none of them can be asked to write only if nothing has changed meanwhile, and all take the
new value where other users see it. Logging in is theirs too (OP_SERVICE_ACCOUNT_TOKEN, BW_SESSION, `lpass login`).

Invariants: argv lists, and no secret in them; the program sees the variables it needs and no others; it is never asked
to talk to a person, and ended when it takes too long. What it says on stderr is shown in one line, its stdout nowhere.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opskit.errors import SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.reference import Reference, Secret, refuse_unknown_parts
from opskit.secrets.words import last_words

TIMEOUT = 60.0
"""Seconds; a vault that has to be fetched first takes some."""
_COMMON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME",
           "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Program:
    """A program that gives secrets.

    `arguments` are those that ask for a reference, `value` finds the secret in what it answers, `variables` are the
    beginnings of names it may see, `absent` tells by what it says when there is no such secret, `login` is the hint.
    """

    name: str
    arguments: Callable[[Reference], Sequence[str]]
    value: Callable[[Reference, bytes], bytes]
    variables: tuple[str, ...]
    absent: re.Pattern[str]
    login: str
    settings: Mapping[str, str]


class ProgramScheme:
    """A scheme whose secrets a program gives; `environ` is what it may choose from."""

    def __init__(self, program: Program, environ: Mapping[str, str]) -> None:
        self._program, self._environ = program, environ

    def resolve(self, reference: Reference) -> Secret:
        """The secret. Raises UnresolvedReference, SecretAbsent, SecretStoreError."""
        program = self._program
        arguments = program.arguments(reference)
        path = shutil.which(program.name, path=self._environ.get("PATH"))
        if path is None:
            raise SecretStoreError(
                f"{reference} is given by the program {program.name}: expected it in PATH, found none",
                hint=f"install {program.name}, and log in: {program.login}",
            )
        return Secret(program.value(reference, self._answer(reference, [path, *arguments])))

    def _answer(self, reference: Reference, command: list[str]) -> bytes:
        program = self._program
        variables = {
            name: value
            for name, value in self._environ.items()
            if name in _COMMON or name.startswith(program.variables)
        }
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False,
                env={**variables, **program.settings}, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            # `from None`: the cause carries what the program said so far.
            raise SecretStoreError(
                f"{program.name} did not give {reference} within {TIMEOUT:.0f} s", hint=f"try: {program.login}"
            ) from None
        except OSError as error:
            raise SecretStoreError(f"cannot run {program.name}: {(error.strerror or 'error').lower()}") from None
        if done.returncode == 0:
            return done.stdout
        words = last_words(done.stdout, done.stderr)
        if program.absent.search(words):
            raise SecretAbsent(f"{reference} cannot be resolved: {program.name} says: {words}")
        told = words or f"exit code {done.returncode}"
        raise SecretStoreError(f"{program.name} did not give {reference}: {told}", hint=f"try: {program.login}")


def _op_arguments(reference: Reference) -> Sequence[str]:
    refuse_unknown_parts(reference, options=("attribute",))
    if not 3 <= len(reference.locator.strip("/").split("/")) <= 4:
        raise UnresolvedReference(f"{reference} is malformed: expected op://VAULT/ITEM/FIELD")
    attribute = reference.option("attribute")
    return ["read", "--no-newline", f"op://{reference.locator}" + (f"?attribute={attribute}" if attribute else "")]


def _as_it_is(reference: Reference, answer: bytes) -> bytes:
    del reference
    return answer


def _bw_arguments(reference: Reference) -> Sequence[str]:
    _require_item(reference)
    return ["--nointeraction", "get", "item", reference.locator]


def _bw_value(reference: Reference, answer: bytes) -> bytes:
    field = reference.field or "password"
    try:
        item = json.loads(answer)
        login = item.get("login") or {}
        uris = [each.get("uri") for each in login.get("uris") or ()]
        known = {"password": login.get("password"), "username": login.get("username"), "notes": item.get("notes"),
                 "uri": uris[0] if uris else None}  # fmt: skip
        own = {each.get("name"): each.get("value") for each in item.get("fields") or ()}
        found = own.get(field) if field in own else known.get(field)
    except (ValueError, AttributeError, TypeError):
        # `from None`: the cause would carry the item.
        raise SecretStoreError(f"bw did not give {reference} as the JSON of an item") from None
    if not isinstance(found, str):
        raise SecretAbsent(f"{reference} cannot be resolved: expected a field {field!r} in that item, found none")
    return found.encode()


def _lpass_arguments(reference: Reference) -> Sequence[str]:
    _require_item(reference)
    known = {"password": "--password", "username": "--username", "notes": "--notes", "url": "--url"}
    field = reference.field or "password"
    return ["show", "--quiet", known.get(field, f"--field={field}"), reference.locator]


def _without_line_end(reference: Reference, answer: bytes) -> bytes:
    del reference
    return answer.removesuffix(b"\n")


def _require_item(reference: Reference) -> None:
    if reference.options:
        raise UnresolvedReference(f"{reference} has an unknown option: expected none, got '{reference.options[0][0]}'")
    if reference.locator.startswith("-"):  # the program would take it for an option of its own
        raise UnresolvedReference(f"{reference} is malformed: expected the name or id of an item")


PROGRAMS: Mapping[str, Program] = {
    "op": Program(
        "op", _op_arguments, _as_it_is, ("OP_",),
        re.compile("isn't an? (item|vault|field)|does not have a field|could not find", re.IGNORECASE),
        "op signin, or OP_SERVICE_ACCOUNT_TOKEN for a server", {},
    ),
    "bw": Program(
        "bw", _bw_arguments, _bw_value, ("BW_", "BITWARDENCLI_"),
        re.compile("not found", re.IGNORECASE), "bw unlock, and export BW_SESSION", {},
    ),
    "lpass": Program(
        "lpass", _lpass_arguments, _without_line_end, ("LPASS_",),
        re.compile("could not find specified account", re.IGNORECASE), "lpass login NAME",
        {"LPASS_DISABLE_PINENTRY": "1", "LPASS_AUTO_SYNC_TIME": "60"},
    ),
}  # fmt: skip
"""By scheme."""

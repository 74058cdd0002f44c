"""`opskit secrets`: look at references, read and change what they lead to, hand it to programs.

A reference is safe to print, what it stands for is not: `get` alone writes a value, to stdout, because it was asked to.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opskit.audit.event import Event
    from opskit.config.model import Config
    from opskit.errors import OpskitError
    from opskit.secrets.base import SecretStore
    from opskit.secrets.reference import Reference, Secret

app = noun("Try references to secrets, read and change what they lead to, hand it to programs.")

ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REFERENCE", help="Where the secret is, as gpg:///srv/secrets.gpg#db or env:NAME.")
]
DEFAULT_LENGTH = 32


class _Tried(NamedTuple):
    """What came of a reference; `risk` says why another would be better."""

    reference: str
    used_by: list[str]
    error: OpskitError | None
    risk: str | None

    def as_json(self) -> dict[str, object]:
        """For --json."""
        error = None if self.error is None else str(self.error)
        return {
            "reference": self.reference, "used_by": self.used_by,
            "ok": error is None, "error": error, "warning": self.risk,
        }  # fmt: skip

    def tell(self, context: Context) -> None:
        """One line, and what is wrong."""
        from opskit.cli.render import printable

        mark = context.styled("failed", "red") if self.error else context.styled("ok", "green")
        used = f"   {printable(', '.join(self.used_by))}" if self.used_by else ""
        context.write(f"{mark}  {printable(self.reference)}{used}")
        if self.risk is not None:
            context.warning(printable(self.risk))
        if self.error is not None:
            context.warning(printable(str(self.error)))
            if self.error.hint:
                context.hint(printable(self.error.hint))


@app.command("list")
def list_references(
    typer_context: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="[gpg:///FILE]", help="List the secrets of this file instead.")
    ] = None,
) -> None:
    """List the references of the config and the keys they stand at; nothing is resolved."""
    context = Context.of(typer_context)
    if file is not None:
        _list_file(context, file)
        return
    places = _places(context)
    if context.json:
        context.write_json([{"reference": each, "used_by": keys} for each, keys in places.items()])
        return
    if not places:
        context.message("the config names no secret")
    _write_table(context, ["reference", "used by"], places)


def _list_file(context: Context, file: str) -> None:
    """The names in a file, which are not secret, and the stages in which each has a value."""
    from opskit import wiring
    from opskit.cli.auditing import audited, judged

    parsed = _parsed(file)
    with audited(context, context.load_config(), "secrets.list", str(parsed), changes=False) as event:
        found = wiring.secrets_in(parsed)
        judged(event, 0)
    if context.json:
        context.write_json([{"name": name, "stages": stages} for name, stages in found.items()])
        return
    if not found:
        context.message(f"{parsed} holds no secret")
    _write_table(context, ["secret", "values"], found)


def _write_table(context: Context, header: list[str], rows: Mapping[str, list[str]]) -> None:
    from opskit.cli.render import printable, table

    cells = [[printable(name), printable(", ".join(words))] for name, words in rows.items()]
    for line in table(cells, header) if cells else ():
        context.write(line)


@app.command()
def doctor(
    typer_context: typer.Context,
    references: Annotated[
        list[str] | None, typer.Argument(metavar="[REFERENCE]...", help="Try these; else all of the config.")
    ] = None,
) -> int | None:
    """Try whether references can be resolved here and now, and say what is wrong; shows no value."""
    from opskit.cli.auditing import audited, judged

    context = Context.of(typer_context)
    config = context.load_config()
    places = {each: list[str]() for each in references} if references else _places(context)
    with audited(context, config, "secrets.doctor", changes=False) as event:
        found = _tried(context, config, places)
        failed = sorted(each.reference for each in found if each.error)
        code = judged(event, 3 if failed else 0, references=len(found), failed=failed)
    if context.json:
        context.write_json([each.as_json() for each in found])
        return code
    for each in found:
        each.tell(context)
    return code


@app.command()
def get(
    typer_context: typer.Context,
    reference: ReferenceArgument,
    no_newline: Annotated[bool, typer.Option("--no-newline", "-n", help="Write the value and nothing else.")] = False,
) -> None:
    """Write the value of a secret to stdout."""
    from opskit import wiring
    from opskit.cli.auditing import judged
    from opskit.secrets.reference import Reference

    context = Context.of(typer_context)
    resolver = wiring.resolver(context.environ)
    parsed = Reference.parse(reference, resolver.schemes)
    with _noted(context, "secrets.get", str(parsed)) as event:
        secret = resolver.resolve(parsed)
        judged(event, 0)
    if context.json:
        context.write_json({"reference": str(parsed), "value": secret.reveal()})
        return
    output = context.binary_output()
    output.write(secret.reveal_bytes() + (b"" if no_newline else b"\n"))
    output.flush()


@app.command("set")
def set_value(
    typer_context: typer.Context,
    reference: ReferenceArgument,
    generate: Annotated[bool, typer.Option("--generate", help="Make a random value, and show it to nobody.")] = False,
    length: Annotated[
        int, typer.Option("--length", min=16, max=4096, metavar="N", help="Characters of a random value.")
    ] = DEFAULT_LENGTH,
) -> None:
    """Give a secret a new value, from stdin or asked for; the one before is kept as ?stage=previous."""
    from opskit import log, rotations, wiring
    from opskit.cli.auditing import audited, judged
    from opskit.secrets.base import Stage, in_stage
    from opskit.secrets.setting import set_secret

    context = Context.of(typer_context)
    config = context.load_config()
    store, parsed = _store(context, reference, stage=False)
    secret = _generated(length) if generate else _given(context)
    log.register_secret(secret.reveal_bytes())
    with audited(context, config, "secrets.set", str(parsed)) as event, wiring.alone_with_secrets(config):
        rotations.require_unrotated(parsed, config)
        had_another = set_secret(store, parsed, secret)
        judged(event, 0)
    if context.json:
        context.write_json({"reference": str(parsed), "replaced": had_another})
    before = f"; what it was before is {in_stage(parsed, Stage.PREVIOUS)}" if had_another else ""
    context.message(f"{parsed} is set{before}")


@app.command()
def delete(
    typer_context: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE?stage=STAGE", help="Which value: pending, current or previous.")
    ],
) -> None:
    """Delete one value of a secret; which stage must be said."""
    from opskit import rotations, wiring
    from opskit.cli.auditing import audited, judged
    from opskit.errors import UsageError
    from opskit.secrets.base import Stage, in_stage, staged
    from opskit.secrets.setting import value_in

    context = Context.of(typer_context)
    config = context.load_config()
    store, parsed = _store(context, reference, stage=True)
    if parsed.option("stage") is None:
        raise UsageError(
            f"which value of {parsed}: expected ?stage=pending, current or previous at its end",
            hint=f"the value before the last change: opskit secrets delete '{in_stage(parsed, Stage.PREVIOUS)}'",
        )
    with audited(context, config, "secrets.delete", str(parsed)) as event, wiring.alone_with_secrets(config):
        rotations.require_unrotated(staged(parsed)[0], config)
        was_there = value_in(store, *staged(parsed)) is not None
        store.delete(*staged(parsed))
        judged(event, 0, deleted=was_there)
    if context.json:
        context.write_json({"reference": str(parsed), "deleted": was_there})
    context.message(f"{parsed} is deleted" if was_there else f"{parsed} was not there")


@app.command("exec", context_settings={"allow_extra_args": False})
def execute(
    typer_context: typer.Context,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARG]...", help="What to run; no shell.")],
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=REFERENCE", help="A variable of the program; repeatable."),
    ] = None,
    no_mask: Annotated[
        bool, typer.Option("--no-mask", help="Leave its output alone; it then sees the terminal.")
    ] = False,
) -> int:
    """Run a program with secrets in its environment, and hide them in its output; its exit code is ours."""
    from opskit import log, wiring
    from opskit.cli.auditing import judged
    from opskit.secrets.masking import SHORTEST
    from opskit.secrets.running import run

    context = Context.of(typer_context)
    resolver = wiring.resolver(context.environ)
    wanted = {name: _parsed(text) for name, text in map(_assignment, env or ())}
    details = {name: str(each) for name, each in wanted.items()}
    with _noted(context, "secrets.exec", command[0], variables=details) as event:
        values = {name: resolver.resolve(each).reveal_bytes() for name, each in wanted.items()}
        for value in values.values():
            log.register_secret(value)
        short = [name for name, value in values.items() if len(value) < SHORTEST]
        if short and not no_mask:
            context.warning(f"too short to be hidden in the output: {', '.join(short)}")
        context.flush()
        return judged(event, run(command, context.environ, values, mask=not no_mask))


def _tried(context: Context, config: Config, places: Mapping[str, list[str]]) -> list[_Tried]:
    """Resolve each reference, and forget what it stands for."""
    from opskit import wiring
    from opskit.config.references import risk_of
    from opskit.errors import OpskitError

    resolver, found = wiring.resolver(context.environ), list[_Tried]()
    for each, keys in places.items():
        try:
            resolver.resolve(each)
            found.append(_Tried(_label(each), keys, None, risk_of(_parsed(each), config.environment)))
        except OpskitError as error:
            found.append(_Tried(_label(each), keys, error, None))
    return found


@contextmanager
def _noted(context: Context, op: str, target: str, **details: object) -> Iterator[Event]:
    """Into the audit log; where there is no config there is none, and reading a secret needs none."""
    from opskit.audit.event import Event
    from opskit.cli.auditing import audited
    from opskit.errors import ConfigError

    try:
        context.find_config()
    except ConfigError:
        if context.config_option is not None or context.environ.get("OPSKIT_CONFIG"):
            raise
        yield Event("")
        return
    with audited(context, context.load_config(), op, target, changes=False, **details) as event:
        yield event


def _places(context: Context) -> dict[str, list[str]]:
    """Each reference of the config with the keys it stands at."""
    from opskit.config.references import references_in

    places: dict[str, list[str]] = {}
    for key, reference in references_in(context.load_config()):
        places.setdefault(str(reference), []).append(key)
    return places


def _label(text: str) -> str:
    """What may be shown of what somebody typed: a reference; anything else may be a secret."""
    from opskit.errors import UnresolvedReference

    try:
        return str(_parsed(text))
    except UnresolvedReference:
        return "(no reference)"


def _parsed(text: str) -> Reference:
    from opskit.secrets.reference import Reference

    return Reference.parse(text)


def _assignment(text: str) -> tuple[str, str]:
    """NAME=REFERENCE; what is none is not repeated, for it may hold a secret."""
    import re

    from opskit.errors import UsageError

    name, equals, reference = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError("--env: expected NAME=REFERENCE, NAME of A-Z, 0-9 and _, got something else")
    return name, reference


def _store(context: Context, text: str, *, stage: bool) -> tuple[SecretStore, Reference]:
    """The store that a reference lies in; raises UsageError where it names a stage and may not."""
    from opskit import wiring
    from opskit.errors import UsageError

    parsed = _parsed(text)
    if parsed.option("stage") is not None and not stage:
        raise UsageError(f"{parsed}: expected a reference without ?stage=, as a new value becomes the current one")
    return wiring.secret_store(parsed, context.load_config(), context.environ), parsed


def _generated(length: int) -> Secret:
    """Random characters that need no quoting in URLs, shells and config files."""
    import secrets
    import string

    from opskit.secrets.reference import Secret

    letters = string.ascii_letters + string.digits
    return Secret("".join(secrets.choice(letters) for _ in range(length)))


def _given(context: Context) -> Secret:
    """From stdin, without its last line end; on a terminal it is asked for twice."""
    from opskit.errors import UsageError
    from opskit.secrets.reference import Secret
    from opskit.secrets.setting import LARGEST

    if context.stdin.isatty():
        value = _asked(context)
    else:
        value = context.stdin.buffer.read(LARGEST + 3)  # of a value that is too large something is left to be seen
        value = value[:-2] if value.endswith(b"\r\n") else value.removesuffix(b"\n")
    if not value:
        raise UsageError("expected a value on stdin, got nothing", hint="--generate makes a random one")
    if len(value) > LARGEST:
        raise UsageError(f"expected a secret of at most {LARGEST:,} bytes, got more")
    return Secret(value)


def _asked(context: Context) -> bytes:
    from getpass import getpass

    from opskit.errors import UsageError

    try:
        value = getpass("the new value: ", stream=context.stderr)
        again = getpass("the same again: ", stream=context.stderr)
    except (EOFError, UnicodeError):
        raise UsageError("expected a value in UTF-8, twice, got none: nothing was changed") from None
    if value != again:
        raise UsageError("the two values differ: nothing was changed")
    return value.encode()

"""`opskit config`: check, show and explain the configuration; nothing here changes an existing file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.render import counted, printable
from opskit.errors import ConfigError

if TYPE_CHECKING:
    from opskit.config.model import Config

app = noun("Check, show and explain the config.")


@app.command()
def validate(typer_context: typer.Context) -> None:
    """Check the config; all its errors are shown at once."""
    from opskit.config.dangers import warnings
    from opskit.config.load import load

    context = Context.of(typer_context)
    path = context.find_config()
    config = load(path)
    risks = [*_deleted_recipients(config), *warnings(config)]
    if context.json:
        names = {"sources": list(config.sources), "destinations": list(config.destinations)}
        context.write_json({"ok": True, "file": path, **names, "warnings": risks})
        return
    for risk in risks:
        context.warning(risk)
    sources, destinations = counted(len(config.sources), "source"), counted(len(config.destinations), "destination")
    context.write(f"ok: {printable(str(path))}: {sources}, {destinations}")


@app.command()
def show(typer_context: typer.Context) -> None:
    """Show the config in effect, with defaults filled in; secrets stay references."""
    from opskit.config.render import render, values

    context = Context.of(typer_context)
    config = context.load_config()
    if context.json:
        context.write_json(values(config))
    else:
        context.write(render(config).rstrip("\n"))


@app.command()
def schema(typer_context: typer.Context) -> None:
    """Write the JSON Schema of a config file, for editors."""
    from opskit.config.schema import json_schema

    Context.of(typer_context).write_json(json_schema())


@app.command()
def generate(
    typer_context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to; stdout unless given.")] = None,
) -> None:
    """Write an example config with every key explained; never over an existing file."""
    from opskit.config.render import example

    context = Context.of(typer_context)
    if file is None:
        context.write(example().rstrip("\n"))
        return
    _create(file, example())
    name = printable(str(file))
    context.message(f"wrote {name}")
    context.hint(f"edit it, then: opskit --config {name} config validate")


@app.command(name="iam-policy")
def iam_policy(
    typer_context: typer.Context,
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="A destination in an S3 bucket.")],
    may: Annotated[
        str,
        typer.Option("--may", metavar="put|backup|maintain", help="What it allows; backup reads, and never deletes."),
    ] = "backup",
) -> None:
    """Write the least IAM policy for a destination in a bucket of AWS."""
    from opskit import wiring
    from opskit.errors import UsageError

    context = Context.of(typer_context)
    part = next((each for each in wiring.PARTS if each == may), None)
    if part is None:
        raise UsageError(f"--may: expected {', '.join(wiring.PARTS)}, got {may!r}")
    context.write(wiring.iam_policy_of(context.load_config(), destination, part))


def _deleted_recipients(config: Config) -> list[str]:
    """What the state folder of this host tells against recipients; raises ConfigError where that is damaged."""
    from opskit.cli.opening import deleted_recipients
    from opskit.repository.deleted_keys import HINT

    try:
        return [f"{text}; {HINT}" for text in deleted_recipients(config)]
    except ConfigError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        # Anybody may judge a config, also who may not look into the state folder.
        return [f"keys.recipients: whose private key was deleted is not known here: {error}"]


def _create(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists: expected a new file", hint="give another name") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {(error.strerror or 'error').lower()}") from error
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)

"""The global options, accepted before and after the name of a command.

They are declared once, on the program; `share` gives the same parameters to every command, so that they are parsed,
completed and explained there too, and nothing has to guess whether `--json` is an option or the value of another one.
Each writes straight into the Context: a flag given at either place counts, of two `--config` the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from opskit import __version__, log
from opskit.cli.context import Context
from opskit.errors import UsageError

GLOBAL_NAMES = ("config_file", "json", "quiet", "debug", "no_color", "version")


def _set_config(context: typer.Context, value: str | None) -> None:
    if value is not None and not context.resilient_parsing:
        Context.of(context).config_option = Path(value)


def _set_flag(context: typer.Context, parameter: typer.CallbackParam, value: bool) -> None:
    if value and not context.resilient_parsing:
        setattr(Context.of(context), str(parameter.name), True)


def _set_debug(context: typer.Context, parameter: typer.CallbackParam, value: bool) -> None:
    _set_flag(context, parameter, value)
    if value:
        log.set_level("debug")


def _show_version(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:
        Context.of(context).write(f"opskit {__version__}")
        raise typer.Exit


def program(
    context: typer.Context,
    config_file: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="The config; else $OPSKIT_CONFIG, then opskit.yaml in ., ~/.config/opskit or /etc/opskit.",
            callback=_set_config,
            expose_value=False,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Write the result as JSON.", callback=_set_flag, expose_value=False)
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="No progress, no messages.", callback=_set_flag, expose_value=False),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Tell every step; show tracebacks.", callback=_set_debug, expose_value=False),
    ] = False,
    no_color: Annotated[
        bool,
        typer.Option("--no-color", help="No colours; so does $NO_COLOR.", callback=_set_flag, expose_value=False),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, expose_value=False, is_eager=True
        ),
    ] = False,
) -> None:
    """Encrypted 3-2-1 backups, proven restores and the evidence for both."""


def _process(parameter: Any, slowly: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    """The value that the command gets, without Typer's coercion where it is absent, text, texts or a path.

    Typer 0.29 coerces every value with pydantic, whose import costs as much as all else in `opskit restore --help`.
    Whether a path is there and readable is told by whoever opens it, in our words.
    """
    wanted = parameter.type_descriptor.annotation
    if value is None and not parameter.required:
        value = () if parameter.multiple or parameter.nargs == -1 else None
    elif wanted is Path and isinstance(value, str):
        value = Path(value)
    elif wanted == list[str] and isinstance(value, list | tuple) and (value or not parameter.required):
        value = list(value)
    elif not (wanted is str and isinstance(value, str)):
        return slowly(ctx, value)
    return parameter.callback(ctx, parameter, value) if parameter.callback else value


class _QuickOption(TyperOption):
    def process_value(self, ctx: Any, value: Any) -> Any:
        return _process(self, super().process_value, ctx, value)


class _QuickArgument(TyperArgument):
    def get_usage_pieces(self, ctx: Any) -> list[str]:
        """The name as it was given, whose brackets and dots say all; Typer would add more of them."""
        return [self.metavar] if self.metavar else super().get_usage_pieces(ctx)

    def get_help_record(self, ctx: Any) -> tuple[str, str] | None:
        """The name as it was given and what it means, without the type that Python has for it."""
        record = super().get_help_record(ctx)
        return (self.metavar, record[1]) if record is not None and self.metavar else record

    def process_value(self, ctx: Any, value: Any) -> Any:
        return _process(self, super().process_value, ctx, value)


_QUICK: dict[type, type] = {TyperOption: _QuickOption, TyperArgument: _QuickArgument}


class Command(TyperCommand):
    """A command whose help keeps the global options apart from its own."""

    def get_help_option(self, ctx: Any) -> Any:
        """The `--help` of Typer, which it makes by itself."""
        return quickened(super().get_help_option(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of parameters."""
        _write_parameters(self, ctx, formatter)


class Group(TyperGroup):
    """A group whose help keeps the global options apart from its own, and whose errors are ours."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named. Raises UsageError when there is none, with the likely one."""
        name = args[0]
        if name not in self.commands and not ctx.resilient_parsing and not name.startswith("-"):
            import difflib  # here: only mistakes pay for it

            close = difflib.get_close_matches(name, self.commands, n=1)
            advice = f"did you mean '{close[0]}'? " if close else ""
            hint = f"{advice}`{ctx.command_path} --help` lists the commands"
            raise UsageError(f"no such command '{name}'", hint=hint)
        return super().resolve_command(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        """The `--help` of Typer, which it makes by itself."""
        return quickened(super().get_help_option(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the sections of parameters."""
        self.format_commands(ctx, formatter)
        _write_parameters(self, ctx, formatter)


def noun(help: str | None = None) -> typer.Typer:
    """The app of one module below opskit.cli: a single command, or with `help` a group of commands."""
    app = typer.Typer(cls=Group, help=help, add_completion=False, rich_markup_mode=None)
    if help is not None:
        # Without a callback Typer takes a group with one command for that command.
        app.callback()(_group)
    return app


def _group() -> None:
    pass


def build(app: typer.Typer, shared: Sequence[Any]) -> Any:
    """The command (or group) that `app` describes, all of it with the `shared` parameters as well."""
    for registered in app.registered_commands:
        if registered.cls in (None, TyperCommand):
            registered.cls = Command
    command = typer.main.get_command(app)
    _share(command, shared)
    return command


def _share(command: Any, shared: Sequence[Any]) -> None:
    command.params = [*map(quickened, command.params), *shared]
    for child in getattr(command, "commands", {}).values():
        # The whole first line: Typer would cut it to fit.
        child.short_help = (child.help or "").partition("\n")[0]
        _share(child, shared)


def quickened(parameter: Any) -> Any:
    """A parameter that Typer built, exempt from needless coercion; Typer offers no place to name its class."""
    if type(parameter) in _QUICK:
        parameter.__class__ = _QUICK[type(parameter)]
    return parameter


def _write_parameters(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "Global options": []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            is_global = parameter.name in GLOBAL_NAMES
            title = "Arguments" if is_argument else "Global options" if is_global else "Options"
            sections[title].append(record)
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)

"""The table of commands, and the program that loads a command's module only when that command runs.

Help and completion of the program itself come from the table, so they cost no import; a test holds the table against
the modules. To add a command: write opskit/cli/NAME.py with an `app` (see `options.noun`) and add its line here.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import typer
from typer.core import TyperCommand

from opskit.cli.context import Context
from opskit.cli.options import GLOBAL_NAMES, Group, build, program, quickened

# Name → (module below opskit.cli with an `app`, the first line of its help), in the order of `opskit --help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "Make config, host key and repositories; safe to repeat."),
    "backup": ("backup", "Back up the sources to every destination, in one read."),
    "restore": ("restore", "Restore a snapshot, a folder or a file of it."),
    "snapshots": ("snapshots", "List the snapshots and the copies that hold them."),
    "ls": ("ls", "List a folder of a snapshot."),
    "find": ("find", "Find files in snapshots by name."),
    "mount": ("mount", "Show snapshots as a read-only folder, until Ctrl-C or umount."),
    "status": ("status", "Show whether each source is kept 3-2-1, and what to do where it is not."),
    "verify": ("verify", "Read the copies back and compare every object; needs no private key."),
    "sync": ("sync", "Copy to destinations what they lack, from others; needs no private key."),
    "heal": ("heal", "Replace what is damaged or missing at destinations from others; needs no private key."),
    "forget": ("forget", "Mark snapshots that retention does not keep; prune deletes them after a grace."),
    "prune": ("prune", "Delete what no snapshot needs, after a grace; needs no private key but a maintainer's."),
    "drill": ("drill", "Prove that copies restore: drills, their list and their reports."),
    "hold": ("hold", "Keep a snapshot from retention, or list what is held."),
    "diff": ("diff", "Show what differs between two snapshots."),
    "stats": ("stats", "Show what fills the copies, and how much of it the snapshots need."),
    "audit": ("audit", "Read and verify the record of what was done."),
    "keys": ("keys", "Show, print and change the keys of the backups, and who can read them."),
    "secrets": ("secrets", "Try references to secrets, read and change what they lead to, hand it to programs."),
    "rotate": ("rotate", "Give secrets new values, step by step: plan, run, resume, undo; and see what is due."),
    "demo": ("demo", "Show backup, damage and restore on PATH or sample tokens."),
    "config": ("config", "Check, show and explain the config."),
}
PROGRAM = "opskit"


class LazyGroup(Group):
    """The program: knows every command by name and one line of help, and loads the one that is asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, line) in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=line, short_help=line, rich_markup_mode=None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to run or complete, in place of its entry in the table."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and self.load(name), rest

    def load(self, name: str) -> Any:
        """Import a command's module and build the command."""
        module = importlib.import_module(f"opskit.cli.{COMMANDS[name][0]}")
        command = build(module.app, [each for each in self.params if each.name in GLOBAL_NAMES])
        command.name = name
        return command


def command_line(arguments: list[str], context: Context) -> int:
    """Parse the arguments, run the command, and give its exit code: None of a command is 0."""
    command = root()
    if f"_{PROGRAM}_COMPLETE".upper() in os.environ:
        command.main(arguments, prog_name=PROGRAM, obj=context)  # answers the shell and raises SystemExit
    if not arguments:
        arguments = ["--help"]
    try:
        with command.make_context(PROGRAM, arguments, obj=context) as typer_context:
            return command.invoke(typer_context) or 0
    except typer.Exit as finished:
        return finished.exit_code


def root() -> LazyGroup:
    """The program as a command of Typer."""
    app = typer.Typer(
        name=PROGRAM,
        cls=LazyGroup,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(program)
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    group.params = [quickened(parameter) for parameter in group.params]
    return group

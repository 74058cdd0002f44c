"""The table of commands, lazy loading, help and completion."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from opskit.cli import commands, main
from tests.cli.hosts import Machine
from tests.cli.running import COMPLETE, OPSKIT, clean, opskit, python

IMPORTED = """
import json, sys
from opskit.cli import main
codes = [main(line.split()) for line in sys.argv[1:]]
print(json.dumps([codes, sorted(sys.modules)]), file=sys.stderr)
"""
HEAVY = {"pydantic", "pydantic_core", "rich", "structlog", "boto3", "yaml", "gnupg", "zstandard", "psutil", "asyncio"}


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_table_says_what_the_commands_say(name: str) -> None:
    """The help line in the table is the first line of the command's own help."""
    command = commands.root().load(name)
    assert command.help.splitlines()[0] == commands.COMMANDS[name][1]


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_of_every_command_explains_the_global_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help lists its own options and the global ones apart, and exits with 0."""
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {option} " in shown.split("Global options:")[1] for option in ("--config", "--json", "--quiet"))


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("backup", "backup [OPTIONS] [SOURCE]..."),
        ("find", "find [OPTIONS] PATTERN..."),
        ("restore", "restore [OPTIONS] SNAPSHOT[:PATH]"),
        ("diff", "diff [OPTIONS] SNAPSHOT SNAPSHOT [PATH]"),
    ],
)
def test_help_names_arguments_as_people_do(name: str, usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The usage line has each argument once, in its own brackets, and no help shows a type of Python."""
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == f"Usage: opskit {usage}"
    assert "<str>" not in shown and "list[" not in shown and "<path>" not in shown


def imported(*lines: str, **environ: str) -> set[str]:
    """The modules loaded after these command lines ran, all in one process."""
    codes, modules = json.loads(python(IMPORTED, *lines, **environ).stderr)
    assert set(codes) == {0}
    return set(modules)


def test_help_imports_nothing_heavy() -> None:
    """The help of every command loads no third-party package but Typer, or the promise of a quick start is broken."""
    loaded = imported("--help", "--version", *(f"{name} --help" for name in commands.COMMANDS))
    assert HEAVY & loaded == set()


def test_everyday_commands_load_no_schema(machine: Machine, tmp_path: Path) -> None:
    """Once a config is known to be good, backup and restore start without pydantic and YAML, whatever their options."""
    home = tmp_path / "home"
    home.mkdir()
    config = f"--quiet --config {machine.config}"
    restore = f"restore data@latest --target {tmp_path / 'out'} --key {machine.key} --destination a"
    assert {"pydantic", "yaml"} <= imported(f"{config} backup", HOME=str(home))
    loaded = imported(f"{config} backup data --tag one", f"{config} {restore}", HOME=str(home))
    assert {"pydantic", "pydantic_core", "yaml", "rich", "structlog", "pathspec"} & loaded == set()


def test_the_first_backup_after_init_loads_no_schema(machine: Machine, tmp_path: Path) -> None:
    """What init wrote it has judged as well: the command that follows it does not judge the same file again."""
    home, config = tmp_path / "home", tmp_path / "new.yaml"
    home.mkdir()
    init = f"init --state-dir {tmp_path / 'state'} --source data={machine.source} --destination a={tmp_path / 'new'}"
    recipient = f"--new-recipient R --recovery-key {tmp_path / 'key.asc'} --no-passphrase"
    made = opskit("--config", config, *init.split(), *recipient.split(), HOME=str(home))
    assert made.returncode == 0, made.stderr
    loaded = imported(f"--quiet --config {config} backup", HOME=str(home))
    assert {"pydantic", "yaml"} & loaded == set()


def test_help_of_the_program_imports_no_command() -> None:
    """`opskit --help` lists the commands from the table alone."""
    modules = {f"opskit.cli.{module}" for module, _ in commands.COMMANDS.values()}
    assert modules & imported("--help") == set()


def complete(line: str, cwd: Path) -> list[str]:
    """What bash would offer for the last word of a command line."""
    words = line.split(" ")
    run = opskit(cwd=cwd, **COMPLETE, COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert run.stderr == ""
    return run.stdout.split()


def test_completion_offers_commands_and_options(tmp_path: Path) -> None:
    """bash completion knows the commands, their commands, and the global options behind them."""
    assert complete("opskit ", tmp_path) == list(commands.COMMANDS)
    assert complete("opskit conf", tmp_path) == ["config"]
    assert complete("opskit config ", tmp_path) == ["validate", "show", "schema", "generate", "iam-policy"]
    assert complete("opskit config show --js", tmp_path) == ["--json"]


def test_completion_is_quick(tmp_path: Path) -> None:
    """Pressing the tab key imports no command beside the one on the line, and nothing heavy."""
    words = {**COMPLETE, "COMP_WORDS": "opskit config show --", "COMP_CWORD": "3"}
    assert HEAVY & imported("", **words) == set()


def test_the_completion_script_suits_the_shell(tmp_path: Path) -> None:
    """--show-completion prints a script for the shell it was called from, and bash accepts it."""
    called = ["bash", "-c", '"$@"; exit $?', "bash", *OPSKIT, "--show-completion"]
    shown = subprocess.run(called, env=clean({}), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "_OPSKIT_COMPLETE=complete_bash" in shown.stdout
    subprocess.run(["bash", "-n"], input=shown.stdout, text=True, check=True)

"""The command line: `main` turns arguments into one command, and every outcome into an exit code.

Exit codes: a command's own (None is 0, a bad answer 3), an OpskitError's, 2 for a wrong command line, 130 after a
signal, 1 for what nobody expected. Results go to stdout, everything else to stderr. A traceback appears with `--debug`
only. This module imports nothing heavy: signals and core dumps are taken care of before Typer loads.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from opskit.cli import process
from opskit.cli.context import Context, GuardedOutput, OutputClosed
from opskit.errors import OpskitError

__all__ = ["main"]

_GARBAGE_THRESHOLD = 100_000
"""Objects between two searches for cycles: hot loops make many tuples and no cycles, and the search took 5 %."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; `argv` is without the program's name.

    Without `argv` the arguments are those of this process, which then ends with the command.
    """
    process.open_standard_descriptors()
    process.forbid_core_dumps()
    if argv is None:  # a process of its own, and nobody else's garbage
        gc.set_threshold(_GARBAGE_THRESHOLD)
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Only as a whole process may the handlers stay: nobody else needs them afterwards.
    with process.signals(restore=argv is not None):
        context = Context.of_process()
        try:
            code = _run(arguments, context)
        except OutputClosed:
            context.abandon_output()
            code = 1
        except BaseException as error:  # also MemoryError and KeyboardInterrupt
            code = _failed(error, arguments, context)
    if argv is None:
        process.leave(code)
    return code


def _run(arguments: list[str], context: Context) -> int:
    """Run the command and write out everything it said."""
    from opskit.cli.commands import command_line

    with redirect_stdout(GuardedOutput(context.stdout)):
        code = command_line(arguments, context)
    context.flush()
    return code


def _failed(error: BaseException, arguments: list[str], context: Context) -> int:
    """Report the error and give its exit code; a reader that went away must not make it worse."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    # Reporting takes a moment too, and must not end in a traceback for a Ctrl-C that comes now.
    was_interrupted = process.conclude()
    from opskit.cli.failures import failure_of, report

    if was_interrupted and not isinstance(error, KeyboardInterrupt):
        # The same Ctrl-C reached our children: their deaths are not the story.
        error = KeyboardInterrupt()
    failure = failure_of(error)
    try:
        report(failure, error, context, as_json=context.json or _asks_for("--json", arguments))
        context.flush()
    except (OutputClosed, OpskitError):
        context.abandon_output()
    return failure.exit_code


def _asks_for(option: str, arguments: list[str]) -> bool:
    """Whether a global option was meant, for command lines that could not be understood."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return option in arguments[:end]

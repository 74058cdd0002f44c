"""Every exception as people and programs see it: a message, a hint and an exit code.

Invariants: messages carry no secret that was registered with `log`, and no control characters; a traceback is printed
with --debug only. It deliberately decides nothing else: what is an error and which code it has is said in `errors`, and
what is true after an interruption by the command that was interrupted, in a note of the exception (`add_note`).
"""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass

import typer
from typer.core import TyperGroup

from opskit import log
from opskit.cli.context import Context
from opskit.cli.render import printable
from opskit.errors import OpskitError


@dataclass(frozen=True)
class Failure:
    """What is told about an error."""

    message: str
    hint: str | None
    exit_code: int


def failure_of(error: BaseException) -> Failure:
    """What to tell about the error that ended a run."""
    failure = _failure_of(error)
    return Failure(_shown(failure.message), failure.hint and _shown(failure.hint), failure.exit_code)


def report(failure: Failure, error: BaseException, context: Context, *, as_json: bool) -> None:
    """Tell about a failure: on stderr for people, and on stdout for whoever asked for JSON."""
    if context.debug:
        _write_traceback(error, context)
    for line in failure.message.splitlines():
        _write(context, "error", "red", line)
    for line in (failure.hint or "").splitlines():
        _write(context, "hint", "cyan", line)
    if as_json:
        context.write_json_error({"message": failure.message, "hint": failure.hint, "exit_code": failure.exit_code})


def _failure_of(error: BaseException) -> Failure:
    if isinstance(error, OpskitError):
        return Failure(str(error), error.hint, error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Failure("; ".join(("interrupted", *getattr(error, "__notes__", ()))), None, 130)
    if isinstance(error, typer.TyperException):
        return _wrong_usage(error)
    if isinstance(error, MemoryError):
        return Failure("out of memory", "end other programs, or lift the memory limit of this one", 1)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f": {error.filename}" if error.filename else ""
        return Failure(f"no space left on device{where}", "make room there and run the command again", 1)
    kind = type(error).__name__
    detail = f": {error}" if str(error) else ""
    hint = "this is a fault of opskit: run the command again with --debug and report what it prints"
    return Failure(f"unexpected {kind}{detail}", hint, 1)


def _wrong_usage(error: typer.TyperException) -> Failure:
    """A command line that Typer refused, in our form."""
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "opskit"
    hint = f"`{path} --help` explains the command"
    if message == "Missing command" and context is not None and isinstance(context.command, TyperGroup):
        message = f"missing command, expected one of {', '.join(context.command.commands)}"
    close = getattr(error, "possibilities", None)
    if close:
        message = error.message
        hint = f"did you mean {' or '.join(close)}? {hint}"
    return Failure(message[:1].lower() + message[1:], hint, error.exit_code)


def _write(context: Context, label: str, style: str, line: str) -> None:
    context.diagnose(f"{context.styled(f'opskit: {label}:', style, context.stderr)} {line}")


def _write_traceback(error: BaseException, context: Context) -> None:
    for text in traceback.format_exception(error):
        for line in text.splitlines():
            context.diagnose(_shown(line))


def _shown(text: str) -> str:
    return "\n".join(printable(line) for line in log.redact(text).splitlines())

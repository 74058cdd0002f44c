"""Commands that the config asks for around a run and around each source: a volume is frozen, a database told to rest.

`before` runs first; exit 75 (EX_TEMPFAIL of sysexits.h) asks for a soft skip, any other but 0 fails what it was for.
`on_error` runs when what it was for failed, with the reason in its environment; `after` runs at the end, failed or not,
wherever `before` ended well. That these two fail themselves undoes nothing; it is told.

Arguments go to the programs as they are, no shell is involved, and they stand in no message: they may hold secrets.
What a program says goes to the log, with secrets removed. One that takes too long is killed with all that it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, Literal

from opskit.errors import OpskitError, Skipped, SourceError
from opskit.log import logger

log = logger(__name__)

SKIP = 75
_TAIL = 64 * 1024
"""Bytes of a program's output that are looked at."""
_TOLD = 3
_LOGGED = 200

Kind = Literal["before", "after", "on_error"]


class Beside(list[str]):
    """What failed beside that which runs inside of hooks; `failure` says why that failed, where it raises nothing."""

    failure = ""


@dataclass(frozen=True, slots=True)
class Hooks:
    """The commands, and how many seconds each may take. `env` is what they inherit; `redact` cleans what they say."""

    before: Sequence[str] = ()
    after: Sequence[str] = ()
    on_error: Sequence[str] = ()
    timeout: float = 600.0
    env: Mapping[str, str] | None = None
    redact: Callable[[str], str] = str

    @contextmanager
    def around(self, about: Mapping[str, str]) -> Iterator[Beside]:
        """What runs inside is what the hooks are for; gives a list of what failed beside it, complete at the end.

        It has failed where it raises, or gives that list a `failure`.

        `about` are more variables for the programs. Raises Skipped where `before` asks for it, SourceError where it
        fails; both are told to no other hook but `on_error`, the latter.
        """
        problems = Beside()
        try:
            self._before(about)
        except SourceError as error:
            self._on_error(about, self._text(error), problems)
            raise
        outcome = {"OPSKIT_OUTCOME": "ok"}
        try:
            yield problems
            if problems.failure:
                outcome = {"OPSKIT_OUTCOME": "failed"}
                self._on_error(about, self.redact(problems.failure), problems)
        except BaseException as error:
            outcome = {"OPSKIT_OUTCOME": "failed"}
            if not isinstance(error, KeyboardInterrupt):
                self._on_error(about, self._text(error), problems)
            raise
        finally:
            if self.after and (reason := self._run("after", self.after, {**about, **outcome})):
                problems.append(reason)
                log.warning("hook failed", hook="after", reason=reason)

    def _before(self, about: Mapping[str, str]) -> None:
        reason = self._run("before", self.before, about) if self.before else None
        if reason is not None:
            raise SourceError(reason, hint="what it said is in the log; `opskit --debug` shows all of it")

    def _text(self, error: BaseException) -> str:
        return self.redact(str(error)) if isinstance(error, OpskitError) else type(error).__name__

    def _on_error(self, about: Mapping[str, str], text: str, problems: list[str]) -> None:
        if self.on_error and (reason := self._run("on_error", self.on_error, {**about, "OPSKIT_ERROR": text})):
            problems.append(reason)
            log.warning("hook failed", hook="on_error", reason=reason)

    def _run(self, kind: Kind, argv: Sequence[str], about: Mapping[str, str]) -> str | None:
        """Run a command to its end; why it failed, or None. Raises Skipped."""
        import tempfile  # here: most runs have no hooks

        env = {**(os.environ if self.env is None else self.env), **about, "OPSKIT_HOOK": kind}
        with tempfile.TemporaryFile() as output:
            try:
                status = _ended(argv, env, output, self.timeout)
            except OSError as error:
                return f"the {kind} hook {argv[0]} cannot be started: {(error.strerror or 'error').lower()}"
            lines = self._said(kind, output)
        if status == 0:
            return None
        said = f": {' / '.join(lines[-_TOLD:])}" if lines else ""
        if kind == "before" and status == SKIP:
            raise Skipped(f"the before hook {argv[0]} asks to skip this{said}")
        if status is None:
            return f"the {kind} hook {argv[0]} did not end within {self.timeout:.0f} s, and was killed{said}"
        return f"the {kind} hook {argv[0]} ended with status {status}{said}"

    def _said(self, kind: Kind, output: BinaryIO) -> list[str]:
        """The last lines that a program wrote, which go to the log as well."""
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _TAIL))
        text = output.read().decode("utf-8", "replace")
        lines = [line for each in text.splitlines() if (line := self.redact(_plain(each)).strip())]
        for line in lines[-_LOGGED:]:
            log.info("hook says", hook=kind, line=line)
        return lines


def _ended(argv: Sequence[str], env: Mapping[str, str], output: BinaryIO, timeout: float) -> int | None:
    """The status of a command; None where it was killed, with all that it started, for taking too long."""
    process = subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(env), start_new_session=True
    )
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _plain(line: str) -> str:
    return "".join(character if character.isprintable() else " " for character in line)[:1000]

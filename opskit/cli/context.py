"""What every command gets: the global options, the streams and the config.

Invariants: results go to stdout through `write` and `write_json` only; messages, warnings and hints go to stderr;
`--quiet` silences messages and progress but never warnings, errors or results. Nothing is coloured unless its stream
is a terminal and neither NO_COLOR nor --no-color speaks against it. With --json stdout gets one document, whatever
fails and when. It deliberately does not open anything itself.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from opskit import log
from opskit.errors import OpskitError

if TYPE_CHECKING:
    import typer

    from opskit.cli.progress import Progress, Sampler
    from opskit.config.model import Config


class OutputClosed(Exception):
    """Whoever read our output went away (`opskit snapshots | head`): the run ends without a word."""


class GuardedOutput:
    """A stream whose failures are those of the output, told apart from every other OSError of a run.

    It stands for sys.stdout while a command runs, because Typer prints help by itself.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        """Write text, or bytes to a binary stream. Raises OutputClosed, or OpskitError where it is full or broken."""
        try:
            return int(self._stream.write(data))
        except OSError as error:
            raise _output_failed(error) from error

    def flush(self) -> None:
        """Write out what is buffered. Raises as `write` does."""
        try:
            self._stream.flush()
        except OSError as error:
            raise _output_failed(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@dataclass
class Context:
    """The global options and streams of one run."""

    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    environ: Mapping[str, str] = field(repr=False)
    config_option: Path | None = None
    json: bool = False
    quiet: bool = False
    debug: bool = False
    no_color: bool = False
    live: Progress | None = field(default=None, repr=False)
    """The progress line on the terminal at this moment: messages must be written above it."""
    _document: str | None = field(default=None, repr=False)
    """The result that is written when the command has ended."""
    _has_written: bool = False

    @classmethod
    def of_process(cls) -> Context:
        """A context on the process's own streams, with logging set up to match."""
        context = cls(_stream(sys.stdin), _stream(sys.stdout), _stream(sys.stderr), dict(os.environ))
        as_json = os.environ.get("OPSKIT_LOG") == "json"
        log.configure("info" if as_json else "warning", as_json=as_json, write=context.diagnose)
        return context

    @staticmethod
    def of(typer_context: typer.Context) -> Context:
        """The context of the running command."""
        context: Context = typer_context.obj
        return context

    def write(self, text: str = "") -> None:
        """Write one piece of the result and a line end to stdout. Names in it must have passed `printable`."""
        self._has_written = True
        GuardedOutput(self.stdout).write(text + "\n")

    def binary_output(self) -> BinaryIO:
        """Stdout for the bytes of a file; whoever uses it writes no text beside them. Fails as `write` does."""
        self.flush()
        self._has_written = True
        return cast(BinaryIO, GuardedOutput(getattr(self.stdout, "buffer", self.stdout)))

    def write_json(self, data: object) -> None:
        """Give `data` as the result, in ASCII: no byte of a file name can steer a terminal.

        It is written with the next `flush`, at the end of the command at the latest, so that an error that comes after
        it can be told in the same document. File names that are not UTF-8 are given as Python decodes them
        (surrogateescape); paths become text.
        """
        import json

        self._document = json.dumps(data, indent=2, default=str)

    def write_json_error(self, error: Mapping[str, object]) -> None:
        """Write why the command failed as JSON, with the result where there is one already.

        Nothing where a result was written, whole or in part: a second document would make both unreadable.
        """
        import json

        if self._has_written:
            return
        result = {} if self._document is None else {"result": json.loads(self._document)}
        self.write_json({"error": error, **result})

    def message(self, text: str = "") -> None:
        """Tell the person something in passing, on stderr; silent with --quiet."""
        if not self.quiet:
            self.diagnose(text)

    def warning(self, text: str) -> None:
        """Tell what somebody should look at, on stderr, with --quiet too."""
        self.diagnose(f"{self.styled('opskit: warning:', 'yellow', self.stderr)} {text}")

    def hint(self, text: str) -> None:
        """Tell what to do next, on stderr; silent with --quiet."""
        self.message(f"{self.styled('opskit: hint:', 'cyan', self.stderr)} {text}")

    def styled(self, text: str, style: str, stream: TextIO | None = None) -> str:
        """The text in a style of `render.STYLES` if `stream` (stdout unless told) shows colours."""
        from opskit.cli.render import styled

        return styled(text, style) if self.shows_color(stream or self.stdout) else text

    def shows_color(self, stream: TextIO) -> bool:
        """Whether text on `stream` may be coloured (https://no-color.org)."""
        return not self.no_color and not self.environ.get("NO_COLOR") and self.is_terminal(stream)

    def is_terminal(self, stream: TextIO) -> bool:
        """Whether `stream` is a terminal that understands more than plain lines."""
        return stream.isatty() and self.environ.get("TERM") != "dumb"

    def shows_progress(self) -> bool:
        """Whether the progress of long work is shown: on a terminal, without --quiet and --json."""
        return self.is_terminal(self.stderr) and not self.quiet and not self.json

    def progress(self, label: str, sample: Sampler) -> AbstractContextManager[Progress | None]:
        """A context manager that shows the progress of long work, where it is shown at all."""
        if not self.shows_progress():
            return nullcontext()
        from opskit.cli.progress import Progress

        return Progress(self, label, sample)

    def find_config(self) -> Path:
        """The config file that this run uses. Raises ConfigError when there is none."""
        from opskit.config.load import find_config

        home = Path(os.path.expanduser("~"))
        return find_config(self.config_option, self.environ, Path.cwd(), home)

    def load_config(self) -> Config:
        """Read the config file that this run uses. Raises ConfigError."""
        from opskit.config.load import load

        return load(self.find_config(), keep=self.kept_folder())

    def kept_folder(self) -> Path | None:
        """Where this user's configs are kept once they were judged good, if anywhere."""
        from opskit.config import kept

        return kept.folder(self.environ, Path(os.path.expanduser("~")))

    def flush(self) -> None:
        """Write out what is buffered: an output that is full or closed shows here, not at the interpreter's end."""
        if self._document is not None:
            document, self._document = self._document, None
            self.write(document)
        GuardedOutput(self.stdout).flush()

    def abandon_output(self) -> None:
        """Send what is still buffered nowhere, else Python complains about it when it exits."""
        try:
            descriptor = self.stdout.fileno()
        except (OSError, io.UnsupportedOperation):
            return
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)

    def diagnose(self, text: str) -> None:
        """Write a line to stderr, above the progress line if there is one. A closed stderr is nobody's fault."""
        if self.live is not None:
            self.live.write_above(text)
            return
        try:
            self.stderr.write(text + "\n")
            self.stderr.flush()
        except (OSError, ValueError):  # ValueError: Python has closed it
            pass


def _stream(stream: Any) -> TextIO:
    """A stream that exists and never fails for a character that its encoding lacks."""
    if stream is None:
        return open(os.devnull, "r+", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper) and stream.writable():
        stream.reconfigure(errors="backslashreplace")
    text_stream: TextIO = stream
    return text_stream


def _output_failed(error: OSError) -> Exception:
    if error.errno in (errno.EPIPE, errno.ECONNRESET):
        return OutputClosed()
    return OpskitError(
        f"cannot write the output: {(error.strerror or 'error').lower()}",
        hint="what the command did is done; only its output is incomplete",
    )

"""Running a program that gets secrets in its environment, and hiding them in what it says.

The values are in that one child's environment and nowhere else: not in argv, not in ours. With hiding, its output goes
through pipes and is passed on as it comes; it then sees no terminal there. What it writes elsewhere is its own affair.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from opskit.errors import OpskitError, UsageError
from opskit.secrets.masking import Masker

_PIECE = 64 * 1024
_GRACE = 10.0
"""Seconds that a program has to end when we are asked to."""


def run(argv: Sequence[str], environ: Mapping[str, str], secrets: Mapping[str, bytes], *, mask: bool = True) -> int:
    """Run a program to its end with `secrets` as variables; returns its exit code, 128 + N for signal N, as shells do.

    Raises UsageError where it cannot be started, OpskitError where its output could not be written, though it ended
    well. An interruption ends the program first.
    """
    if not mask:
        with _sigint_left_to_it():
            return _code(_waited_for(_started(argv, environ, secrets, mask=False)))
    process = _started(argv, environ, secrets, mask=True)
    streams = [each for each in (process.stdout, process.stderr) if each is not None]
    pumps = [_Pump(stream, number, Masker(secrets.values())) for number, stream in enumerate(streams, start=1)]
    until = None
    try:  # from here on an interruption must not leave the program behind
        for pump in pumps:
            pump.start()
        code = process.wait()
    except BaseException:
        _end(process)
        until = time.monotonic() + _GRACE  # children of its own may hold its output open
        raise
    finally:
        for pump in pumps:
            pump.end(until)
    failure = next((pump.failure for pump in pumps if pump.failure is not None), None)
    if failure is not None and code == 0:  # else whoever reads our exit code takes half an output for all of it
        raise OpskitError(f"cannot write the output of {argv[0]}: {(failure.strerror or 'error').lower()}")
    return _code(code)


def _started(
    argv: Sequence[str], environ: Mapping[str, str], secrets: Mapping[str, bytes], *, mask: bool
) -> subprocess.Popen[bytes]:
    for name, value in secrets.items():
        if b"\0" in value:
            raise UsageError(f"the secret for {name} cannot be a variable: expected no NUL in it, got one")
    inherited = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    variables = inherited | {os.fsencode(name): value for name, value in secrets.items()}
    output = subprocess.PIPE if mask else None
    try:
        return subprocess.Popen(list(argv), env=variables, stdout=output, stderr=output)
    except (OSError, ValueError) as error:
        reason = (error.strerror or "error").lower() if isinstance(error, OSError) else "a NUL in its arguments"
        raise UsageError(f"cannot run {argv[0]}: {reason}") from None  # the cause may carry the environment


def _waited_for(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except BaseException:
        _end(process)
        raise


@contextmanager
def _sigint_left_to_it() -> Iterator[None]:
    """Ctrl-C is the affair of a program that has the terminal, as under a shell."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler, as a program inherits signals that are ignored, but no handler.
    former = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Pump:
    """Passes on one output of the program; `failure` says why not all of it, if anybody was still there to read it."""

    def __init__(self, source: IO[bytes], descriptor: int, masker: Masker) -> None:
        self._source, self._descriptor, self._masker = source, descriptor, masker
        self._thread = threading.Thread(target=self._run, name=f"output {descriptor}", daemon=True)
        self._is_started = False
        self.failure: OSError | None = None

    def start(self) -> None:
        self._thread.start()
        self._is_started = True

    def end(self, until: float | None) -> None:
        """Wait until all is passed on, or until then (time.monotonic)."""
        if self._is_started:
            self._thread.join(None if until is None else max(until - time.monotonic(), 0))

    def _run(self) -> None:
        with self._source:  # closed at the end: the program gets to know where nobody reads any more
            try:
                while data := os.read(self._source.fileno(), _PIECE):
                    self._write(self._masker.feed(data))
                self._write(self._masker.finish())
            except BrokenPipeError:
                return
            except OSError as error:
                self.failure = error

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody has set it so; whoever reads it is slow
                select.select([], [self._descriptor], [])

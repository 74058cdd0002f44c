"""Running a program that gets secrets in its environment, and hiding them in what it says.

The values are in that one child's environment and nowhere else: not in argv, not in ours. With hiding, its output goes
through pipes and is passed on as it comes; it then sees no terminal there. What it writes elsewhere is its own affair.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from opskit.errors import UsageError
from opskit.secrets.masking import Masker

_PIECE = 64 * 1024
_GRACE = 10.0
"""Seconds that a program has to end when we are asked to."""


def run(argv: Sequence[str], environ: Mapping[str, str], secrets: Mapping[str, bytes], *, mask: bool = True) -> int:
    """Run a program to its end with `secrets` as variables; returns its exit code, 128 + N for signal N, as shells do.

    Raises UsageError where it cannot be started. An interruption ends the program first.
    """
    inherited = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    variables = inherited | {os.fsencode(name): value for name, value in secrets.items()}
    output = subprocess.PIPE if mask else None
    try:
        process = subprocess.Popen(list(argv), env=variables, stdout=output, stderr=output)
    except (OSError, ValueError) as error:
        reason = (error.strerror or "error").lower() if isinstance(error, OSError) else "a NUL in it"
        raise UsageError(f"cannot run {argv[0]}: {reason}") from None  # the cause may carry the environment
    pumps = [
        threading.Thread(target=_pass_on, args=(stream, descriptor, Masker(secrets.values())))
        for stream, descriptor in ((process.stdout, 1), (process.stderr, 2))
        if stream is not None
    ]
    started, patience = list[threading.Thread](), None
    try:  # from here on an interruption must not leave the program behind
        for pump in pumps:
            pump.start()
            started.append(pump)
        code = process.wait()
    except BaseException:
        _end(process)
        patience = _GRACE  # children of its own may hold its output open
        raise
    finally:
        for pump in started:
            pump.join(patience)
    return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pass_on(source: IO[bytes], descriptor: int, masker: Masker) -> None:
    """Write what comes to one of our own outputs; where nobody reads that any more, the program gets to know it."""
    with source:
        try:
            while data := os.read(source.fileno(), _PIECE):
                _write(descriptor, masker.feed(data))
            _write(descriptor, masker.finish())
        except OSError:
            return


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]

"""The process around a command: signals, core dumps and the three standard descriptors.

A first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt in the main thread, so that every `finally` runs; a second
one is answered but ignored, because it would break off the cleaning; the third ends the process at once. A signal that
the parent ignores (nohup, background jobs) stays ignored. It deliberately knows nothing about commands.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_DUMPABLE = 4
INTERRUPTED = 130
"""The exit code after a signal that asked to stop."""
_received = 0


def open_standard_descriptors() -> None:
    """Point closed standard descriptors at /dev/null.

    With `opskit backup >&-` the next file opened would become descriptor 1, and whatever is printed would land in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def forbid_core_dumps() -> None:
    """Keep run keys and passphrases out of core dumps; children inherit the limit, but not the second part.

    The limit suffices where the kernel writes core files itself. Where it pipes them to a program (systemd-coredump,
    apport) it ignores the limit, and only a process that is not dumpable is left alone; as a gift, other processes of
    the same user cannot read our memory either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import ctypes  # 3 ms; the standard library has no prctl

    with suppress(OSError, AttributeError):  # no prctl: not Linux
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def conclude() -> bool:
    """Whether a signal asked this run to stop; one that comes from now on is answered as a second one."""
    global _received
    was_interrupted = _received > 0
    _received = max(_received, 1)
    return was_interrupted


@contextmanager
def signals(*, restore: bool) -> Iterator[None]:
    """Handle signals as the module says; put the former handlers back at the end if `restore`."""
    global _received
    _received = 0
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number, handler in former.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _stop)
        yield
    finally:
        for number, handler in former.items():
            # At the end of the process a late signal has nothing left to interrupt but the interpreter's own exit.
            signal.signal(number, handler if restore else signal.SIG_IGN)


def leave(code: int) -> None:
    """End the process now, with all it has written: to take the interpreter apart takes a tenth of a small backup.

    Returns where another thread still runs, for Python to wait for it; not after an interruption, when nobody would.
    """
    if threading.active_count() > 1 and code != INTERRUPTED:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, broken or absent: nobody is there to tell
            stream.flush()
    os._exit(code)


def _stop(_number: int, _frame: FrameType | None) -> None:
    global _received
    _received += 1
    if _received == 1:
        raise KeyboardInterrupt
    if _received > 2:
        os._exit(INTERRUPTED)
    with suppress(OSError):
        os.write(2, b"\nopskit: still cleaning up; once more ends it at once and leaves things to the next run\n")

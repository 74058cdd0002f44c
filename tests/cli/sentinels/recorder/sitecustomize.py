"""What opskit does that could carry a secret away, noted by Python itself as it happens; nothing can be too quick.

Python loads this at its start where this folder stands in PYTHONPATH. In a process that is `python -m opskit` it notes,
as lines of JSON below the folder SENTINEL_RECORD: argv and environment of every program that is started, changes of its
own environment, names of files that are opened for writing, and the content of each file that is about to be renamed or
removed: temporary ones among them.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_FOLDER = os.environ.get("SENTINEL_RECORD", "")
_LARGEST = 4 * 1024 * 1024
_busy = threading.local()


def _note(kind: str, what: object, *data: object) -> None:
    encoded = [base64.b64encode(each if isinstance(each, bytes) else os.fsencode(str(each))).decode() for each in data]
    line = json.dumps(
        {"kind": kind, "what": os.fsdecode(what) if isinstance(what, bytes) else str(what), "data": encoded}
    )
    with open(os.path.join(_FOLDER, str(os.getpid())), "a") as file:
        file.write(f"{line}\n")


def _note_program(program: object, argv: Sequence[object], environ: Mapping[Any, Any] | None) -> None:
    _note("argv", program, *([argv] if isinstance(argv, str | bytes) else argv))
    given = os.environ if environ is None else environ
    _note("environ", program, *(os.fsencode(name) + b"=" + os.fsencode(value) for name, value in given.items()))


def _path(name: Any, folder: int) -> str:
    path = os.fsdecode(name)
    return path if folder in (-1, None) else f"{os.readlink(f'/proc/self/fd/{folder}')}/{path}"


def _note_file(path: str, becomes: str) -> None:
    if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) <= _LARGEST:
        with open(path, "rb") as file:
            _note("file", becomes, file.read())


def _see(event: str, given: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        _note_program(given[0] or given[1][0], given[1], given[3])
    elif event in ("os.exec", "os.posix_spawn"):
        _note_program(*given[:3])
    elif event == "os.putenv":
        _note("environ", "opskit", os.fsencode(given[0]) + b"=" + os.fsencode(given[1]))
    elif event in ("os.rename", "os.link"):
        _note_file(_path(given[0], given[2]), _path(given[1], given[3]))
    elif event == "os.remove":
        path = _path(given[0], given[1])
        _note_file(path, path)
    elif event == "open" and isinstance(given[0], str | bytes) and given[2] & (os.O_WRONLY | os.O_RDWR):
        _note("written", os.fsdecode(given[0]))


def _hook(event: str, given: tuple[Any, ...]) -> None:
    if getattr(_busy, "now", False):
        return
    _busy.now = True
    try:
        _see(event, given)
    except OSError as error:
        sys.stderr.write(f"the recorder failed: {error!r}\n")
    finally:
        _busy.now = False


if _FOLDER and sys.orig_argv[1:3] == ["-m", "opskit"]:
    sys.addaudithook(_hook)
    if "SENTINEL_KEYRING" in os.environ:
        import key_ring_in_a_file  # noqa: F401

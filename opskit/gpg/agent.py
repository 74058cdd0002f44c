"""The gpg-agent of one home folder: started early, ended surely.

Agents outlive the commands that start them, hold mounts busy and keep private keys in memory. An agent is asked over
the socket of its own home to end (so never somebody else's), and waited for.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
from pathlib import Path

from opskit.gpg.program import child_environment, find_program

_PATIENCE = 2.0
"""Seconds to wait for an agent to answer, and again to end."""


def start_agent(home: Path) -> subprocess.Popen[bytes]:
    """Begin to start the agent of `home`, without waiting; the caller waits for the returned process in the end.

    A second start is harmless: an agent that finds its socket in use ends at once.
    """
    return subprocess.Popen(
        # It would watch its own socket, which nobody takes away here; with watches set, its end takes 10 ms longer.
        [find_program("gpg-agent"), "--homedir", str(home), "--disable-check-own-socket", "--daemon"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=child_environment(), process_group=0,
    )  # fmt: skip


def stop_agent(home: Path) -> None:
    """End the agent of `home`, if one runs, and wait until its process is gone (at most two seconds).

    The folder GnuPG made for its socket below /run/user is removed too.
    """
    place = _socket(home)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_PATIENCE)
        line.connect(str(place))
        process = _ask_to_end(line)
        line.close()
        _await_end(process)
    if place.parent != home:
        _gpgconf(home, "--remove-socketdir")


def _ask_to_end(line: socket.socket) -> int | None:
    """The Assuan dialogue; returns a descriptor of the agent's process, None when it cannot be had."""
    with line.makefile("rb") as answers:
        answers.readline()
        line.sendall(b"GETINFO pid\n")
        process = _process(answers.readline())
        answers.readline()
        line.sendall(b"KILLAGENT\n")
        answers.readline()
    return process


def _process(answer: bytes) -> int | None:
    # A descriptor cannot come to mean another process when the number is used again.
    kind, _, number = answer.strip().partition(b" ")
    if kind != b"D" or not number.isdigit():
        return None
    with contextlib.suppress(OSError):
        return os.pidfd_open(int(number))
    return None


def _await_end(process: int | None) -> None:
    if process is None:
        return
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll(_PATIENCE * 1000)
    finally:
        os.close(process)


def _socket(home: Path) -> Path:
    place = home / "S.gpg-agent"
    if place.is_socket() or not home.is_dir() or not Path(f"/run/user/{os.getuid()}").is_dir():
        return place
    # GnuPG prefers a folder below /run/user/UID, and only gpgconf knows which.
    answer = _gpgconf(home, "--list-dirs", "agent-socket").strip()
    return Path(os.fsdecode(answer)) if answer else place


def _gpgconf(home: Path, *arguments: str) -> bytes:
    command = [find_program("gpgconf"), "--homedir", str(home), *arguments]
    return subprocess.run(command, capture_output=True, env=child_environment(), check=False).stdout

"""A program of the standard library alone: makes a database server in a jail of its own, and runs programs against it.

`jail.py JOB_FD`: the descriptor has a JSON document (see `throwaway`), standard output gets one with what came of it.
Standard input is a lifeline: when it ends, everything here is killed.

A dump is a program: psql runs `\\!`, the server COPY … PROGRAM, and whoever wrote the dump chose what. So all of it
runs in namespaces of its own: no network, no other process in sight, and as its file system the folders of programs
read-only, a few devices, and a folder to write to. It is `nobody` there, without capabilities, and cannot get any back.
What is not there is not protected by rights, it is absent: home folders, keys, sockets of agents, other servers.
When this process ends, however it does, the kernel kills all that was started.

Sockets to the machine below a virtual one (vsock) lie in no namespace, so sockets of other families than those of a
network and of files are refused by a filter of system calls, and io_uring, which would go round it.

Known limits: the kernel is shared; memory and processor time are not bounded (the time of each step is), but where
memory runs out the kernel ends the jail first. Machines that are neither x86-64, arm64 nor riscv64 have no filter, nor
has a Python of 32 bits on one of them: its calls are those of another architecture, and all would be refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from typing import Any

NOBODY = 65534
_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_RELATIME = 1 << 21
_KEPT_FLAGS = 2 | 4 | 8 | 1024 | 2048
"""What a remount may not drop in a user namespace; statvfs and mount number these alike, relatime aside."""
_ST_RELATIME = 4096
_NO_NEW_PRIVS, _SET_DUMPABLE, _SET_SECCOMP = 38, 4, 22
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198), "riscv64": (0xC00000F3, 198)}
"""What the kernel calls a machine, and its number of socket(2)."""
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.cache")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SAID = 2000
_LAST_LINES = 12
_READY_SECONDS = 120.0
_ERROR = re.compile(r"\b(ERROR|FATAL|PANIC|error|fatal)\b")
_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """Why there is no jail, or no server in it; `detail` is what a program said."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


def _call(what: str, result: int) -> None:
    if result != 0:
        raise Unavailable(f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    _call("mount", _libc.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode()))


def enter_namespaces() -> None:
    """Leave those of this process behind; the process identifiers are those of the next child."""
    user, group = os.geteuid(), os.getegid()
    own = _NEWUSER if user else 0
    _call("unshare", _libc.unshare(own | _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET))
    if own:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{NOBODY} {user} 1"),
            ("gid_map", f"{NOBODY} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def build(root: str, folder: str, programs: list[str], places: list[str]) -> None:
    """Make the file system and enter it: `programs` and the usual folders read-only, `folder` as /server.

    `places` are tablespaces of a dump: links into /server, so that the server finds folders where it looks for them.
    """
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "mode=755,size=64m")
    for path in (*_PROGRAMS, *programs):
        if not os.path.lexists(root + path):
            _show(path, root)
    os.makedirs(root + "/etc", exist_ok=True)
    os.makedirs(root + "/dev")
    for name in _DEVICES:
        _show("/dev/" + name, root, _NOSUID)
    for name in ("/tmp", "/dev/shm", "/run"):
        os.mkdir(root + name)
        os.chmod(root + name, 0o1777)
    for name in ("/proc", "/server"):
        os.mkdir(root + name)
    with contextlib.suppress(Unavailable):  # where the container masks it; nothing here needs it
        _mount("proc", root + "/proc", "proc", _NOSUID | _NODEV)
    for name, text in (("passwd", "nobody:x:65534:65534::/server:/bin/sh\n"), ("group", "nogroup:x:65534:\n")):
        with open(f"{root}/etc/{name}", "w") as file:
            file.write(text)
    _mount(folder, root + "/server", None, _BIND)
    _mount(None, root + "/server", None, _BIND | _REMOUNT | _NOSUID | _NODEV | _flags(folder))
    os.chroot(root)
    os.chdir("/")
    # In here: among the programs are links by whole paths, as /usr/lib/ssl/certs.
    for number, place in enumerate(places):
        _make_place(place, number)


def _show(path: str, root: str, flags: int = _RDONLY | _NOSUID | _NODEV) -> None:
    """One thing of the system at its own place in the jail, as it is."""
    if os.path.islink(path):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(os.readlink(path), root + path)
        return
    if not os.path.exists(path):
        return
    if os.path.isdir(path):
        os.makedirs(root + path)
    else:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        open(root + path, "w").close()
    _mount(path, root + path, None, _BIND | _REC)
    _mount(None, root + path, None, _BIND | _REMOUNT | flags | _flags(path))


def _flags(path: str) -> int:
    found = os.statvfs(path).f_flag
    return found & _KEPT_FLAGS | (_RELATIME if found & _ST_RELATIME else 0)


def _make_place(place: str, number: int) -> None:
    own = f"/server/tablespace{number}"
    os.mkdir(own)
    if os.getuid() == 0:
        os.chown(own, NOBODY, NOBODY)
    parts = [each for each in place.split("/") if each]
    if not parts or ".." in parts or parts[0] in ("usr", "proc", "dev", "server"):
        return
    # In the way of another one, or no path at all (a NUL in it): then the dump does not load, and says why.
    with contextlib.suppress(OSError, ValueError):
        os.makedirs("/" + "/".join(parts[:-1]), exist_ok=True)
        os.symlink(own, "/" + "/".join(parts))


def give_up_rights() -> None:
    """Become nobody, for good."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _call("capset", _libc.capset(header, nothing))
    _call("prctl", _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    _call("prctl", _libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0))  # no child looks into this process
    allow_few_sockets()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_few_sockets() -> None:
    """Refuse sockets but AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK, for this process and all it starts (seccomp(2))."""
    if (machine := os.uname().machine) not in _MACHINES or sys.maxsize < 2**32:
        return
    architecture, socket = _MACHINES[machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    absent, no_family, allowed = 0x50000 | errno.ENOSYS, 0x50000 | errno.EAFNOSUPPORT, 0x7FFF0000
    rules = [  # (what, how many to skip if so, and if not, with what)
        (load, 0, 0, 4), (equal, 0, 10, architecture),  # another has other numbers
        (load, 0, 0, 0), (at_least, 8, 0, 0x40000000), (equal, 7, 0, 425),  # those of x32; io_uring_setup
        (equal, 0, 7, socket),
        (load, 0, 0, 16), (equal, 5, 0, 1), (equal, 4, 0, 2), (equal, 3, 0, 10), (equal, 2, 0, 16),
        (give, 0, 0, no_family), (give, 0, 0, absent), (give, 0, 0, allowed),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in rules))
    program = struct.pack("@HP", len(rules), ctypes.addressof(code))
    _call("prctl", _libc.prctl(_SET_SECCOMP, 2, program, 0, 0))


class Session:
    """A server and what is run against it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._environment = {"PATH": job["path"], "HOME": "/server", "TMPDIR": "/server/tmp", "LC_ALL": "C.UTF-8"}
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> list[Any]:
        """All steps; each gives [whether it was good, what it said, seconds]. Raises Unavailable."""
        job = self._job
        os.makedirs("/server/tmp", exist_ok=True)
        for argv in job["make"]:
            good, said, _ = self._step({"argv": argv, "seconds": _READY_SECONDS, "talks": True})
            if not good:
                raise Unavailable("the private server could not be made", said)
        with open("/server/log", "wb") as log:
            self._server = self._start(job["serve"], subprocess.DEVNULL, log, log)
        self._await()
        return [self._step(each) for each in job["steps"]]

    def _start(self, argv: list[str], source: Any, output: Any, errors: Any) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                argv, stdin=source, stdout=output, stderr=errors, env=self._environment, cwd="/server",
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Unavailable(f"{os.path.basename(argv[0])}: {error.strerror}") from None

    def _await(self) -> None:
        assert self._server is not None
        end = time.monotonic() + _READY_SECONDS
        while not self._step({"argv": self._job["ready"], "seconds": 10})[0]:
            if self._server.poll() is not None or time.monotonic() > end:
                with open("/server/log", "rb") as log:
                    log.seek(max(log.seek(0, os.SEEK_END) - _SAID, 0))
                    said = log.read().decode("utf-8", "replace")
                raise Unavailable("the private server did not start", said)
            time.sleep(0.05)

    def _step(self, step: dict[str, Any]) -> list[Any]:
        """Run one program; one that reads a script has it as its input, one that asks is judged by its answer too."""
        begun = time.monotonic()
        source = step.get("source", subprocess.DEVNULL)
        with tempfile.TemporaryFile(dir="/server/tmp") as answer:
            output = answer if "asks" in step else subprocess.PIPE if "talks" in step else subprocess.DEVNULL
            errors = subprocess.STDOUT if "talks" in step else subprocess.PIPE
            process = self._start(step["argv"], source, output, errors)
            listener = Listener(process.stderr or process.stdout, step.get("forgive", []))
            try:
                status: int | None = process.wait(step["seconds"])
            except subprocess.TimeoutExpired:
                status = None
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, 9)
            process.wait()
            taken = time.monotonic() - begun
            listener.end()
            if status is None:
                return [False, f"it took longer than {step['seconds']:.0f} s", taken]
            if status or ("forgive" in step and listener.errors):
                return [False, listener.said or f"exit status {status}", taken]
            if "asks" in step:
                answer.seek(0)
                return [*_judge(answer.read(_SAID).decode("utf-8", "replace")), taken]
        return [True, "", taken]


class Listener:
    """Drains what a program says on standard error, so that it never waits; keeps the first errors.

    Where something is to be forgiven, the program goes on after errors: then only lines that tell of one count.
    """

    def __init__(self, pipe: Any, forgive: list[str]) -> None:
        self._pipe, self._forgive = pipe, [re.compile(each) for each in forgive]
        self._kept, self._last = list[str](), deque[str](maxlen=_LAST_LINES)
        self.errors = 0
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while line := self._pipe.readline(8192):
            text = line.decode("utf-8", "replace").strip()
            self._last.append(text)
            if not _ERROR.search(text) or any(each.search(text) for each in self._forgive):
                continue
            self.errors += 1
            if sum(map(len, self._kept)) < _SAID:
                self._kept.append(text[:_SAID])

    def end(self) -> None:
        """Wait for the last words; the pipe may be held open by what the program left behind."""
        self._thread.join(5)

    @property
    def said(self) -> str:
        """The first errors, or the last words where nothing looks like one."""
        more = self.errors - len(self._kept)
        return ("; ".join(self._kept) + (f"; and {more:,} more" if more else "")) or " ".join(self._last)[:_SAID]


def _judge(answer: str) -> tuple[bool, str]:
    """Whether the first value is true, or a number other than 0."""
    value = (answer.splitlines() or [""])[0].strip()
    with contextlib.suppress(ValueError):
        return float(value) != 0, f"the answer is {value}"
    good = value in ("t", "true")
    return good, f"expected true or a number other than 0, got {value[:80]!r}" if value else "it gave no row"


def _watch_lifeline() -> None:
    """From a thread, so it begins when this process has given up its rights: threads have their own."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _inside(job: dict[str, Any]) -> dict[str, Any]:
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        build(job["root"], job["folder"], job["programs"], job["places"])
        give_up_rights()
        _watch_lifeline()
        return {"steps": Session(job).run()}
    except Unavailable as error:
        return {"unavailable": str(error), "detail": error.detail}
    except OSError as error:
        return {"unavailable": f"{error.strerror}: {error.filename}"}


def main(descriptor: int) -> None:
    """Run a job, and tell what came of it."""
    with open(descriptor) as file:
        job = json.load(file)
    try:
        enter_namespaces()
    except (Unavailable, OSError) as error:
        _tell({"unavailable": f"this system lets no process be shut in: {error}"})
        return
    child = os.fork()
    if child == 0:
        _tell(_inside(job))
        os._exit(0)
    os.waitpid(child, 0)


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))

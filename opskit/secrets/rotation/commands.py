"""Running the programs that a rotation calls: secrets reach them by descriptors, never by argv or environment.

In an argument `{old}` and `{new}` stand for the names of files, `/dev/fd/N`, that hold those values in memory; the
value that a command is about is on its stdin too. Other placeholders are words that are no secrets: an item, an
address. How they are filled is said in `placeholders`. What a program writes is kept in memory, and what of it is shown
has gone through `redact`.

A program that outlives us keeps the lock of its rotation (`tie`), so that nobody takes up the work while it still moves
something. Programs that are asked to start others which stay (a reload) are not tied.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from opskit.errors import OpskitError, TargetError
from opskit.secrets.placeholders import filled
from opskit.secrets.reference import Secret

SHOWN = 3
"""Lines of what a program said last that stand in a message."""
_TAIL = 64 * 1024
_NOEXEC_SEAL = 0x8
"""MFD_NOEXEC_SEAL, which kernels with vm.memfd_noexec=2 demand and those before 6.3 do not know."""


@dataclass(frozen=True)
class Answer:
    """What came of a program: its exit status (None: killed for taking too long), stdout, and its last words."""

    program: str
    status: int | None
    output: bytes
    said: str

    @property
    def is_good(self) -> bool:
        """Whether it ended with 0."""
        return self.status == 0

    def __str__(self) -> str:
        how = "did not end in time, and was killed" if self.status is None else f"ended with status {self.status}"
        return f"{self.program} {how}" + (f": {self.said}" if self.said else "")


@dataclass(frozen=True)
class Programs:
    """How programs are run: with which environment, for how many seconds, and what must not be shown of their words."""

    environ: Mapping[str, str]
    redact: Callable[[str], str] = str
    tie: int | None = None
    """A descriptor that every tied program inherits: the lock of the rotation."""
    hide: Callable[[Secret], None] = lambda _: None
    """Is told what `redact` must hide from now on: a value that a program has just made."""

    def run(
        self,
        argv: Sequence[str],
        about: About | None,
        *,
        stdin: Secret | None = None,
        env: Mapping[str, Secret] | None = None,
        timeout: float = 600.0,
        tied: bool = True,
        has_private_output: bool = False,
    ) -> Answer:
        """Run a program to its end; `env` are more variables for it alone, `timeout` is in seconds.

        Without `about` its arguments are passed on as they are: no braces in them mean anything.

        What it writes to stdout is shown where it writes nothing to stderr, unless that may be a secret.

        Raises TargetError where it cannot be started, or a word of its arguments would be taken for an option.
        """
        secrets = () if about is None else about.secrets
        with contextlib.ExitStack() as stack:
            descriptors = {name: stack.enter_context(_memory(secret.reveal_bytes())) for name, secret in secrets}
            given = stack.enter_context(_memory(b"" if stdin is None else stdin.reveal_bytes()))
            out, err = stack.enter_context(_memory()), stack.enter_context(_memory())
            files = {name: f"/dev/fd/{fd}" for name, fd in descriptors.items()}
            words = list(argv) if about is None else _filled(argv, {**about.words, **files})
            passed = (*descriptors.values(), *((self.tie,) if tied and self.tie is not None else ()))
            variables = {**self.environ, **{name: secret.reveal() for name, secret in (env or {}).items()}}
            status = _ended(words, (given, out, err), passed, variables, timeout)
            output = _all(out)
            if has_private_output:
                self.hide(Secret(output.removesuffix(b"\n")))
            said = _all(err, _TAIL + 1) or (b"" if has_private_output else output)
            return Answer(argv[0], status, output, self._shown(_ending(said)))

    def lines(self, argv: Sequence[str], about: About, *, timeout: float = 600.0) -> Iterator[str]:
        """The lines of what a program writes, each once it is asked for; raises TargetError where it fails."""
        answer = self.run(argv, about, timeout=timeout)
        if not answer.is_good:
            raise TargetError(f"{answer}", hint="nothing was moved by it; run it by hand to see more")
        try:
            text = answer.output.decode()
        except UnicodeDecodeError:
            raise TargetError(f"{answer.program} does not write text: expected UTF-8, got other bytes") from None
        yield from (line for each in text.split("\n") if (line := each.removesuffix("\r")))

    def _shown(self, text: bytes) -> str:
        whole = self.redact(text.decode("utf-8", "replace"))  # before it is cut: half a secret is not known as one
        return " / ".join([line for each in whole.splitlines() if (line := _plain(each).strip())][-SHOWN:])


@dataclass(frozen=True)
class About:
    """What placeholders stand for in the arguments of a program."""

    words: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[tuple[str, Secret], ...] = ()
    """(name, value): the program gets a file that holds it."""


def _ended(
    argv: Sequence[str], streams: tuple[int, int, int], passed: tuple[int, ...], env: Mapping[str, str], timeout: float
) -> int | None:
    """The exit status of a program; None where it took too long, and was killed with all that it started."""
    stdin, stdout, stderr = streams
    try:
        process = subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, pass_fds=passed, start_new_session=True
        )
    except (OSError, ValueError) as error:
        reason = (error.strerror or "error").lower() if isinstance(error, OSError) else "a NUL in its arguments"
        raise TargetError(f"cannot run {argv[0]}: {reason}") from None  # the cause may carry the environment
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _filled(argv: Sequence[str], words: Mapping[str, str]) -> list[str]:
    return [argv[0], *(_word(each, words) for each in argv[1:])]


def _word(word: str, words: Mapping[str, str]) -> str:
    found = filled(word, words)
    if found.startswith("-") and not word.startswith("-"):
        raise TargetError(
            "an argument that begins with '-' would be taken for an option, and is not passed on",
            hint="put something before the placeholder, as in ./{item} or --file={item}",
        )
    return found


@contextlib.contextmanager
def _memory(data: bytes = b"") -> Iterator[int]:
    try:
        descriptor = os.memfd_create("opskit", os.MFD_CLOEXEC | _NOEXEC_SEAL)
    except OSError:
        descriptor = os.memfd_create("opskit", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    except OSError as error:
        raise OpskitError(f"cannot hand anything to a program: {(error.strerror or 'error').lower()}") from None
    finally:
        os.close(descriptor)


def _all(descriptor: int, most: int | None = None) -> bytes:
    """What was written to it, or the end of that."""
    size = os.fstat(descriptor).st_size
    start = 0 if most is None else max(0, size - most)
    return os.pread(descriptor, size - start, start)


def _ending(words: bytes) -> bytes:
    """The last lines: of one that had to be cut nothing, as half a secret is not known as one."""
    return words if len(words) <= _TAIL else words[-_TAIL:].partition(b"\n")[2]


def _plain(line: str) -> str:
    return "".join(character if character.isprintable() else " " for character in line)[:1000]

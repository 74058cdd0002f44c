"""How secrets reach the programs of a rotation, and what of their words is shown."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opskit.errors import TargetError
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.commands import About, Programs

OLD, NEW = Secret("old-sentinel"), Secret(b"new-sentinel\n\0\xff")
BOTH = About(secrets=(("old", OLD), ("new", NEW)))
PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Makes a shell script."""

    def make(text: str) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(stat.S_IRWXU)
        return str(path)

    return make


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """What runs them, with a folder in BASE."""
    return Programs({**PATH, "BASE": str(tmp_path)}, lambda text: text.replace("sentinel", "*"))


def test_values_are_read_from_descriptors(program: Callable[[str], str], programs: Programs) -> None:
    """Each placeholder of a value is a file that holds it to the byte, as often as it is read; stdin holds one too."""
    tell = program('cat "$1" "$2" "$2" -')
    answer = programs.run((tell, "{old}", "{new}"), BOTH, stdin=NEW)
    assert answer.output == OLD.reveal_bytes() + 3 * NEW.reveal_bytes()
    assert answer.is_good


def test_values_are_in_no_arguments_and_no_environment(program: Callable[[str], str], programs: Programs) -> None:
    """What others can read of a process, while it holds values, has none of them; nor has a file system a file."""
    look = program('cat /proc/$$/cmdline /proc/$$/environ; printf "\\n%s" "$(readlink "/proc/$$/fd/${1##*/}")"')
    answer = programs.run((look, "{old}", "x={new}"), BOTH, stdin=OLD)
    assert b"sentinel" not in answer.output
    assert b"/dev/fd/" in answer.output
    assert answer.output.endswith(b"/memfd:opskit (deleted)")


def test_a_program_sees_its_own_values_only(program: Callable[[str], str], programs: Programs) -> None:
    """No other descriptor of ours is inherited, and the files of the values are for their owner alone."""
    kept = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        look = program('ls /proc/$$/fd; stat -L -c "mode %a" "$1"')
        words = programs.run((look, "{old}"), About(secrets=(("old", OLD),))).output.decode().splitlines()
    finally:
        os.close(kept)
    assert words[-1] == "mode 600"
    assert str(kept) not in words
    assert len(set(words) - {"0", "1", "2", "10", "255"}) == 2  # the value, and the mode; 10 and 255 are the shell's


def test_variables_are_of_that_program_alone(program: Callable[[str], str], programs: Programs) -> None:
    """A value in a variable is in the child's environment, beside the one that was given; ours is as it was."""
    answer = programs.run((program('echo "$KEY $PATH"'),), About(), env={"KEY": OLD})
    assert answer.output == b"old-sentinel /usr/bin:/bin\n"
    assert "KEY" not in os.environ
    assert "KEY" not in programs.environ


def test_words_that_are_no_secrets(program: Callable[[str], str], programs: Programs) -> None:
    """Other placeholders are filled in place, once; what is unknown stays as it is."""
    tell = program('printf "%s\\n" "$@"')
    about = About({"item": "{new} $(x)", "new_address": "b"}, BOTH.secrets)
    answer = programs.run((tell, "{item}", "a{new_address}c", "{unknown}", "{}"), about)
    assert answer.output.decode().splitlines() == ["{new} $(x)", "abc", "{unknown}", "{}"]


def test_doubled_braces_are_braces(program: Callable[[str], str], programs: Programs) -> None:
    """They reach the program as single ones, beside a placeholder too; without `about` arguments stay as they are."""
    tell = program('printf "%s\\n" "$@"')
    argv = (tell, "{{print}}", "{{{item}}}", '{"a": {"b": 1}}')
    answer = programs.run(argv, About({"item": "{{x}}", "print": "wrong"}))
    assert answer.output.decode().splitlines() == ["{print}", "{{{x}}}", '{"a": {"b": 1}}']
    assert programs.run(argv, None).output.decode().splitlines() == list(argv[1:])


def test_a_word_that_would_be_an_option(program: Callable[[str], str], programs: Programs, tmp_path: Path) -> None:
    """A placeholder never becomes an option; an option of the config may hold one."""
    touch = program('touch "$BASE/ran"; printf "%s" "$1"')
    with pytest.raises(TargetError, match="would be taken for an option"):
        programs.run((touch, "{item}"), About({"item": "-rf"}))
    assert not (tmp_path / "ran").exists()
    assert programs.run((touch, "--item={item}"), About({"item": "-rf"})).output == b"--item=-rf"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 1; echo 2 >&2; exit 4", "2"),
        ("echo old-sentinel; exit 4", "old-*"),
        ("for i in 1 2 3 4 5; do echo $i; echo; done >&2; exit 4", "3 / 4 / 5"),
        (r"printf 'a\033[2Jb\007\377' >&2; exit 4", "a [2Jb \ufffd"),
        ("exit 4", ""),
    ],
)
def test_what_is_shown(program: Callable[[str], str], programs: Programs, text: str, said: str) -> None:
    """The last words of a program, without values and control characters; stderr before stdout."""
    answer = programs.run((program(text),), About())
    assert answer.said == said
    assert str(answer).endswith(f"program ended with status 4{': ' if said else ''}{said}")


def test_private_output_is_not_shown(program: Callable[[str], str], programs: Programs) -> None:
    """What a program writes that makes values is for the caller alone."""
    answer = programs.run((program("echo value; exit 4"),), About(), has_private_output=True)
    assert (answer.said, answer.output) == ("", b"value\n")


def test_what_a_program_has_just_made_is_hidden(program: Callable[[str], str]) -> None:
    """A new value that goes to stderr too, as by `sh -x`, is not shown."""
    known: list[str] = []

    def redact(text: str) -> str:
        return text.replace(known[0], "*")

    programs = Programs(PATH, redact, hide=lambda made: known.append(made.reveal()))
    answer = programs.run((program("set -x; echo value; exit 4"),), About(), has_private_output=True)
    assert answer.said == "+ echo * / + exit 4"


def test_a_secret_across_the_cut_of_a_line(program: Callable[[str], str], programs: Programs) -> None:
    """A long line is cut after values were removed: no half of one is left."""
    text = "printf '%0995d' 0 >&2; echo old-sentinel >&2; exit 4"
    assert programs.run((program(text),), About()).said == "0" * 995 + "old-*"


def test_a_flood_of_words(program: Callable[[str], str], programs: Programs) -> None:
    """Of very much output the end is shown, whole lines only: the first one may be half a value."""
    text = (
        'i=0; while [ $i -lt 3000 ]; do echo "old-sentinel old-sentinel" >&2; i=$((i + 1)); done; echo end >&2; exit 4'
    )
    assert programs.run((program(text),), About()).said == "old-* old-* / old-* old-* / end"
    long = "printf '%065530d' 0 >&2; printf old-sentinel >&2; printf '%065530d' 0 >&2; exit 4"
    assert "sentinel" not in programs.run((program(long),), About()).said
    assert "tinel" not in programs.run((program(long),), About()).said


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_tie(program: Callable[[str], str], tmp_path: Path, is_tied: bool) -> None:
    """What a tied program leaves running keeps the lock of the rotation; what another one leaves does not."""
    path = tmp_path / "lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    stays = program('sleep 1 > /dev/null 2>&1 < /dev/null & echo "$!"')
    assert Programs(PATH, tie=lock).run((stays,), About(), tied=is_tied).is_good
    os.close(lock)
    other = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        assert _is_free(other) is not is_tied
        for _ in range(100):
            if _is_free(other):
                return
            time.sleep(0.05)
        pytest.fail("the lock was kept for ever")
    finally:
        os.close(other)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_program_that_takes_too_long(program: Callable[[str], str], programs: Programs) -> None:
    """It is killed, told so, and has no exit status."""
    answer = programs.run((program("echo begun; sleep 60"),), About(), timeout=0.3)
    assert (answer.status, answer.is_good, answer.output) == (None, False, b"begun\n")
    assert "did not end in time, and was killed: begun" in str(answer)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("/nowhere/program",), "cannot run /nowhere/program: no such file or directory"),
        (("/etc/passwd",), "cannot run /etc/passwd: permission denied"),
        (("echo", "a\0b"), "cannot run echo: a nul in its arguments"),
        (("echo", "x" * 3_000_000), "cannot run echo: argument list too long"),
    ],
)
def test_a_program_that_cannot_be_started(programs: Programs, argv: tuple[str, ...], reason: str) -> None:
    """It is told why, without a cause that carries its environment."""
    with pytest.raises(TargetError) as caught:
        programs.run(argv, About(), env={"KEY": OLD})
    assert str(caught.value).lower() == reason
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_lines(program: Callable[[str], str], programs: Programs) -> None:
    """Each line that is not empty, as it was written but for its end."""
    assert list(programs.lines((program(r"printf 'a\r\n\n b \nc\013d'"),), About())) == ["a", " b ", "c\x0bd"]


def test_nothing_is_left_open(program: Callable[[str], str], programs: Programs) -> None:
    """After a program, and after one that could not be started, no descriptor is left."""
    before = set(os.listdir("/proc/self/fd"))
    programs.run((program("true"), "{old}"), BOTH, stdin=OLD)
    with pytest.raises(TargetError):
        programs.run(("/nowhere/program", "{old}"), BOTH, stdin=OLD)
    assert set(os.listdir("/proc/self/fd")) == before

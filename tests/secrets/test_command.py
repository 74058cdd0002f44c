"""`cmd:` references: a program gives the secret, where who runs opskit allows it."""

from __future__ import annotations

import json
import sys
from urllib.parse import quote

import pytest

from opskit.errors import OpskitError, SecretStoreError, UnresolvedReference
from opskit.secrets.reference import Reference
from opskit.secrets.stores.command import SWITCH, CommandScheme

ALLOWED = {SWITCH: "yes", "PATH": "/usr/bin:/bin", "FOR_IT": "seen"}


def reference(*argv: str) -> Reference:
    return Reference.parse(f"cmd:{quote(json.dumps(argv))}")


def resolve(*argv: str) -> str:
    return CommandScheme(ALLOWED).resolve(reference(*argv)).reveal()


def test_what_the_program_writes_is_the_secret() -> None:
    """Stdout without its last line end, nothing else; arguments are passed as they are."""
    assert resolve("printf", "%s\\n", "a $b #c ?d %e") == "a $b #c ?d %e"
    assert resolve("printf", "two\\nlines\\n\\n") == "two\nlines\n"
    assert resolve("sh", "-c", "echo $FOR_IT; cat; echo noise >&2") == "seen"
    assert Reference.parse('cmd:["pass","show","db"]').locator == '["pass","show","db"]'


def test_nothing_runs_unless_it_is_allowed(tmp_path: object) -> None:
    """Without the switch, or with another word in it, the program is not run and the message says how to allow it."""
    for environ in ({}, {SWITCH: "1"}, {SWITCH: ""}):
        with pytest.raises(UnresolvedReference, match=SWITCH) as caught:
            CommandScheme(environ).resolve(reference("touch", f"{tmp_path}/ran"))
        assert SWITCH in str(caught.value.hint)


@pytest.mark.parametrize("text", ["cmd:pass", "cmd:[]", "cmd:[1]", 'cmd:[""]', 'cmd:{"a":1}', 'cmd:["a"]#f'])
def test_malformed_ones(text: str) -> None:
    """What is no list of words is refused."""
    with pytest.raises(UnresolvedReference):
        CommandScheme(ALLOWED).resolve(Reference.parse(text))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["sh", "-c", "echo hunter2; echo locked >&2; exit 3"], "locked"),
        (["sh", "-c", "exit 3"], "status 3"),
        (["sh", "-xc", "echo hunter2; exit 3"], r"\+ echo \[secret\] \+ exit 3"),
        (["/no/such/program"], "no such file"),
        ([sys.executable, "-c", "print('x' * 2_000_000)"], "too much"),
    ],
)
def test_failures_never_show_what_it_wrote(argv: list[str], told: str) -> None:
    """A program that fails, is not there, or floods is a SecretStoreError, without its stdout."""
    with pytest.raises(SecretStoreError, match=told) as caught:
        resolve(*argv)
    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "hunter2" not in shown.replace(str(reference(*argv)), "")
    assert isinstance(caught.value, OpskitError)

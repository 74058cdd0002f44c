"""The environment of a source's command, end to end: secrets reach it, late, and nothing else does."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.hosts import Machine, objects

SECRET = "pä$$ word-7731"
PRINT = """\
#!/bin/sh
printf %s "$PGPASSWORD" | sha256sum | cut -d ' ' -f 1
printf '%s\\n' "${HOME:+home}" "${PATH:+path}" "${GNUPGHOME:-none}" "${OPSKIT_TEST:-none}"
"""


def command_source(machine: Machine, script: str) -> Path:
    """Give the host a source `db` whose command gets PGPASSWORD from a file; returns the file, which does not exist."""
    program, secret = machine.folder / "dump.sh", machine.folder / "pgpass"
    program.write_text(script)
    program.chmod(0o700)
    entry = f'command: [{program}]\n    filename: dump\n    env: {{PGPASSWORD: "file://{secret}"}}'
    machine.edit_config("sources:\n", f"sources:\n  db:\n    {entry}\n")
    return secret


def write_secret(path: Path) -> None:
    """A secret file as it should be."""
    path.touch(0o600)
    path.write_text(SECRET + "\n")


def test_a_command_gets_its_secret(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable holds the secret byte for byte; PATH and HOME are inherited, what steers opskit is not."""
    write_secret(command_source(machine, PRINT))
    monkeypatch.setenv("OPSKIT_TEST", "x")
    monkeypatch.setenv("GNUPGHOME", str(machine.folder / "elsewhere"))
    answer = machine.run("backup", "db")
    assert answer.code == 0, answer.err
    restored = machine.run("restore", "latest:dump", "--stdout", "--key", machine.key)
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    assert (restored.code, restored.out.split()) == (0, [digest, "home", "path", "none", "none"])


def test_a_secret_that_is_not_there(machine: Machine) -> None:
    """A reference to a missing file is exit 30 when the command would run, not before, and nothing is committed."""
    secret = command_source(machine, PRINT)
    assert machine.run("config", "validate").code == 0 and machine.run("backup", "db", "--dry-run").code == 0
    answer = machine.run("backup", "db")
    assert answer.code == 30 and f"file://{secret}" in answer.err and "hint" in answer.err
    assert not objects(machine.a, "snapshots") and not objects(machine.a, "packs")
    write_secret(secret)
    assert machine.run("backup", "db").code == 0


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--debug"]])
def test_a_command_that_tells_its_secret(machine: Machine, arguments: list[str]) -> None:
    """What a failing command says on standard error is shown without the secret, however much it says."""
    chatter = '#!/bin/sh\nyes "$PGPASSWORD" | head -n 700 >&2\necho "no role for $PGPASSWORD" >&2\nexit 1\n'
    write_secret(command_source(machine, chatter))
    answer = machine.run("backup", "db", *arguments)
    assert answer.code == 4 and "no role for [secret]" in answer.err + answer.out
    assert SECRET not in answer.err + answer.out and SECRET[-6:] not in answer.err + answer.out

"""`opskit secrets`: references of the config, the values behind them, and programs that get them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opskit.gpg import Keyring
from opskit.secrets.setting import LARGEST
from tests.cli.hosts import Answer, Machine, run
from tests.repositories import noise

VALUE = "hunter2-Xq9 with blanks"


@pytest.fixture
def put(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Sets a secret to what is given on stdin."""

    def put(value: bytes, reference: str = "", *arguments: str) -> Answer:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(value)))
        return machine.run("secrets", "set", reference or secret_of(machine), *arguments)

    return put


def secret_of(machine: Machine, name: str = "db") -> str:
    return f"gpg://{machine.state}/secrets.gpg#{name}"


def trail(machine: Machine) -> str:
    """The whole audit log as it is kept."""
    return "".join(path.read_text() for path in (machine.state / "audit").rglob("*") if path.is_file())


def test_what_was_set_is_got(machine: Machine, put: Callable[..., Answer]) -> None:
    """A value goes in by stdin, without its last line end, and comes out as it was; the one before is kept."""
    assert put(f"{VALUE}\n".encode()).code == 0
    assert put(b"second-value\r\n").code == 0
    reference = secret_of(machine)
    assert machine.run("secrets", "get", reference).data == b"second-value\n"
    assert machine.run("secrets", "get", "-n", f"{reference}?stage=previous").data == VALUE.encode()
    assert machine.run("--json", "secrets", "get", reference).json == {"reference": reference, "value": "second-value"}
    assert machine.run("secrets", "get", f"{reference}?stage=pending").code == 30
    assert (machine.state / "secrets.gpg").stat().st_mode & 0o777 == 0o600
    assert VALUE not in trail(machine) and "second-value" not in trail(machine)
    assert trail(machine).count('"secrets.set"') == 4  # a start and an outcome each


def test_who_opens_the_file(machine: Machine, put: Callable[..., Answer], tmp_short: Path) -> None:
    """It opens with the host's own key and with the recovery key, for the day the host is lost, and with no other."""
    put(VALUE.encode())
    data = (machine.state / "secrets.gpg").read_bytes()
    with Keyring(tmp_short / "safe") as safe:
        safe.create()
        safe.import_keys(machine.key.read_bytes())
        assert json.loads(safe.decrypt(data).payload)["secrets"] == {"db": {"current": VALUE}}


def test_a_random_value_is_shown_to_nobody(machine: Machine) -> None:
    """--generate makes another value each time, long enough and of plain characters, and says nothing of it."""
    values = set()
    for _ in range(3):
        answer = machine.run("secrets", "set", "--generate", "--length", "40", secret_of(machine))
        value = machine.run("secrets", "get", "-n", secret_of(machine)).out
        assert answer.code == 0 and value not in answer.out + answer.err and value not in trail(machine)
        assert len(value) == 40 and value.isalnum()
        values.add(value)
    assert len(values) == 3


@pytest.mark.parametrize(
    ("value", "reference", "code", "message"),
    [
        (b"", "", 2, "expected a value on stdin, got nothing"),
        (b"\n", "", 2, "expected a value on stdin, got nothing"),
        (b"\xff\xfe123456", "", 30, "expected UTF-8"),
        (b"x", "env:NAME", 2, "is only read by opskit"),
        (b"x", "hunter2", 30, "inline secret"),
        (b"x", "gpg://relative#db", 30, "expected an absolute path"),
        (b"x", "gpg:///tmp/secrets.gpg", 30, "expected '#name'"),
        (b"x", "gpg:///tmp/secrets.gpg#db?stage=pending", 2, "expected a reference without ?stage="),
        (b"x", "gpg:///tmp/secrets.gpg#db?age=1", 30, "unknown option"),
    ],
)
def test_what_cannot_be_set(
    value: bytes, reference: str, code: int, message: str, machine: Machine, put: Callable[..., Answer]
) -> None:
    """Each mistake gets its reason and exit code, and no file is made."""
    answer = put(value, reference)
    assert (answer.code, message in answer.err) == (code, True), answer.err
    assert "hunter2" not in answer.err and not (machine.state / "secrets.gpg").exists()


def test_a_file_that_others_can_change_is_refused(machine: Machine, put: Callable[..., Answer]) -> None:
    """Who can write to the file chooses the secrets: it is not read, nor written to."""
    put(VALUE.encode())
    (machine.state / "secrets.gpg").chmod(0o620)
    for answer in (machine.run("secrets", "get", secret_of(machine)), put(b"another-one")):
        assert answer.code == 30 and "expected mode 0600, got 0620" in answer.err


def test_a_damaged_file_is_a_store_that_fails(machine: Machine, put: Callable[..., Answer]) -> None:
    """What gpg does not open, or is no file of secrets, is exit code 31, never an absent secret or an empty file."""
    put(VALUE.encode())
    path = machine.state / "secrets.gpg"
    good = path.read_bytes()
    with Keyring(machine.state / "gnupg") as keyring:
        (own,) = [each.fingerprint for each in keyring.keys() if each.has_secret]
        foreign = keyring.encrypt(b'{"db": "x"}', [own])
    for data in (good[: len(good) // 2], b"", b"plain text", foreign):
        path.write_bytes(data)
        for answer in (machine.run("secrets", "get", secret_of(machine)), put(b"another-one")):
            assert answer.code == 31, answer.err
        assert path.read_bytes() == data
    assert machine.run("secrets", "get", f"gpg://{path}").data == b'{"db": "x"}\n'


def test_a_full_disk_costs_nothing(machine: Machine, put: Callable[..., Answer], tmp_path: Path) -> None:
    """Where a new value finds no room, the old one stays."""
    from tests.stores.mounts import mounted

    with mounted("tmpfs", tmp_path, size=64 * 1024) as place:
        (place / "gnupg").symlink_to(machine.state / "gnupg")
        reference = f"gpg://{place}/secrets.gpg#db"
        assert put(VALUE.encode(), reference).code == 0
        (place / "filler").write_bytes(bytes(os.statvfs(place).f_bavail * 4096))
        assert put(b"x" * 8000, reference).code != 0
        assert machine.run("secrets", "get", "-n", reference).data == VALUE.encode()
        assert sorted(path.name for path in place.iterdir()) == ["filler", "gnupg", "secrets.gpg"]


def test_a_file_that_would_not_open_again_is_not_written(
    machine: Machine, put: Callable[..., Answer], tmp_path: Path
) -> None:
    """Where no key lies beside the file, and one's own gpg has none for it, setting fails and makes nothing."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    answer = put(VALUE.encode(), f"gpg://{place}/secrets.gpg#db")
    assert answer.code == 31 and "no key at hand would open" in answer.err and "state folder" in answer.err
    assert not list(place.iterdir())


def test_a_pending_value_is_nobodys_to_overwrite(machine: Machine, put: Callable[..., Answer]) -> None:
    """While a value is pending another cannot be set; once it is deleted, or is the same one, it can."""
    put(VALUE.encode())
    with Keyring(machine.state / "gnupg") as keyring:
        path = machine.state / "secrets.gpg"
        document = json.loads(keyring.decrypt(path.read_bytes()).payload)
        document["secrets"]["db"]["pending"] = "waiting-one"
        (own,) = [each.fingerprint for each in keyring.keys() if each.has_secret]
        path.write_bytes(keyring.encrypt(json.dumps(document).encode(), [own]))
    answer = put(b"another-one")
    assert answer.code == 31 and "a rotation is under way" in answer.err
    assert machine.run("secrets", "delete", secret_of(machine)).code == 2
    assert machine.run("secrets", "delete", f"{secret_of(machine)}?stage=pending").code == 0
    assert put(b"another-one").code == 0
    assert machine.run("secrets", "get", "-n", f"{secret_of(machine)}?stage=previous").data == VALUE.encode()


def test_setting_the_same_again_costs_nothing(machine: Machine, put: Callable[..., Answer]) -> None:
    """A repetition leaves the value before as it was; a first value has none before it, and none is spoken of."""
    assert "stage=previous" not in put(b"first-value").err
    assert "stage=previous" in put(b"second-value").err
    assert "stage=previous" not in put(b"second-value").err
    assert machine.run("secrets", "get", "-n", f"{secret_of(machine)}?stage=previous").data == b"first-value"
    shown = machine.run("--json", "secrets", "delete", f"{secret_of(machine)}?stage=pending")
    assert shown.json == {"reference": f"{secret_of(machine)}?stage=pending", "deleted": False}
    assert "is deleted" in machine.run("secrets", "delete", f"{secret_of(machine)}?stage=previous").err
    assert "was not there" in machine.run("secrets", "delete", f"{secret_of(machine)}?stage=previous").err


def test_a_value_is_kept_whole_or_refused(machine: Machine, put: Callable[..., Answer]) -> None:
    """One line end goes, no other byte; what is too large is refused, not cut."""
    for given, kept in ((b"abc\r", b"abc\r"), (b"abc\n\n", b"abc\n"), (b"x" * LARGEST + b"\r\n", b"x" * LARGEST)):
        assert put(given).code == 0
        assert machine.run("secrets", "get", "-n", secret_of(machine)).data == kept
    for given in (b"x" * (LARGEST + 1), b"x" * LARGEST + b"\nTAIL"):
        answer = put(given)
        assert answer.code == 2 and "at most 65,536 bytes" in answer.err
    assert machine.run("secrets", "get", "-n", secret_of(machine)).data == b"x" * LARGEST


def test_a_file_stays_small_enough_to_be_read(
    machine: Machine, put: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value too many is refused, and costs nothing of what is there."""
    monkeypatch.setattr("opskit.secrets.stores.gpgfile.LARGEST", 20_000)
    values = [noise(seed, 9000).hex().encode() for seed in (1, 2)]  # gpg compresses
    assert put(values[0], secret_of(machine, "one")).code == 0
    answer = put(values[1], secret_of(machine, "two"))
    assert answer.code == 31 and "keep some in another file" in answer.err
    assert machine.run("secrets", "get", "-n", secret_of(machine, "one")).data == values[0]


def test_a_link_leads_to_one_file(machine: Machine, put: Callable[..., Answer], tmp_path: Path) -> None:
    """What is set through a symbolic link is set where it leads, and the link stays."""
    put(b"first-value")
    link = tmp_path / "link.gpg"
    link.symlink_to(machine.state / "secrets.gpg")
    assert put(b"second-value", f"gpg://{link}#db").code == 0
    assert link.is_symlink() and machine.run("secrets", "get", "-n", secret_of(machine)).data == b"second-value"


@pytest.mark.parametrize(
    "document", ['{"db": {"current": null}}', '{"db": {"next": "x"}}', '{"db": "x"}', "[]", '{"db": {"current": 1}}']
)
def test_what_somebody_wrote_by_hand(document: str, machine: Machine, put: Callable[..., Answer]) -> None:
    """JSON of another shape is a store that fails: nothing is made of it, and it is not written over."""
    put(VALUE.encode())
    path = machine.state / "secrets.gpg"
    with Keyring(machine.state / "gnupg") as keyring:
        (own,) = [each.fingerprint for each in keyring.keys() if each.has_secret]
        path.write_bytes(keyring.encrypt(f'{{"opskit": "secrets", "secrets": {document}}}'.encode(), [own]))
    for answer in (machine.run("secrets", "get", secret_of(machine)), put(b"another-one")):
        assert answer.code == 31 and "is no secrets file" in answer.err


def test_commands_side_by_side(machine: Machine, put: Callable[..., Answer]) -> None:
    """Reading at once works each time; of several that set at once each succeeds, and the last one's value stays."""
    put(b"value-0")
    readers = [machine.start("secrets", "get", secret_of(machine)) for _ in range(6)]
    assert [each.communicate(timeout=60)[0] for each in readers] == [b"value-0\n"] * 6
    writers = [machine.start("secrets", "set", secret_of(machine), stdin=subprocess.PIPE) for _ in range(4)]
    for number, each in enumerate(writers, start=1):
        assert each.stdin is not None
        each.stdin.write(b"value-%d" % number)
        each.stdin.close()
        each.stdin = None
    assert [(each.communicate(timeout=60)[1] and each.returncode) for each in writers] == [0] * 4
    stages = machine.run("--json", "secrets", "list", secret_of(machine).partition("#")[0]).json[0]["stages"]
    assert stages == ["current", "previous"]


def test_no_config_is_needed_to_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A reference that needs nothing of a host is resolved without one; a config that was named must be there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPSKIT_TEST_SET", "hunter2-value")
    assert run("secrets", "get", "env:OPSKIT_TEST_SET").data == b"hunter2-value\n"
    assert run("secrets", "exec", "--no-mask", "--env", "A=env:OPSKIT_TEST_SET", "--", "sh", "-c", "exit 5").code == 5
    assert run("--config", tmp_path / "nope.yaml", "secrets", "get", "env:OPSKIT_TEST_SET").code == 2


def test_references_of_the_config(machine: Machine, put: Callable[..., Answer]) -> None:
    """`list` names each reference with the keys it stands at; `doctor` tries them all, and shows no value."""
    good, bad = secret_of(machine), "env:OPSKIT_TEST_NOT_SET"
    machine.edit_config(
        "sources:\n", f"sources:\n  out: {{command: [cat], filename: x, env: {{A: '{good}', B: '{bad}'}}}}\n"
    )
    put(VALUE.encode())
    assert machine.run("--json", "secrets", "list").json == [
        {"reference": good, "used_by": ["sources.out.env.A"]},
        {"reference": bad, "used_by": ["sources.out.env.B"]},
    ]
    assert f"{good}  sources.out.env.A" in machine.run("secrets", "list").out
    answer = machine.run("--json", "secrets", "doctor")
    assert answer.code == 3 and [each["ok"] for each in answer.json] == [True, False]
    answer = machine.run("secrets", "doctor")
    assert "ok  gpg:" in answer.out and f"failed  {bad}" in answer.out and "it is not set" in answer.err
    assert VALUE not in answer.out + answer.err
    assert machine.run("secrets", "doctor", good).code == 0
    answer = machine.run("secrets", "doctor", "hunter2")
    assert answer.code == 3 and "hunter2" not in answer.out + answer.err + trail(machine)


def test_the_names_in_a_file(machine: Machine, put: Callable[..., Answer]) -> None:
    """`list FILE` names the secrets and their stages, and no value."""
    file = f"gpg://{machine.state}/secrets.gpg"
    assert machine.run("--json", "secrets", "list", file).json == []
    for number, name in enumerate(("db", "api key", "db")):
        assert put(b"hunter2-value%d" % number, f"{file}#{name.replace(' ', '%20')}").code == 0
    answer = machine.run("--json", "secrets", "list", file)
    assert answer.json == [
        {"name": "api key", "stages": ["current"]},
        {"name": "db", "stages": ["current", "previous"]},
    ]
    shown = machine.run("secrets", "list", file).out
    assert "db" in shown and "current, previous" in shown and "hunter2" not in shown
    for other in ("env:X", f"{file}#db"):
        assert machine.run("secrets", "list", other).code == 2


def test_what_lies_in_the_clear_is_warned_of(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is no place for a secret but in development; it is used all the same."""
    monkeypatch.setenv("OPSKIT_TEST_SET", "hunter2-value")
    machine.edit_config(
        "sources:\n", "sources:\n  out: {command: [cat], filename: x, env: {A: 'env:OPSKIT_TEST_SET'}}\n"
    )
    for answer in (machine.run("secrets", "doctor"), machine.run("config", "validate")):
        assert answer.code == 0 and "env:OPSKIT_TEST_SET is for development" in answer.err
    assert machine.run("--json", "secrets", "doctor").json[0]["warning"].startswith("env:OPSKIT_TEST_SET is for")
    machine.edit_config("sources:\n", "environment: development\nsources:\n")
    for answer in (machine.run("secrets", "doctor"), machine.run("config", "validate")):
        assert answer.code == 0 and "is for development" not in answer.err


def test_a_source_takes_its_secret_from_the_file(machine: Machine, put: Callable[..., Answer], tmp_path: Path) -> None:
    """A gpg: reference works wherever the config takes a secret."""
    put(VALUE.encode())
    command = f"{{command: [printenv, A], filename: x, env: {{A: '{secret_of(machine)}'}}}}"
    machine.edit_config("sources:\n", f"sources:\n  out: {command}\n")
    assert machine.run("backup", "out").code == 0
    answer = machine.run("restore", "out@latest", "--stdout", "--key", machine.key)
    assert answer.data == f"{VALUE}\n".encode()


def test_a_program_gets_its_secrets(machine: Machine, put: Callable[..., Answer]) -> None:
    """The program has the values in its environment; what it says of them is hidden; its exit code is ours."""
    put(VALUE.encode())
    code = (
        "import os,sys; print(len(os.environ['PW']), os.environ['PW']); sys.stderr.write(os.environ['PW']); sys.exit(7)"
    )
    arguments = ["secrets", "exec", "--env", f"PW={secret_of(machine)}"]
    process = machine.start(*arguments, "--", sys.executable, "-c", code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (7, f"{len(VALUE)} [secret]\n".encode(), b"[secret]")
    process = machine.start(*arguments, "--no-mask", "--", sys.executable, "-c", code)
    assert process.communicate(timeout=60)[0] == f"{len(VALUE)} {VALUE}\n".encode()
    assert VALUE not in trail(machine) and secret_of(machine) in trail(machine)


def test_no_value_is_seen_in_a_process_list(machine: Machine, put: Callable[..., Answer]) -> None:
    """The value stands in no process's argv, and in the environment of the program alone."""
    put(VALUE.encode())
    code = "print('up', flush=True); input()"
    process = machine.start(
        "secrets", "exec", "--env", f"PW={secret_of(machine)}", "--", sys.executable, "-c", code, stdin=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    lines = [_read(path) for path in _every_process("cmdline")]
    assert not any(VALUE.encode() in line for line in lines)
    holders = [path for path in _every_process("environ") if VALUE.encode() in _read(path)]
    assert len(holders) == 1 and holders[0].parent.name != str(process.pid)
    process.communicate(b"\n", timeout=60)


def _every_process(name: str) -> list[Path]:
    return [path for path in Path("/proc").glob(f"[0-9]*/{name}") if _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_an_output_that_is_lost_is_no_success(machine: Machine) -> None:
    """Where the program's output could not be written, a program that ended well is a failure all the same."""
    with open("/dev/full", "wb") as full:
        process = machine.start("secrets", "exec", "--", "echo", "hi", stdout=full)
        assert b"cannot write the output of echo: no space left" in process.communicate(timeout=60)[1]
        assert process.returncode == 1
    reader, writer = os.pipe()
    os.close(reader)
    process = machine.start("secrets", "exec", "--", "sh", "-c", "yes; exit 0", stdout=writer)
    os.close(writer)
    process.communicate(timeout=60)
    assert process.returncode == 0  # nobody read on: `yes` ended by that, as it does without us


def test_with_the_terminal_ctrl_c_is_the_programs_own(machine: Machine) -> None:
    """Without masking, a program that does something on SIGINT is not ended by it."""
    code = "trap 'echo cancelled' INT; echo up; sleep 1; sleep 1; exit 4"
    process = machine.start("secrets", "exec", "--no-mask", "--", "sh", "-c", code, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == b"cancelled\n" and process.returncode == 4


def test_an_interruption_ends_the_program(machine: Machine) -> None:
    """What asks opskit to stop ends the program too; a program killed by a signal is told as shells do."""
    process = machine.start("secrets", "exec", "--", "sh", "-c", "echo $$; exec sleep 600")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
    process = machine.start("secrets", "exec", "--", "sh", "-c", "kill -9 $$")
    process.communicate(timeout=60)
    assert process.returncode == 137


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--env", "hunter2", "--", "true"], 2, "expected NAME=REFERENCE"),
        (["--env", "PW=hunter2", "--", "true"], 30, "inline secret"),
        (["--env", "PW=env:OPSKIT_TEST_NOT_SET", "--", "true"], 30, "it is not set"),
        (["--", "/no/such/program"], 2, "cannot run /no/such/program"),
        ([], 2, "COMMAND"),
    ],
)
def test_programs_that_are_not_run(arguments: list[str], code: int, message: str, machine: Machine) -> None:
    """Without its secrets, or without a program, nothing is run, and what was typed for a reference is not repeated."""
    answer = machine.run("secrets", "exec", *arguments)
    assert (answer.code, message in answer.err) == (code, True), answer.err
    assert "hunter2" not in answer.err + trail(machine)

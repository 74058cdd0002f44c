"""No secret is in an argument, an environment, a log, an output or a file on disk, during any command of the main job.

The secrets: run keys, the recipient's private key, its passphrase. While commands run as processes, all of their
descendants are looked at again and again; afterwards every file they could have written is searched. Only the
recovery-key file that was asked for may hold the private key.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from opskit.access import read_key_file
from opskit.gpg import ephemeral_keyring
from tests.cli.hosts import Machine, fill
from tests.cli.running import clean, python
from tests.cli.test_init import converse
from tests.gpg.keys import agents_of

PASSPHRASE = "correct-horse-battery-staple-4711"
BACKUPS = "of-the-backups-themselves-0815"
"""The passphrase that opens them beside the recipient's key."""


@dataclass
class Watcher:
    """What the descendants of this process showed of themselves."""

    seen: set[bytes] = field(default_factory=set)
    processes: set[int] = field(default_factory=set)

    def look(self) -> None:
        for entry in _descendants(os.getpid()):
            self.processes.add(entry)
            for name in ("cmdline", "environ", "comm"):
                try:
                    self.seen.add(Path(f"/proc/{entry}/{name}").read_bytes())
                except OSError:
                    continue


def _descendants(top: int) -> set[int]:
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(Path(entry.path, "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    found = {top}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    # gpg-agent makes itself a child of init: it is known by the folders it serves
    return (found - {top}) | {pid for pid in parents if _is_agent_of_ours(pid)}


def _is_agent_of_ours(pid: int) -> bool:
    try:
        return b"gpg-agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@contextmanager
def watched() -> Iterator[Watcher]:
    watcher, stop = Watcher(), threading.Event()

    def keep_looking() -> None:
        while not stop.wait(0.004):
            watcher.look()

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield watcher
    finally:
        stop.set()
        thread.join()


@dataclass
class Story:
    """Everything that became visible while the main job was done, and the secrets it was done with."""

    machine: Machine
    bare: Machine
    """The same once more, its recovery key without a passphrase: so that the raw private key is there to be found."""
    shown: list[bytes]
    watcher: Watcher
    rings: list[Path]
    """The folders for key rings in memory that its commands made; others at work on this machine have theirs."""


# opskit, which notes such folders in a file as it makes them.
NOTING = """
import sys
def note(event, arguments):
    if event == "os.mkdir" and "/opskit-gpg-" in str(arguments[0]):
        with open(sys.argv[1], "a") as file:
            print(arguments[0], file=file)
sys.addaudithook(note)
from opskit.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """init with a passphrase, backup, restore, verify, init --from: with --debug, each in a process of its own."""
    folder = tmp_path_factory.mktemp("secrecy")
    machine, bare, home = Machine(folder / "host"), Machine(folder / "bare"), folder / "home"
    for each in (home, folder / "tmp"):
        each.mkdir()
    fill(machine.source)
    fill(bare.source)
    passphrase = folder / "passphrase"
    passphrase.write_text(PASSPHRASE)
    passphrase.chmod(0o600)
    backups = folder / "backups"
    backups.write_text(BACKUPS)
    backups.chmod(0o600)
    environ = {"HOME": str(home), "TMPDIR": str(folder / "tmp"), "OPSKIT_LOG": "json"}
    key = ["--key", str(machine.key), "--passphrase", f"file:{passphrase}"]
    shown = []
    opskit = [sys.executable, "-c", NOTING, str(folder / "rings")]
    patch = pytest.MonkeyPatch()
    for name, value in environ.items():
        patch.setenv(name, value)
    with watched() as watcher:
        command = [
            *opskit, "--debug", "--config", str(machine.config), "init", "--state-dir", str(machine.state),
            "--source", f"data={machine.source}", "--destination", f"a={machine.a}", "--destination", f"b={machine.b}",
            "--new-recipient", "Safe <safe@example.org>", "--recovery-key", str(machine.key),
        ]  # fmt: skip
        answers = [(b"passphrase", PASSPHRASE.encode()), (b"again", PASSPHRASE.encode())]
        code, out = converse(command, folder, answers)
        assert code == 0, out
        shown.append(out)
        assert bare.init("--debug").code == 0
        machine.edit_config("keys:\n", f"keys:\n  passphrase: file://{backups}\n")
        for host, arguments in (
            (machine, ["backup"]),
            (machine, ["snapshots"]),
            (machine, ["verify"]),
            (machine, ["keys", "list"]),
            (machine, ["ls", "latest", *key]),
            (machine, ["restore", "latest", "--target", str(folder / "tmp" / "r"), *key]),
            (machine, ["restore", "latest", "--target", str(folder / "x"), "--key", str(machine.key)]),
            (machine, ["restore", "latest", "--repository", str(machine.a), "--target", str(folder / "y"), *key]),
            (machine, ["ls", "latest", "--passphrase", f"file:{backups}"]),
            (bare, ["backup"]),
            (bare, ["restore", "latest", "--target", str(folder / "z"), "--key", str(bare.key)]),
        ):
            done = subprocess.run(
                [*opskit, "--debug", "--config", str(host.config), *arguments],
                env=clean(environ), stdin=subprocess.DEVNULL, capture_output=True, check=False,
            )  # fmt: skip
            locked = host is machine and arguments[-1] == str(machine.key)
            assert done.returncode == (12 if locked else 0), done
            shown += [done.stdout, done.stderr]
    patch.undo()
    passphrase.unlink()
    backups.unlink()
    rings = [Path(line) for line in (folder / "rings").read_text().splitlines()]
    return Story(machine, bare, shown, watcher, rings)


@pytest.fixture(scope="module")
def secrets(story: Story) -> dict[str, list[bytes]]:
    """Each secret in the forms it could appear in."""
    run_keys, private = [], []
    for machine in (story.machine, story.bare):
        armor = read_key_file(machine.key).secret
        private += [line for line in armor.splitlines() if len(line) == 64]
        with ephemeral_keyring(armor) as keyring:
            for path in (machine.a / "keys").iterdir():
                plain = keyring.decrypt(path.read_bytes(), passphrase=PASSPHRASE.encode()).payload
                run_keys += [str(value) for value in json.loads(plain).values()]
            assert keyring.home is not None
            scalars = _scalars(keyring.home)
            private += [form for each in scalars for form in (each, each.hex().encode(), each.hex().upper().encode())]
            assert bool(scalars) is (machine is story.bare)
    assert len(run_keys) == 2 and all(re.fullmatch(r"[0-9a-f]{64}", each) for each in run_keys)
    return {
        "run key": [form for each in run_keys for form in (each.encode(), bytes.fromhex(each))],
        "private key": private,
        "passphrase": [PASSPHRASE.encode(), BACKUPS.encode()],
    }


def _scalars(home: Path) -> list[bytes]:
    """The private numbers in an agent's unprotected key files: canonical S-expressions (2.2) or hex (2.4)."""
    found = []
    for path in (home / "private-keys-v1.d").glob("*.key"):
        data = path.read_bytes()
        found += [data[each.end() : each.end() + int(each[1])] for each in re.finditer(rb"\(1:d(\d+):", data)]
        texts = re.findall(rb"\(d\s+#([0-9A-Fa-f\s]+)#\)", data)
        found += [bytes.fromhex(b"".join(each.split()).decode()) for each in texts]
    return found


def test_the_watcher_saw_something(story: Story) -> None:
    """The samples are not empty: opskit, gpg and the agent were all seen at work."""
    everything = b"\n".join(story.watcher.seen)
    assert len(story.watcher.processes) > 10
    for program in (b"gpg\0", b"gpg-agent", b"OPSKIT_LOG=json", b"restore\0"):
        assert program in everything


@pytest.mark.parametrize("secret", ["run key", "private key", "passphrase"])
def test_no_process_shows_a_secret(story: Story, secrets: dict[str, list[bytes]], secret: str) -> None:
    """No argument and no environment of any process held it."""
    for sample in story.watcher.seen:
        assert not any(each in sample for each in secrets[secret]), sample[:200]


@pytest.mark.parametrize("secret", ["run key", "private key", "passphrase"])
def test_no_output_shows_a_secret(story: Story, secrets: dict[str, list[bytes]], secret: str) -> None:
    """Neither results nor messages nor the debug log did."""
    assert sum(b'"level"' in each for each in story.shown) > 3, "the log was on"
    for sample in story.shown:
        assert not any(each in sample for each in secrets[secret])


@pytest.mark.parametrize("secret", ["run key", "private key", "passphrase"])
def test_no_file_holds_a_secret(story: Story, secrets: dict[str, list[bytes]], secret: str) -> None:
    """No file in the home, temporary, state, copy or target folders does, but for the recovery-key file asked for."""
    files = [path for path in story.machine.folder.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 30
    holding = {path for path in files if any(each in path.read_bytes() for each in secrets[secret])}
    assert holding == ({story.machine.key, story.bare.key} if secret == "private key" else set())


def test_nothing_is_left_in_memory_file_systems(story: Story) -> None:
    """Key rings of finished commands are gone, with their agents."""
    assert len(story.rings) > 5, "one for each command that had a private key"
    assert not [path for path in story.rings if path.exists() or agents_of(path)]


def test_others_may_not_read_what_is_kept(story: Story) -> None:
    """State folders are 0700 and all that can hold names of files is 0600."""
    assert story.machine.state.stat().st_mode & 0o777 == 0o700
    for path in story.machine.state.rglob("*"):
        if path.is_file() and path.suffix in (".sqlite", ".key", "") and path.name != "trusted.gpg":
            assert path.stat().st_mode & 0o077 == 0, path


# Whenever the backup starts a program, what the kernel would do if this process crashed now.
LOOKING = """
import ctypes, resource, sys
libc, seen = ctypes.CDLL(None), []
def look(event, _arguments):
    if event == "subprocess.Popen":
        seen.append((libc.prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)))
sys.addaudithook(look)
from opskit.cli import main
code = main(sys.argv[1:])
print(len(seen), set(seen), code)
"""


def test_no_core_dump_at_any_time(story: Story) -> None:
    """During a backup the process is not dumpable and core files are limited to 0, at each program it starts."""
    (story.bare.source / "one more").write_text("x")
    answer = python(LOOKING, "--quiet", "--config", str(story.bare.config), "backup").stdout
    count, _, rest = answer.partition(" ")
    assert int(count) > 3 and rest == "{(0, (0, 0))} 0\n"

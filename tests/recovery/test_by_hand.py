"""What RECOVER.md tells a person to type works as it stands there."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from opskit.repository import names, tree
from opskit.repository.recovery import kit
from tests.recovery.conftest import Made
from tests.recovery.lab import Lab, below, differences

BLOCK = re.compile(r"^```(sh|sh interactive|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What a person reads off the screen between two commands.
READ_OFF = {
    'for key in keys/*.asc; do gpg -d "$key" && echo; done\n': """
RUN_KEY="$(gpg -d keys/*.asc 2>/dev/null | grep -oE '[0-9a-f]{64}')"
PACK="$(echo packs/*/*)"
"""
}


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(kit()["RECOVER.md"].decode()) if found == kind]


def one_pack(made: Made, folder: Path) -> Path:
    """A copy with one pack, so that `echo packs/*/*` names it: the data pack, which the listing shows."""
    copy = made.lab.damaged(folder.name)
    packs = sorted((copy / "packs").glob("*/*"), key=lambda path: path.stat().st_size)
    for path in packs[:-1]:
        path.unlink()
    return copy


def environment(made: Made, target: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "KEY_FILE": str(made.lab.key), "TARGET": str(target), "LC_ALL": "C.UTF-8"}


def typed(command: list[str], answers: Sequence[bytes], person: dict[str, str]) -> bytes:
    """What a terminal shows when a command runs in it and a person answers its questions for a passphrase."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(command[0], command, person)
    shown = b""
    try:
        for number, answer in enumerate(answers, 1):
            while shown.count(b"passphrase:") < number:
                shown += os.read(terminal, 4096)
            # gpg forgets what was typed before it has turned the echo off, which comes after the question
            while termios.tcgetattr(terminal)[3] & termios.ECHO:
                time.sleep(0.01)
            os.write(terminal, answer)
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:  # how a pseudo-terminal says that its last user is gone
        pass
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
    return shown


def test_every_command_works(made: Made, tmp_path: Path) -> None:
    """All commands of RECOVER.md, typed in a row, succeed: the tree is restored, the chunks of a pack unpacked."""
    copy, target = one_pack(made, tmp_path), tmp_path / "target"
    program, by_hand = blocks("sh")[1], [block for block in blocks("sh") if block != blocks("sh")[1]]
    whole = subprocess.run(
        ["bash", "-euc", program], cwd=made.lab.copy, env=environment(made, target), capture_output=True
    )
    assert whole.returncode == 0, whole.stderr
    assert differences(made.source, below(target, made.source)) == ""
    script = "set -euo pipefail\n" + "".join(block + READ_OFF.get(block, "") for block in by_hand)
    script += 'test ! -e "$GNUPGHOME"'
    done = subprocess.run(
        ["bash", "-c", script], cwd=copy, env=environment(made, target), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^OK$", done.stdout, re.MULTILINE) and '"kind": "snapshot"' in done.stdout
    assert "Good signature" in done.stderr and made.lab.host in done.stderr.replace(" ", "")
    unpacked = {path.name for path in (target / "chunks").iterdir()}
    assert unpacked and unpacked == {names.sha256(path.read_bytes()) for path in (target / "chunks").iterdir()}
    assert all(f" {name}" in done.stdout for name in unpacked)
    assert names.sha256(b"small\n") in unpacked


def test_passphrase_typed_at_the_prompt(made: Made, tmp_path: Path) -> None:
    """`gpg -d | zstd -d | tar tv`, with the run key typed when gpg asks, lists the chunks."""
    copy = one_pack(made, tmp_path)
    (key,) = (copy / "keys").iterdir()
    (run_key,) = re.findall(rb"[0-9a-f]{64}", made.lab.keyring.decrypt(key.read_bytes()).payload)
    (pack,) = (copy / "packs").glob("*/*")
    home = made.lab.keyring.home
    assert home is not None
    person = environment(made, tmp_path) | {"PACK": str(pack), "GNUPGHOME": str(home.parent / "typed")}
    Path(person["GNUPGHOME"]).mkdir(mode=0o700)
    (Path(person["GNUPGHOME"]) / "gpg.conf").write_text("pinentry-mode loopback\n")
    (command,) = blocks("sh interactive")
    shown = typed(["bash", "-c", command], [run_key + b"\n"], person)
    subprocess.run(["gpgconf", "--homedir", person["GNUPGHOME"], "--kill", "all"], check=False)
    assert names.sha256(b"small\n").encode() in shown, shown
    assert run_key not in shown


def test_the_sum_in_the_key_file_is_that_of_the_program(made: Made) -> None:
    """The first thing RECOVER.md asks for, comparing sums, comes out equal in an honest copy."""
    done = subprocess.run(
        ["bash", "-euc", blocks("sh")[0]],
        cwd=made.lab.copy,
        env=environment(made, made.lab.folder),
        capture_output=True,
        text=True,
    )
    first, second = done.stdout.splitlines()
    assert first.split()[0] == second.split()[-1]


def test_the_shown_line_is_a_tree_line() -> None:
    """The example of a tree's line in RECOVER.md is one."""
    (example,) = blocks("json")
    node = tree.decode_line(example.encode())
    assert node.path == b"srv/data/a.txt" and tree.encode_line(node) == example.encode()


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Lab:
    """A repository with one snapshot, whose recovery key has the passphrase `correct horse`; nobody may change it."""
    lab = Lab(tmp_path_factory.mktemp("protected"), keys / "protected", passphrase=b"correct horse")
    lab.craft([b'{"gid":0,"mode":493,"path":"made","type":"dir","uid":0}'])
    lab.close()
    return lab


def recovering(lab: Lab, target: Path, *answers: bytes) -> str:
    """What recover.py shows a person at a terminal who answers so."""
    program = [sys.executable, "-I", "-S", str(lab.copy / "recover.py"), "--key", str(lab.key)]
    shown = typed([*program, "--target", str(target)], answers, {"PATH": os.environ["PATH"]}).decode()
    assert "horse" not in shown
    return shown


def test_recover_asks_for_the_passphrase(protected: Lab, tmp_path: Path) -> None:
    """With a protected recovery key, recover.py lets gpg ask on the terminal, and restores; a slip is no end."""
    shown = recovering(protected, tmp_path / "target", b"correct hose\n", b"\n", b"correct horse\n")
    assert (tmp_path / "target" / "made").is_dir() and shown.count("the passphrase is wrong; once more") == 2
    assert "PROBLEM" not in shown and "lab/crafted" in shown


def test_recover_asks_three_times(protected: Lab, tmp_path: Path) -> None:
    """Three wrong passphrases end recover.py, which says that the passphrase is to blame and not the key file."""
    shown = recovering(protected, tmp_path / "target", *[b"correct hose\n"] * 3)
    assert shown.count("Enter passphrase:") == 3 and "the key file is fine" in shown
    assert "PROBLEM" not in shown and "--key FILE" not in shown


def test_recover_without_a_terminal(protected: Lab, tmp_path: Path) -> None:
    """Where gpg cannot ask for the passphrase, recover.py says so and what to do: exit 12."""
    program = [sys.executable, "-I", "-S", str(protected.copy / "recover.py"), "--key", str(protected.key)]
    done = subprocess.run(
        [*program, "--target", str(tmp_path / "target")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 12 and "gpg cannot ask" in done.stderr and "hint: run this on a terminal" in done.stderr


def test_every_key_object_is_opened(lab: Lab, tmp_path: Path) -> None:
    """The command of RECOVER.md for run keys shows those of all runs, also where there are several key objects."""
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        (data / str(number)).write_text(str(number))
        lab.back_up({"data": data})
    (command,) = [block for block in blocks("sh") if "keys/" in block]
    person = environment(Made(lab, data, ""), tmp_path) | {"GNUPGHOME": str(lab.keyring.home)}
    done = subprocess.run(["bash", "-euc", command], cwd=lab.copy, env=person, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(set(re.findall('"[0-9a-f]{32}":"[0-9a-f]{64}"', done.stdout))) == 2
